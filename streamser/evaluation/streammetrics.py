"""Metrics of composed streams and of plain speech, for a run that left corpora out.

For each corpus, calibration, threshold and the baseline's constants are chosen on the other corpora. Intervals are over
redrawn sets of speakers, since predictions for one speaker's clips are correlated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamser.calibration import BaselineRule, Calibration
from streamser.evaluation.calibration import balanced_weights, softmax
from streamser.evaluation.folds import FoldResult
from streamser.evaluation.metrics import (
    Matrix,
    by_speaker,
    confusion,
    ece,
    interval_of,
    macro_f1,
    redrawn_ua,
    ua,
    unweighted_accuracy,
)
from streamser.evaluation.streams import SCENARIOS, LeftOutCorpus, blend, choose_rule

Values = NDArray[np.float64]
_DRAWS = 1000
_KEYS = ("ua", "coverage", "risk", "ece")


@dataclass(frozen=True, slots=True, eq=False)
class _Predictions:
    """One network's predictions for one left-out corpus in one kind of stream."""

    of: LeftOutCorpus
    table: Values
    thresholds: Values

    def row(self) -> dict[str, float]:
        targets = self.of.targets
        return {
            "ua": 100 * unweighted_accuracy(targets, self.table.argmax(axis=1), len(self.of.fold.labels)),
            **_certainty(self.table, self.thresholds, targets, balanced_weights(targets)),
        }


@dataclass(frozen=True, slots=True)
class StreamMetrics:
    """Metrics of one kind of stream: for each left-out corpus, their mean, and for all corpora pooled."""

    of: Mapping[str, Mapping[str, float]]
    """By corpus: `ua` in percent, `coverage` and `risk` at the threshold, `ece`; the mean over the seeds."""
    ua_interval: tuple[float, float]
    """95 % interval of the mean UA, over the speakers of each corpus."""
    pooled: Mapping[str, float]
    """`coverage`, `risk` and `ece` of all corpora together; each corpus and label counts alike."""

    def mean(self, key: str) -> float:
        """The mean over the corpora."""
        return float(np.mean([row[key] for row in self.of.values()]))

    def to_dict(self) -> dict[str, Any]:
        """The figures for bundle.yaml, rounded."""

        def rounded(row: Mapping[str, float]) -> dict[str, float]:
            return {key: round(value, 1 if key == "ua" else 3) for key, value in row.items()}

        return {
            **rounded({key: self.mean(key) for key in _KEYS}),
            "ua_interval": [round(end, 1) for end in self.ua_interval],
            "pooled": rounded(self.pooled),
            "of": {name: rounded(row) for name, row in self.of.items()},
        }


def stream_metrics(
    corpora: Sequence[LeftOutCorpus], absolute: Callable[[Sequence[LeftOutCorpus]], Calibration], risk: float
) -> dict[str, StreamMetrics]:
    """The metrics by kind of stream; `first` scores every clip as the first utterance of a stream.

    `absolute` fits a calibration of the absolute head on the corpora that it gets.
    """
    found: dict[str, list[_Predictions]] = {}
    for name in sorted({one.name for one in corpora}):
        others = [one for one in corpora if one.name != name]
        calibration = absolute(others)
        rule = choose_rule(others, calibration, risk)
        for one in (one for one in corpora if one.name == name):
            own = one.own(calibration)
            first = _Predictions(one, own, np.full(len(own), calibration.threshold))
            found.setdefault("first", []).append(first)
            for scenario in SCENARIOS:
                compared, weight = one.compared(scenario.name, rule.exponent, calibration)
                share = np.array([rule.share_of(float(w)) for w in weight[:, 0]])
                thresholds = (1 - share) * calibration.threshold + share * rule.calibration.threshold
                predictions = _Predictions(one, blend(own, compared, weight, rule), thresholds)
                found.setdefault(scenario.name, []).append(predictions)
    return {name: _summarize(predictions) for name, predictions in found.items()}


def known_speakers(corpora: Sequence[LeftOutCorpus], rule: BaselineRule) -> dict[str, dict[str, float]]:
    """UA and macro-F1 in percent: `first` has no baseline, `two_passes` has a baseline of the speaker's other clips.

    `rule` is a checkpoint's rule, for runs that left out too few corpora to choose constants of their own.
    """
    found: dict[str, list[tuple[float, float]]] = {"first": [], "two_passes": []}
    for one in corpora:
        own = one.own(Calibration())
        compared, weight = one.compared("two_passes", rule.exponent, Calibration())
        for name, table in (("first", own), ("two_passes", blend(own, compared, weight, rule))):
            matrix = confusion(one.targets, table.argmax(axis=1), len(one.fold.labels))
            found[name].append((100 * float(ua(matrix)), 100 * float(macro_f1(matrix))))
    return {
        name: dict(zip(("ua", "macro_f1"), np.mean(values, axis=0).tolist(), strict=True))
        for name, values in found.items()
    }


def _summarize(predictions: Sequence[_Predictions]) -> StreamMetrics:
    names = sorted({one.of.name for one in predictions})
    rows = {name: [one.row() for one in predictions if one.of.name == name] for name in names}
    targets = np.concatenate([one.of.targets for one in predictions])
    weights = balanced_weights(targets, [one.of.name for one in predictions for _ in one.of.targets])
    table = np.concatenate([one.table for one in predictions])
    thresholds = np.concatenate([one.thresholds for one in predictions])
    return StreamMetrics(
        of={name: {key: float(np.mean([row[key] for row in rows[name]])) for key in _KEYS} for name in names},
        ua_interval=_interval(predictions, names),
        pooled=_certainty(table, thresholds, targets, weights),
    )


def _certainty(table: Values, thresholds: Values, targets: NDArray[np.int64], weights: Values) -> dict[str, float]:
    """Coverage and risk at the thresholds, and calibration error."""
    covered = table.max(axis=1) >= thresholds
    wrong = (table.argmax(axis=1) != targets)[covered]
    return {
        "coverage": float(np.average(covered, weights=weights)),
        "risk": float(np.average(wrong, weights=weights[covered])) if covered.any() else 0.0,
        "ece": ece(table, targets, weights=weights),
    }


def _interval(predictions: Sequence[_Predictions], names: Sequence[str]) -> tuple[float, float]:
    def matrix(one: _Predictions) -> Matrix:
        speakers = [one.of.fold.speakers[clip] for clip in one.of.scored]
        return by_speaker(one.of.targets, one.table.argmax(axis=1), speakers, len(one.of.fold.labels))[1]

    runs = ([matrix(one) for one in predictions if one.of.name == name] for name in names)
    low, high = interval_of(redrawn_ua(runs, _DRAWS))
    return 100 * low, 100 * high


def plain_speech(folds: Sequence[FoldResult], calibration: Calibration) -> dict[str, dict[str, float]]:
    """Shares of neutral, emotional and uncertain predictions for plain speech of sources not used in training."""
    found: dict[str, dict[str, float]] = {}
    names = sorted({fold.left_out for fold in folds})
    for name, fold in product(names, folds):
        if fold.left_out == name:
            table = softmax(fold.logits, calibration)
            sure = table.max(axis=1) >= calibration.threshold
            neutral = table.argmax(axis=1) == fold.labels.index("neutral")
            seeds = sum(other.fold == fold.fold for other in folds)
            row = found.setdefault(name, {"neutral": 0.0, "mood": 0.0, "uncertain": 0.0})
            for key, share in (("neutral", sure & neutral), ("mood", sure & ~neutral), ("uncertain", ~sure)):
                row[key] += float(share.mean()) / seeds
    return found


__all__ = ["StreamMetrics", "known_speakers", "plain_speech", "stream_metrics"]
