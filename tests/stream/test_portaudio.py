"""Our own part of the path to PortAudio, with a replacement for the library."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from stream_parts import until

from streamser.stream import portaudio
from streamser.stream.portaudio import InputDevice

DEVICE = InputDevice(0, "mic", "ALSA", 2, 48_000, True)


class StuckStream:
    """A stream whose server has died: it does not end before `answers` is set."""

    def __init__(self, **_: Any) -> None:
        self.closed = False
        self.samplerate = 48_000
        self.answers = threading.Event()

    def start(self) -> None:
        pass

    def abort(self, ignore_errors: bool) -> None:
        self.answers.wait()

    def close(self, ignore_errors: bool) -> None:
        self.closed = True


def test_a_stream_that_never_ends_is_abandoned_and_ends_when_it_can(caplog: pytest.LogCaptureFixture) -> None:
    line = portaudio._PortAudioLine(SimpleNamespace(InputStream=StuckStream), DEVICE, 48_000, 2, 20.0, 1.0)
    stream = line._stream
    began = time.monotonic()
    line.close()
    assert time.monotonic() - began < 1.0
    assert "abandoned" in caplog.text and not stream.closed
    assert portaudio._INSIDE  # so that the program's end does not wait for it either
    stream.answers.set()
    until(lambda: stream.closed and not portaudio._INSIDE)


def test_the_library_is_not_restarted_over_an_open_stream_but_over_one_that_was_never_opened() -> None:
    class Base:
        closed = False  # sounddevice's message for a stream that failed to open

    class Open(Base):
        samplerate = 48_000

    sd = SimpleNamespace(_StreamBase=Base)
    kept = [Base()]
    assert not portaudio._streams_in_use(sd)
    kept.append(Open())
    assert portaudio._streams_in_use(sd)
    kept[-1].closed = True
    assert not portaudio._streams_in_use(sd)
