"""Label files in two passes: first compute each speaker's baseline from all files, then compare each file with it."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamser.baseline import Baseline
from streamser.errors import ConfigError
from streamser.recognizer import Prediction, Recognizer

__all__ = ["ScoredFile", "adapt_to_voices", "read_speakers"]


@dataclass(frozen=True, slots=True)
class ScoredFile:
    """The first pass's result for one file."""

    file: str
    duration_s: float
    prediction: Prediction
    """The absolute prediction, without a baseline of the speaker."""


def adapt_to_voices(
    recognizer: Recognizer, scored: Sequence[ScoredFile], speakers: Mapping[str, str] | None = None
) -> list[Prediction]:
    """Each file's prediction, compared with a baseline of its speaker's other files.

    Without `speakers`, all files are of one speaker. A file has the weight of an utterance in a stream, but weights do
    not decay, because files have no order in time.
    """
    rule, head = recognizer.bundle.baseline, recognizer.relative
    assert rule is not None and head is not None, "the caller has checked that the checkpoint adapts"
    rows: dict[str, list[int]] = {}
    for row, one in enumerate(scored):
        rows.setdefault("" if speakers is None else speakers[one.file], []).append(row)
    embeddings = np.zeros((len(scored), head.size), np.float64)
    weights = np.zeros(len(scored), np.float64)
    for row, one in enumerate(scored):
        if one.prediction.embedding is not None and not one.prediction.problem:
            embeddings[row] = one.prediction.embedding
            weights[row] = rule.weight_of(one.prediction.neutrality, one.duration_s)
    adapted = [one.prediction for one in scored]
    for members in rows.values():
        total, weight = weights[members] @ embeddings[members], float(weights[members].sum())
        for row in members:
            others = max(0.0, weight - weights[row])
            baseline = Baseline(total - weights[row] * embeddings[row], others, len(members) - 1)
            adapted[row] = recognizer.adapted(scored[row].prediction, baseline)
    return adapted


def read_speakers(path: Path, files: Sequence[str]) -> dict[str, str]:
    """The speaker of each file, from a CSV file with the columns file and speaker; ConfigError if one is missing."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as source:
            rows = csv.DictReader(source)
            if not {"file", "speaker"} <= set(rows.fieldnames or ()):
                raise ConfigError(f"--speakers {path}: needs the columns file and speaker in its first line")
            found = {row["file"]: row["speaker"] or "" for row in rows}
    except (OSError, UnicodeError, csv.Error) as error:
        raise ConfigError(f"--speakers {path}: cannot be read ({error})") from error
    missing = [file for file in files if not found.get(file, "").strip()]
    if missing:
        raise ConfigError(
            f"--speakers {path}: names no speaker for {missing[0]!r} and {len(missing) - 1} other files; "
            "write the paths as in the table of labels, relative to the folder"
        )
    return {file: found[file].strip() for file in files}
