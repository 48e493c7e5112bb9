"""docs/architecture.md agrees with the code: layers, files, settings, paths and glossary."""

from __future__ import annotations

import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from streamser.config import SECTIONS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def contracts() -> list[dict[str, Any]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = project["tool"]["importlinter"]["contracts"]
    return found


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_the_table_of_layers_equals_the_import_contract() -> None:
    (layers,) = [contract["layers"] for contract in contracts() if contract["type"] == "layers"]
    rows = [re.findall(r"`([\w]+)`", row) for row in re.findall(r"^\| (`[^|]+) \|", section("Layers"), re.M)]
    assert rows == [layer.split(" | ") for layer in layers]


def test_every_file_named_in_the_architecture_page_exists() -> None:
    named = set(re.findall(r"`((?:streamser|tests)/[\w./]+)`", PAGE))
    assert len(named) > 40
    assert not [name for name in sorted(named) if not (ROOT / name).exists()]


def test_every_setting_named_in_the_architecture_page_exists() -> None:
    named = set(re.findall(rf"`((?:{'|'.join(SECTIONS)})\.\w+)`", PAGE))
    known = {f"{section}.{field.name}" for section, kind in SECTIONS.items() for field in fields(kind)}
    assert named and named <= known


def test_the_paths_in_the_architecture_page_have_at_most_12_steps_and_each_names_its_file() -> None:
    for title in ("The path of a block of audio", "The path of a training clip"):
        steps = re.findall(r"^(\d+)\. (.*?)(?=^\d+\. |^\n|\Z)", section(title), re.M | re.S)
        assert [int(number) for number, _ in steps] == list(range(1, len(steps) + 1))
        assert len(steps) <= 12
        assert all("`streamser/" in text for _, text in steps)


def test_the_glossary_is_sorted_and_defines_each_word_once() -> None:
    words = re.findall(r"^\| ([^|]+) \|", section("Glossary"), re.M)[1:]
    words = [word for word in words if not word.startswith("-")]
    assert words == sorted(words, key=str.lower)
    single = [word for row in words for word in row.split(", ")]
    assert len(single) == len(set(single)) > 30
