"""Each stream computes a baseline from its own utterances, and resets it for a new speaker."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from makers import LABELS, babble, make_adaptive, make_rule, silence
from stream_parts import ListSource, as_json, finals, in_blocks, partials, until

from streamser.audio import SAMPLE_RATE, Samples, Segment
from streamser.baseline import Baseline
from streamser.calibration import Calibration
from streamser.events import EmotionEvent, Event, SourceChanged
from streamser.features import extract
from streamser.recognizer import Recognizer, load
from streamser.stream.channel import Delivery, Stream, StreamConfig, WorkerStream
from streamser.stream.pipeline import Listener
from streamser.stream.scorer import Scorer, Voice
from streamser.stream.sources import WavSource
from streamser.stream.vad import VadConfig
from streamser.stream.worker import InferenceWorker, PipelineConfig

CONFIG = StreamConfig(vad=VadConfig(engine="energy"), pipeline=PipelineConfig(smoothing=0.0))


def adapting(adapt: bool = True, smoothing: float = 0.0) -> StreamConfig:
    return replace(CONFIG, pipeline=PipelineConfig(adapt=adapt, smoothing=smoothing))


def talk(seeds: Sequence[int] = range(1, 6)) -> Samples:
    """One utterance for each seed, with pauses between them."""
    spoken = [np.concatenate([babble(1.2, seed=seed), silence(0.8)]) for seed in seeds]
    return np.concatenate([silence(0.5), *spoken])


def streamed(recognizer: Recognizer, audio: Samples | None = None, config: StreamConfig = CONFIG) -> list[Event]:
    stream = Stream(recognizer, config)
    return [*stream.push(talk() if audio is None else audio), *stream.close()]


def emotions(events: Sequence[Event]) -> list[EmotionEvent]:
    return [event for event in events if isinstance(event, EmotionEvent)]


def test_predictions_change_with_the_utterances_before_them(adaptive: Recognizer) -> None:
    plain, adapted = (emotions(streamed(adaptive, config=adapting(adapt))) for adapt in (False, True))
    assert len(finals(adapted)) == 5
    for before, after in zip(plain, adapted, strict=True):
        assert (before.baseline, before.baseline_utterances) == ("none", 0)
        assert after.baseline_utterances == after.utterance
        if after.utterance == 0:
            assert after.baseline == "none" and after.scores == before.scores
        else:
            assert after.baseline == "own"
            assert max(abs(after.scores[label] - before.scores[label]) for label in LABELS) > 1e-3
        assert sum(after.scores.values()) == pytest.approx(1.0)


def test_the_baseline_of_an_utterance_is_computed_from_the_finals_before_it(adaptive: Recognizer) -> None:
    """The baseline is computed here a second time, from the absolute predictions of the finals."""
    rule = adaptive.bundle.baseline
    assert rule is not None and adaptive.relative is not None
    absolute: list[tuple[Segment, EmotionEvent]] = []
    baseline = Baseline.empty(adaptive.relative.size)
    config = replace(CONFIG, segmenter=replace(CONFIG.segmenter, hop_ms=0))
    audio = talk()
    for event in finals(streamed(adaptive, audio, config)):
        samples = audio[event.start : event.end]
        alone = adaptive.predict(samples)
        assert event.scores == pytest.approx(adaptive.predict(samples, baseline).scores, abs=1e-6)
        assert alone.embedding is not None
        weight = alone.scores["neutral"] * min(1.0, len(samples) / SAMPLE_RATE / 2.0)
        baseline = baseline.plus(alone.embedding, weight, rule)
        absolute.append((Segment(utterance=event.utterance, start=event.start, samples=samples, final=True), event))
    assert len(absolute) == 5 and baseline.weight > 0.1


def test_with_a_baseline_a_replay_gives_the_same_events_each_time_and_in_small_pieces(
    adaptive: Recognizer, tmp_path: Path
) -> None:
    path = tmp_path / "talk.wav"
    soundfile.write(path, talk(), SAMPLE_RATE, subtype="FLOAT")
    config = adapting(smoothing=0.4)
    expected = as_json(streamed(adaptive, config=config))
    for _ in range(2):
        assert as_json(Listener(WavSource(path), adaptive, config)) == expected
    for size in (333, 5_000):
        stream, audio = Stream(adaptive, config), talk()
        crumbs = [event for i in range(0, len(audio), size) for event in stream.push(audio[i : i + size])]
        assert as_json([*crumbs, *stream.close()]) == expected
    assert (
        as_json(streamed(adaptive, config=adapting(False, 0.4))) != expected
    )  # the control: without a baseline the events differ


@pytest.mark.parametrize("cut_s", [4.4, 5.2])
def test_after_a_new_speaker_a_stream_gives_the_results_of_a_new_stream(adaptive: Recognizer, cut_s: float) -> None:
    """4.4 s is in the pause after the second utterance; 5.2 s is in the third, still by the old speaker."""
    audio, cut = talk(), round(cut_s * SAMPLE_RATE)
    stream = Stream(adaptive, CONFIG)
    events = stream.push(audio[:cut])
    stream.new_speaker()
    events = emotions([*events, *stream.push(audio[cut:]), *stream.close()])
    kept = emotions(streamed(adaptive))
    first = {4.4: 2, 5.2: 3}[cut_s]
    earlier = [event for event in events if event.utterance < first]
    assert [event.scores for event in earlier] == [event.scores for event in kept if event.utterance < first]
    alone = emotions(streamed(adaptive, talk(range(1 + first, 6))))
    later = [event for event in events if event.utterance >= first]
    assert [event.baseline_utterances for event in later] == [event.utterance for event in alone]
    for after, fresh in zip(later, alone, strict=True):
        assert after.scores == pytest.approx(fresh.scores, abs=1e-4)
    without = [event for event in kept if event.utterance >= first]
    assert later[-1].scores != without[-1].scores


def test_after_a_new_speaker_a_stream_with_a_profile_restarts_with_the_profile(adaptive: Recognizer) -> None:
    assert adaptive.relative is not None
    known = adaptive.with_baseline(Baseline(np.full(adaptive.relative.size, 3.0), 4.0, 4, "profile"))
    stream = Stream(known, CONFIG)
    first = emotions(stream.push(talk()))
    stream.new_speaker()
    again = emotions([*stream.push(talk()), *stream.close()])
    assert {event.baseline for event in first + again} == {"profile"}
    assert [event.baseline_utterances for event in finals(first)] == [4, 5, 6, 7, 8]
    assert finals(again)[0].baseline_utterances == 4


def test_streams_on_one_worker_have_separate_baselines(adaptive: Recognizer) -> None:
    recordings = [talk(range(first, first + 5)) for first in (1, 11, 21)]
    received: list[list[Event]] = [[], [], []]
    with InferenceWorker(adaptive, CONFIG.pipeline) as worker:
        streams = [WorkerStream(worker, Delivery(events.append, lossless=True), CONFIG) for events in received]
        for i in range(0, len(recordings[0]), 4_000):
            for stream, audio in zip(streams, recordings, strict=True):
                stream.push(audio[i : i + 4_000])
        for stream in streams:
            stream.close()
    for events, audio in zip(received, recordings, strict=True):
        assert as_json(events) == as_json(streamed(adaptive, audio))


def test_skipped_partials_do_not_change_the_finals(adaptive: Recognizer) -> None:
    received: list[Event] = []
    with InferenceWorker(adaptive, CONFIG.pipeline) as worker:
        stream = WorkerStream(worker, received.append, CONFIG)
        stream.push(talk())
        stream.close()
    assert as_json(finals(received)) == as_json(finals(streamed(adaptive)))


def test_a_new_speaker_is_processed_in_order_with_the_jobs_of_the_worker(adaptive: Recognizer) -> None:
    """All jobs are in the queue before the worker starts, so only the order of the queue decides."""
    received: list[Event] = []
    worker = InferenceWorker(adaptive, CONFIG.pipeline)
    stream = WorkerStream(worker, received.append, CONFIG)
    audio, cut = talk(), round(4.4 * SAMPLE_RATE)
    stream.push(audio[:cut])
    stream.new_speaker()
    stream.push(audio[cut:])
    stream.close()
    with worker:
        pass
    assert [event.baseline_utterances for event in finals(received)] == [0, 1, 0, 1, 2]


def test_new_speaker_of_a_listener_can_be_called_from_another_thread(adaptive: Recognizer) -> None:
    gate, audio = threading.Event(), talk()
    blocks = in_blocks(audio)

    class Gated(ListSource):
        def __iter__(self):  # type: ignore[no-untyped-def]
            for place, block in enumerate(blocks):
                if place == len(blocks) // 2:
                    gate.wait(10)
                yield block

    came: list[EmotionEvent] = []
    with Listener(Gated(blocks), adaptive, CONFIG, on_final=came.append) as listener:
        until(lambda: len(came) >= 2)
        listener.new_speaker()
        gate.set()
        assert listener.wait(10)
    counts = [event.baseline_utterances for event in came]
    assert counts[:2] == [0, 1] and counts[-1] < 3


def test_another_microphone_restarts_the_baseline_and_the_same_one_does_not(adaptive: Recognizer) -> None:
    blocks = in_blocks(talk())
    middle = round(4.4 * SAMPLE_RATE) // 320
    for another, expected in ((True, [0, 1, 0, 1, 2]), (False, [0, 1, 2, 3, 4])):
        back = SourceChanged(state="back", at=middle * 320, detail="USB", another=another)
        source = ListSource([*blocks[:middle], back, *blocks[middle:]])
        with Listener(source, adaptive, CONFIG) as listener:
            assert [event.baseline_utterances for event in finals(list(listener))] == expected


def test_a_stream_can_continue_with_the_baseline_of_an_earlier_stream(adaptive: Recognizer) -> None:
    voice = Voice(adaptive)
    counts = []
    for _ in range(2):
        stream = Stream(adaptive, CONFIG, voice=voice)
        counts.append([event.baseline_utterances for event in finals([*stream.push(talk()), *stream.close()])])
    assert counts == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_a_stream_that_does_not_adapt_keeps_the_profile_unchanged(adaptive: Recognizer) -> None:
    assert adaptive.relative is not None
    known = adaptive.with_baseline(Baseline(np.full(adaptive.relative.size, 3.0), 4.0, 4, "profile"))
    events = emotions(streamed(known, config=adapting(False)))
    assert {(event.baseline, event.baseline_utterances) for event in events} == {("profile", 4)}
    assert events[0].scores != emotions(streamed(adaptive))[0].scores


def test_silence_does_not_change_the_baseline(adaptive: Recognizer) -> None:
    scorer = Scorer(adaptive)
    for utterance, (samples, expected) in enumerate([(silence(1.0), 0), (babble(1.0), 0), (babble(1.0, seed=3), 1)]):
        segment = Segment(utterance=utterance, start=20_000 * utterance, samples=samples, final=True)
        event = scorer.event(segment, adaptive.predict(segment))
        assert event is not None and event.baseline_utterances == expected
        assert event.uncertain or utterance


def test_a_clipped_utterance_does_not_change_the_baseline(adaptive: Recognizer) -> None:
    scorer = Scorer(adaptive)
    clipped = np.clip(100 * babble(1.0), -1.0, 1.0)
    for utterance, (samples, expected) in enumerate([(clipped, 0), (babble(1.0), 0), (babble(1.0, seed=3), 1)]):
        segment = Segment(utterance=utterance, start=20_000 * utterance, samples=samples, final=True)
        # predicted from frames, as with a step graph or on a GPU, so that only the scorer sees the samples
        (prediction,) = adaptive.predict_frames([extract(samples, adaptive.features)])
        event = scorer.event(segment, prediction)
        assert event is not None and event.baseline_utterances == expected


def test_checkpoints_without_a_relative_head_do_not_adapt(recognizer: Recognizer) -> None:
    on, off = (streamed(recognizer, config=adapting(adapt)) for adapt in (True, False))
    assert as_json(on) == as_json(off)
    assert {event.baseline for event in emotions(on)} == {"none"}
    assert {event.baseline_utterances for event in emotions(on)} == {0}


def test_the_threshold_is_mixed_like_the_predictions_of_both_heads(tmp_path: Path) -> None:
    """Here absolute predictions are never uncertain and relative ones always are, so the share decides."""
    rule = make_rule(half=0.0, calibration=Calibration(threshold=1.0))
    strict = load(make_adaptive(tmp_path / "strict", rule, calibration=Calibration()).path, "cpu")
    events = finals(streamed(strict))
    assert [event.uncertain for event in events] == [False, True, True, True, True]
    own = load(strict.bundle.path, "cpu", threshold=0.0)  # a threshold that the user sets has priority
    assert not any(event.uncertain for event in finals(streamed(own)))


def test_partials_are_smoothed_after_they_are_adapted(adaptive: Recognizer) -> None:
    rough = [event for event in partials(streamed(adaptive)) if event.utterance == 4]
    smooth = [event for event in partials(streamed(adaptive, config=adapting(smoothing=0.5))) if event.utterance == 4]
    blended = {name: 0.5 * rough[0].scores[name] + 0.5 * rough[1].scores[name] for name in LABELS}
    assert smooth[1].scores == pytest.approx(blended)


def test_no_adapt_is_the_same_as_the_setting_pipeline_adapt_false() -> None:
    import argparse

    from streamser.cli.common import add_model_arguments, load_run_config

    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    assert not load_run_config(parser.parse_args(["--no-adapt"])).pipeline.adapt
    assert not load_run_config(parser.parse_args(["--set", "pipeline.adapt=false"])).pipeline.adapt
    assert load_run_config(parser.parse_args([])).pipeline.adapt
