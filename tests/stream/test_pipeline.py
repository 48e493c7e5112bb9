"""`Stream`, `InferenceWorker` and `Listener`: order of events, overload, errors, pauses and ends."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from makers import babble, silence
from stream_parts import (
    ListSource,
    as_json,
    finals,
    in_blocks,
    partials,
    streamser_threads,
    two_utterances,
    until,
    with_engine,
)

from streamser.audio import SAMPLE_RATE, AudioBlock, Samples, Segment
from streamser.errors import AudioError
from streamser.events import EmotionEvent, Event, Gap, SourceChanged, SpeechEnded, SpeechStarted, StreamEnded
from streamser.recognizer import Recognizer
from streamser.stream.channel import Delivery
from streamser.stream.pipeline import Listener, Stream, StreamConfig, WorkerStream, replay
from streamser.stream.segmenter import SegmenterConfig
from streamser.stream.sources import PushSource, SourceConfig, SourceItem
from streamser.stream.vad import VadConfig
from streamser.stream.worker import InferenceWorker, PipelineConfig

QUIET_ROOM = VadConfig(engine="energy")


def config(**sections: Any) -> StreamConfig:
    return StreamConfig(vad=QUIET_ROOM, **sections)


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    path = tmp_path / "spoken.wav"
    soundfile.write(path, two_utterances(), SAMPLE_RATE, subtype="FLOAT")
    return path


def pushed(recognizer: Recognizer, audio: Samples, settings: StreamConfig | None = None) -> list[Event]:
    stream = Stream(recognizer, settings or config())
    return [*stream.push(audio), *stream.close()]


# --- Stream


def test_an_utterance_has_a_start_partials_one_final_and_an_end_in_this_order(recognizer: Recognizer) -> None:
    events = pushed(recognizer, two_utterances())
    for number in (0, 1):
        mine = [event for event in events if getattr(event, "utterance", None) == number]
        kinds = [type(event) for event in mine]
        assert kinds == [SpeechStarted, *[EmotionEvent] * (len(mine) - 2), SpeechEnded]
        scored = [event for event in mine if isinstance(event, EmotionEvent)]
        assert [event.final for event in scored] == [False] * (len(scored) - 1) + [True]
        assert [event.seq for event in scored] == list(range(len(scored)))
        assert len(scored) > 3
    assert events[-1] == StreamEnded(end=len(two_utterances()))


def test_a_final_equals_the_recognizers_prediction_for_the_whole_utterance(recognizer: Recognizer) -> None:
    audio = two_utterances()
    for event in finals(pushed(recognizer, audio)):
        prediction = recognizer.predict(audio[event.start : event.end])
        assert (event.label, dict(event.scores), event.uncertain) == (
            prediction.label,
            dict(prediction.scores),
            prediction.uncertain,
        )


def test_a_partial_equals_the_recognizers_prediction_for_its_window(recognizer: Recognizer) -> None:
    audio = two_utterances()
    unsmoothed = pushed(recognizer, audio, config(pipeline=PipelineConfig(smoothing=0.0)))
    assert len(partials(unsmoothed)) > 6
    for event in partials(unsmoothed):
        prediction = recognizer.predict(audio[event.start : event.end])
        np.testing.assert_allclose(list(event.scores.values()), list(prediction.scores.values()), atol=1e-5)


def test_smoothing_blends_each_partial_with_earlier_ones_and_does_not_change_finals(recognizer: Recognizer) -> None:
    audio = two_utterances()
    plain = pushed(recognizer, audio, config(pipeline=PipelineConfig(smoothing=0.0)))
    smooth = pushed(recognizer, audio, config(pipeline=PipelineConfig(smoothing=0.6)))
    assert finals(plain) == finals(smooth)
    expected: dict[int, np.ndarray[Any, Any]] = {}
    for raw, blended in zip(partials(plain), partials(smooth), strict=True):
        scores = np.array(list(raw.scores.values()))
        before = expected.get(raw.utterance, scores)
        expected[raw.utterance] = 0.6 * before + 0.4 * scores
        np.testing.assert_allclose(list(blended.scores.values()), expected[raw.utterance], atol=1e-12)
        assert blended.confidence == max(blended.scores.values()) == blended.scores[blended.label]


def test_a_smoothed_partial_below_the_threshold_is_uncertain(recognizer: Recognizer) -> None:
    strict = Recognizer(recognizer.bundle, recognizer.engine, threshold=0.9)
    events = partials(pushed(strict, two_utterances(), config(pipeline=PipelineConfig(smoothing=0.8))))
    assert [event.uncertain for event in events] == [event.confidence < 0.9 for event in events]
    assert {event.uncertain for event in events} == {True, False}


def test_a_final_is_computed_early_in_the_silence_and_delivered_at_its_end(recognizer: Recognizer) -> None:
    counted, engine = with_engine(recognizer, lambda: None)
    stream = Stream(counted, config(segmenter=SegmenterConfig(hop_ms=0)))
    audio = np.concatenate([silence(0.5), babble(1.4, seed=1), silence(0.4)])
    assert not finals(stream.push(audio))
    ahead = len(engine.batches)
    assert ahead >= 1
    assert len(finals(stream.push(silence(0.5)))) == 1
    assert len(engine.batches) == ahead


def test_lost_audio_ends_the_utterance_and_advances_the_time(recognizer: Recognizer) -> None:
    stream = Stream(recognizer, config())
    events = [*stream.push(np.concatenate([silence(0.5), babble(1.0, seed=1)])), *stream.lose(16_000)]
    events += [*stream.push(two_utterances()), *stream.close()]
    ended = [event for event in events if isinstance(event, SpeechEnded)]
    assert [event.reason for event in ended] == ["gap", "silence", "silence"]
    assert Gap(start=24_000, length=16_000, reason="client") in events
    assert events.index(ended[0]) < events.index(Gap(start=24_000, length=16_000, reason="client"))
    alone = finals(pushed(recognizer, two_utterances()))
    assert [event.start - 40_000 for event in finals(events)[1:]] == [event.start for event in alone]


def test_the_sample_rate_may_change_within_a_stream(recognizer: Recognizer) -> None:
    stream = Stream(recognizer, config())
    half = np.zeros(24_000, np.int16)
    stream.push(half, sample_rate=48_000)
    stream.push(np.zeros((8_000, 2), np.float32), sample_rate=16_000, channels=2)
    assert stream.close() == [StreamEnded(end=16_000)]


def test_a_closed_stream_refuses_audio_and_ends_only_once(recognizer: Recognizer) -> None:
    stream = Stream(recognizer, name="mine")
    assert stream.close() == [StreamEnded(stream="mine", end=0)]
    assert stream.close() == []
    with pytest.raises(ValueError, match="push: the stream is closed"):
        stream.push(b"")
    with pytest.raises(ValueError, match="lose: the stream is closed"):
        stream.lose(5)


def test_a_loss_of_no_samples_is_no_gap(recognizer: Recognizer) -> None:
    stream = Stream(recognizer)
    assert stream.lose(0) == [] and stream.position == 0


def test_a_status_reports_state_level_latency_and_losses(recognizer: Recognizer) -> None:
    stream = Stream(recognizer, config())
    assert stream.status().source_state == "waiting"
    stream.push(two_utterances()[:24_000])
    during = stream.status()
    assert (during.vad_state, during.source_state, during.position_s) == ("speaking", "open", 1.5)
    assert (during.model, during.engine) == ("tiny", "onnx on cpu")
    assert -40 < during.level_db < 0 and during.partials >= 1 and during.latency_p95_ms >= during.latency_p50_ms > 0
    stream.lose(1_600)
    stream.close()
    after = stream.status()
    assert (after.gaps, after.lost_ms, after.finals, after.source_state) == (1, 100.0, 1, "ended")


# --- InferenceWorker


class Gate:
    """Makes the engine wait until `open` is set; `reached` is set at its first call."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.open.wait(10)


def test_while_the_worker_is_busy_newer_partials_replace_older_ones_and_finals_keep_their_order(
    recognizer: Recognizer,
) -> None:
    gate, events = Gate(), []
    gated, _ = with_engine(recognizer, gate)
    with InferenceWorker(gated) as worker:
        stream = WorkerStream(worker, events.append, config())
        for _ in range(4):
            stream.push(two_utterances())
        assert gate.reached.wait(10)
        stream.close()
        assert stream.waiting <= 4 * 2 * 3 + 1
        gate.open.set()
        until(lambda: bool(events) and isinstance(events[-1], StreamEnded))
    complete = pushed(recognizer, np.tile(two_utterances(), 4))
    assert as_json(finals(events)) == as_json(finals(complete))
    assert [type(event) for event in events if not isinstance(event, EmotionEvent)] == [
        type(event) for event in complete if not isinstance(event, EmotionEvent)
    ]
    status = stream.status()
    assert status.partials_dropped > 20 and status.finals == 8
    assert status.partials + status.partials_dropped == len(partials(complete))


def test_a_partial_after_skipped_partials_is_the_same_as_without_skips(recognizer: Recognizer) -> None:
    gate, events = Gate(), []
    gated, _ = with_engine(recognizer, gate)
    audio = np.concatenate([silence(0.5), babble(2.4, seed=1)])
    plain = config(pipeline=PipelineConfig(smoothing=0.0))
    with InferenceWorker(gated, plain.pipeline) as worker:
        stream = WorkerStream(worker, events.append, plain)
        for block in in_blocks(audio):
            stream.feed(block)
            if not gate.reached.is_set():
                gate.reached.wait(0.2 if stream.waiting else 0)
        gate.open.set()
        until(lambda: not stream.waiting)
        until(lambda: len(partials(events)) == 2)
    complete = {event.seq: event for event in partials(pushed(recognizer, audio, plain))}
    first, last = partials(events)
    assert (first.seq, last.seq) == (0, max(complete)) and last.seq > 2
    assert as_json([first, last]) == as_json([complete[0], complete[last.seq]])


def test_a_lossless_stream_waits_for_the_worker_and_drops_nothing(recognizer: Recognizer) -> None:
    slow, _ = with_engine(recognizer, lambda: time.sleep(0.001))
    events: list[Event] = []
    with InferenceWorker(slow, PipelineConfig(waiting_finals=2)) as worker:
        stream = WorkerStream(worker, Delivery(events.append, lossless=True), config())
        for _ in range(3):
            stream.push(two_utterances())
            assert stream.waiting <= 2
        stream.close()
        until(lambda: bool(events) and isinstance(events[-1], StreamEnded))
    assert as_json(events) == as_json(pushed(recognizer, np.tile(two_utterances(), 3)))


def test_many_streams_share_one_worker_and_each_gets_only_its_own_events(recognizer: Recognizer) -> None:
    received: dict[str, list[Event]] = {f"client {number}": [] for number in range(8)}
    with InferenceWorker(recognizer) as worker:
        streams = {name: WorkerStream(worker, events.append, config(), name) for name, events in received.items()}
        for block in in_blocks(two_utterances(), 1600):
            for stream in streams.values():
                stream.feed(block)
        for stream in streams.values():
            stream.close()
        until(lambda: all(events and isinstance(events[-1], StreamEnded) for events in received.values()))
        assert worker.metrics()["streams"] == 0
    for name, events in received.items():
        assert {event.stream for event in events} == {name}
        assert len(finals(events)) == 2


def test_two_streams_with_the_same_name_each_get_their_own_events(recognizer: Recognizer) -> None:
    first: list[Event] = []
    second: list[Event] = []
    with InferenceWorker(recognizer) as worker:
        one = WorkerStream(worker, first.append, config(), "client-1")
        other = WorkerStream(worker, second.append, config(), "client-1")
        one.push(two_utterances())
        other.push(two_utterances()[: len(two_utterances()) // 2])
        one.close()
        other.close()
        until(lambda: all(events and isinstance(events[-1], StreamEnded) for events in (first, second)))
    assert (len(finals(first)), len(finals(second))) == (2, 1)
    assert [sum(isinstance(event, StreamEnded) for event in events) for events in (first, second)] == [1, 1]


def test_streams_with_many_waiting_finals_do_not_delay_another_streams_final(recognizer: Recognizer) -> None:
    order: list[str] = []

    def note(event: Event) -> None:
        order.append(event.stream)

    worker = InferenceWorker(recognizer)
    segment = Segment(utterance=0, start=0, samples=babble(1.0, seed=1), final=True)
    greedy = [worker.open(f"greedy {number}", note) for number in range(3)]
    for handle in greedy:
        for _ in range(30):
            handle.submit(segment)
    worker.open("live", note).submit(segment)
    with worker:
        until(lambda: len(order) == 91)
    assert order.index("live") <= 3


def test_a_closed_stream_handle_delivers_nothing_more_and_is_removed(recognizer: Recognizer) -> None:
    gate, events = Gate(), []
    gated, _ = with_engine(recognizer, gate)
    with InferenceWorker(gated) as worker:
        handle = worker.open("main", events.append)
        for utterance in (0, 1):
            handle.submit(Segment(utterance=utterance, start=0, samples=babble(1.0, seed=1), final=True))
        assert gate.reached.wait(10) and handle.waiting
        handle.close()
        assert (handle.waiting, worker.metrics()["streams"], worker.metrics()["waiting"]) == (0, 0, 0)
        handle.submit(StreamEnded(end=0))
        gate.open.set()
    assert not finals(events) and not any(isinstance(event, StreamEnded) for event in events)


def test_on_a_gpu_the_jobs_that_wait_are_one_batch(recognizer: Recognizer) -> None:
    gate = Gate()
    gated, engine = with_engine(recognizer, gate, compute="cuda:0")
    received: list[Event] = []
    with InferenceWorker(gated) as worker:
        streams = [WorkerStream(worker, received.append, config(), f"client {number}") for number in range(6)]
        for stream in streams:
            stream.push(two_utterances()[:20_000])
        assert gate.reached.wait(10)
        gate.open.set()
        until(lambda: not worker.metrics()["waiting"])
        until(lambda: len(partials(received)) >= 6)
    assert max(engine.batches) >= 5


def test_a_stream_with_invalid_audio_ends_and_the_others_continue(recognizer: Recognizer) -> None:
    good: list[Event] = []
    bad: list[Event] = []
    errors: list[BaseException] = []
    with InferenceWorker(recognizer) as worker:
        loud = WorkerStream(worker, Delivery(bad.append, on_error=errors.append), config(), "loud")
        fine = WorkerStream(worker, good.append, config(), "fine")
        loud.feed(AudioBlock(two_utterances() * np.float32(30_000), 0))
        fine.push(two_utterances())
        for stream in (loud, fine):
            stream.close()
        until(lambda: bool(good) and isinstance(good[-1], StreamEnded))
    ended = bad[-1]
    assert isinstance(ended, StreamEnded) and ended.error is not None and "divide 16-bit values" in ended.error
    assert sum(isinstance(event, StreamEnded) for event in bad) == 1
    assert [type(error) for error in errors] == [AudioError]
    assert len(finals(good)) == 2 and good[-1] == StreamEnded(stream="fine", end=len(two_utterances()))


def test_if_one_segment_of_a_batch_is_invalid_the_others_still_get_results(recognizer: Recognizer) -> None:
    gate = Gate()
    gated, _ = with_engine(recognizer, gate, compute="cuda:0")
    received: list[Event] = []
    with InferenceWorker(gated) as worker:
        first = WorkerStream(worker, received.append, config(), "first")
        first.push(two_utterances()[:20_000])
        assert gate.reached.wait(10)
        for name, gain in (("loud", 30_000.0), ("fine", 1.0)):
            stream = WorkerStream(worker, received.append, config(), name)
            stream.feed(AudioBlock(two_utterances() * np.float32(gain), 0))
            stream.close()
        gate.open.set()
        until(lambda: sum(isinstance(event, StreamEnded) for event in received) == 2)
    errors = {event.stream: event.error for event in received if isinstance(event, StreamEnded)}
    assert errors["fine"] is None and errors["loud"] is not None
    assert [event.stream for event in finals(received)] == ["fine", "fine"]


def test_closing_a_worker_finishes_waiting_jobs_within_the_timeout_and_drops_them_after(recognizer: Recognizer) -> None:
    gate = Gate()
    gated, _ = with_engine(recognizer, gate)
    worker = InferenceWorker(gated).start()
    stream = WorkerStream(worker, lambda event: None, config())
    stream.push(two_utterances())
    assert gate.reached.wait(10)
    assert not worker.close(timeout_s=0.05)
    gate.open.set()
    until(lambda: not streamser_threads())
    quick = InferenceWorker(recognizer).start()
    events: list[Event] = []
    WorkerStream(quick, events.append, config()).push(two_utterances())
    assert quick.close(timeout_s=5.0)
    assert len(finals(events)) == 2


# --- Listener


def test_a_replay_gives_the_same_events_as_pushed_audio_and_leaves_no_thread(
    recognizer: Recognizer, spoken: Path
) -> None:
    with replay(spoken, model=recognizer, config=config()) as listener:
        events = list(listener)
        assert listener.status().source_state == "ended"
    assert as_json(events) == as_json(pushed(recognizer, two_utterances()))
    assert not streamser_threads()


def test_a_listener_without_with_is_closed_when_its_iteration_ends(recognizer: Recognizer, spoken: Path) -> None:
    for event in replay(spoken, model=recognizer, config=config()):
        if isinstance(event, EmotionEvent):
            break
    until(lambda: not streamser_threads())


def test_callbacks_get_finals_partials_and_all_events(recognizer: Recognizer, spoken: Path) -> None:
    prediction: dict[str, list[Event]] = {"final": [], "partial": [], "event": []}
    listener = replay(
        spoken,
        model=recognizer,
        config=config(),
        on_final=prediction["final"].append,
        on_partial=prediction["partial"].append,
        on_event=prediction["event"].append,
    )
    with listener:
        assert listener.wait(10)
    expected = pushed(recognizer, two_utterances())
    assert as_json(prediction["event"]) == as_json(expected)
    assert as_json(prediction["final"]) == as_json(finals(expected))
    assert as_json(prediction["partial"]) == as_json(partials(expected))


async def test_events_can_be_awaited(recognizer: Recognizer, spoken: Path) -> None:
    events: list[Event] = []
    async with replay(spoken, model=recognizer, config=config()) as listener:
        async for event in listener:
            events.append(event)
            await asyncio.sleep(0)
    assert as_json(events) == as_json(pushed(recognizer, two_utterances()))
    assert not streamser_threads()


async def test_waiting_for_events_does_not_block_the_event_loop(recognizer: Recognizer) -> None:
    source = PushSource()
    async with Listener(source, recognizer, config()) as listener:

        async def read() -> list[Event]:
            return [event async for event in listener]

        reading = asyncio.create_task(read())
        for _ in range(3):
            await asyncio.sleep(0.01)
            assert not reading.done()
        source.close()
        assert await asyncio.wait_for(reading, 5) == [StreamEnded(end=0)]


def test_two_subscribers_get_the_same_events(recognizer: Recognizer, spoken: Path) -> None:
    listener = replay(spoken, model=recognizer, config=config())
    other = listener.subscribe(policy="block")
    with listener:
        assert list(listener) == list(other)


def test_an_error_of_the_source_ends_the_stream_with_its_message_and_is_raised_in_the_with(
    recognizer: Recognizer,
) -> None:
    def broken() -> Iterator[SourceItem]:
        yield from in_blocks(two_utterances()[:24_000])
        raise AudioError("the source has failed")

    with (
        pytest.raises(AudioError, match="the source has failed"),
        Listener(ListSource(broken()), recognizer, config()) as listener,
    ):
        for _ in listener:
            pass
    events: list[Event] = []
    with (
        pytest.raises(AudioError, match="the source has failed"),
        Listener(ListSource(broken()), recognizer, config(), on_event=events.append) as listener,
    ):
        assert listener.wait(10)
    assert [event.error for event in events if isinstance(event, StreamEnded)] == ["the source has failed"]
    assert len(finals(events)) == 1
    assert not streamser_threads()


def test_an_error_in_a_callback_ends_the_stream_and_reaches_the_caller(recognizer: Recognizer, spoken: Path) -> None:
    def fail(event: EmotionEvent) -> None:
        raise ZeroDivisionError(f"in {event.type}")

    with (
        pytest.raises(ZeroDivisionError, match="in emotion"),
        replay(spoken, model=recognizer, config=config(), on_partial=fail) as listener,
    ):
        assert listener.wait(10)
    last = list(listener)[-1]
    assert isinstance(last, StreamEnded) and last.error == "ZeroDivisionError: in emotion"


def test_an_error_of_the_recognizer_reaches_the_caller(recognizer: Recognizer, spoken: Path) -> None:
    def fail() -> None:
        raise OSError("the disk is gone")

    broken, _ = with_engine(recognizer, fail)
    with pytest.raises(OSError, match="the disk is gone"), replay(spoken, model=broken, config=config()) as listener:
        for _ in listener:
            pass


class Endless:
    """A live source that runs until it is closed: half a second of silence, then only speech."""

    overflows, description, state, live = 0, "endless", "open", True

    def __init__(self) -> None:
        self.position = 0
        self.closed = threading.Event()
        self._speech = babble(2.0, seed=1)

    def __iter__(self) -> Iterator[SourceItem]:
        while not self.closed.wait(0.001):
            first = self.position % (len(self._speech) - 320)
            loud = np.float32(self.position >= 8_000)
            yield AudioBlock(loud * self._speech[first : first + 320], self.position, time.monotonic())
            self.position += 320

    def close(self) -> None:
        self.closed.set()


def test_closing_takes_less_than_a_second_gives_the_open_final_and_leaves_no_thread(recognizer: Recognizer) -> None:
    with Listener(Endless(), recognizer, config()) as listener:
        until(lambda: listener.status().partials >= 2)
        began = time.monotonic()
        listener.close()
        assert time.monotonic() - began < 1
        assert not streamser_threads()
    events = list(listener)
    ended = [event for event in events if isinstance(event, SpeechEnded)]
    assert [event.reason for event in ended] == ["stream_end"]
    assert len(finals(events)) == 1 and isinstance(events[-1], StreamEnded)


def test_after_stop_the_reader_still_gets_the_final_and_the_end(recognizer: Recognizer) -> None:
    with Listener(Endless(), recognizer, config()) as listener:
        events: list[Event] = []
        for event in listener:
            events.append(event)
            if isinstance(event, EmotionEvent) and not event.final:
                listener.stop()
    assert len(finals(events)) == 1 and isinstance(events[-1], StreamEnded)


def test_closing_a_replay_that_nobody_reads_ends_within_a_second(recognizer: Recognizer) -> None:
    audio = np.tile(two_utterances(), 20)
    settings = config(pipeline=PipelineConfig(waiting_events=16))
    with Listener(ListSource(in_blocks(audio)), recognizer, settings) as listener:
        until(lambda: len(listener._events._events) == 16)
        began = time.monotonic()
    assert time.monotonic() - began < 1
    assert not streamser_threads()


def test_closing_takes_about_a_second_even_if_the_recognizer_hangs(recognizer: Recognizer) -> None:
    gate = Gate()
    gated, _ = with_engine(recognizer, gate)
    listener = Listener(Endless(), gated, config()).start()
    assert gate.reached.wait(10)
    began = time.monotonic()
    listener.close()
    assert time.monotonic() - began < 1.3
    assert isinstance(list(listener)[-1], StreamEnded)
    gate.open.set()
    until(lambda: not streamser_threads())


class Wedged(Endless):
    """A device whose iteration blocks until `answered` is set, even after it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.answered = threading.Event()

    def __iter__(self) -> Iterator[SourceItem]:
        yield from in_blocks(two_utterances()[:24_000])
        self.answered.wait(30)


@pytest.mark.parametrize("waits", [False, True])
def test_stop_ends_the_stream_even_if_the_device_hangs(recognizer: Recognizer, waits: bool) -> None:
    source = Wedged()
    with Listener(source, recognizer, config(), on_partial=lambda event: listener.stop()) as listener:
        began = time.monotonic()
        if waits:
            assert listener.wait(10)
        events = list(listener)
        assert time.monotonic() - began < 4
    assert isinstance(events[-1], StreamEnded)
    source.answered.set()
    until(lambda: not streamser_threads())


async def test_stop_ends_an_async_reader_even_if_the_device_hangs(recognizer: Recognizer) -> None:
    source = Wedged()
    listener = Listener(source, recognizer, config(), on_partial=lambda event: listener.stop())
    events = [event async for event in listener]
    assert isinstance(events[-1], StreamEnded)
    source.answered.set()
    until(lambda: not streamser_threads())


def test_wait_returns_for_a_replay_whose_events_nobody_reads(recognizer: Recognizer) -> None:
    audio = np.tile(two_utterances(), 10)
    settings = config(pipeline=PipelineConfig(waiting_events=16))
    with Listener(ListSource(in_blocks(audio)), recognizer, settings) as listener:
        assert listener.wait(20)
        assert listener.status().finals == 20


def test_a_listener_may_be_closed_from_its_own_callback(recognizer: Recognizer) -> None:
    listener = Listener(Endless(), recognizer, config(), on_partial=lambda event: listener.close())
    with listener:
        assert listener.wait(10)
    until(lambda: not streamser_threads())


def test_a_paused_microphone_gives_no_results_and_its_pause_is_reported_as_gaps(recognizer: Recognizer) -> None:
    source = Endless()
    events: list[Event] = []
    with Listener(source, recognizer, config(), on_event=events.append) as listener:
        until(lambda: listener.status().partials >= 1)
        listener.pause()
        assert listener.status().paused
        until(lambda: any(isinstance(event, SpeechEnded) for event in events))
        resumed_at = source.position + 32_000
        until(lambda: source.position > resumed_at)
        listener.resume()
        until(lambda: sum(isinstance(event, SpeechStarted) for event in events) == 2)
    gaps = [event for event in events if isinstance(event, Gap)]
    assert {gap.reason for gap in gaps} == {"paused"} and len(gaps) == 2
    assert gaps[0].start + gaps[0].length == gaps[1].start
    assert sum(gap.length for gap in gaps) >= 32_000
    assert [event.reason for event in events if isinstance(event, SpeechEnded)] == ["gap", "stream_end"]
    assert events[-1].to_dict()["end_s"] == pytest.approx(source.position / SAMPLE_RATE, abs=0.03)


def test_a_paused_file_loses_no_audio(recognizer: Recognizer, spoken: Path) -> None:
    listener = replay(spoken, model=recognizer, config=config())
    listener.pause()
    with listener:
        assert not listener.wait(0.1) and listener.status().position_s == 0
        listener.resume()
        assert as_json(listener) == as_json(pushed(recognizer, two_utterances()))


def test_changes_of_the_source_are_published_in_order(recognizer: Recognizer) -> None:
    items: list[SourceItem] = [
        *in_blocks(silence(0.5)),
        SourceChanged(state="lost", at=8_000),
        Gap(start=8_000, length=1_000, reason="unplugged"),
        SourceChanged(state="back", at=9_000),
    ]
    with Listener(ListSource(items), recognizer, config(), name="kitchen") as listener:
        events = list(listener)
    assert [event.type for event in events] == ["source", "gap", "source", "stream_ended"]
    assert {event.stream for event in events} == {"kitchen"}


# --- overload, and hours


def test_a_recognizer_that_is_ten_times_too_slow_loses_partials_but_no_final(recognizer: Recognizer) -> None:
    """The audio comes at 20 times real time, so a hop comes every 13 ms; the recognizer needs 130 ms."""
    slow, _ = with_engine(recognizer, lambda: time.sleep(0.13))
    audio = np.tile(two_utterances(), 6)

    def paced() -> Iterator[SourceItem]:
        began, ticks = time.monotonic(), threading.Event()
        for received in in_blocks(audio, 3_200):
            ticks.wait(max(0.0, began + received.end / SAMPLE_RATE / 20 - time.monotonic()))
            yield received

    with Listener(ListSource(paced(), live=True), slow, config()) as listener:
        events = list(listener)
        status = listener.status()
    complete = pushed(recognizer, audio)
    assert as_json(finals(events)) == as_json(finals(complete))
    assert status.finals == 12 and status.partials_dropped >= len(partials(complete)) / 2
    assert status.partials + status.partials_dropped == len(partials(complete))


def _memory_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


@pytest.mark.slow
@pytest.mark.timeout(600)  # needs about ten seconds, and much longer on a busy machine
def test_an_hour_with_1000_utterances_has_1000_finals_without_drift_or_growing_memory(
    recognizer: Recognizer,
) -> None:
    period = round(3.6 * SAMPLE_RATE)
    one = np.concatenate([silence(0.8), babble(1.2, seed=4), silence(1.6)])
    assert len(one) == period

    def hour() -> Iterator[SourceItem]:
        for number in range(1_000):
            for received in in_blocks(one, 1_600):
                yield AudioBlock(received.samples, number * period + received.start, time.monotonic())

    onsets: list[int] = []
    memory: list[float] = []
    settings = StreamConfig(vad=VadConfig(engine="energy", frame_ms=30), segmenter=SegmenterConfig(hop_ms=512))
    with Listener(ListSource(hour()), recognizer, settings) as listener:
        for event in listener:
            if isinstance(event, EmotionEvent) and event.final:
                onsets.append(event.start)
                if sys.platform == "linux" and len(onsets) % 100 == 0:
                    memory.append(_memory_mb())
        status = listener.status()
    assert status.finals == len(onsets) == 1_000 and status.position_s == 3600.0
    assert status.partials_dropped == status.gaps == 0
    # Onsets lie on the VAD's frames of 30 ms, and 3.6 s is a whole number of frames: no sample of drift is allowed.
    assert set(np.diff(onsets).tolist()) == {period}
    assert not memory or max(memory[1:]) - memory[0] < 8


def test_if_the_queue_of_finals_is_full_a_live_source_loses_audio_and_reports_a_gap(recognizer: Recognizer) -> None:
    gate = Gate()
    gated, _ = with_engine(recognizer, gate)
    source = PushSource(live=True, config=SourceConfig(queue_s=1.0))
    settings = config(pipeline=PipelineConfig(waiting_finals=1))
    with Listener(source, gated, settings) as listener:
        for _ in range(8):
            source.push(two_utterances())
            gate.reached.wait(1)
        gate.open.set()
        source.close()
        events = list(listener)
    gaps = [event for event in events if isinstance(event, Gap)]
    assert gaps and {gap.reason for gap in gaps} == {"queue_full"}
    assert events[-1] == StreamEnded(end=8 * len(two_utterances()))


def test_audio_is_processed_within_a_hop_or_within_100_ms_while_the_level_is_read(
    recognizer: Recognizer,
) -> None:
    second = np.zeros(SAMPLE_RATE, np.int16)
    with InferenceWorker(recognizer) as worker:
        stream = WorkerStream(worker, lambda event: None, config())
        stream.push(second)
        assert 0.15 < stream.due_s() <= 0.256
        assert stream.status().level_db == -120
        assert 0.05 < stream.due_s() <= 0.1
        stream.push(second)
        assert 0.15 < stream.due_s() <= 0.256
