"""Figures are counted by hand, or against scikit-learn, never against themselves."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score

from streamser.evaluation import metrics


def predictions(clips: int = 300, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, clips)
    return truth, np.where(rng.random(clips) < 0.6, truth, rng.integers(0, classes, clips))


def test_the_confusion_matrix_has_the_truth_in_its_rows_as_scikit_learn_has() -> None:
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


def test_ua_wa_and_macro_f1_are_those_of_audmetric() -> None:
    """audmetric 1.4.2 gave these for the same predictions; it has no calibration error."""
    rng = np.random.default_rng(7)
    truth = rng.integers(0, 4, 200)
    matrix = metrics.confusion(truth, np.where(rng.random(200) < 0.6, truth, rng.integers(0, 4, 200)), 4)
    assert metrics.ua(matrix) == pytest.approx(0.679888785525327, abs=1e-12)
    assert metrics.macro_f1(matrix) == pytest.approx(0.6793925253589063, abs=1e-12)
    assert metrics.wa(matrix) == pytest.approx(0.68, abs=1e-12)


def test_a_class_that_nobody_acted_has_no_recall_and_no_share_in_the_mean() -> None:
    matrix = metrics.confusion([0, 0, 1, 1], [0, 0, 1, 2], 3)
    assert np.isnan(metrics.recalls(matrix)[2])
    assert metrics.ua(matrix) == pytest.approx(0.75)


def test_without_clips_there_is_no_figure() -> None:
    matrix = metrics.confusion([], [], 3)
    assert np.isnan(metrics.ua(matrix)) and np.isnan(metrics.wa(matrix))


def test_a_target_that_is_no_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"targets must be in 0\.\.2"):
        metrics.confusion([0, 3], [0, 1], 3)


def test_answers_that_are_right_as_often_as_they_are_sure_have_no_calibration_error() -> None:
    # 0.7 sure and right seven times out of ten
    probabilities = np.array([[0.7, 0.3]] * 10)
    assert metrics.ece(probabilities, [0] * 7 + [1] * 3) == pytest.approx(0.0)


def test_answers_that_are_always_sure_and_half_right_are_half_off() -> None:
    probabilities = np.array([[1.0, 0.0]] * 10)
    assert metrics.ece(probabilities, [0, 1] * 5) == pytest.approx(0.5)


def test_reliability_counts_every_answer_once_and_puts_certainty_into_the_last_bin() -> None:
    bins = metrics.reliability([0.0, 1 / 15, 0.5, 1.0], [True] * 4)
    assert sum(b.count for b in bins) == 4
    assert bins[0].count == 2  # an upper edge belongs to its bin
    assert bins[-1].count == 1


def test_risk_falls_with_coverage_when_the_surer_answers_are_the_right_ones() -> None:
    curve = metrics.risk_coverage([0.9, 0.8, 0.6, 0.4], [True, True, True, False])
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk.tolist() == [0.0, 0.0, 0.0, 0.25]
    assert curve.aurc == pytest.approx(0.0625)


def test_equally_sure_answers_stand_or_fall_together() -> None:
    curve = metrics.risk_coverage([0.5, 0.5, 0.5, 0.5], [True, False, True, False])
    assert (curve.coverage.tolist(), curve.risk.tolist()) == ([1.0], [0.5])


def test_ua_at_coverage_counts_only_the_surest() -> None:
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.45, 0.55]])
    truth = [0, 1, 1, 0]
    assert metrics.ua_at_coverage(probabilities, truth, 0.5) == 1.0
    assert metrics.ua_at_coverage(probabilities, truth, 1.0) == 0.5
    with pytest.raises(ValueError, match="coverage must be above 0"):
        metrics.ua_at_coverage(probabilities, truth, 70)
    # weighted: the most confident prediction has half of the weight, also in the recall of its class
    weights = [3.0, 1.0, 1.0, 1.0]
    assert metrics.most_confident(probabilities.max(axis=1), 0.5, weights).tolist() == [0]
    assert metrics.ua_at_coverage(probabilities, truth, 1.0, weights) == pytest.approx((3 / 4 + 1 / 2) / 2)


def test_by_speaker_divides_the_pooled_matrix() -> None:
    truth, predicted = predictions()
    speakers = [f"c/{i % 7}" for i in range(len(truth))]
    names, matrices = metrics.by_speaker(truth, predicted, speakers, 4)
    assert names == sorted(set(speakers))
    assert (matrices.sum(axis=0) == metrics.confusion(truth, predicted, 4)).all()


def test_the_interval_holds_the_value_and_is_the_same_for_the_same_seed() -> None:
    truth, predicted = predictions()
    _, matrices = metrics.by_speaker(truth, predicted, [f"c/{i % 10}" for i in range(len(truth))], 4)
    interval = metrics.bootstrap(metrics.ua, matrices)
    assert interval.low < interval.value < interval.high
    assert interval == metrics.bootstrap(metrics.ua, matrices)


def test_speakers_who_differ_widen_the_interval_and_more_clips_of_them_do_not_narrow_it() -> None:
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


def test_a_weighted_calibration_error_counts_an_answer_as_often_as_its_weight_says() -> None:
    rng = np.random.default_rng(0)
    probabilities, targets = rng.dirichlet((2.0, 1.0, 1.0), 200), rng.integers(0, 3, 200)
    weights = rng.integers(1, 4, 200)
    repeated = metrics.ece(np.repeat(probabilities, weights, axis=0), np.repeat(targets, weights))
    assert metrics.ece(probabilities, targets, weights=weights) == pytest.approx(repeated)
    assert repeated != pytest.approx(metrics.ece(probabilities, targets), abs=1e-3)
