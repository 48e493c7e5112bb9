from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamser.stream.fairqueue import FairQueue


def test_streams_of_equal_demand_take_turns() -> None:
    queue = FairQueue[str, int]()
    for job in range(3):
        for stream in ("a", "b", "c"):
            queue.append(stream, job)
    order = []
    while queue:
        stream, job = queue.pop()
        queue.charge(stream, 0.01)
        order.append((job, stream))
    assert order == sorted(order)


def test_a_stream_that_uses_less_than_its_share_is_served_before_streams_with_many_jobs() -> None:
    queue = FairQueue[str, int]()
    for greedy in ("g1", "g2", "g3"):
        for job in range(1000):
            queue.append(greedy, job)
    for round_ in range(50):
        for _ in range(20):  # meanwhile the other streams are served
            stream, _job = queue.pop()
            queue.charge(stream, 0.02)
        queue.append("live", round_)
        served = []
        while "live" not in served:
            stream, _job = queue.pop()
            queue.charge(stream, 0.02)
            served.append(stream)
        assert len(served) <= 2


def test_streams_with_expensive_and_cheap_jobs_get_the_same_time() -> None:
    queue = FairQueue[str, int]()
    cost_s = {"dear": 0.5, "cheap": 0.02}
    used_s = dict.fromkeys(cost_s, 0.0)
    for job in range(2000):
        queue.append("dear", job)
        queue.append("cheap", job)
    for _ in range(500):
        stream, _job = queue.pop()
        queue.charge(stream, cost_s[stream])
        used_s[stream] += cost_s[stream]
    assert used_s["dear"] == pytest.approx(used_s["cheap"], abs=0.5)


def test_a_stream_gets_no_credit_for_time_without_jobs() -> None:
    queue = FairQueue[str, int]()
    queue.append("late", 0)
    queue.pop()
    for job in range(100):
        queue.append("busy", job)
        queue.charge(queue.pop()[0], 1.0)
    for job in range(10):
        queue.append("late", job)
        queue.append("busy", job)
    order = []
    for _ in range(6):
        stream, _job = queue.pop()
        queue.charge(stream, 1.0)
        order.append(stream)
    assert order.count("late") in (3, 4)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["append", "pop", "forget", "remove"]))))
def test_each_job_is_served_once_and_in_the_order_of_its_stream(steps: list[tuple[str, str]]) -> None:
    queue = FairQueue[str, int]()
    expected: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    for number, (stream, step) in enumerate(steps):
        if step == "append":
            queue.append(stream, number)
            expected[stream].append(number)
        elif step == "pop" and queue:
            served, job = queue.pop()
            assert expected[served].pop(0) == job
            queue.charge(served, 0.1 * number)
        elif step == "forget":
            queue.forget(stream)
            expected[stream].clear()
        elif step == "remove" and expected[stream]:
            queue.remove(stream, expected[stream].pop())
        assert queue.waiting(stream) == expected[stream]
        assert len(queue) == sum(map(len, expected.values()))
    while queue:
        served, job = queue.pop()
        assert expected[served].pop(0) == job
    with pytest.raises(IndexError):
        queue.pop()
