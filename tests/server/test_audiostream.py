"""A client's audio is held on the event loop until an event can be due; only then does it need a thread."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from makers import babble, silence

from streamser.audio import to_pcm16
from streamser.events import EmotionEvent, Event
from streamser.recognizer import Recognizer
from streamser.server.audiostream import AudioStream
from streamser.stream.channel import Delivery
from streamser.stream.pipeline import InferenceWorker, WorkerStream
from streamser.stream.wavfile import WavWriter


def events_of(recognizer: Recognizer, hold: bool) -> tuple[int, list[Event]]:
    """How many messages of 20 ms were held, and the events; a skip and the end follow audio that is held."""
    events: list[Event] = []
    held = 0
    pcm = to_pcm16(np.concatenate([silence(0.5), babble(1.4, seed=1), silence(0.8), babble(1.88, seed=2)]))
    with InferenceWorker(recognizer) as worker:
        stream = AudioStream(WorkerStream(worker, Delivery(events.append, lossless=True)))
        for number, at in enumerate(range(0, len(pcm), 320)):
            message = pcm[at : at + 320].tobytes()
            if hold and stream.hold(message, time.monotonic()):
                held += 1
            else:
                stream.feed(message, time.monotonic())
            if number == 77:
                stream.skip(800)
            assert stream.position_s == pytest.approx((320 * (number + 1) + 800 * (number >= 77)) / 16_000)
        stream.end()
    return held, events


def test_held_messages_give_the_same_events(recognizer: Recognizer) -> None:
    held, events = events_of(recognizer, hold=True)
    _, expected = events_of(recognizer, hold=False)
    assert held > 150 and sum(isinstance(event, EmotionEvent) and event.final for event in expected) == 2
    assert events == expected


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (16_000, 2)])
def test_audio_that_must_be_converted_first_is_not_held(recognizer: Recognizer, rate: int, channels: int) -> None:
    with InferenceWorker(recognizer) as worker:
        stream = AudioStream(WorkerStream(worker, print), rate, channels)
        stream.feed(bytes(640))
        assert not stream.hold(bytes(640), 0.0)
        stream.end()
        assert not stream.hold(bytes(640), 0.0)


def test_audio_that_is_recorded_is_not_held(recognizer: Recognizer, tmp_path: Path) -> None:
    with InferenceWorker(recognizer) as worker:
        stream = AudioStream(WorkerStream(worker, print), recording=WavWriter(tmp_path / "recorded.wav"))
        for _ in range(5):
            assert not stream.hold(to_pcm16(silence(0.02)).tobytes(), 0.0)
            stream.feed(to_pcm16(silence(0.02)).tobytes())
        stream.end()
