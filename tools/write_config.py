"""Write config.yaml from the dataclasses that it configures: names, defaults and docstrings.

    python tools/write_config.py           writes config.yaml
    python tools/write_config.py --check   checks that it is up to date

A setting is documented once, in the docstring under its field; a test runs --check.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import yaml

from streamser.config import SECTIONS

TARGET = Path(__file__).parents[1] / "config.yaml"
HEAD = """\
# Every setting of streamser with its default. Copy the lines that you want to change into a file of your own:
#   streamser live --config mine.yaml
# or change one for a single run:
#   streamser live --set vad.mode=3 --set segmenter.end_silence_ms=600
# This file is written by tools/write_config.py from the docstrings of the code.
"""
TITLES = {
    "source": "the audio source",
    "vad": "voice activity detection",
    "segmenter": "how speech is split into utterances",
    "recognizer": "the checkpoint and how it is used",
    "pipeline": "from segments to events",
    "server": "streamser serve",
}
WIDTH = 120


def docstrings(kind: type[Any]) -> dict[str, str]:
    """The docstring of each field of a dataclass, on one line, with None written as null."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            words = " ".join(str(ast.literal_eval(text.value)).split())
            found[field.target.id] = re.sub(r"\bNone\b", "null", words)
    return found


def default_of(field: Any) -> str:
    """The default as YAML."""
    value = field.default if field.default is not MISSING else field.default_factory()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    value = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()


def lines() -> Iterator[str]:
    """The lines of config.yaml."""
    yield from HEAD.splitlines()
    for section in sorted(SECTIONS, key=list(TITLES).index):
        kind = SECTIONS[section]
        texts = docstrings(kind)
        yield from ("", f"{section}: # {TITLES[section]}")
        for field in fields(kind):
            if field.name not in texts:
                raise SystemExit(
                    f"{kind.__module__}: {kind.__name__}.{field.name} has no docstring; write one under it"
                )
            yield from textwrap.wrap(texts[field.name], WIDTH, initial_indent="  # ", subsequent_indent="  # ")
            yield f"  {field.name}: {default_of(field)}"


def text() -> str:
    """The text of config.yaml."""
    return "\n".join(lines()) + "\n"


def main() -> int:
    if "--check" in sys.argv:
        if TARGET.read_text(encoding="utf-8") == text():
            return 0
        print("config.yaml is out of date: run python tools/write_config.py", file=sys.stderr)
        return 1
    TARGET.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
