"""Streams whose states stay on a torch device give the events of streams in ONNX Runtime, however they are batched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from makers import babble, silence
from numpy.typing import NDArray
from stream_parts import finals, partials, until

from streamser.audio import Samples
from streamser.engines import FallbackEngine
from streamser.engines.devicesteps import DeviceSteps
from streamser.engines.steps import Track
from streamser.engines.torch import TorchEngine
from streamser.errors import EngineError
from streamser.events import EmotionEvent, Event, StreamEnded
from streamser.features import Frames, speech_range
from streamser.recognizer import Recognizer, load
from streamser.stream import worker as worker_module
from streamser.stream.channel import Delivery, WorkerStream
from streamser.stream.pipeline import PipelineConfig, Stream, StreamConfig
from streamser.stream.segmenter import SegmenterConfig
from streamser.stream.worker import InferenceWorker

CONFIG = StreamConfig(
    segmenter=SegmenterConfig(max_utterance_s=7.0), pipeline=PipelineConfig(waiting_finals=1000, batch=64)
)
TOLERANCE = 1e-4  # of a probability
Index = NDArray[np.int64]


@pytest.fixture(scope="module")
def onnx() -> Recognizer:
    recognizer = load("whisper", "cpu", engine="onnx")
    assert recognizer.steps is not None
    return recognizer


@pytest.fixture
def engine(onnx: Recognizer) -> TorchEngine:
    """A torch engine on the CPU that the worker takes for one on a GPU, so that it computes batches."""
    engine = TorchEngine(onnx.bundle, "cpu")
    steps_of(engine)
    engine.compute = "cuda:0"
    return engine


def steps_of(engine: TorchEngine) -> DeviceSteps:
    steps = engine.steps
    assert steps is not None
    return steps


def recordings() -> list[Samples]:
    """One utterance after another; quiet ends that trimming removes; one cut at the maximum; one in progress."""
    quiet = babble(0.5, seed=9, level=0.002)
    return [
        np.concatenate([babble(1.3, seed=1), silence(0.8), babble(2.2, seed=2), silence(0.8)]),
        np.concatenate([silence(0.3), quiet, babble(1.7, seed=3, level=0.2), quiet, silence(0.8)]),
        np.concatenate([silence(0.5), babble(9.0, seed=4, level=0.03), silence(0.8)]),
        np.concatenate([silence(0.2), babble(0.4, seed=5), silence(0.9), babble(2.0, seed=6)]),
    ]


def alone(recognizer: Recognizer, audio: Samples) -> list[Event]:
    stream = Stream(recognizer, CONFIG)
    return [*stream.push(audio), *stream.close()]


def together(recognizer: Recognizer, several: Sequence[Samples]) -> list[list[Event]]:
    """All streams at once, with batches as large as possible: the worker starts when all segments wait."""
    found: list[list[Event]] = [[] for _ in several]
    worker = InferenceWorker(recognizer, CONFIG.pipeline)
    for number, (audio, events) in enumerate(zip(several, found, strict=True)):
        stream = WorkerStream(worker, Delivery(events.append, lossless=True), CONFIG, name=str(number))
        for first in range(0, len(audio), 4000):
            stream.push(audio[first : first + 4000])
        stream.close()
    with worker:
        until(lambda: all(events and isinstance(events[-1], StreamEnded) for events in found), 60)
    return found


PARTIALS = 4
"""Number of partial results of `in_mid_utterance`."""


def in_mid_utterance(worker: InferenceWorker, found: list[Event]) -> WorkerStream:
    """A stream whose utterance has partial results, but no final: its last pause is too short to end it."""
    stream = WorkerStream(worker, Delivery(found.append, lossless=True), CONFIG)
    stream.push(babble(2.0, seed=2))
    until(lambda: len(partials(found)) == PARTIALS)
    assert not finals(found)
    return stream


def largest_difference(given: Sequence[Event], expected: Sequence[Event]) -> float:
    assert [event.type for event in given] == [event.type for event in expected]
    worst = 0.0
    for event, other in zip(given, expected, strict=True):
        if isinstance(event, EmotionEvent) and isinstance(other, EmotionEvent):
            assert (event.utterance, event.start, event.end, event.final) == (
                other.utterance, other.start, other.end, other.final,
            )  # fmt: skip
            assert event.baseline_utterances == other.baseline_utterances
            worst = max(worst, *(abs(event.scores[label] - score) for label, score in other.scores.items()))
    return worst


def test_several_streams_in_one_batch_give_the_events_that_each_gives_alone_in_onnx_runtime(
    onnx: Recognizer, engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [alone(onnx, audio) for audio in recordings()]
    events = [event for one in expected for event in finals(one) + partials(one)]
    assert len(events) > 40 and np.ptp([event.confidence for event in events]) > 0.2
    config, quiet = onnx.features, recordings()[1]
    (final,) = finals(expected[1])
    assert speech_range(quiet[final.start : final.end], config)[0] > 0, "trimming must matter to one final"
    steps = steps_of(engine)
    step, free, sizes = steps._slots.step, steps.free, []

    def counted(slots: Index, chunks: Frames) -> tuple[Frames, Frames]:
        sizes.append(len(slots))
        return step(slots, chunks)

    monkeypatch.setattr(steps._slots, "step", counted)
    found = together(Recognizer(onnx.bundle, engine), recordings())
    assert max(map(largest_difference, found, expected)) < TOLERANCE
    assert max(sizes) == len(recordings())
    assert steps.free == free


def test_the_comparison_detects_a_segment_that_is_scored_with_a_later_one(
    onnx: Recognizer, engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: without rounds, a stream's track is fed all its waiting segments before any is scored."""
    monkeypatch.setattr(worker_module.InferenceWorker, "_rounds", lambda self, jobs: [list(jobs)])
    audio = recordings()[1]  # one utterance: the next one would close its track
    (found,) = together(Recognizer(onnx.bundle, engine), [audio])
    assert largest_difference(found, alone(onnx, audio)) > 10 * TOLERANCE


def test_a_stream_alone_gives_the_same_events(onnx: Recognizer, engine: TorchEngine) -> None:
    for audio in recordings():
        given = alone(Recognizer(onnx.bundle, engine), audio)
        assert largest_difference(given, alone(onnx, audio)) < TOLERANCE


def test_a_stream_that_is_closed_in_mid_utterance_gives_its_slot_back(onnx: Recognizer, engine: TorchEngine) -> None:
    steps = steps_of(engine)
    free = steps.free
    found: list[Event] = []
    with InferenceWorker(Recognizer(onnx.bundle, engine), CONFIG.pipeline) as worker:
        stream = in_mid_utterance(worker, found)
        assert steps.free == free - 1
        stream.give_up()
        until(lambda: steps.free == free)  # at once, or when the worker is done with the last partial
        del stream  # the handle existed until here


def test_a_stream_that_is_closed_while_it_is_computed_gives_its_slot_back_afterwards(
    onnx: Recognizer, engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = steps_of(engine)
    free, seen = steps.free, []
    found: list[Event] = []
    with InferenceWorker(Recognizer(onnx.bundle, engine), CONFIG.pipeline) as worker:
        stream = in_mid_utterance(worker, found)
        advance = steps.advance

        def closing(tracks: Sequence[Track]) -> None:
            stream.give_up()
            seen.append(steps.free)
            advance(tracks)

        monkeypatch.setattr(steps, "advance", closing)
        stream.push(babble(1.0, seed=2))
        until(lambda: steps.free == free)
        assert seen[0] == free - 1, "the slot was free while it was still used"
        assert worker.metrics()["errors"] == 0 and len(found) == 1 + PARTIALS


def test_a_stream_that_an_error_ends_in_mid_utterance_gives_its_slot_back(
    onnx: Recognizer, engine: TorchEngine
) -> None:
    steps = steps_of(engine)
    free = steps.free

    def failing(event: Event) -> None:
        if isinstance(event, EmotionEvent):
            raise RuntimeError("the host's own error")

    with InferenceWorker(Recognizer(onnx.bundle, engine), CONFIG.pipeline) as worker:
        stream = WorkerStream(worker, Delivery(failing, lossless=True), CONFIG)
        stream.push(babble(2.0, seed=2))
        until(lambda: worker.metrics()["streams"] == 0)
        until(lambda: steps.free == free)
        assert stream.position > 0


def test_a_worker_that_is_closed_gives_the_slots_of_its_open_streams_back(
    onnx: Recognizer, engine: TorchEngine
) -> None:
    steps = steps_of(engine)
    free = steps.free
    with InferenceWorker(Recognizer(onnx.bundle, engine), CONFIG.pipeline) as worker:
        stream = in_mid_utterance(worker, [])
        assert steps.free == free - 1
    assert steps.free == free and stream.position > 0


def test_after_an_error_pushed_audio_continues_on_the_device(
    onnx: Recognizer, engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, failed = steps_of(engine), []
    step, counter, free = steps._slots.step, iter(range(1 << 30)), steps.free

    def failing(slots: Index, chunks: Frames) -> tuple[Frames, Frames]:
        if next(counter) == 1:
            failed.append(slots)
            raise EngineError("cuda:0: CUDA out of memory")
        return step(slots, chunks)

    monkeypatch.setattr(steps._slots, "step", failing)
    config = StreamConfig(segmenter=CONFIG.segmenter, pipeline=PipelineConfig(smoothing=0.0))
    audio = babble(3.0, seed=2)
    given, expected = (
        [*stream.push(audio), *stream.close()]
        for stream in (Stream(Recognizer(onnx.bundle, engine), config), Stream(onnx, config))
    )
    assert failed and steps.free == free
    by_place = {event.seq: event for event in partials(expected)}
    assert len(partials(given)) == len(by_place) - 1
    for event, other in [
        *((event, by_place[event.seq]) for event in partials(given)),
        *zip(finals(given), finals(expected), strict=True),
    ]:
        assert max(abs(event.scores[label] - score) for label, score in other.scores.items()) < TOLERANCE


def test_if_the_device_fails_within_an_utterance_the_events_stay_the_same(
    onnx: Recognizer, engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = steps_of(engine)
    step, counter = steps._slots.step, iter(range(1 << 30))

    def failing(slots: Index, chunks: Frames) -> tuple[Frames, Frames]:
        if next(counter) >= 7:
            raise EngineError("cuda:0: CUDA out of memory")
        return step(slots, chunks)

    monkeypatch.setattr(steps._slots, "step", failing)
    fallback = FallbackEngine(lambda: engine, lambda: onnx.engine, onnx.features)
    found = together(Recognizer(onnx.bundle, fallback), recordings())
    assert fallback.metrics()["fallback"] == "cuda:0: CUDA out of memory"
    for events, audio in zip(found, recordings(), strict=True):
        assert largest_difference(events, alone(onnx, audio)) < TOLERANCE
