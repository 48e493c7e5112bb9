"""Errors of an engine, a callback or a source lose as little as possible, leave no thread and block no caller."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
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

from streamser.audio import SAMPLE_RATE, AudioBlock
from streamser.baseline import Baseline
from streamser.bundle import Bundle
from streamser.engines import Engine, FallbackEngine
from streamser.errors import AudioError, EngineError
from streamser.events import EmotionEvent, Event, StreamEnded
from streamser.features import Frames
from streamser.recognizer import Recognizer
from streamser.stream.channel import Delivery, Stream, StreamConfig, WorkerStream
from streamser.stream.pipeline import Listener
from streamser.stream.segmenter import SegmenterConfig
from streamser.stream.sources import SourceItem, WavSource
from streamser.stream.worker import InferenceWorker, PipelineConfig


def failing(calls: Callable[[int], bool], error: Exception) -> Callable[[], None]:
    """A function that raises `error` at the calls for which `calls(number)` is true, counted from 0."""
    count = iter(range(1 << 30))

    def before() -> None:
        if calls(next(count)):
            raise error

    return before


GPU_FULL = EngineError("cuda:0: CUDA out of memory. Tried to allocate 20.00 MiB")


# The engine


@pytest.mark.parametrize("live", [False, True], ids=["replay", "live"])
@pytest.mark.parametrize("error", [GPU_FULL, RuntimeError("an error of a driver")], ids=["EngineError", "RuntimeError"])
def test_one_failing_call_of_the_engine_loses_no_final(recognizer: Recognizer, live: bool, error: Exception) -> None:
    source = in_blocks(two_utterances())
    with Listener(ListSource(source, live=live), recognizer) as events:
        expected = list(events)
    for broken in range(0, 12, 2):
        flaky, _ = with_engine(recognizer, failing(lambda call, at=broken: call == at, error))
        with Listener(ListSource(source, live=live), flaky) as events:
            found = list(events)
        assert as_json(finals(found)) == as_json(finals(expected)), f"call {broken}"
        assert isinstance(found[-1], StreamEnded) and found[-1].error is None


def test_a_final_that_is_computed_again_is_adapted_to_the_profile_once(adaptive: Recognizer) -> None:
    assert adaptive.relative is not None
    known = adaptive.with_baseline(Baseline(np.full(adaptive.relative.size, 3.0), 4.0, 4, "profile"))
    config = StreamConfig(segmenter=SegmenterConfig(hop_ms=0, speculate_ms=0))  # finals only: the first call is a final
    with Listener(ListSource(in_blocks(two_utterances())), known, config) as listener:
        expected = list(listener)
    flaky, _ = with_engine(adaptive, failing(lambda call: call == 0, GPU_FULL))
    with Listener(ListSource(in_blocks(two_utterances())), flaky.with_baseline(known.baseline), config) as listener:
        found = list(listener)
    assert as_json(finals(found)) == as_json(finals(expected))


def test_an_engine_that_fails_every_second_time_loses_only_partials(recognizer: Recognizer) -> None:
    flaky, engine = with_engine(recognizer, failing(lambda call: call % 2 == 0, GPU_FULL))
    with Listener(ListSource(in_blocks(two_utterances())), flaky) as listener:
        events = list(listener)
    assert len(finals(events)) == 2 and partials(events)
    places = [(event.utterance, event.seq) for event in partials(events)]
    assert places == sorted(set(places))
    assert engine.batches


def test_an_engine_that_always_fails_ends_the_stream_with_its_error(recognizer: Recognizer) -> None:
    dead, _ = with_engine(recognizer, failing(lambda call: True, GPU_FULL))
    with (
        pytest.raises(EngineError, match="CUDA out of memory"),
        Listener(ListSource(in_blocks(two_utterances())), dead) as listener,
    ):
        events = list(listener._events)
        assert [type(event) for event in events if isinstance(event, EmotionEvent)] == []
        assert isinstance(events[-1], StreamEnded) and "CUDA out of memory" in str(events[-1].error)
    assert not streamser_threads()


@pytest.mark.parametrize("broken", range(0, 12, 2))
def test_one_failing_call_of_the_engine_loses_no_final_of_pushed_audio(recognizer: Recognizer, broken: int) -> None:
    expected = pushed(Stream(recognizer))
    flaky, _ = with_engine(recognizer, failing(lambda call: call == broken, GPU_FULL))
    found = pushed(Stream(flaky))
    assert as_json(finals(found)) == as_json(finals(expected)) and len(finals(found)) == 2
    assert len(partials(expected)) - 1 <= len(partials(found)) <= len(partials(expected))


def test_an_engine_that_always_fails_raises_its_error_at_the_final_of_pushed_audio(
    recognizer: Recognizer, caplog: pytest.LogCaptureFixture
) -> None:
    dead, _ = with_engine(recognizer, failing(lambda call: True, GPU_FULL))
    stream = Stream(dead)
    audio = two_utterances()
    assert [event.type for event in stream.push(audio[: SAMPLE_RATE * 3 // 2])] == ["speech_started"]
    assert sum("CUDA out of memory" in record.getMessage() for record in caplog.records) == 1
    with pytest.raises(EngineError, match="CUDA out of memory"):
        stream.push(audio[SAMPLE_RATE * 3 // 2 :])
    with pytest.raises(EngineError, match="CUDA out of memory"):  # the second final
        stream.close()
    rest = [event.type for event in stream.close()]
    assert rest == ["speech_ended", "speech_started", "speech_ended", "stream_ended"], "an error loses no other event"
    assert stream.close() == []


def pushed(stream: Stream) -> list[Event]:
    return [*stream.push(two_utterances()), *stream.close()]


def test_if_the_gpus_memory_is_full_the_cpu_continues_within_the_same_utterance(
    recognizer: Recognizer, caplog: pytest.LogCaptureFixture
) -> None:
    """Simulates on the CPU that CUDA runs out of memory within a stream, so that FallbackEngine falls back."""
    gpu = with_engine(recognizer, failing(lambda call: call >= 3, GPU_FULL))[1]
    engine = FallbackEngine(lambda: gpu, lambda: recognizer.engine, recognizer.features)
    with Listener(ListSource(in_blocks(two_utterances())), recognizer) as listener:
        expected = list(listener)
    with Listener(ListSource(in_blocks(two_utterances())), Recognizer(recognizer.bundle, engine)) as listener:
        assert as_json(listener) == as_json(expected)
    assert engine.metrics()["fallback"] == str(GPU_FULL)
    assert sum("CUDA out of memory" in record.getMessage() for record in caplog.records) == 1


class Nonsense:
    """An engine whose logits are finite, but whose embedding is not."""

    name, compute = "onnx", "cpu"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run(self, frames: Frames) -> tuple[Frames, Frames]:
        logits, embedding = self._engine.run(frames)
        return logits, np.full_like(embedding, np.nan)

    def metrics(self) -> dict[str, Any]:
        return {}


def test_a_nan_embedding_never_reaches_a_baseline(adaptive: Recognizer, bundle: Bundle) -> None:
    spoiled = Recognizer(adaptive.bundle, Nonsense(adaptive.engine))
    with pytest.raises(EngineError, match="NaN or infinite"):
        spoiled.predict(two_utterances())
    with (
        pytest.raises(EngineError, match="NaN or infinite"),
        Listener(ListSource(in_blocks(two_utterances())), spoiled) as listener,
    ):
        list(listener)
    harmless = Recognizer(bundle, Nonsense(adaptive.engine)).predict(two_utterances())
    assert sum(harmless.scores.values()) == pytest.approx(1.0)


def test_a_prediction_with_nan_scores_is_uncertain(recognizer: Recognizer) -> None:
    prediction = recognizer.predict(two_utterances())
    assert prediction.with_scores(dict.fromkeys(recognizer.labels, float("nan")), 0.0).uncertain


# Callbacks


@pytest.mark.parametrize("which", ["on_final", "on_partial", "on_event"])
@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=lambda error: type(error).__name__
)
def test_system_exceptions_of_a_callback_end_the_stream_and_reach_the_caller(
    recognizer: Recognizer, which: str, error: BaseException
) -> None:
    def leave(event: Event) -> None:
        raise error

    with (
        pytest.raises(type(error)),
        Listener(ListSource(in_blocks(two_utterances())), recognizer, **{which: leave}) as listener,
    ):  # type: ignore[arg-type]
        assert listener.wait(10)
    last = list(listener)[-1]
    assert isinstance(last, StreamEnded) and str(last.error).startswith(type(error).__name__)
    assert not streamser_threads()


def test_sys_exit_in_a_callback_does_not_affect_the_other_streams(recognizer: Recognizer) -> None:
    found: list[Event] = []
    errors: list[BaseException] = []

    def leave(event: Event) -> None:
        sys.exit("leave")

    with InferenceWorker(recognizer) as worker:
        bad = WorkerStream(worker, Delivery(leave, on_error=errors.append), name="bad")
        good = WorkerStream(worker, found.append, name="good")
        for stream in (bad, good):
            stream.push(two_utterances())
            stream.close()
        until(lambda: bool(found) and isinstance(found[-1], StreamEnded))
    assert len(finals(found)) == 2
    assert [type(error) for error in errors] == [SystemExit]


def test_sys_exit_in_a_source_ends_the_stream_and_reaches_the_caller(recognizer: Recognizer) -> None:
    def items() -> Iterator[SourceItem]:
        yield from in_blocks(two_utterances())[:200]
        sys.exit(4)

    with pytest.raises(SystemExit), Listener(ListSource(items()), recognizer) as listener:
        assert listener.wait(10)
    assert not streamser_threads()


# Queues


def test_a_consumer_that_never_reads_loses_partials_but_no_final(recognizer: Recognizer) -> None:
    config = StreamConfig(pipeline=PipelineConfig(waiting_events=16))
    audio = np.concatenate([two_utterances()] * 2)

    def paced() -> Iterator[AudioBlock]:
        for block in in_blocks(audio):
            time.sleep(0.002)  # without pauses most partials would be skipped, and none dropped
            yield block

    listener = Listener(ListSource(paced(), live=True), recognizer, config)
    with listener:
        assert listener.wait(20)
        events = list(listener._events)
    assert len(finals(events)) == 4 and isinstance(events[-1], StreamEnded)
    assert listener.status().events_dropped > 0


@pytest.mark.parametrize("name", ["gone.wav", "folder"])
def test_a_file_that_is_deleted_during_a_replay_is_an_error_that_names_it(
    recognizer: Recognizer, tmp_path: Path, name: str
) -> None:
    for number in range(2):
        soundfile.write(tmp_path / f"{number}.wav", two_utterances(), SAMPLE_RATE)
    source = WavSource(tmp_path)
    with pytest.raises(AudioError, match=r"1\.wav: no such file"), Listener(source, recognizer) as listener:
        (tmp_path / "1.wav").unlink()
        assert listener.wait(20)
    assert len(finals(listener)) == 2
