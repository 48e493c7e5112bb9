"""Calibrate confidence: fit temperature and class bias on held-out speakers, and a threshold for a given risk.

p = softmax((logits + bias) / temperature). Both are fitted by minimising the negative log-likelihood, a convex
problem in 1 / temperature and bias / temperature that Newton's method solves in some ten steps.

A temperature fitted on speakers of the training corpora is too low for other corpora. If a leave-one-corpus-out run of
the same recipe exists, a checkpoint is therefore calibrated on the pooled logits of its folds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamser.calibration import Calibration

Logits = NDArray[np.float64]

# Temperatures outside this range mean that the validation set is too small to fit one, or contains only correct
# predictions.
TEMPERATURES = (0.05, 20.0)


def softmax(logits: ArrayLike, calibration: Calibration | None = None) -> Logits:
    """Probabilities, (clips, classes), as the recognizer computes them."""
    calibration = calibration or Calibration()
    values = np.asarray(logits, np.float64)
    if calibration.bias:
        values = values + np.asarray(calibration.bias)
    values = values / calibration.temperature
    values = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(values / values.sum(axis=-1, keepdims=True))


def mean_nll(
    logits: ArrayLike, targets: ArrayLike, calibration: Calibration, weights: ArrayLike | None = None
) -> float:
    """Weighted mean of the clips' negative log-likelihood, in nats."""
    table, truth = softmax(logits, calibration), np.asarray(targets, np.int64)
    own = np.log(np.maximum(table[np.arange(len(truth)), truth], 1e-300))
    return float(-np.average(own, weights=None if weights is None else np.asarray(weights, np.float64)))


def balanced_weights(targets: ArrayLike, groups: Sequence[str] | None = None) -> NDArray[np.float64]:
    """Weights with mean 1 that give every class of every group the same total weight. Corpora differ in size and in
    their share of neutral clips; neither should influence the calibration.
    """
    truth = np.asarray(targets, np.int64)
    names = np.asarray(groups if groups is not None else [""] * len(truth), dtype=np.str_)
    _, cell, count = np.unique(
        np.stack([names, truth.astype(np.str_)]), axis=1, return_inverse=True, return_counts=True
    )
    weights = 1.0 / count[cell.reshape(-1)]
    return np.asarray(weights * len(truth) / weights.sum())


def fit_temperature(logits: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The temperature that makes the targets likeliest."""
    return _fit(logits, targets, weights, bias=False, ridge=0.0).temperature


def fit_bias(
    logits: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None, ridge: float = 0.01
) -> Calibration:
    """Temperature and a bias for each class; `ridge` pulls the biases to zero, which matters if clips are few."""
    return _fit(logits, targets, weights, bias=True, ridge=ridge)


def _check(
    logits: ArrayLike, targets: ArrayLike, weights: ArrayLike | None
) -> tuple[Logits, NDArray[np.int64], Logits]:
    table, truth = np.asarray(logits, np.float64), np.asarray(targets, np.int64)
    if table.ndim != 2 or len(table) != len(truth) or not len(table):
        raise ValueError(
            f"calibration needs (clips, classes) logits with one target each, not {table.shape} and {truth.shape}"
        )
    if not np.isfinite(table).all():
        raise ValueError("calibration needs finite logits; some are NaN or infinite, so the network has diverged")
    if truth.min() < 0 or truth.max() >= table.shape[1]:
        raise ValueError(f"targets must be in 0..{table.shape[1] - 1}, not {truth.min()}..{truth.max()}")
    share = np.ones(len(truth)) if weights is None else np.asarray(weights, np.float64)
    return table - table.mean(axis=1, keepdims=True), truth, share / share.sum()


def _fit(logits: ArrayLike, targets: ArrayLike, weights: ArrayLike | None, *, bias: bool, ridge: float) -> Calibration:
    """Newton's method over (1 / temperature, bias / temperature); a step that raises the loss is halved."""
    table, truth, share = _check(logits, targets, weights)
    classes = table.shape[1]
    onehot = np.eye(classes)[truth]
    # Derivative of each logit by each parameter: the logit itself for 1 / temperature, 1 for the class's bias.
    effects = np.concatenate([table[:, :, None], np.broadcast_to(np.eye(classes), (len(table), classes, classes))], 2)
    effects = effects if bias else effects[:, :, :1]  # (clips, classes, parameters)
    pull = np.array([0.0, *[ridge] * classes])[: effects.shape[2]]
    pull = pull + 1e-9  # keeps the Hessian regular: adding a constant to all biases changes no probability
    at = np.array([1.0, *[0.0] * classes])[: effects.shape[2]]

    def loss(point: Logits) -> float:
        values = effects @ point
        top = values.max(axis=1)
        log_sum = np.log(np.exp(values - top[:, None]).sum(axis=1)) + top
        return float(share @ (log_sum - values[np.arange(len(truth)), truth]) + 0.5 * pull @ point**2)

    now = loss(at)
    for _ in range(50):
        chance = softmax(effects @ at)
        gradient = np.einsum("n,nc,ncp->p", share, chance - onehot, effects) + pull * at
        mean = np.einsum("nc,ncp->np", chance, effects)
        hessian = np.einsum("n,nc,ncp,ncq->pq", share, chance, effects, effects) - np.einsum(
            "n,np,nq->pq", share, mean, mean
        )
        step = np.linalg.solve(hessian + np.diag(pull), gradient)
        size = 1.0
        while size > 1e-6 and not loss(at - size * step) <= now:
            size /= 2
        at = at - size * step
        before, now = now, loss(at)
        if before - now < 1e-10:
            break
    # Logits without information about the targets would lead to an infinite or negative temperature.
    inverse = min(max(float(at[0]), 1 / TEMPERATURES[1]), 1 / TEMPERATURES[0])
    shift = at[1:] - at[1:].mean() if bias else at[1:]
    return Calibration(temperature=1 / inverse, bias=tuple(float(value) for value in shift / inverse))


def cross_validated_nll(
    logits: ArrayLike,
    targets: ArrayLike,
    groups: Sequence[str],
    *,
    bias: bool,
    weights: ArrayLike | None = None,
    folds: int = 10,
) -> float:
    """Mean negative log-likelihood of clips under a calibration fitted on other groups, in nats."""
    table, truth = np.asarray(logits, np.float64), np.asarray(targets, np.int64)
    share = np.ones(len(truth)) if weights is None else np.asarray(weights, np.float64)
    _, owner = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    total = 0.0
    for fold in range(min(folds, int(owner.max()) + 1)):
        out = owner % folds == fold
        fitted = _fit(table[~out], truth[~out], share[~out], bias=bias, ridge=0.01 if bias else 0.0)
        total += share[out].sum() * mean_nll(table[out], truth[out], fitted, share[out])
    return total / float(share.sum())


@dataclass(frozen=True, slots=True)
class Threshold:
    """A confidence threshold, and its effect on the clips that it was chosen on."""

    value: float
    """A prediction with a lower confidence is `uncertain`."""
    risk: float
    """Share of wrong predictions among those that are not uncertain."""
    coverage: float
    """Share of predictions that are not uncertain."""
    reached: bool
    """False if every threshold exceeds the requested risk; `value` is then the one with the lowest risk."""


# A risk estimated on a smaller share of the predictions is unreliable: no threshold is chosen there.
LEAST_COVERAGE = 0.1


def choose_threshold(
    probabilities: ArrayLike, targets: ArrayLike, risk: float, weights: ArrayLike | None = None
) -> Threshold:
    """The smallest confidence threshold at which at most the share `risk` of the remaining predictions is wrong.

    Only thresholds that leave at least a tenth of the predictions are considered. If the risk of each of them is too
    high, the result is the one with the lowest risk, with `reached=False`.
    """
    if not 0 < risk < 1:
        raise ValueError(f"risk must be above 0 and below 1, not {risk!r}")
    table, truth = np.asarray(probabilities, np.float64), np.asarray(targets, np.int64)
    share = np.ones(len(truth)) if weights is None else np.asarray(weights, np.float64)
    confidence, wrong = table.max(axis=1), table.argmax(axis=1) != truth
    order = np.argsort(-confidence, kind="stable")
    covered = np.cumsum(share[order])
    risks = np.cumsum((share * wrong)[order]) / covered
    coverage = covered / covered[-1]
    ends = np.append(np.diff(confidence[order]) != 0, True) & (coverage >= min(LEAST_COVERAGE, coverage[-1]))
    good = np.flatnonzero(ends & (risks <= risk))
    reached = bool(len(good))
    at = int(good[-1]) if reached else int(np.flatnonzero(ends)[np.argmin(risks[ends])])
    # If no clip needs to be uncertain, the threshold is zero, so that a less confident new clip is not uncertain
    # either.
    value = 0.0 if reached and at == len(order) - 1 else math.floor(confidence[order][at] * 1e6) / 1e6
    return Threshold(value, float(risks[at]), float(coverage[at]), reached)


def fit_calibration(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    risk: float,
    groups: Sequence[str] | None = None,
    weights: ArrayLike | None = None,
) -> tuple[Calibration, Threshold]:
    """Fit the temperature, a class bias if it helps, and the threshold for a risk.

    `groups` are the clips' speakers, or their corpora in a leave-one-corpus-out run. The bias is kept only if,
    on groups that it was not fitted on, it lowers the negative log-likelihood by half a percent; without `groups`,
    there is no bias.
    """
    fitted = Calibration(temperature=fit_temperature(logits, targets, weights))
    if groups is not None and len(set(groups)) > 1:
        plain = cross_validated_nll(logits, targets, groups, bias=False, weights=weights)
        biased = cross_validated_nll(logits, targets, groups, bias=True, weights=weights)
        if biased < 0.995 * plain:
            fitted = fit_bias(logits, targets, weights)
    threshold = choose_threshold(softmax(logits, fitted), targets, risk, weights)
    return replace(fitted, threshold=threshold.value, risk=threshold.risk), threshold


__all__ = [
    "Threshold",
    "balanced_weights",
    "choose_threshold",
    "cross_validated_nll",
    "fit_bias",
    "fit_calibration",
    "fit_temperature",
    "mean_nll",
    "softmax",
]
