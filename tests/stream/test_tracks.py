"""A stream gives the same events with and without a step graph."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from makers import babble, silence
from stream_parts import as_json, finals, partials, two_utterances

from streamser.audio import SAMPLE_RATE, AudioBlock, Samples, Segment, read_audio
from streamser.engines import WindowScores, run_frames
from streamser.engines.columns import WindowTrack
from streamser.engines.onnx import OnnxEngine
from streamser.errors import EngineError
from streamser.events import EmotionEvent, Event
from streamser.features import extract
from streamser.recognizer import Recognizer, load
from streamser.stream.pipeline import PipelineConfig, Stream, StreamConfig
from streamser.stream.segmenter import Segmenter, SegmenterConfig
from streamser.stream.tracks import Novelty, StepTrack
from streamser.stream.vad import VadConfig, make_vad


@pytest.fixture(scope="module")
def stepping() -> Recognizer:
    recognizer = load("lightsernet", "cpu", engine="onnx")
    assert recognizer.steps is not None
    return recognizer


class WholeWindows:
    """Wraps an engine and hides its step graph."""

    steps = None

    def __init__(self, engine: OnnxEngine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def events_of(recognizer: Recognizer, audio: Samples, config: StreamConfig | None = None) -> list[Event]:
    stream = Stream(recognizer, config)
    return [*stream.push(audio), *stream.close()]


def long_and_short() -> Samples:
    """Two short utterances, one with a pause and longer than a window, and one that is cut at the maximum length."""
    parts = [two_utterances(), babble(2.0, seed=5), silence(0.25), babble(4.5, seed=6), silence(0.7)]
    return np.concatenate([*parts, babble(9.0, seed=7), silence(0.6)])


def test_a_stream_with_steps_gives_the_same_events_as_with_whole_windows(stepping: Recognizer) -> None:
    config = StreamConfig(segmenter=SegmenterConfig(max_utterance_s=5.0))
    plain = Recognizer(stepping.bundle, WholeWindows(stepping.engine))  # type: ignore[arg-type]
    assert plain.steps is None
    expected = events_of(plain, long_and_short(), config)
    events = events_of(stepping, long_and_short(), config)
    assert len(finals(events)) >= 5 and len(partials(events)) > 40
    assert [event.type for event in events] == [event.type for event in expected]
    for event, other in zip(events, expected, strict=True):
        if isinstance(event, EmotionEvent) and isinstance(other, EmotionEvent):
            assert (event.start, event.end, event.seq) == (other.start, other.end, other.seq)
            np.testing.assert_allclose(list(event.scores.values()), list(other.scores.values()), atol=1e-5)
    assert len({round(event.confidence, 3) for event in finals(events) + partials(events)}) > 20


def test_a_final_with_steps_equals_the_recognizers_prediction_for_its_audio(stepping: Recognizer) -> None:
    audio = long_and_short()
    config = StreamConfig(pipeline=PipelineConfig(adapt=False))  # `predict` has no earlier utterances to compare with
    for event in finals(events_of(stepping, audio, config)):
        alone = stepping.predict(audio[event.start : event.end])
        np.testing.assert_allclose(list(event.scores.values()), list(alone.scores.values()), atol=1e-5)


@pytest.mark.parametrize("steps", [True, False], ids=["steps", "whole windows"])
def test_all_results_of_a_clipped_utterance_are_uncertain(stepping: Recognizer, steps: bool) -> None:
    """The first of two utterances is clipped; the second has the usual level."""
    engine = stepping.engine if steps else WholeWindows(stepping.engine)  # type: ignore[arg-type]
    recognizer = Recognizer(stepping.bundle, engine, threshold=0.0)  # otherwise nothing would be uncertain
    assert (recognizer.steps is not None) == steps
    audio = two_utterances()
    middle = round(2.2 * SAMPLE_RATE)
    audio[:middle] = np.clip(100 * audio[:middle], -1.0, 1.0)
    events = events_of(recognizer, audio)
    for results in (partials(events), finals(events)):
        assert {event.utterance for event in results} == {0, 1}
        assert all(event.uncertain == (event.utterance == 0) for event in results)
    assert finals(events)[1].baseline_utterances == 0  # the clipped utterance is not in the speaker's baseline


def test_an_utterance_that_is_begun_again_closes_its_earlier_track_first(
    stepping: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a device has no other slot, the new track gets that of the earlier one."""
    assert stepping.steps is not None
    calls: list[str] = []
    begin, close = type(stepping.steps).track, WindowTrack.close
    monkeypatch.setattr(type(stepping.steps), "track", lambda *args: (calls.append("begin"), begin(*args))[1])
    monkeypatch.setattr(WindowTrack, "close", lambda track: (calls.append("close"), close(track))[1])
    steps, novelty = StepTrack(stepping.steps, stepping.features), Novelty()
    audio = babble(2.0)
    for start, end in ((0, 8_000), (0, 16_000), (20_000, 28_000)):  # audio is missing before the last window
        segment = Segment(0, start, audio[start:end], final=False)
        steps.partial(segment, [novelty.of(segment)])
    assert calls == ["begin", "close", "begin"]


@pytest.mark.parametrize("failing_call", [3, 6, 20])
def test_one_error_of_a_step_graph_leaves_out_only_one_partial_result(
    stepping: Recognizer, monkeypatch: pytest.MonkeyPatch, failing_call: int
) -> None:
    config = StreamConfig(pipeline=PipelineConfig(smoothing=0.0))
    expected = events_of(stepping, long_and_short(), config)
    scores, calls = WindowTrack.scores, iter(range(1 << 30))

    def failing(track: WindowTrack) -> WindowScores:
        if next(calls) == failing_call:
            track.close()  # as on a device, whose state is then unknown
            monkeypatch.setattr(track, "scores", lambda: pytest.fail("the track was used again"))
            raise EngineError("out of memory")
        return scores(track)

    monkeypatch.setattr(WindowTrack, "scores", failing)
    found = events_of(stepping, long_and_short(), config)
    assert next(calls) > failing_call
    assert len(found) == len(expected) - 1
    assert [event.type for event in found if event.type != "emotion"] == [
        event.type for event in expected if event.type != "emotion"
    ]
    by_place = {(event.utterance, event.seq, event.final): event for event in partials(expected) + finals(expected)}
    for event in partials(found) + finals(found):
        other = by_place[event.utterance, event.seq, event.final]
        np.testing.assert_allclose(list(event.scores.values()), list(other.scores.values()), atol=1e-5)
    assert len(finals(found)) == len(finals(expected))


def test_small_pieces_give_the_same_events_as_the_whole(stepping: Recognizer) -> None:
    audio = long_and_short()
    stream = Stream(stepping)
    crumbs = [event for first in range(0, len(audio), 777) for event in stream.push(audio[first : first + 777])]
    assert as_json([*crumbs, *stream.close()]) == as_json(events_of(stepping, audio))


@pytest.mark.slow
@pytest.mark.timeout(1800)  # 15 s on a quiet machine
def test_the_logits_of_every_hop_in_ten_minutes_of_speech_equal_those_of_its_window(stepping: Recognizer) -> None:
    """Recorded voices of three corpora, German and English, acted and read, with pauses between them."""
    folder = Path(os.environ.get("STREAMSER_CORPORA", "../shared/corpora"))
    files = [sorted((folder / name / "audio").rglob("*.*"))[::7] for name in ("emodb", "ravdess", "librispeech_subset")]
    if not all(files):
        pytest.skip("needs the corpora emodb, ravdess and librispeech_subset; set STREAMSER_CORPORA")
    rng = np.random.default_rng(0)
    parts: list[Samples] = []
    for turn in range(200):
        clips = files[turn % 3]
        parts += [read_audio(clips[turn // 3 % len(clips)]), rng.normal(0, 3e-4, rng.integers(9_600, 25_600))]
        if sum(map(len, parts)) > 600 * SAMPLE_RATE:
            break
    audio = np.concatenate(parts)[: 600 * SAMPLE_RATE].astype(np.float32)
    assert len(audio) == 600 * SAMPLE_RATE
    assert stepping.steps is not None
    config, novelty, steps = stepping.features, Novelty(), StepTrack(stepping.steps, stepping.features)
    segmenter = Segmenter(SegmenterConfig(), make_vad(VadConfig()), config)
    items = [
        item
        for first in range(0, len(audio), 320)
        for item in segmenter.feed(AudioBlock(audio[first : first + 320], first))
    ]
    worst, hops, finals, logits = 0.0, 0, 0, []
    for segment in items:
        if not isinstance(segment, Segment) or segment.speculative:
            continue
        if segment.final:
            scored = steps.whole(segment)
            assert scored is not None and scored.kept is not None
            given, expected = scored.track.final(scored.kept).logits.mean(axis=0), stepping.logits(segment)[0]
            finals += 1
        else:
            given = steps.partial(segment, [novelty.of(segment)]).track.scores().logits[0]
            expected = run_frames(stepping.engine, [extract(segment.samples, config)], config)[0].logits[0]
            hops += 1
        worst = max(worst, float(np.abs(given - expected).max()))
        logits.append(expected)
    assert worst < 1e-5, worst
    assert hops > 1200 and finals > 80
    assert np.ptp(np.stack(logits), axis=0).min() > 3.0  # equality of constant logits would prove little
    print(f"{hops} hops, {finals} finals, largest difference of a logit {worst:.1e}")
