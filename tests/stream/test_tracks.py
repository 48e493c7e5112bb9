"""A stream with a step graph gives the events that it gives without one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from makers import babble, silence
from stream_parts import as_json, finals, partials, two_utterances

from streamser.audio import Samples
from streamser.engines.onnx import OnnxEngine
from streamser.events import EmotionEvent, Event
from streamser.recognizer import Recognizer, load
from streamser.stream.pipeline import Stream, StreamConfig
from streamser.stream.segmenter import SegmenterConfig


@pytest.fixture(scope="module")
def stepping() -> Recognizer:
    recognizer = load("lightsernet", "cpu", engine="onnx")
    assert recognizer.steps is not None
    return recognizer


class WholeWindows:
    """The same engine without its step graph."""

    steps = None

    def __init__(self, engine: OnnxEngine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def events_of(recognizer: Recognizer, sound: Samples, config: StreamConfig | None = None) -> list[Event]:
    stream = Stream(recognizer, config)
    return [*stream.push(sound), *stream.close()]


def long_and_short() -> Samples:
    """Utterances of every kind: short, paused within, longer than a window, and cut for their length."""
    parts = [two_utterances(), babble(2.0, seed=5), silence(0.25), babble(4.5, seed=6), silence(0.7)]
    return np.concatenate([*parts, babble(9.0, seed=7), silence(0.6)])


def test_the_events_are_those_of_whole_windows(stepping: Recognizer) -> None:
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


def test_a_final_is_what_the_recognizer_says_of_its_sound(stepping: Recognizer) -> None:
    sound = long_and_short()
    for event in finals(events_of(stepping, sound)):
        alone = stepping.predict(sound[event.start : event.end])
        np.testing.assert_allclose(list(event.scores.values()), list(alone.scores.values()), atol=1e-5)


def test_crumbs_give_the_same_events_as_the_whole(stepping: Recognizer) -> None:
    sound = long_and_short()
    stream = Stream(stepping)
    crumbs = [event for first in range(0, len(sound), 777) for event in stream.push(sound[first : first + 777])]
    assert as_json([*crumbs, *stream.close()]) == as_json(events_of(stepping, sound))
