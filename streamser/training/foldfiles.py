"""The files of a fold as bytes, so that a fold can be trained in another folder, also on another machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from streamser.training.job import FOLD_FILE

__all__ = ["read_files", "replace_files"]

_PART = ".part"  # suffix of a file that is not yet complete


def read_files(place: Path) -> dict[str, bytes]:
    """All complete files below a folder: path relative to the folder, with `/` -> content; empty without a folder."""
    return {
        path.relative_to(place).as_posix(): path.read_bytes()
        for path in sorted(place.rglob("*"))
        if path.is_file() and path.suffix != _PART
    }


def replace_files(place: Path, files: Mapping[str, bytes]) -> None:
    """Make these the files of a folder; other files in it are deleted.

    Each file is replaced as a whole, and `fold.json`, which marks a finished fold, last.
    """
    for name in files:
        if name != FOLD_FILE:
            _write(place / name, files[name])
    for path in place.rglob("*"):
        if path.is_file() and path.relative_to(place).as_posix() not in files:
            path.unlink()
    if FOLD_FILE in files:
        _write(place / FOLD_FILE, files[FOLD_FILE])


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + _PART)
    part.write_bytes(content)
    part.replace(path)
