"""The packages that the checks install are pinned with hashes, and the pins meet pyproject.toml."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("tomllib")  # from Python 3.11 on
sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import lock


def test_every_package_is_pinned_with_a_hash_and_meets_pyproject() -> None:
    assert lock.problems() == []
    names = {requirement.name for requirement in lock.wanted()[lock.CI]}
    assert {"numpy", "torch", "aiohttp", "pytest"} <= names  # the runtime, the extras that `dev` names, and `dev`


def test_the_check_of_pins_finds_missing_hashes_old_versions_and_missing_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = lock.CI.read_text().splitlines()
    changed = [
        line.split(" --hash")[0] if line.startswith("numpy==") else line.replace("aiohttp==", "aiohttp==0.")
        for line in lines
        if not line.startswith("pytest==")
    ]
    path = tmp_path / "ci_requirements.txt"
    path.write_text("\n".join(changed))
    monkeypatch.setattr(lock, "CI", path)
    found = "\n".join(lock.problems())
    assert "no pin with a hash: numpy==" in found
    assert "aiohttp<4,>=3.14.3 is wanted, 0.3." in found
    assert "pytest<10,>=8 is wanted, nothing is pinned" in found
