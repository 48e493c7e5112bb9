"""How many streams are served is found by trying, and every reason to be too late counts."""

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
def test_the_largest_number_in_time_is_found_within_a_tenth(limit: int) -> None:
    tried = []

    def attempt(streams: int) -> Trial:
        tried.append(streams)
        return replace(GOOD, streams=streams, partial_p95_ms=10 if streams <= limit else 2 * LATE_MS)

    found = largest(attempt, 64)
    assert limit - max(1, limit // 10) <= found["streams"] <= limit
    assert len(tried) == len(set(tried)) == len(found["tried"])


def test_where_one_stream_is_too_many_none_is_served() -> None:
    assert largest(lambda streams: replace(GOOD, streams=streams, behind_ms=999), 64)["streams"] == 0


@pytest.mark.parametrize(
    "late", [{"partial_p95_ms": 200}, {"slowest_final_ms": 200}, {"behind_ms": 200}, {"finals": 0}]
)
def test_whatever_is_late_counts(late: dict[str, float]) -> None:
    assert GOOD.in_time and not replace(GOOD, **late).in_time  # type: ignore[arg-type]


def test_streams_that_are_pushed_get_their_results(recognizer: Recognizer) -> None:
    trial = try_streams(recognizer, compose(0.25), 2, 4.0)
    assert trial.streams == 2 and trial.partials > 2 and trial.finals >= 1
    assert trial.cpu_cores > 0 and trial.partial_p95_ms > 0
