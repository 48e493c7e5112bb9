"""Microphones and the loudspeaker through PortAudio; the only file that imports sounddevice."""

from __future__ import annotations

import atexit
import gc
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from streamser.audio import SAMPLE_RATE, Resampler, Samples
from streamser.errors import DeviceError
from streamser.stream.bus import AudioQueue

__all__ = [
    "Chunk",
    "InputDevice",
    "Line",
    "OpenLine",
    "PatientLine",
    "Speaker",
    "find_device",
    "list_devices",
    "open_line",
]

logger = logging.getLogger(__name__)

# PortAudio is not thread-safe: only one thread at a time opens a stream or restarts the library.
_PORTAUDIO = threading.Lock()
_BUSY_S = 0.5  # longest wait for another thread, whose call may hang; the caller then tries again later
_LET_GO_S = 0.5  # longest wait for a stream to end
_INSIDE: set[int] = set()  # threads inside a call that hangs if the sound server hangs

_BAD_RATE, _BAD_CHANNELS = -9997, -9998  # paInvalidSampleRate, paInvalidChannelCount
_AHEAD_S = 0.15  # silence written ahead: the resampler gives audio in bursts of 50 ms
_USUAL_RATES = (48_000, 44_100, 16_000)


@dataclass(frozen=True, slots=True)
class InputDevice:
    """A microphone as PortAudio lists it."""

    index: int
    """Its place in the list, which changes when devices come and go."""
    name: str
    host: str
    """The audio system that offers it: ALSA, Core Audio, Windows WASAPI and so on."""
    channels: int
    sample_rate: int
    """Preferred rate in Hz."""
    is_default: bool

    def __str__(self) -> str:
        return f"{self.name} ({self.host})"


class Chunk(NamedTuple):
    """The audio of one callback."""

    pcm: NDArray[np.float32]
    """(frames, channels)"""
    arrived_s: float
    """time.monotonic in the callback."""
    overflowed: bool
    """True when PortAudio reports that audio before it was lost."""


class Line(Protocol):
    """An open microphone."""

    @property
    def rate(self) -> int:
        """Frames a second."""

    @property
    def description(self) -> str:
        """Description for people."""

    @property
    def alive(self) -> bool:
        """False once PortAudio has ended the stream."""

    def take(self, timeout_s: float) -> tuple[int, Chunk] | None:
        """Frames lost because the queue was full, and the next chunk; None when none came in time."""

    def close(self) -> None:
        """Close the device."""


@runtime_checkable
class PatientLine(Protocol):
    """A line whose `take` waits until enough audio has arrived."""

    enough_s: float
    """Seconds to wait for; after the timeout, `take` returns the audio that has arrived."""


class OpenLine(Protocol):
    """Opens a microphone, or raises DeviceError."""

    def __call__(
        self,
        device: str | int | None,
        rate: int | None,
        channels: int | None,
        block_ms: float,
        queue_s: float,
        *,
        again: bool,
    ) -> Line: ...


def list_devices() -> list[InputDevice]:
    """All microphones, as PortAudio listed them at its last start."""
    sd = _sounddevice()
    hosts = sd.query_hostapis()
    default = _default_index(sd)
    return [
        InputDevice(
            index,
            str(info["name"]),
            str(hosts[info["hostapi"]]["name"]),
            int(info["max_input_channels"]),
            round(info["default_samplerate"]),
            index == default,
        )
        for index, info in enumerate(sd.query_devices())
        if info["max_input_channels"] > 0
    ]


def find_device(wanted: str | int | None) -> InputDevice:
    """The microphone with this index, with this name, or with this in its name; None finds the default one."""
    devices = list_devices()
    listed = "; ".join(f"{device.index} {device.name}" for device in devices)
    if not devices:
        none = "no microphone found" if wanted is None else f"no microphone {wanted!r}, nor any other"
        raise DeviceError(f"{none}; plug one in, or replay a file: streamser replay FILE")
    if wanted is None:
        return next((device for device in devices if device.is_default), devices[0])
    if isinstance(wanted, int) or wanted.isdecimal():
        found = [device for device in devices if device.index == int(wanted)]
    else:
        name = wanted.casefold()
        found = [device for device in devices if device.name.casefold() == name]
        found = found or [device for device in devices if name in str(device).casefold()]
        # Windows lists a microphone once for each audio system: put the default microphone's system first.
        host = next((device.host for device in devices if device.is_default), devices[0].host)
        found.sort(key=lambda device: device.host != host)
    if not found:
        raise DeviceError(f"no microphone {wanted!r}; there are: {listed}")
    return found[0]


def open_line(
    device: str | int | None,
    rate: int | None,
    channels: int | None,
    block_ms: float,
    queue_s: float,
    *,
    again: bool,
) -> Line:
    """Open a microphone; `again` first rescans the devices, if no stream is open: an unplugged device may be back."""
    with _portaudio() as sd:
        if again and not _streams_in_use(sd):  # a restart would kill every other stream of this process
            try:
                sd._terminate()
            finally:
                sd._initialize()
        found = find_device(device)
        rates = [rate] if rate else list(dict.fromkeys([found.sample_rate, *_USUAL_RATES]))
        counts = [channels] if channels else list(dict.fromkeys([min(2, found.channels), 1, found.channels]))
        line: Line | None = None
        while line is None:
            line = _tried(sd, found, rates, counts, block_ms, queue_s)
        return line


def _tried(
    sd: Any, device: InputDevice, rates: list[int], counts: list[int], block_ms: float, queue_s: float
) -> Line | None:
    """Open the device at the first rate and channel count.

    If it refuses one of them, that value is removed from its list, and None is returned, so that the caller tries the
    next. DeviceError if it was the last value, or if the device fails otherwise.
    """
    try:
        return _PortAudioLine(sd, device, rates[0], counts[0], block_ms, queue_s)
    except sd.PortAudioError as error:
        code = error.args[1] if len(error.args) > 1 else 0
        rejected = {_BAD_RATE: rates, _BAD_CHANNELS: counts}.get(code, [])
        if len(rejected) < 2:
            asked = f"{rates[0]} Hz, {counts[0]} channel{'s' * (counts[0] > 1)}"
            raise DeviceError(f"cannot open {device} at {asked}: {_one_line(error)}") from error
        del rejected[0]
        return None


class _PortAudioLine:
    """A running InputStream; its callback checks the status, copies the samples and queues them."""

    def __init__(self, sd: Any, device: InputDevice, rate: int, channels: int, block_ms: float, queue_s: float) -> None:
        self.rate = rate
        self.enough_s = 0.0
        self.alive = True
        self.description = f"{device}, {rate} Hz" + (f", {channels} channels" if channels > 1 else "")
        self._queue = AudioQueue[Chunk](round(queue_s * rate), drops=True)
        self._stream = sd.InputStream(
            device=device.index,
            samplerate=rate,
            channels=channels,
            blocksize=round(block_ms * rate / 1000),
            dtype="float32",
            latency="low",
            callback=self._on_audio,
            finished_callback=self._finish,
        )
        try:
            self._stream.start()
        except BaseException:
            self._stream.close()
            raise

    def take(self, timeout_s: float) -> tuple[int, Chunk] | None:
        return self._queue.take(timeout_s, round(self.enough_s * self.rate))

    def close(self) -> None:
        # On another thread, because it may never return: libpulse deadlocks when its server dies at the wrong moment,
        # and a frozen server does not respond. Such a stream is abandoned, so that code waiting for the microphone
        # continues.
        ending = threading.Thread(target=self._end, name="streamser-mic-end", daemon=True)
        ending.start()
        ending.join(_LET_GO_S)
        if ending.is_alive():
            logger.warning("%s: the sound system does not close it; it is abandoned", self.description)

    def _end(self) -> None:
        with _inside():
            self._stream.abort(ignore_errors=True)
            self._stream.close(ignore_errors=True)

    def _on_audio(self, pcm: NDArray[np.float32], frames: int, _time: Any, status: Any) -> None:
        self._queue.put(Chunk(pcm.copy(), time.monotonic(), bool(status.input_overflow)), frames)

    def _finish(self) -> None:
        self.alive = False
        self._queue.close()


class Speaker:
    """The default loudspeaker; DeviceError when there is none."""

    def __init__(self) -> None:
        with _portaudio() as sd:
            try:
                info = sd.query_devices(kind="output")
                rate = int(info["default_samplerate"])
                self._stream = sd.OutputStream(samplerate=rate, channels=1, dtype="float32", latency=2 * _AHEAD_S)
                self._stream.start()
            except (ValueError, sd.PortAudioError) as error:
                raise DeviceError(f"no loudspeaker: {_one_line(error)}") from error
        self.description = str(info["name"])
        self._resampler = Resampler(SAMPLE_RATE, rate)
        self._most = rate  # at most a second is queued for a device that plays nothing
        self._waiting: Samples = np.zeros(round(_AHEAD_S * rate), np.float32)

    def play(self, samples: Samples) -> None:
        """Queue 16 kHz audio without waiting; at most a second is queued, and the oldest audio beyond it is dropped."""
        self._waiting = np.concatenate([self._waiting, self._resampler.feed(samples)])[-self._most :]
        ready = min(len(self._waiting), self._stream.write_available)
        if ready:
            self._stream.write(self._waiting[:ready])
            self._waiting = self._waiting[ready:]

    def close(self) -> None:
        """Close the device; queued audio is discarded."""
        with _inside():
            self._stream.abort(ignore_errors=True)
            self._stream.close(ignore_errors=True)


def _sounddevice() -> Any:
    """The module sounddevice, imported only when it is used: importing it starts PortAudio."""
    try:
        import sounddevice
    except OSError as error:
        way_out = {
            "linux": "install it with: sudo apt install libportaudio2 (Fedora: sudo dnf install portaudio)",
            "darwin": "install it with: brew install portaudio",
        }.get(sys.platform, "install it with: pip install --force-reinstall sounddevice")
        raise DeviceError(f"the PortAudio library is missing; {way_out}") from error
    atexit.unregister(_let_exit)
    atexit.register(_let_exit)  # registered after sounddevice's handler, so that it runs before
    return sounddevice


def _let_exit() -> None:
    """Let the program end although a sound server hangs: sounddevice would wait in Pa_Terminate forever."""
    if _INSIDE:
        _sounddevice()._initialized = 0


@contextmanager
def _inside() -> Iterator[None]:
    thread = threading.get_ident()
    _INSIDE.add(thread)
    try:
        yield
    finally:
        _INSIDE.discard(thread)


def _default_index(sd: Any) -> int:
    try:
        return int(sd.query_devices(kind="input")["index"])
    except (sd.PortAudioError, ValueError):  # there is no default input
        return -1


@contextmanager
def _portaudio() -> Iterator[Any]:
    sd = _sounddevice()
    if not _PORTAUDIO.acquire(timeout=_BUSY_S):
        raise DeviceError("another microphone is being opened, and the sound system does not respond")
    try:
        with _inside():
            yield sd
    finally:
        _PORTAUDIO.release()


def _streams_in_use(sd: Any) -> bool:
    """Whether any stream of this process is open, ours or the host program's; sounddevice keeps no list of them.

    A stream that was never opened has no sample rate, although it does not report to be closed; an abandoned stream
    stays open, and restarting the library would wait for it.
    """
    base: type = sd._StreamBase
    streams = [thing for thing in gc.get_objects() if issubclass(type(thing), base)]
    return any(hasattr(stream, "samplerate") and not stream.closed for stream in streams)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
