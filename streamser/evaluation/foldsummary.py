"""Summarize the folds of a run: results on left-out speakers and on left-out corpora."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamser.calibration import Calibration
from streamser.errors import ProtocolError
from streamser.evaluation.calibration import balanced_weights, fit_temperature, softmax
from streamser.evaluation.folds import FoldResult, by_seed, pool
from streamser.evaluation.metrics import (
    confusion,
    ece,
    macro_f1,
    ua,
    ua_at_coverage,
    unweighted_accuracy,
    wa,
    weighted_f1,
)

Values = NDArray[np.float64]


def are_left_out(folds: Sequence[FoldResult]) -> bool:
    """Whether each fold's test corpora were left out of its training entirely."""
    return all(fold.train_corpora.isdisjoint(fold.test_corpora) for fold in folds)


def beside(fold: FoldResult, folds: Sequence[FoldResult]) -> list[FoldResult]:
    """The other folds of the same seed."""
    return [other for other in folds if other.fold != fold.fold and other.seed == fold.seed]


def calibration_of(folds: Sequence[FoldResult]) -> Calibration:
    """The temperature fitted on the folds together, with the same weight for every class of every corpus."""
    together = pool(folds)
    weights = balanced_weights(together.targets, together.corpora)
    return Calibration(temperature=fit_temperature(together.logits, together.targets, weights))


def left_out_metrics(folds: Sequence[FoldResult]) -> dict[str, Any]:
    """UA on each corpus that was left out, mean over seeds, and how well the confidence is calibrated there."""
    of_corpus: dict[str, list[float]] = {}
    errors, surest = [], []
    predictions: list[tuple[Values, NDArray[np.int64]]] = []
    for fold in folds:
        predicted = fold.logits.argmax(axis=1)
        name = fold.left_out
        of_corpus.setdefault(name, []).append(100 * unweighted_accuracy(fold.targets, predicted, len(fold.labels)))
        # this fold's temperature was fitted only on the folds of the other corpora
        if others := beside(fold, folds):
            probabilities = softmax(fold.logits, calibration_of(others))
            predictions.append((probabilities, fold.targets))
            errors.append(ece(probabilities, fold.targets))
            surest.append(100 * ua_at_coverage(probabilities, fold.targets, 0.7))
    means = {name: round(float(np.mean(values)), 1) for name, values in sorted(of_corpus.items())}
    return {
        "left_out_ua": means,
        "left_out_ua_mean": round(float(np.mean(list(means.values()))), 1),
        "left_out_ece_mean": round(float(np.mean(errors)), 3) if errors else None,
        "left_out_ua_at_70": round(float(np.mean(surest)), 1) if surest else None,
        "left_out_together": _together(predictions) if predictions else None,
    }


def _together(predictions: Sequence[tuple[Values, NDArray[np.int64]]]) -> dict[str, float]:
    """ECE and UA of all corpora pooled, each with the same weight, because a user has one threshold for all.

    They differ from means over corpora: confidence may be too high on one corpus and too low on another, and a
    difficult corpus has fewer of the most confident predictions.
    """
    probabilities, targets = (np.concatenate(part) for part in zip(*predictions, strict=True))
    weights = np.concatenate([np.full(len(of_one), 1 / len(of_one)) for _, of_one in predictions])
    return {
        "ece": round(ece(probabilities, targets, weights=weights), 3),
        "ua": round(100 * ua_at_coverage(probabilities, targets, 1.0, weights), 1),
        "ua_at_70": round(100 * ua_at_coverage(probabilities, targets, 0.7, weights), 1),
    }


def share_clips(folds: Sequence[FoldResult]) -> bool:
    """Whether folds of one seed test the same clips, as in Zhong et al.; if so, the mean over folds is reported."""
    return any(
        len({clip for fold in of_seed for clip in fold.clips}) < sum(len(fold.clips) for fold in of_seed)
        for of_seed in by_seed(folds).values()
    )


def scored_together(folds: Sequence[FoldResult]) -> list[FoldResult]:
    """The results to average: the pooled folds of each seed, or each fold if folds share test clips."""
    return list(folds) if share_clips(folds) else [pool(of_seed) for of_seed in by_seed(folds).values()]


def summarize(folds: Sequence[FoldResult]) -> dict[str, Any]:
    """UA, WA and F1 in percent with their standard deviation, each fold's UA, and the means of the folds' `figures`.

    If each clip is tested in only one fold, the folds are pooled, and mean and deviation are over the seeds. If folds
    share test clips, they are over all folds of all seeds.
    """
    if not folds:
        raise ProtocolError("nothing to summarize: no fold was trained")
    counted = scored_together(folds)
    tables = [confusion(one.targets, one.logits.argmax(axis=1), len(one.labels)) for one in counted]
    summary: dict[str, Any] = {
        "protocol": folds[0].protocol,
        "folds": len({fold.fold for fold in folds}),
        "seeds": len(by_seed(folds)),
        "over": "each run" if share_clips(folds) else "all test clips",
    }
    for name, statistic in {"ua": ua, "wa": wa, "macro_f1": macro_f1, "weighted_f1": weighted_f1}.items():
        values = 100 * np.array([float(statistic(table)) for table in tables])
        summary |= {name: round(float(values.mean()), 2), f"{name}_spread": round(float(values.std()), 2)}
    for name in sorted({name for fold in folds for name in fold.figures}):
        summary[name] = round(float(np.mean([fold.figures[name] for fold in folds if name in fold.figures])), 4)
    summary["each"] = {
        f"{fold.fold} s{fold.seed}": round(
            100 * unweighted_accuracy(fold.targets, fold.logits.argmax(axis=1), len(fold.labels)), 1
        )
        for fold in folds
    }
    return summary
