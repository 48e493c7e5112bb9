"""All metrics of one set of predictions, with confidence intervals over speakers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamser.errors import CorpusError
from streamser.evaluation import metrics
from streamser.evaluation.metrics import Interval, Matrix

COVERAGE = 0.7
"""`ua_at_70` is the UA of this share of the predictions, the most confident ones: it shows the gain from abstaining."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSet:
    """All figures of one set of predictions."""

    name: str
    clips: int
    speakers: int
    labels: tuple[str, ...]
    ua: Interval
    wa: Interval
    macro_f1: Interval
    confusion: tuple[tuple[int, ...], ...]
    ece: float
    nll: float
    aurc: float
    ua_at_70: float
    """UA over the 70 % of the predictions with the highest confidence."""
    abstained: float
    """Share of uncertain predictions at the checkpoint's own threshold."""
    risk: float
    """Share of wrong predictions among those that are not uncertain; NaN if all are."""

    @property
    def matrix(self) -> Matrix:
        return np.array(self.confusion, np.int64)

    @property
    def predicted_shares(self) -> dict[str, float]:
        """Share of each label among the predictions; shows whether a network always predicts the same label."""
        totals = self.matrix.sum(axis=0)
        return {label: float(n / max(1, self.clips)) for label, n in zip(self.labels, totals, strict=True)}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a figure that does not exist is null."""
        names = ("name", "clips", "speakers", "ece", "nll", "aurc", "ua_at_70", "abstained", "risk")
        values = {name: plain(getattr(self, name)) for name in names}
        for name in ("ua", "wa", "macro_f1"):
            interval: Interval = getattr(self, name)
            values[name] = plain(interval.value)
            values[f"{name}_95"] = [plain(interval.low), plain(interval.high)]
        return {**values, "labels": list(self.labels), "confusion": [list(row) for row in self.confusion]}


def plain(value: object) -> object:
    """A value for JSON: a float rounded to five places, and None for NaN, a figure that does not exist."""
    if isinstance(value, float):
        return None if np.isnan(value) else round(value, 5)
    return value


def compute_metrics(
    name: str,
    labels: tuple[str, ...],
    probabilities: NDArray[np.float64],
    targets: NDArray[np.int64],
    speakers: Sequence[str],
    uncertain: NDArray[np.bool_] | None = None,
) -> MetricSet:
    """Every figure of some predictions."""
    if not len(targets):
        raise CorpusError(f"{name}: no clips to measure; every one was left out")
    predicted = probabilities.argmax(axis=1)
    correct = predicted == targets
    _, of_speaker = metrics.by_speaker(targets, predicted, speakers, len(labels))
    given = np.ones(len(targets), np.bool_) if uncertain is None else ~uncertain
    return MetricSet(
        name=name,
        clips=len(targets),
        speakers=len(of_speaker),
        labels=labels,
        ua=metrics.bootstrap(metrics.ua, of_speaker),
        wa=metrics.bootstrap(metrics.wa, of_speaker),
        macro_f1=metrics.bootstrap(metrics.macro_f1, of_speaker),
        confusion=tuple(tuple(int(n) for n in row) for row in of_speaker.sum(axis=0)),
        ece=metrics.ece(probabilities, targets),
        nll=metrics.nll(probabilities, targets),
        aurc=metrics.risk_coverage(probabilities.max(axis=1), correct).aurc,
        ua_at_70=metrics.ua_at_coverage(probabilities, targets, COVERAGE),
        abstained=float(np.mean(~given)),
        risk=float(np.mean(~correct[given])) if given.any() else float("nan"),
    )


__all__ = ["COVERAGE", "MetricSet", "compute_metrics", "plain"]
