"""The bounded queues between threads, when they are full, empty or closed."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from stream_parts import until

from streamser.events import EmotionEvent, Event, SpeechEnded, StreamEnded
from streamser.stream.bus import AudioQueue, Bus, Subscription


def emotion(seq: int, *, final: bool = False) -> EmotionEvent:
    return EmotionEvent(
        utterance=0,
        seq=seq,
        start=0,
        end=1,
        final=final,
        label="sad",
        scores={"sad": 1.0},
        confidence=1.0,
        uncertain=False,
    )


def in_thread(work: Any, *args: Any) -> threading.Thread:
    thread = threading.Thread(target=work, args=args, daemon=True)
    thread.start()
    return thread


# --- AudioQueue


def test_a_full_dropping_queue_drops_the_oldest_audio_and_reports_the_lost_length() -> None:
    queue = AudioQueue[str](capacity=100, drops=True)
    for name in "abcdefgh":
        queue.put(name, 30)
    assert [queue.take() for _ in range(4)] == [(150, "f"), (0, "g"), (0, "h"), None]


def test_a_queue_accepts_a_piece_that_is_longer_than_its_capacity() -> None:
    queue = AudioQueue[str](capacity=10, drops=True)
    queue.put("long", 50)
    assert queue.take() == (0, "long")


def test_a_full_blocking_queue_makes_put_wait() -> None:
    queue = AudioQueue[int](capacity=2, drops=False)
    giver = in_thread(lambda: [queue.put(number, 1) for number in range(5)])
    taken: list[int] = []

    def take() -> bool:
        found = queue.take(0.01)
        taken.extend([] if found is None else [found[1]])
        return len(taken) == 5

    until(take)
    giver.join(1)
    assert taken == [0, 1, 2, 3, 4] and not giver.is_alive()


def test_closing_a_queue_releases_a_waiting_put_and_a_waiting_take() -> None:
    full, empty = AudioQueue[int](capacity=1, drops=False), AudioQueue[int](capacity=1, drops=False)
    full.put(0, 1)
    threads = [in_thread(full.put, 1, 1), in_thread(empty.take, 60.0)]
    full.close()
    empty.close()
    for thread in threads:
        thread.join(2)
    assert not any(thread.is_alive() for thread in threads)
    assert full.take() == (0, 0) and full.finished and full.take() is None


# --- Subscription and Bus


def test_each_subscriber_gets_every_event_in_order_until_the_stream_ends() -> None:
    bus = Bus()
    first, second = bus.subscribe(), bus.subscribe()
    events = [emotion(0), emotion(1, final=True), StreamEnded(end=1)]
    for event in events:
        bus.publish(event)
    assert list(first) == events == list(second)
    assert first.finished


def test_a_slow_subscriber_loses_the_oldest_partials_but_no_final() -> None:
    subscription = Subscription(maxsize=3, policy="drop")
    for event in (emotion(0), emotion(1, final=True), emotion(2), emotion(3), emotion(4, final=True)):
        subscription.put(event)
    assert [event.seq for event in _rest(subscription)] == [1, 3, 4]
    assert subscription.dropped == 2


def test_a_subscriber_slower_than_the_finals_loses_the_oldest_event_and_is_warned_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    subscription = Subscription(maxsize=2, policy="drop")
    for seq in range(4):
        subscription.put(emotion(seq, final=True))
    assert not caplog.records, "a queue that is never read overflows without a warning"
    assert [event.seq for event in _rest(subscription)] == [2, 3]
    for seq in range(4):
        subscription.put(emotion(seq, final=True))
    _rest(subscription)
    (warning,) = caplog.records
    assert warning.getMessage().startswith("2 events that are not partial results were lost, because more than 2")
    assert subscription.dropped == 4


def test_lost_partial_results_give_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    subscription = Subscription(maxsize=2, policy="drop")
    for seq in range(4):
        subscription.put(emotion(seq))
    assert [event.seq for event in _rest(subscription)] == [2, 3]
    assert subscription.dropped == 2 and not caplog.records


def test_a_blocking_subscription_makes_the_publisher_wait() -> None:
    subscription = Subscription(maxsize=1, policy="block")
    publisher = in_thread(lambda: [subscription.put(emotion(seq)) for seq in range(20)])
    seen: list[int] = []

    def read() -> bool:
        event = subscription.get(0.01)
        seen.extend([event.seq] if isinstance(event, EmotionEvent) else [])
        return len(seen) == 20

    until(read)
    publisher.join(1)
    assert seen == list(range(20)) and subscription.dropped == 0


def test_a_waiting_publisher_continues_when_the_subscription_is_closed() -> None:
    bus = Bus()
    leaving, staying = bus.subscribe(maxsize=1, policy="block"), bus.subscribe()
    bus.publish(emotion(0))
    publisher = in_thread(bus.publish, emotion(1))
    leaving.close()
    publisher.join(2)
    bus.publish(emotion(2))
    assert not publisher.is_alive()
    assert [event.seq for event in _rest(staying)] == [0, 1, 2]


def test_get_without_a_waiting_event_returns_none_and_the_subscription_is_not_finished() -> None:
    subscription = Bus().subscribe()
    assert subscription.get(0.0) is None and not subscription.finished


def test_a_new_event_calls_on_put() -> None:
    subscription = Subscription(maxsize=4, policy="drop")
    woken: list[Event | None] = []
    subscription.on_put = lambda: woken.append(subscription.get(0))
    ended = SpeechEnded(utterance=0, start=0, end=1)
    subscription.put(ended)
    assert woken == [ended]


def test_a_subscription_for_0_events_is_refused() -> None:
    with pytest.raises(ValueError, match="maxsize: at least 1 event, not 0"):
        Bus().subscribe(maxsize=0)


def _rest(subscription: Subscription) -> list[EmotionEvent]:
    events = []
    while (event := subscription.get(0)) is not None:
        assert isinstance(event, EmotionEvent)
        events.append(event)
    return events


def test_take_waits_until_enough_audio_is_in_the_queue() -> None:
    queue = AudioQueue[int](capacity=100, drops=True)
    taken: list[int] = []
    waits = threading.Event()

    def take() -> None:
        waits.set()
        while (item := queue.take(5.0, enough=30)) is not None:
            taken.append(item[1])

    taker = threading.Thread(target=take)
    taker.start()
    assert waits.wait(5.0)
    for number in range(2):
        queue.put(number, 10)
    assert not taken  # only 20 of the 30 samples are in the queue
    queue.put(2, 10)
    until(lambda: taken == [0, 1, 2])
    queue.put(3, 10)
    queue.close()  # the remaining audio is returned, although fewer than 30 samples
    taker.join(5.0)
    assert taken == [0, 1, 2, 3]


def test_take_returns_the_available_audio_after_its_timeout() -> None:
    queue = AudioQueue[str](capacity=100, drops=True)
    queue.put("little", 10)
    assert queue.take(0.01, enough=50) == (0, "little")
    assert queue.take(0.01, enough=50) is None


def test_take_does_not_wait_for_more_audio_if_the_queue_is_full() -> None:
    queue = AudioQueue[int](capacity=10, drops=False)
    putter = threading.Thread(target=lambda: [queue.put(number, 10) for number in range(3)])
    putter.start()
    assert [queue.take(5.0, enough=1000) for _ in range(3)] == [(0, 0), (0, 1), (0, 2)]
    putter.join(5.0)
