"""Recordings, simple sources and simple engines for tests of streams."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from makers import babble, silence

from streamser.audio import AudioBlock, Samples
from streamser.engines import Engine
from streamser.events import EmotionEvent, Event
from streamser.features import Frames
from streamser.recognizer import Recognizer
from streamser.stream.sources import SourceItem
from streamser.stream.status import SourceState


def two_utterances() -> Samples:
    """Two utterances of 1.4 and 1.8 s in a recording of 5.1 s."""
    return np.concatenate([silence(0.5), babble(1.4, seed=1), silence(0.8), babble(1.8, seed=2), silence(0.6)])


def as_json(events: Iterable[Event]) -> list[str]:
    """Events as lines of JSON, without the latency, which differs between replays."""
    rows = [event.to_dict() for event in events]
    return [json.dumps({key: value for key, value in row.items() if key != "latency_ms"}) for row in rows]


def finals(events: Iterable[Event]) -> list[EmotionEvent]:
    return [event for event in events if isinstance(event, EmotionEvent) and event.final]


def partials(events: Iterable[Event]) -> list[EmotionEvent]:
    return [event for event in events if isinstance(event, EmotionEvent) and not event.final]


def until(condition: Callable[[], bool], deadline_s: float = 10.0) -> None:
    """Wait until other threads or devices make the condition true."""
    end = time.monotonic() + deadline_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < end, "the condition did not become true in time"
        pause.wait(0.005)


def streamser_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("streamser-")]


class ListSource:
    """Yields its items as fast as they are read."""

    overflows = 0
    description = "a list"

    def __init__(self, items: Iterable[SourceItem], *, live: bool = False) -> None:
        self.live = live
        self.state: SourceState = "open"
        self._items = items
        self._closed = False

    def __iter__(self) -> Iterator[SourceItem]:
        for item in self._items:
            if self._closed:
                break
            yield item

    def close(self) -> None:
        self._closed = True


def in_blocks(audio: Samples, length: int = 320) -> list[AudioBlock]:
    return [AudioBlock(audio[first : first + length], first, 0.0) for first in range(0, len(audio), length)]


class WrappedEngine:
    """An engine that calls `before` before each run, and keeps the batch sizes."""

    def __init__(self, engine: Engine, before: Callable[[], Any], compute: str = "cpu") -> None:
        self.name = engine.name
        self.compute = compute
        self.batches: list[int] = []
        self._engine = engine
        self._before = before

    def run(self, frames: Frames) -> tuple[Frames, Frames]:
        self._before()
        self.batches.append(len(frames))
        return self._engine.run(frames)

    def metrics(self) -> dict[str, Any]:
        return self._engine.metrics()


def with_engine(
    recognizer: Recognizer, before: Callable[[], Any], compute: str = "cpu"
) -> tuple[Recognizer, WrappedEngine]:
    """The recognizer on a `WrappedEngine`, which calls `before` before each run; returns both."""
    engine = WrappedEngine(recognizer.engine, before, compute)
    return Recognizer(recognizer.bundle, engine), engine
