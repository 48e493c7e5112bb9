"""Metrics of a set of predictions: recall, calibration, abstention, and confidence intervals (NumPy only).

Rows of a confusion matrix are the truth, columns the prediction. A class without test clips has no recall, so every
mean over classes takes only those that occur.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Matrix = NDArray[np.int64]
"""Counts, (..., classes, classes)."""
Values = NDArray[np.float64]

ECE_BINS = 15
"""Bins of equal width, as usual in the literature."""


def confusion(targets: ArrayLike, predicted: ArrayLike, n_classes: int) -> Matrix:
    """How often each class was predicted as each class, (classes, classes).

    >>> confusion([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    truth, prediction = _classes(targets, n_classes, "targets"), _classes(predicted, n_classes, "predicted")
    if len(truth) != len(prediction):
        raise ValueError(f"{len(truth)} targets but {len(prediction)} predictions")
    return np.bincount(truth * n_classes + prediction, minlength=n_classes**2).reshape(n_classes, n_classes)


def _classes(values: ArrayLike, n_classes: int, what: str) -> NDArray[np.int64]:
    array = np.asarray(values, np.int64)
    if array.ndim != 1:
        raise ValueError(f"{what} must have one value for each clip, not the shape {array.shape}")
    if len(array) and not (array.min() >= 0 and array.max() < n_classes):
        raise ValueError(f"{what} must be in 0..{n_classes - 1}, not {array.min()}..{array.max()}")
    return array


def recalls(matrix: Matrix) -> Values:
    """Share of each class that was found, (..., classes); NaN for a class that does not occur."""
    total = matrix.sum(axis=-1)
    found = np.diagonal(matrix, axis1=-2, axis2=-1)
    return np.where(total > 0, found / np.maximum(total, 1), np.nan)


def _mean_over_occurring(values: Values, occurs: NDArray[np.bool_]) -> Values:
    count = occurs.sum(axis=-1)
    return np.where(count > 0, np.where(occurs, values, 0.0).sum(axis=-1) / np.maximum(count, 1), np.nan)


def ua(matrix: Matrix) -> Values:
    """Unweighted accuracy: the mean recall over the classes that occur."""
    return _mean_over_occurring(recalls(matrix), matrix.sum(axis=-1) > 0)


def wa(matrix: Matrix) -> Values:
    """Weighted accuracy: the share of right predictions."""
    total = matrix.sum(axis=(-2, -1))
    right = np.diagonal(matrix, axis1=-2, axis2=-1).sum(axis=-1)
    return np.where(total > 0, right / np.maximum(total, 1), np.nan)


def macro_f1(matrix: Matrix) -> Values:
    """Mean F1 over the classes that occur."""
    right = np.diagonal(matrix, axis1=-2, axis2=-1)
    both = matrix.sum(axis=-1) + matrix.sum(axis=-2)
    return _mean_over_occurring(2 * right / np.maximum(both, 1), matrix.sum(axis=-1) > 0)


def weighted_f1(matrix: Matrix) -> Values:
    """F1 of each class, weighted by how often the class occurs, (...)."""
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    occurs, predicted = matrix.sum(axis=-1), matrix.sum(axis=-2)
    f1 = 2.0 * hits / np.maximum(occurs + predicted, 1)
    return np.asarray((f1 * occurs).sum(axis=-1) / np.maximum(occurs.sum(axis=-1), 1))


def unweighted_accuracy(targets: ArrayLike, predicted: ArrayLike, n_classes: int) -> float:
    """Mean recall over the classes that occur."""
    return float(ua(confusion(targets, predicted, n_classes)))


def weighted_accuracy(targets: ArrayLike, predicted: ArrayLike) -> float:
    """Share of right predictions."""
    truth = np.asarray(targets)
    return float(np.mean(truth == np.asarray(predicted))) if len(truth) else float("nan")


# ---- calibration


@dataclass(frozen=True, slots=True)
class ConfidenceBin:
    """The predictions whose confidence is above `low` and at most `high`."""

    low: float
    high: float
    count: int
    confidence: float
    """Mean confidence; NaN in an empty bin."""
    accuracy: float
    """Share that was right; NaN in an empty bin."""


def _bin_of(confidence: Values, bins: int) -> NDArray[np.int64]:
    """Index of each confidence's bin; a bin includes its upper edge."""
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def reliability(confidence: ArrayLike, correct: ArrayLike, bins: int = ECE_BINS) -> tuple[ConfidenceBin, ...]:
    """How often predictions of each confidence are right; the reliability diagram."""
    sure, right = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    place = _bin_of(sure, bins)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean_sure = np.bincount(place, sure, bins) / counts
        mean_right = np.bincount(place, right, bins) / counts
    return tuple(
        ConfidenceBin(i / bins, (i + 1) / bins, int(counts[i]), float(mean_sure[i]), float(mean_right[i]))
        for i in range(bins)
    )


def ece(probabilities: ArrayLike, targets: ArrayLike, bins: int = ECE_BINS, weights: ArrayLike | None = None) -> float:
    """Expected calibration error: mean distance between a bin's confidence and accuracy, over the predictions.

    `weights` are the predictions' weights, for example to give corpora of different sizes equal influence.
    """
    table = np.asarray(probabilities, np.float64)
    confidence, correct = table.max(axis=1), table.argmax(axis=1) == np.asarray(targets)
    share = np.ones(len(table)) if weights is None else np.asarray(weights, np.float64)
    gaps = np.bincount(_bin_of(confidence, bins), share * (confidence - correct), bins)  # each bin's share x distance
    return float(np.abs(gaps).sum() / share.sum()) if len(table) else 0.0


def nll(probabilities: ArrayLike, targets: ArrayLike) -> float:
    """Mean negative log-likelihood in nats."""
    table = np.asarray(probabilities, np.float64)
    own = table[np.arange(len(table)), np.asarray(targets, np.int64)]
    return float(-np.log(np.maximum(own, 1e-12)).mean())


# ---- abstention


@dataclass(frozen=True, slots=True, eq=False)
class RiskCoverage:
    """Risk-coverage curve: for each threshold, the share of predictions above it and the share of these that are wrong.

    One point for every confidence that occurs, from the highest down; predictions of equal confidence share one point.
    """

    thresholds: Values
    coverage: Values
    risk: Values

    @property
    def aurc(self) -> float:
        """Area under the risk-coverage curve: mean risk over all coverages; lower is better."""
        steps = np.diff(self.coverage, prepend=0.0)
        return float(np.sum(steps * self.risk))


def risk_coverage(confidence: ArrayLike, correct: ArrayLike) -> RiskCoverage:
    """The risk-coverage curve of some predictions."""
    sure, right = np.asarray(confidence, np.float64), np.asarray(correct, np.bool_)
    order = np.argsort(-sure, kind="stable")
    sure, wrong = sure[order], np.cumsum(~right[order])
    last_of_its_value = np.append(sure[1:] != sure[:-1], True) if len(sure) else np.zeros(0, np.bool_)
    predicted = np.arange(1, len(sure) + 1)
    risk = wrong / np.maximum(predicted, 1)
    return RiskCoverage(
        sure[last_of_its_value], predicted[last_of_its_value] / max(1, len(sure)), risk[last_of_its_value]
    )


def most_confident(confidence: ArrayLike, coverage: float, weights: ArrayLike | None = None) -> NDArray[np.int64]:
    """Indexes of the share `coverage` of the predictions with the highest confidence, at least one."""
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage must be above 0 and at most 1, not {coverage!r}")
    sure = np.asarray(confidence, np.float64)
    share = np.ones(len(sure)) if weights is None else np.asarray(weights, np.float64)
    order = np.argsort(-sure, kind="stable")
    reached = np.cumsum(share[order]) / share.sum()
    count = (
        int(np.argmin(np.abs(reached - coverage))) + 1 if len(sure) else 0
    )  # the number of predictions nearest to `coverage`
    return order[:count]


def ua_at_coverage(
    probabilities: ArrayLike, targets: ArrayLike, coverage: float, weights: ArrayLike | None = None
) -> float:
    """Unweighted accuracy over the share `coverage` of the predictions with the highest confidence.

    `weights` apply to the share of the predictions and to each class's recall.
    """
    table, truth = np.asarray(probabilities, np.float64), np.asarray(targets, np.int64)
    share = np.ones(len(table)) if weights is None else np.asarray(weights, np.float64)
    kept = most_confident(table.max(axis=1), coverage, share)
    right = table[kept].argmax(axis=1) == truth[kept]
    found = np.bincount(truth[kept], share[kept] * right, table.shape[1])
    total = np.bincount(truth[kept], share[kept], table.shape[1])
    return float(_mean_over_occurring(found / np.where(total > 0, total, 1.0), total > 0))


# ---- confidence intervals


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its confidence interval over speakers."""

    value: float
    low: float
    high: float
    """Ends of the 95 % bootstrap interval; NaN if there is only one speaker."""
    speakers: int

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{100 * self.value:.1f}"
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def by_speaker(
    targets: ArrayLike, predicted: ArrayLike, speakers: Sequence[str], n_classes: int
) -> tuple[list[str], Matrix]:
    """Each speaker's own confusion matrix, (speakers, classes, classes)."""
    truth, prediction = np.asarray(targets, np.int64), np.asarray(predicted, np.int64)
    names, owner = np.unique(np.asarray(speakers, dtype=np.str_), return_inverse=True)
    matrices = [confusion(truth[owner == i], prediction[owner == i], n_classes) for i in range(len(names))]
    return [str(name) for name in names], np.stack(matrices) if matrices else np.zeros((0, n_classes, n_classes), int)


def bootstrap(statistic: Callable[[Matrix], Values], of_speaker: Matrix, draws: int = 2000, seed: int = 0) -> Interval:
    """A statistic of the pooled confusion matrix, with its 95 % interval over redrawn sets of speakers.

    Results of one speaker's clips are correlated, so redrawing clips instead would give intervals that are too narrow.
    """
    value = float(statistic(of_speaker.sum(axis=0)))
    count = len(of_speaker)
    if count < 2:
        return Interval(value, float("nan"), float("nan"), count)
    times = _times(np.random.default_rng(seed), count, draws)
    low, high = interval_of(statistic(np.tensordot(times, of_speaker, axes=1)))
    return Interval(value, low, high, count)


def redrawn_ua(corpora: Iterable[Sequence[Matrix]], draws: int = 2000, seed: int = 0) -> Values:
    """UA for redrawn sets of speakers, (draws,): the mean over the corpora, each with the mean over its runs.

    `corpora` has `by_speaker` matrices of one or several runs, whose speakers are the same and in the same order. Calls
    with the same corpora and speakers draw the same sets, so that two results can be subtracted.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for runs in corpora:
        times = _times(rng, len(runs[0]), draws)
        drawn.append(np.mean([ua(np.tensordot(times, of_speaker, axes=1)) for of_speaker in runs], axis=0))
    return np.asarray(np.mean(drawn, axis=0), np.float64)


def interval_of(drawn: Values) -> tuple[float, float]:
    """The ends of the interval that has 95 % of the values."""
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def _times(rng: np.random.Generator, speakers: int, draws: int) -> NDArray[np.int64]:
    """How often each speaker is in each redrawn set, (draws, speakers)."""
    return rng.multinomial(speakers, np.full(speakers, 1 / speakers), draws)


__all__ = [
    "ECE_BINS",
    "ConfidenceBin",
    "Interval",
    "RiskCoverage",
    "bootstrap",
    "by_speaker",
    "confusion",
    "ece",
    "interval_of",
    "macro_f1",
    "most_confident",
    "nll",
    "recalls",
    "redrawn_ua",
    "reliability",
    "risk_coverage",
    "ua",
    "ua_at_coverage",
    "unweighted_accuracy",
    "wa",
    "weighted_accuracy",
    "weighted_f1",
]
