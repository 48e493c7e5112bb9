"""Metrics equal values that were computed by hand, by scikit-learn or by audmetric."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score

from streamser.evaluation import metrics


def predictions(clips: int = 300, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, clips)
    return truth, np.where(rng.random(clips) < 0.6, truth, rng.integers(0, classes, clips))


def test_the_confusion_matrix_has_the_truth_in_its_rows_like_that_of_scikit_learn() -> None:
    truth, predicted = predictions()
    assert (metrics.confusion(truth, predicted, 4) == confusion_matrix(truth, predicted)).all()


def test_ua_wa_and_macro_f1_agree_with_scikit_learn() -> None:
    truth, predicted = predictions()
    matrix = metrics.confusion(truth, predicted, 4)
    assert metrics.ua(matrix) == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert metrics.wa(matrix) == pytest.approx(np.mean(truth == predicted))
    assert metrics.macro_f1(matrix) == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert metrics.unweighted_accuracy(truth, predicted, 4) == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert metrics.weighted_accuracy(truth, predicted) == pytest.approx(np.mean(truth == predicted))


def test_ua_wa_and_macro_f1_equal_those_of_audmetric() -> None:
    """The expected values were computed with audmetric 1.4.2, which has no calibration error."""
    rng = np.random.default_rng(7)
    truth = rng.integers(0, 4, 200)
    matrix = metrics.confusion(truth, np.where(rng.random(200) < 0.6, truth, rng.integers(0, 4, 200)), 4)
    assert metrics.ua(matrix) == pytest.approx(0.679888785525327, abs=1e-12)
    assert metrics.macro_f1(matrix) == pytest.approx(0.6793925253589063, abs=1e-12)
    assert metrics.wa(matrix) == pytest.approx(0.68, abs=1e-12)


def test_a_class_without_clips_has_no_recall_and_is_not_part_of_the_mean() -> None:
    matrix = metrics.confusion([0, 0, 1, 1], [0, 0, 1, 2], 3)
    assert np.isnan(metrics.recalls(matrix)[2])
    assert metrics.ua(matrix) == pytest.approx(0.75)


def test_without_clips_ua_and_wa_are_nan() -> None:
    matrix = metrics.confusion([], [], 3)
    assert np.isnan(metrics.ua(matrix)) and np.isnan(metrics.wa(matrix))


def test_a_target_that_is_no_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"targets must be in 0\.\.2"):
        metrics.confusion([0, 3], [0, 1], 3)


def test_predictions_whose_accuracy_equals_their_confidence_have_no_calibration_error() -> None:
    # confidence 0.7, and seven of ten predictions are right
    probabilities = np.array([[0.7, 0.3]] * 10)
    assert metrics.ece(probabilities, [0] * 7 + [1] * 3) == pytest.approx(0.0)


def test_predictions_with_confidence_1_and_accuracy_one_half_have_a_calibration_error_of_one_half() -> None:
    probabilities = np.array([[1.0, 0.0]] * 10)
    assert metrics.ece(probabilities, [0, 1] * 5) == pytest.approx(0.5)


def test_reliability_counts_every_prediction_once_and_confidence_1_is_in_the_last_bin() -> None:
    bins = metrics.reliability([0.0, 1 / 15, 0.5, 1.0], [True] * 4)
    assert sum(b.count for b in bins) == 4
    assert bins[0].count == 2  # an upper edge belongs to its bin
    assert bins[-1].count == 1


def test_the_risk_is_lower_at_low_coverage_if_confident_predictions_are_right() -> None:
    curve = metrics.risk_coverage([0.9, 0.8, 0.6, 0.4], [True, True, True, False])
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk.tolist() == [0.0, 0.0, 0.0, 0.25]
    assert curve.aurc == pytest.approx(0.0625)


def test_predictions_with_equal_confidence_are_one_point_of_the_risk_coverage_curve() -> None:
    curve = metrics.risk_coverage([0.5, 0.5, 0.5, 0.5], [True, False, True, False])
    assert (curve.coverage.tolist(), curve.risk.tolist()) == ([1.0], [0.5])


def test_ua_at_coverage_counts_only_the_most_confident_predictions() -> None:
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.45, 0.55]])
    truth = [0, 1, 1, 0]
    assert metrics.ua_at_coverage(probabilities, truth, 0.5) == 1.0
    assert metrics.ua_at_coverage(probabilities, truth, 1.0) == 0.5
    with pytest.raises(ValueError, match="coverage must be above 0"):
        metrics.ua_at_coverage(probabilities, truth, 70)
    # With weights, the most confident prediction has half of the total weight, also in the recall of its class.
    weights = [3.0, 1.0, 1.0, 1.0]
    assert metrics.most_confident(probabilities.max(axis=1), 0.5, weights).tolist() == [0]
    assert metrics.ua_at_coverage(probabilities, truth, 1.0, weights) == pytest.approx((3 / 4 + 1 / 2) / 2)


def test_the_confusion_matrices_by_speaker_add_up_to_the_pooled_matrix() -> None:
    truth, predicted = predictions()
    speakers = [f"c/{i % 7}" for i in range(len(truth))]
    names, matrices = metrics.by_speaker(truth, predicted, speakers, 4)
    assert names == sorted(set(speakers))
    assert (matrices.sum(axis=0) == metrics.confusion(truth, predicted, 4)).all()


def test_the_confidence_interval_contains_the_value_and_is_reproducible() -> None:
    truth, predicted = predictions()
    _, matrices = metrics.by_speaker(truth, predicted, [f"c/{i % 10}" for i in range(len(truth))], 4)
    interval = metrics.bootstrap(metrics.ua, matrices)
    assert interval.low < interval.value < interval.high
    assert interval == metrics.bootstrap(metrics.ua, matrices)


def test_differences_between_speakers_widen_the_interval_and_more_clips_do_not_narrow_it() -> None:
    good, bad = np.diag([50, 50]), np.array([[10, 40], [40, 10]])
    mixed = metrics.bootstrap(metrics.ua, np.stack([good, bad] * 3))
    alike = metrics.bootstrap(metrics.ua, np.stack([good, good] * 3))
    more = metrics.bootstrap(metrics.ua, np.stack([good * 100, bad * 100] * 3))
    assert mixed.high - mixed.low > 0.3
    assert alike.high - alike.low == 0
    assert more == mixed


def test_one_speaker_gives_a_figure_without_an_interval() -> None:
    interval = metrics.bootstrap(metrics.wa, np.diag([3, 1])[None])
    assert interval.value == 1.0 and np.isnan(interval.low)
    assert str(interval) == "100.0"


def test_redrawn_sets_of_speakers_are_averaged_over_runs_and_corpora_and_can_be_subtracted() -> None:
    rng = np.random.default_rng(0)
    of_speaker = [rng.integers(1, 20, (6, 3, 3)) for _ in range(4)]
    first, second, other = of_speaker[:2], of_speaker[2:3], [matrix + np.eye(3, dtype=int) for matrix in of_speaker[:2]]
    both = metrics.redrawn_ua([first, second])
    alone = metrics.redrawn_ua([first])
    assert both.shape == (2000,)
    assert alone == pytest.approx(np.mean([metrics.redrawn_ua([[run]]) for run in first], axis=0))
    value = np.mean([np.mean([metrics.ua(run.sum(axis=0)) for run in runs]) for runs in (first, second)])
    low, high = metrics.interval_of(both)
    assert low < value < high
    assert (metrics.redrawn_ua([other]) > alone).all()  # every speaker is better, so every set of speakers is


def test_a_weighted_calibration_error_counts_a_prediction_as_often_as_its_weight() -> None:
    rng = np.random.default_rng(0)
    probabilities, targets = rng.dirichlet((2.0, 1.0, 1.0), 200), rng.integers(0, 3, 200)
    weights = rng.integers(1, 4, 200)
    repeated = metrics.ece(np.repeat(probabilities, weights, axis=0), np.repeat(targets, weights))
    assert metrics.ece(probabilities, targets, weights=weights) == pytest.approx(repeated)
    assert repeated != pytest.approx(metrics.ece(probabilities, targets), abs=1e-3)
