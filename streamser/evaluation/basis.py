"""Choose the predictions on which a checkpoint is calibrated, and compute the figures for its card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamser.calibration import BaselineRule, Calibration
from streamser.errors import ProtocolError
from streamser.evaluation.adaptation import load_left_out
from streamser.evaluation.calibration import Threshold, balanced_weights, fit_calibration
from streamser.evaluation.folds import FoldResult, by_seed, load_folds, pool
from streamser.evaluation.foldsummary import are_left_out, left_out_metrics, summarize

__all__ = ["Basis", "basis_of_run", "basis_of_validation"]


@dataclass(frozen=True, slots=True)
class Basis:
    """A checkpoint's calibration and threshold, and the figures and baseline constants computed with them."""

    name: str
    """The speakers or corpora that the calibration was fitted on, in words for the card."""
    calibration: Calibration
    threshold: Threshold
    metrics: dict[str, Any] = field(default_factory=dict)
    """Figures on speakers or corpora that the networks of the run were not trained on."""
    rule: BaselineRule | None = None
    """How streams use the relative head; None if the run chose no constants for it."""


def basis_of_validation(
    logits: NDArray[np.float32], targets: NDArray[np.int64], groups: Sequence[str], risk: float
) -> Basis:
    """Calibrate on the validation speakers; every class of every group has the same total weight."""
    return Basis("validation speakers", *_fit(logits, targets, groups, risk))


def basis_of_run(run: Path, labels: tuple[str, ...], risk: float, *, relative: bool) -> Basis:
    """Calibrate on the test predictions of a finished run of the same recipe.

    If the folds left out whole corpora and the checkpoint has a relative head (`relative`), the constants of the
    baseline are chosen on them too.
    """
    folds = _same_labels(load_folds(run), labels)
    by_corpus = are_left_out(folds)
    name = "left-out corpora" if by_corpus else "unheard speakers of its folds"
    if relative and by_corpus:
        left_out = load_left_out(run, folds)
        calibration, threshold = left_out.calibration(risk)
        metrics = left_out.metrics(calibration, risk) | left_out_metrics([one.fold for one in left_out.corpora])
        return Basis(name, calibration, threshold, metrics, left_out.rule(calibration, risk))
    tested = [pool(of_seed) for of_seed in by_seed(folds).values()]  # a clip counts once for each seed
    fitted = _fit(
        np.concatenate([one.logits for one in tested]),
        np.concatenate([one.targets for one in tested]),
        [group for one in tested for group in (one.corpora if by_corpus else one.speakers)],
        risk,
    )
    return Basis(name, *fitted, left_out_metrics(folds) if by_corpus else summarize(folds))


def _fit(
    logits: NDArray[np.float32], targets: NDArray[np.int64], groups: Sequence[str], risk: float
) -> tuple[Calibration, Threshold]:
    return fit_calibration(logits, targets, risk=risk, groups=groups, weights=balanced_weights(targets, groups))


def _same_labels(folds: list[FoldResult], labels: tuple[str, ...]) -> list[FoldResult]:
    if not folds:
        raise ProtocolError("--calibrate-from: no finished fold in that run; train it first")
    if any(fold.labels != labels for fold in folds):
        raise ProtocolError(f"--calibrate-from: that run has the labels {', '.join(folds[0].labels)}, not the recipe's")
    return folds
