"""streamser's code around PortAudio, with a replacement for the library."""

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
    """A stream of a sound server that hangs: `abort` does not return before `answers` is set."""

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


def test_a_portaudio_stream_that_does_not_end_is_abandoned_and_closed_later(caplog: pytest.LogCaptureFixture) -> None:
    line = portaudio._PortAudioLine(SimpleNamespace(InputStream=StuckStream), DEVICE, 48_000, 2, 20.0, 1.0)
    stream = line._stream
    began = time.monotonic()
    line.close()
    assert time.monotonic() - began < 1.0
    assert "abandoned" in caplog.text and not stream.closed
    assert portaudio._INSIDE  # the stream is listed here, so the end of the program does not wait for it either
    stream.answers.set()
    until(lambda: stream.closed and not portaudio._INSIDE)


def test_portaudio_is_not_restarted_while_a_stream_is_open() -> None:
    class Base:
        closed = False  # also for a stream that failed to open, which has no sample rate

    class Open(Base):
        samplerate = 48_000

    sd = SimpleNamespace(_StreamBase=Base)
    kept = [Base()]
    assert not portaudio._streams_in_use(sd)
    kept.append(Open())
    assert portaudio._streams_in_use(sd)
    kept[-1].closed = True
    assert not portaudio._streams_in_use(sd)
