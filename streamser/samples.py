"""The recordings that come with streamser, for `streamser demo` and the dashboard."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Sample", "find_samples", "samples_folder"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One recorded sentence."""

    path: Path
    speaker: str
    """The actor's number in CREMA-D."""
    label: str
    """The emotion that the actor was asked to play."""
    sentence: str
    training: str
    """The speaker's part in the default checkpoint's training: seen, validation or unseen."""


def samples_folder() -> Path:
    """Where the recordings are: in the installed package, or in the checkout."""
    package = Path(__file__).parent
    installed = package / "_samples"
    return installed if installed.is_dir() else package.parent / "samples"


def find_samples() -> tuple[Sample, ...]:
    """All recordings in the order in which the demo plays them.

    >>> [sample.label for sample in find_samples()][:3]
    ['neutral', 'happy', 'angry']
    """
    folder = samples_folder()
    with (folder / "samples.csv").open(encoding="utf-8", newline="") as file:
        return tuple(
            Sample(folder / row["file"], row["speaker"], row["emotion"], row["sentence"], row["training"])
            for row in csv.DictReader(file)
        )
