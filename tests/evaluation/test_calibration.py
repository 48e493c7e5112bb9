"""Fitting calibrations and thresholds: targets are drawn with a known temperature and bias, which the fit recovers."""

from __future__ import annotations

import numpy as np
import pytest

from streamser.calibration import Calibration
from streamser.evaluation import metrics
from streamser.evaluation.calibration import (
    balanced_weights,
    choose_threshold,
    cross_validated_nll,
    fit_bias,
    fit_calibration,
    fit_temperature,
    mean_nll,
    softmax,
)


def drawn(
    temperature: float, bias: tuple[float, ...] = (0, 0, 0, 0), clips: int = 6000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Random logits, and targets drawn with the probabilities softmax((logits + bias) / temperature)."""
    rng = np.random.default_rng(seed)
    logits = 4 * rng.standard_normal((clips, len(bias)))
    chances = softmax(logits, Calibration(temperature, bias))
    return logits, (rng.random((clips, 1)) > chances.cumsum(axis=1)).sum(axis=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_fit_recovers_the_temperature_that_the_targets_were_drawn_with(temperature: float) -> None:
    logits, targets = drawn(temperature)
    assert fit_temperature(logits, targets) == pytest.approx(temperature, rel=0.08)


def test_no_temperature_near_the_fitted_one_has_a_lower_loss() -> None:
    logits, targets = drawn(2.0, clips=500)
    best = fit_temperature(logits, targets)
    least = mean_nll(logits, targets, Calibration(best))
    assert all(mean_nll(logits, targets, Calibration(best * factor)) > least for factor in (0.9, 0.99, 1.01, 1.1))


def test_the_fit_recovers_the_bias_that_the_targets_were_drawn_with() -> None:
    bias = (2.0, 0.0, -3.0, 1.0)
    logits, targets = drawn(2.0, bias)
    fitted = fit_bias(logits, targets)
    assert fitted.temperature == pytest.approx(2.0, rel=0.08)
    assert fitted.bias == pytest.approx(bias, abs=0.4)
    assert sum(fitted.bias) == pytest.approx(0.0, abs=1e-9)


def test_calibration_lowers_the_calibration_error_on_clips_that_were_not_fitted() -> None:
    logits, targets = drawn(3.0)
    fitted = Calibration(fit_temperature(logits[:3000], targets[:3000]))
    before = metrics.ece(softmax(logits[3000:]), targets[3000:])
    after = metrics.ece(softmax(logits[3000:], fitted), targets[3000:])
    assert before > 0.15
    assert after < 0.03


@pytest.mark.parametrize("right", [True, False])
def test_the_temperature_stays_within_bounds_for_logits_that_are_always_right_or_always_wrong(right: bool) -> None:
    targets = np.arange(40) % 4
    logits = 5 * np.eye(4)[targets if right else (targets + 1) % 4]
    temperature = fit_temperature(logits, targets)
    assert 0.05 <= temperature < 0.5 if right else temperature == pytest.approx(20.0)


def test_a_bias_that_only_one_speaker_needs_is_not_kept() -> None:
    logits, targets = drawn(2.0, clips=800)
    speakers = [f"c/{i % 8}" for i in range(800)]
    logits[::8, 0] += 4.0  # speaker 0 always sounds like class 0
    fitted, _ = fit_calibration(logits, targets, risk=0.3, groups=speakers)
    assert fitted.bias == ()


def test_a_bias_that_every_speaker_needs_is_kept() -> None:
    logits, targets = drawn(2.0, (3.0, 0.0, -3.0, 0.0), clips=800)
    speakers = [f"c/{i % 8}" for i in range(800)]
    fitted, _ = fit_calibration(logits, targets, risk=0.3, groups=speakers)
    assert fitted.bias[0] > 1.5 and fitted.bias[2] < -1.5
    plain = cross_validated_nll(logits, targets, speakers, bias=False)
    assert cross_validated_nll(logits, targets, speakers, bias=True) < plain


def test_balanced_weights_give_every_class_of_every_group_the_same_influence() -> None:
    targets, groups = np.array([0, 0, 0, 1, 0, 1, 1]), ["a", "a", "a", "a", "b", "b", "b"]
    weights = balanced_weights(targets, groups)
    assert weights.mean() == pytest.approx(1.0)
    assert (
        weights[:3].sum() == pytest.approx(weights[3]) == pytest.approx(weights[4]) == pytest.approx(weights[5:].sum())
    )


def test_the_threshold_is_the_smallest_whose_risk_is_low_enough() -> None:
    # from the most to the least confident: right, right, wrong, right, wrong
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.65, 0.35], [0.6, 0.4]])
    targets = np.array([0, 0, 1, 0, 1])
    chosen = choose_threshold(probabilities, targets, 0.25)
    assert chosen.reached
    assert (chosen.risk, chosen.coverage) == pytest.approx((0.25, 0.8))
    assert 0.6 < chosen.value <= 0.65
    assert choose_threshold(probabilities, targets, 0.1).coverage == pytest.approx(0.4)


def test_no_clip_is_uncertain_if_the_accepted_risk_is_high() -> None:
    logits, targets = drawn(1.0)
    chosen = choose_threshold(softmax(logits), targets, 0.9)
    assert (chosen.value, chosen.coverage) == (0.0, 1.0)


def test_if_the_risk_cannot_be_reached_the_lowest_possible_risk_is_chosen_and_reported() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    chosen = choose_threshold(probabilities, np.array([1, 0, 0, 0]), 0.05)
    assert not chosen.reached
    assert (chosen.risk, chosen.coverage) == pytest.approx((0.25, 1.0))


def test_a_few_confident_right_predictions_do_not_set_the_threshold() -> None:
    # the two most confident of a hundred predictions are right; half of the other ninety-eight are right
    confidence = np.r_[0.99, 0.98, np.linspace(0.9, 0.5, 98)]
    targets = np.r_[0, 0, np.arange(98) % 2]
    chosen = choose_threshold(np.stack([confidence, 1 - confidence], axis=1), targets, 0.05)
    assert not chosen.reached
    assert chosen.coverage >= 0.1


def test_the_risk_is_weighted() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2]])
    assert choose_threshold(probabilities, np.array([0, 1]), 0.3, weights=[9, 1]).risk == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (np.zeros((0, 4)), np.zeros(0, int), "needs"),
        (np.zeros((3, 4)), np.zeros(2, int), "one target each"),
        (np.full((2, 4), np.nan), np.zeros(2, int), "diverged"),
        (np.zeros((2, 4)), np.array([0, 4]), r"0\.\.3"),
    ],
)
def test_data_that_cannot_be_fitted_are_refused_with_the_reason(
    logits: np.ndarray, targets: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, targets)
