"""The folds of a training run as rows: the leave-one-corpus-out matrix, or any other protocol's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from streamser.calibration import Calibration
from streamser.evaluation.calibration import fit_temperature, softmax
from streamser.evaluation.folds import FoldResult, by_seed, pool
from streamser.evaluation.metrics import Interval
from streamser.evaluation.metricset import MetricSet, compute_metrics


@dataclass(frozen=True, slots=True)
class FoldRow:
    """A left-out part, and the results of each seed's network that was trained without it."""

    name: str
    measured: tuple[MetricSet, ...]
    """Metrics for each seed, at the temperature fitted on the fold's own validation speakers."""
    transferred_ece: float
    """Mean ECE at the temperature fitted on the other folds' test clips; NaN with one fold."""

    def mean(self, figure: str) -> float:
        """Mean over the seeds."""
        return float(np.mean([_figure(one, figure) for one in self.measured]))

    def spread(self, figure: str) -> float:
        """Standard deviation over the seeds; 0 with one seed."""
        return float(np.std([_figure(one, figure) for one in self.measured]))


def _figure(measured: MetricSet, name: str) -> float:
    value = getattr(measured, name)
    return float(value.value if isinstance(value, Interval) else value)


def measure_fold(fold: FoldResult, name: str = "", calibration: Calibration | None = None) -> MetricSet:
    """All metrics of a fold's test clips; calibrated by the fold's own temperature unless another is given."""
    chances = softmax(fold.logits, calibration or Calibration(fold.temperature))
    return compute_metrics(name or fold.fold, fold.labels, chances, fold.targets, fold.speakers)


@dataclass(frozen=True, slots=True)
class FoldTable:
    """A run's folds as rows, and all its test clips together."""

    name: str
    protocol: str
    seeds: tuple[int, ...]
    rows: tuple[FoldRow, ...]
    whole: FoldRow | None
    """All folds' clips pooled; None if folds test the same clips."""
    shared: tuple[str, ...]
    """Speakers in both training and test of a fold; if there are any, no figure is speaker-independent."""

    @property
    def mean_ua(self) -> float:
        """Mean UA over the folds, each averaged over its seeds."""
        return float(np.mean([row.mean("ua") for row in self.rows]))


def tabulate(folds: Sequence[FoldResult]) -> FoldTable:
    """Measure a run's folds and arrange them as rows."""
    first = folds[0]
    seeds = by_seed(folds)
    names = sorted({fold.fold for fold in folds})
    rows = []
    for name in names:
        own = [fold for fold in folds if fold.fold == name]
        moved = [_transferred_ece(fold, [f for f in seeds[fold.seed] if f is not fold]) for fold in own]
        rows.append(FoldRow(name, tuple(measure_fold(fold) for fold in own), float(np.mean(moved))))
    shared = sorted({speaker for fold in folds for speaker in fold.shared_speakers})
    return FoldTable(first.name, first.protocol, tuple(seeds), tuple(rows), _pooled_row(seeds), tuple(shared))


def _pooled_row(seeds: Mapping[int, list[FoldResult]]) -> FoldRow | None:
    pooled = []
    for folds in seeds.values():
        clips = [clip for fold in folds for clip in fold.clips]
        if len(set(clips)) != len(clips):
            return None
        # each fold is calibrated by its own temperature before the folds are pooled
        scaled = [replace(f, logits=(f.logits / np.float32(f.temperature)), temperature=1.0) for f in folds]
        pooled.append(measure_fold(pool(scaled), "all folds"))
    return FoldRow("all folds", tuple(pooled), float("nan"))


def _transferred_ece(fold: FoldResult, others: Sequence[FoldResult]) -> float:
    if not others:
        return float("nan")
    temperature = fit_temperature(
        np.concatenate([o.logits for o in others]), np.concatenate([o.targets for o in others])
    )
    return measure_fold(fold, calibration=Calibration(temperature)).ece


__all__ = ["FoldRow", "FoldTable", "measure_fold", "tabulate"]
