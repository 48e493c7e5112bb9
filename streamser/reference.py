"""Read the true labels of a recording, to draw beside the predictions, from a TextGrid or a CSV table."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from streamser.errors import ConfigError
from streamser.plot import Mark

__all__ = ["read_reference"]

_KINDS = ".TextGrid and .csv"


def read_reference(path: Path, audio: Path, duration_s: float) -> list[Mark]:
    """The labels of one recording; ConfigError when the file has none for it.

    From a TextGrid, the first interval tier is read. A CSV table has the columns start_s, end_s and label, or those of
    a corpus manifest: path (or file) and emotion (or label). The manifest's row with the recording's file name labels
    the whole recording.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"--reference {path}: cannot be read ({reason})") from error
    if path.suffix.lower() == ".textgrid":
        marks = list(_intervals(path, text))
    elif path.suffix.lower() == ".csv":
        marks = list(_rows(path, text, audio, duration_s))
    else:
        raise ConfigError(f"--reference {path}: the extension decides the format; known are {_KINDS}")
    if not marks:
        raise ConfigError(f"--reference {path}: has no label for {audio.name}")
    return marks


def _intervals(path: Path, text: str) -> Iterator[Mark]:
    """Praat's long and short text formats are the same numbers and quoted strings in the same order."""
    tokens = iter(re.findall(r'"(?:[^"]|"")*"|<exists>|(?<![\w."])-?\d[\d.eE+-]*(?!\S)', text))
    try:
        if [next(tokens), next(tokens)] != ['"ooTextFile"', '"TextGrid"']:
            raise ValueError
        _xmin, _xmax, _exists, tiers = (next(tokens) for _ in range(4))
        for _ in range(int(tiers)):
            kind, _name, _xmin, _xmax, count = (next(tokens) for _ in range(5))
            entries = [[next(tokens) for _ in range(3 if kind == '"IntervalTier"' else 2)] for _ in range(int(count))]
            if kind == '"IntervalTier"':
                for start, end, label in entries:
                    if words := label[1:-1].replace('""', '"').strip():
                        yield Mark(float(start), float(end), words)
                return
    except (ValueError, StopIteration, RuntimeError) as error:  # StopIteration in a generator becomes a RuntimeError
        raise ConfigError(f"--reference {path}: is not a readable TextGrid; save it as text in Praat") from error


def _rows(path: Path, text: str, audio: Path, duration_s: float) -> Iterator[Mark]:
    rows = csv.DictReader(text.splitlines())
    columns = rows.fieldnames or ()
    label = next((name for name in ("label", "emotion") if name in columns), None)
    file = next((name for name in ("path", "file") if name in columns), None)
    timed = {"start_s", "end_s"} <= set(columns)
    if label is None or not (timed or file):
        found = ", ".join(columns)
        raise ConfigError(f"--reference {path}: has columns {found}; needed are start_s, end_s, label or path, emotion")
    for number, row in enumerate(rows, start=2):
        if file and Path(row[file] or "").name != audio.name:
            continue
        try:
            start_s, end_s = (float(row["start_s"]), float(row["end_s"])) if timed else (0.0, duration_s)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"--reference {path}:{number}: start_s and end_s are seconds") from error
        if row[label]:
            yield Mark(start_s, end_s, row[label])
