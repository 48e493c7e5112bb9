"""Where audio comes from: a microphone, files, or a host that pushes; each gives blocks on one sample clock.

Iterate a source, on one thread, for blocks and for the events of the source itself: a Gap where audio was lost,
SourceChanged when a microphone disappears or is back. Indexes never jump without a Gap.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from streamser.audio import SAMPLE_RATE, AudioBlock, Samples, made_finite, to_mono
from streamser.errors import AudioError, DeviceError
from streamser.events import Gap, SourceChanged
from streamser.stream.audiofiles import blocks, duration_s, expand, find_audio, read_pieces
from streamser.stream.bus import AudioQueue
from streamser.stream.clock import LaggingResampler, SampleClock
from streamser.stream.pcm import PCM16, Pcm, PcmConverter
from streamser.stream.portaudio import Chunk, Line, OpenLine, PatientLine, find_device, list_devices, open_line
from streamser.stream.sourcebase import Source, SourceConfig, SourceItem, no_wait
from streamser.stream.status import SourceState

__all__ = [
    "FilePlace",
    "MicSource",
    "PushSource",
    "Source",
    "SourceConfig",
    "SourceItem",
    "WavSource",
    "find_audio",
    "list_devices",
]

logger = logging.getLogger(__name__)

_POLL_S = 0.1  # if audio is later than this, the source checks whether it was closed
_CLOSE_WAITS_S = 0.1
_FAST_BLOCK = SAMPLE_RATE // 5
_FIRST_CHUNK_S = 3.0  # a device may need this long to start
_HELD_UP_S = 0.5  # a replay that lags by more than this does not catch up


class _Pushed(NamedTuple):
    """A block whose samples are not yet converted: the reader converts several at once, which is faster."""

    pcm: bytes
    start: int
    arrived_s: float

    def block(self) -> AudioBlock:
        return AudioBlock(to_mono(np.frombuffer(self.pcm, PCM16)), self.start, self.arrived_s)


class PushSource:
    """Audio that a host pushes, from any thread, in any chunk size, rate and type.

    With `live` a push never waits, and audio that is not taken in time is lost with a Gap; without `live`, a push waits
    for room.

    >>> import numpy as np
    >>> source = PushSource(sample_rate=8_000)
    >>> source.push(np.zeros(800, np.int16))
    >>> source.close()
    >>> sum(item.duration_s for item in source)
    0.1
    """

    overflows = 0

    def __init__(
        self,
        sample_rate: int = SAMPLE_RATE,
        channels: int = 1,
        *,
        live: bool = False,
        config: SourceConfig | None = None,
        description: str = "pushed audio",
    ) -> None:
        config = config or SourceConfig()
        self.live = live
        self.description = description
        self.state: SourceState = "waiting"
        self._converter = PcmConverter(sample_rate, channels)
        self.due_s: Callable[[], float] = no_wait
        self._queue = AudioQueue[AudioBlock | _Pushed](round(config.queue_s * SAMPLE_RATE), drops=live)
        self._block_samples = config.block_samples
        self._position = 0
        self._pushing = threading.Lock()

    def push(self, pcm: Pcm) -> None:
        """Add audio: bytes are 16-bit little-endian PCM, arrays are integers or floats."""
        with self._pushing:
            if self._queue.closed:
                raise ValueError("push: the source is closed")
            if self._converter.can_wait(pcm) and 0 < len(pcm) <= 2 * self._block_samples:
                samples = len(pcm) // 2
                self._queue.put(_Pushed(pcm, self._position, time.monotonic()), samples)
                self._position += samples
            else:
                self._put(self._converter.feed(pcm))

    def close(self) -> None:
        """End the audio; pushed audio is still processed."""
        # If the lock is not free in time, a push still waits for room, so the converter cannot be flushed.
        if self._pushing.acquire(timeout=_CLOSE_WAITS_S):
            try:
                if not self._queue.closed:
                    self._put(self._converter.flush())
            finally:
                self._pushing.release()
        self._queue.close()

    def __iter__(self) -> Iterator[SourceItem]:
        while not self._queue.finished:
            due_s = self.due_s()
            taken = self._queue.take(_POLL_S + due_s, round(due_s * SAMPLE_RATE))
            if taken is None:
                continue
            lost, item = taken
            block = item.block() if isinstance(item, _Pushed) else item
            self.state = "open"
            if lost:
                yield Gap(start=block.start - lost, length=lost, reason="queue_full")
            yield block
        self.state = "ended"

    def _put(self, samples: Samples) -> None:
        now = time.monotonic()
        for first in range(0, len(samples), self._block_samples):
            block = AudioBlock(samples[first : first + self._block_samples], self._position, now)
            self._position = block.end
            self._queue.put(block, len(block.samples))


class FilePlace(NamedTuple):
    """One file of a replay, and its position in the stream."""

    path: Path
    start: int
    """Sample index of its first sample."""


class WavSource:
    """Audio files as a stream: paced as a microphone would be (`speed` 1.0), or as fast as possible ("max").

    Several files, and all files of a folder in the order of their names, are one stream with a silence of
    `between_files_ms` between them. Any format that libsndfile or ffmpeg reads, at any rate; memory does not grow with
    the length.
    """

    live = False
    overflows = 0

    def __init__(
        self,
        paths: str | PathLike[str] | Sequence[str | PathLike[str]],
        *,
        speed: float | Literal["max"] = "max",
        config: SourceConfig | None = None,
    ) -> None:
        if speed != "max" and not (isinstance(speed, int | float) and 0 < speed < math.inf):
            raise ValueError(f"speed: a number above 0, or 'max', not {speed!r}")
        self.speed = speed
        self.state: SourceState = "waiting"
        self.places: tuple[FilePlace, ...] = ()
        """The files that have begun so far."""
        self._config = config or SourceConfig()
        several = [paths] if isinstance(paths, str | PathLike) else list(paths)
        self.files = tuple(file for path in several for file in expand(Path(fspath(path))))
        if not self.files:
            raise AudioError("no audio file to process")
        pauses = (len(self.files) - 1) * self._config.between_files_ms / 1000
        self.duration_s = pauses + sum(duration_s(file) for file in self.files)
        """Total length, from the files' headers."""
        # As fast as possible, longer blocks are less work; the events do not depend on them.
        self._block_samples = max(self._config.block_samples, _FAST_BLOCK if speed == "max" else 0)
        self._closed = threading.Event()
        self._position = 0
        self._began_s: float | None = None

    @property
    def description(self) -> str:
        others = f" and {len(self.files) - 1} more" if len(self.files) > 1 else ""
        return self.files[0].name + others

    def file_at(self, position: int) -> FilePlace | None:
        """The file that is played at a sample index; None before the first has begun."""
        return next((place for place in reversed(self.places) if place.start <= position), None)

    def close(self) -> None:
        self._closed.set()

    def __iter__(self) -> Iterator[SourceItem]:
        self.state = "open"
        for samples in self._reblocked():
            start, self._position = self._position, self._position + len(samples)
            arrived_s = self._pace(self._position)
            if self._closed.is_set():
                break
            yield AudioBlock(samples, start, arrived_s)
        self.state = "ended"

    def _reblocked(self) -> Iterator[Samples]:
        """Blocks of one fixed length; only a file's last one may be shorter."""
        self._position = 0
        pause = np.zeros(round(self._config.between_files_ms * SAMPLE_RATE / 1000), np.float32)
        for number, file in enumerate(self.files):
            if number:
                yield from blocks(iter([pause]), self._block_samples)
            self.places = (*self.places[:number], FilePlace(file, self._position))
            yield from blocks(read_pieces(file), self._block_samples)

    def _pace(self, end: int) -> float:
        """Wait until a microphone would have delivered the sample before index `end`; returns that time."""
        now = time.monotonic()
        if self.speed == "max":
            return now
        due_s = end / (SAMPLE_RATE * float(self.speed))
        if self._began_s is None or now - self._began_s - due_s > _HELD_UP_S:
            self._began_s = now - due_s  # paused, or the recognizer is slow: continue from here at the same pace
        self._closed.wait(max(0.0, self._began_s + due_s - now))
        return time.monotonic()


Loss = Literal["unplugged", "stalled"]


class MicSource:
    """A microphone, at any rate and channel count, on a sample clock that continues while the device is away.

    Audio lost by an overflow, a stall, a full queue or a pulled cable becomes a Gap of that length. If the microphone
    is lost, a SourceChanged reports it, and it is tried again with growing pauses until it can be opened.
    """

    live = True

    def __init__(self, config: SourceConfig | None = None, *, opener: OpenLine | None = None) -> None:
        self.config = config or SourceConfig()
        self.state: SourceState = "waiting"
        self.overflows = 0
        self.description = f"microphone {self.config.device}" if opener else str(find_device(self.config.device))
        self.due_s: Callable[[], float] = no_wait
        self._opener = opener or open_line
        self._closed = threading.Event()
        self._position = 0
        self._reported_s = 0.0  # the time up to which audio was given, or reported as lost
        self._loss: Loss = "unplugged"
        self._loss_reported = False
        self._pause_s = 0.0

    def close(self) -> None:
        self._closed.set()

    def __iter__(self) -> Iterator[SourceItem]:
        line: Line | None = self._open(again=False)  # a DeviceError at the first opening is raised to the caller
        self._reported_s = time.monotonic()
        while line is not None:
            try:
                loss = yield from self._read_line(line)
                if loss is not None:  # reported before the line is closed, since closing a hung device may block
                    self._loss = loss
                    yield from self._announce()
            finally:
                line.close()
            line = None if loss is None else (yield from self._wait_for_it())
        self.state = "ended"

    def _open(self, *, again: bool) -> Line:
        config = self.config
        return self._opener(
            config.device, config.sample_rate, config.channels, config.block_ms, config.queue_s, again=again
        )

    def _read_line(self, line: Line) -> Generator[SourceItem, None, Loss | None]:
        """Yield the line's blocks until it is lost, then return the reason, or until the source is closed."""
        clock, resampler = SampleClock(line.rate), LaggingResampler(line.rate)
        timeout_s = _FIRST_CHUNK_S
        silent_s = 0.0  # counted in polls: after this process was suspended, a clock would report a stall
        patient = line if isinstance(line, PatientLine) else None  # tested once: a test of a protocol takes 10 us
        while not self._closed.is_set():
            wait_s = _POLL_S
            if patient is not None:
                patient.enough_s = self.due_s()
                wait_s += patient.enough_s
            taken = line.take(wait_s)
            if taken is None:
                silent_s += wait_s
                if line.alive and silent_s < timeout_s:
                    continue
                yield from self._audio(resampler.flush(), self._reported_s)
                return "stalled" if line.alive else "unplugged"
            dropped, chunk = taken
            if self.state != "open":
                yield from self._greet(line, chunk)
            silent_s, timeout_s = 0.0, self.config.stall_ms / 1000
            self.overflows += chunk.overflowed
            clock.skip(dropped)
            missing = clock.arrived(len(chunk.pcm), chunk.arrived_s, overflowed=chunk.overflowed)
            if dropped or missing:
                yield from self._audio(resampler.flush(), self._reported_s)
                resampler = LaggingResampler(line.rate)
                yield from self._lose(dropped / line.rate, "queue_full")
                yield from self._lose(missing / line.rate, "overflow" if chunk.overflowed else "stalled")
            self._reported_s = chunk.arrived_s
            yield from self._audio(
                resampler.feed(made_finite(to_mono(chunk.pcm))[0]), chunk.arrived_s - resampler.delay_s
            )
        yield from self._audio(resampler.flush(), self._reported_s)
        return None

    def _greet(self, line: Line, chunk: Chunk) -> Iterator[SourceItem]:
        """The Gap and the SourceChanged before the first audio of a line that replaces a lost one."""
        another = line.description != self.description
        self.description = line.description
        if self.state == "lost":
            yield from self._lose(chunk.arrived_s - len(chunk.pcm) / line.rate - self._reported_s, self._loss)
            yield SourceChanged(state="back", at=self._position, detail=line.description, another=another)
        self.state = "open"

    def _announce(self) -> Iterator[SourceItem]:
        if self.state != "lost":
            self.state, self._pause_s, self._loss_reported = "lost", self.config.retry_first_ms / 1000, False
            yield SourceChanged(state="lost", at=self._position, detail=f"{self.description}: {self._loss}")
        yield from self._report_loss()

    def _report_loss(self) -> Iterator[Gap]:
        """Report the gap so far, once it is `stall_ms` long.

        The rest is reported when the microphone is back or the source is closed.
        """
        now = time.monotonic()
        if not self._loss_reported and now - self._reported_s >= self.config.stall_ms / 1000:
            yield from self._lose(now - self._reported_s, self._loss)
            self._reported_s, self._loss_reported = now, True

    def _wait_for_it(self) -> Generator[SourceItem, None, Line | None]:
        """Try to open the microphone again, with growing pauses; None once the source is closed."""
        while not self._closed.wait(self._pause_s):
            yield from self._report_loss()
            self._pause_s = min(2 * self._pause_s, self.config.retry_max_ms / 1000)
            try:
                return self._open(again=True)
            except DeviceError as error:
                logger.info("%s; trying again in %.2g s", error, self._pause_s)
        yield from self._lose(time.monotonic() - self._reported_s, self._loss)
        return None

    def _audio(self, samples: Samples, arrived_s: float) -> Iterator[AudioBlock]:
        if len(samples):
            block = AudioBlock(samples, self._position, arrived_s)
            self._position = block.end
            yield block

    def _lose(self, lost_s: float, reason: Literal["overflow", "queue_full", "unplugged", "stalled"]) -> Iterator[Gap]:
        length = round(lost_s * SAMPLE_RATE)
        if length > 0:
            yield Gap(start=self._position, length=length, reason=reason)
            self._position += length
