"""The largest number of streams that are served in time is found by trials. A trial with any late result fails."""

from __future__ import annotations

from dataclasses import replace

import pytest

from streamser.bench.many import LATE_MS, Trial, largest, try_streams
from streamser.bench.speech import compose
from streamser.recognizer import Recognizer

GOOD = Trial(
    streams=1,
    partials=9,
    partials_dropped=0,
    finals=3,
    partial_p95_ms=10,
    slowest_final_ms=5,
    behind_ms=1,
    cpu_cores=0.1,
)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 40, 63, 64])
def test_the_largest_number_of_streams_in_time_is_found_within_a_tenth(limit: int) -> None:
    tried = []

    def attempt(streams: int) -> Trial:
        tried.append(streams)
        return replace(GOOD, streams=streams, partial_p95_ms=10 if streams <= limit else 2 * LATE_MS)

    found = largest(attempt, 64)
    assert limit - max(1, limit // 10) <= found["streams"] <= limit
    assert len(tried) == len(set(tried)) == len(found["tried"])


def test_if_one_stream_is_already_late_the_number_of_streams_is_0() -> None:
    assert largest(lambda streams: replace(GOOD, streams=streams, behind_ms=999), 64)["streams"] == 0


@pytest.mark.parametrize(
    "late", [{"partial_p95_ms": 200}, {"slowest_final_ms": 200}, {"behind_ms": 200}, {"finals": 0}]
)
def test_a_trial_with_anything_late_or_without_finals_is_not_in_time(late: dict[str, float]) -> None:
    assert GOOD.in_time and not replace(GOOD, **late).in_time  # type: ignore[arg-type]


def test_a_trial_with_two_streams_counts_their_partials_and_finals(recognizer: Recognizer) -> None:
    trial = try_streams(recognizer, compose(0.25), 2, 4.0)
    assert trial.streams == 2 and trial.partials > 2 and trial.finals >= 1
    assert trial.cpu_cores > 0 and trial.partial_p95_ms > 0
