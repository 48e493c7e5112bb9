"""A baseline is a weighted sum of embeddings in which older utterances count less, and it states its source."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from makers import make_rule

from streamser.baseline import Baseline, weighted_sum

RULE = make_rule(memory=4, exponent=2.0, full_s=2.0, half=3.0)


def test_an_empty_baseline_has_the_kind_none() -> None:
    empty = Baseline.empty(3)
    assert (empty.kind, empty.weight, empty.utterances) == ("none", 0.0, 0)
    assert empty.plus(np.ones(3), 0.0, RULE).kind == "none"
    assert empty.plus(np.ones(3), 0.1, RULE).kind == "own"


def test_each_utterance_with_a_weight_fades_the_earlier_ones() -> None:
    one, two = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    made = Baseline.empty(2).plus(one, 1.0, RULE).plus(two, 0.5, RULE).plus(two, 0.0, RULE)
    np.testing.assert_allclose(made.total, [0.75**2, 0.5 * 0.75])
    assert (made.weight, made.utterances) == (0.75**2 + 0.5 * 0.75, 3)


def test_plus_does_not_change_the_earlier_baseline() -> None:
    before = Baseline(np.array([1.0, 2.0]), 3.0, 3, "profile")
    after = before.plus(np.array([9.0, 9.0]), 1.0, RULE)
    assert before.total.tolist() == [1.0, 2.0] and after.kind == before.kind == "profile"
    with pytest.raises(FrozenInstanceError):
        before.weight = 9.0  # type: ignore[misc]


def test_weighted_sum_equals_adding_the_utterances_one_by_one() -> None:
    rng = np.random.default_rng(0)
    embeddings, weights = rng.normal(size=(9, 5)).astype(np.float32), rng.uniform(0, 1, 9)
    made = Baseline.empty(5)
    for embedding, weight in zip(embeddings, weights, strict=True):
        made = made.plus(embedding, float(weight), RULE)
    total, weight = weighted_sum(embeddings, weights, kept=1 - 1 / RULE.memory)
    np.testing.assert_allclose(total, made.total)
    assert weight == pytest.approx(made.weight)
    assert weighted_sum(embeddings, weights)[1] == pytest.approx(weights.sum()) != pytest.approx(made.weight)


def test_the_weight_of_a_baseline_is_bounded_by_its_memory() -> None:
    made = Baseline.empty(1)
    for _ in range(1_000):
        made = made.plus(np.array([2.0]), 1.0, RULE)
    assert made.weight == pytest.approx(RULE.memory)
    assert made.total[0] / made.weight == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("neutrality", "duration_s", "weight"),
    [(1.0, 2.0, 1.0), (1.0, 9.0, 1.0), (0.5, 2.0, 0.25), (1.0, 0.5, 0.25), (0.0, 2.0, 0.0)],
)
def test_an_utterance_weighs_by_neutrality_and_length(neutrality: float, duration_s: float, weight: float) -> None:
    assert RULE.weight_of(neutrality, duration_s) == pytest.approx(weight)


def test_the_share_of_the_relative_head_rises_with_the_weight_from_0() -> None:
    assert [RULE.share_of(weight) for weight in (0.0, 1.0, 3.0, 9.0)] == [0.0, 0.25, 0.5, 0.75]
    assert make_rule(half=0.0).share_of(0.0) == 0.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((np.array([np.nan]), 1.0, 1), "total must be one-dimensional and finite"),
        ((np.zeros((2, 2)), 1.0, 1), "total must be one-dimensional and finite"),
        ((np.zeros(2), -1.0, 1), "weight must be 0 or more"),
        ((np.zeros(2), float("inf"), 1), "weight must be 0 or more"),
        ((np.zeros(2), 1.0, -1), "utterances must be 0 or more"),
        ((np.zeros(2), 1.0, 1, "mine"), "source must be own or profile"),
    ],
)
def test_an_invalid_baseline_is_refused(fields: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Baseline(*fields)
    with pytest.raises(ValueError, match=r"embedding must have shape \(2,\), not \(3,\)"):
        Baseline.empty(2).plus(np.zeros(3), 1.0, RULE)
