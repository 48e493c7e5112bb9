"""Compare runs of `streamser train` that left corpora out: UA on each corpus, and the difference from the first run.

    python tools/compare_runs.py runs/labels runs/teacher runs/focal

The prediction of a clip is that of a stream's first utterance, without calibration. Only folds that all runs have are
compared, and none of plain speech; a corpus's UA is the mean over its seeds. The 95 % intervals are over redrawn sets
of speakers, the same sets for both runs of a difference.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamser.errors import StreamserError
from streamser.evaluation.adaptation import is_plain
from streamser.evaluation.folds import FoldResult, load_folds
from streamser.evaluation.foldsummary import are_left_out
from streamser.evaluation.metrics import Matrix, Values, by_speaker, interval_of, redrawn_ua, ua

Folds = Mapping[tuple[str, int], FoldResult]
"""Folds by name and seed."""


@dataclass(frozen=True, slots=True)
class Compared:
    """UA of one run in percent."""

    name: str
    seeds: int
    of: Mapping[str, float]
    """By corpus."""
    drawn: Values
    """Mean over the corpora for each redrawn set of speakers."""

    @property
    def mean(self) -> float:
        """Mean over the corpora."""
        return float(np.mean(list(self.of.values())))

    @property
    def interval(self) -> tuple[float, float]:
        return interval_of(self.drawn)

    def gain(self, over: Compared) -> tuple[float, float, float]:
        """The difference from another run, and the ends of its interval."""
        return self.mean - over.mean, *interval_of(self.drawn - over.drawn)


def compare(runs: Sequence[Path]) -> list[Compared]:
    """The runs on the folds that all of them have; StreamserError if there are none, or if they test other clips."""
    found = [_folds(run) for run in runs]
    shared = sorted(set.intersection(*(set(folds) for folds in found)))
    if not shared:
        raise StreamserError(f"{', '.join(map(str, runs))}: no fold is in all runs")
    for key in shared:
        if len({folds[key].clips for folds in found}) > 1:
            raise StreamserError(f"{key[0]}, seed {key[1]}: the runs tested different clips")
    return [_compared(run.name, folds, shared) for run, folds in zip(runs, found, strict=True)]


def _folds(run: Path) -> Folds:
    folds = load_folds(run)
    if not are_left_out(folds):
        raise StreamserError(f"{run}: its folds do not leave out whole corpora")
    return {(fold.left_out, fold.seed): fold for fold in folds if not is_plain(fold)}


def _compared(name: str, folds: Folds, shared: Sequence[tuple[str, int]]) -> Compared:
    matrices: dict[str, list[Matrix]] = {}
    for corpus, seed in shared:
        matrices.setdefault(corpus, []).append(_of_speakers(folds[corpus, seed]))
    of = {corpus: 100 * float(np.mean([ua(each.sum(axis=0)) for each in runs])) for corpus, runs in matrices.items()}
    return Compared(name, len({seed for _, seed in shared}), of, 100 * redrawn_ua(matrices.values()))


def _of_speakers(fold: FoldResult) -> Matrix:
    return by_speaker(fold.targets, fold.logits.argmax(axis=1), fold.speakers, len(fold.labels))[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs; the first is the reference")
    args = parser.parse_args()
    try:
        rows = compare(args.runs)
    except StreamserError as error:
        raise SystemExit(str(error)) from error
    width = max(len(row.name) for row in rows)
    print(f"{rows[0].seeds} seeds, the same folds of all runs")
    print(f"{'':{width}s}  {'  '.join(rows[0].of)}   mean [95 %]          difference [95 %]")
    for row in rows:
        each = "  ".join(f"{value:{len(corpus)}.1f}" for corpus, value in row.of.items())
        low, high = row.interval
        line = f"{row.name:{width}s}  {each}  {row.mean:5.1f} [{low:.1f}, {high:.1f}]"
        if row is not rows[0]:
            gain, low, high = row.gain(rows[0])
            line += f"  {gain:+5.1f} [{low:+.1f}, {high:+.1f}]"
        print(line)


if __name__ == "__main__":
    main()
