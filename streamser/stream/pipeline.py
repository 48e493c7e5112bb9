"""From audio to events: a Stream works in the caller's thread, a Listener has threads of its own.

    source -> segmenter thread (segments) -> queue -> worker thread (features, inference) -> bus -> you

Both run the same steps and count time in samples, so that a file replayed at any speed, pushed in small pieces, or
played to a microphone without losses gives the same events.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TypedDict

from streamser.audio import SAMPLE_RATE, AudioBlock
from streamser.bundle import DEFAULT_MODEL
from streamser.errors import explain
from streamser.events import EmotionEvent, Event, Gap, SourceChanged, StreamEnded
from streamser.recognizer import Recognizer, load
from streamser.stream.bus import Bus, Policy, Subscription
from streamser.stream.channel import Delivery, Stream, StreamConfig, WorkerStream
from streamser.stream.sourcebase import PatientSource
from streamser.stream.sources import MicSource, Source, SourceItem, WavSource
from streamser.stream.status import StreamStatus
from streamser.stream.worker import InferenceWorker, PipelineConfig

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "Callbacks",
    "InferenceWorker",
    "Listener",
    "PipelineConfig",
    "Stream",
    "StreamConfig",
    "StreamStatus",
    "WorkerStream",
    "listen",
    "replay",
]

logger = logging.getLogger(__name__)

CLOSE_S = 1.0
"""Longest time that close() takes."""

_WAKE_S = 0.25


class Callbacks(TypedDict, total=False):
    """Functions that get events as they arrive; each is optional."""

    on_final: Callable[[EmotionEvent], None] | None
    """Gets each final result."""
    on_partial: Callable[[EmotionEvent], None] | None
    """Gets each partial result."""
    on_event: Callable[[Event], None] | None
    """Gets every event."""


class Listener:
    """Events of a source, as a context manager, an iterator, an async iterator, or through callbacks.

    Callbacks run on the worker's thread and must be quick. An error on a thread becomes a StreamEnded with this error,
    and is raised again where the events are iterated, or at the end of the `with`.

    >>> with Listener(WavSource("spoken.wav"), recognizer) as events:
    ...     finals = [event for event in events if event.type == "emotion" and event.final]
    >>> len(finals)
    1
    """

    def __init__(
        self,
        source: Source,
        recognizer: Recognizer,
        config: StreamConfig | None = None,
        on_final: Callable[[EmotionEvent], None] | None = None,
        on_partial: Callable[[EmotionEvent], None] | None = None,
        on_event: Callable[[Event], None] | None = None,
        name: str = "main",
    ) -> None:
        self.source = source
        self.recognizer = recognizer
        self.config = config or StreamConfig()
        self.name = name
        self._on_final, self._on_partial, self._on_event = on_final, on_partial, on_event
        self._bus = Bus()
        # A replay waits for its reader. With callbacks there may be no reader: then nothing waits.
        called_back = on_final or on_partial or on_event
        policy: Policy = "drop" if source.live or called_back else "block"
        self._events = self._bus.subscribe(self.config.pipeline.waiting_events, policy)
        self._worker = InferenceWorker(recognizer, self.config.pipeline)
        self._stream = WorkerStream(
            self._worker, Delivery(self._deliver, on_error=self._fail, lossless=not source.live), self.config, name
        )
        if isinstance(source, PatientSource):
            source.due_s = self._stream.due_s
        self._segmenter_thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._paused = False
        self._stopping = False
        self._alive_s = 0.0  # time of stop(), or of the last event
        self._ended = False  # StreamEnded was published
        self._over = False  # StreamEnded was delivered to all callbacks and queues
        self._closed = False
        self._callback_failed = False
        self._skipped = 0  # samples that came while paused and were not yet reported as a gap
        self._pause_reported = False
        self._new_speaker = False  # another person speaks from the next block on
        self._managed = False  # inside a `with`
        self._changed = threading.Condition()

    # --- run

    def start(self) -> Listener:
        """Start the threads; entering the `with` or iterating does it too."""
        if self._segmenter_thread is None:
            self._worker.start()
            self._segmenter_thread = threading.Thread(target=self._run_source, name="streamser-segmenter", daemon=True)
            self._segmenter_thread.start()
        return self

    def stop(self) -> None:
        """End the source and return at once; the open utterance's final and StreamEnded follow."""
        with self._changed:
            self._stopping = True
            self._alive_s = time.monotonic()
            self._changed.notify_all()
        self.source.close()

    def close(self) -> None:
        """End within a second: the open utterance gets its final, and all threads end.

        Events that were not yet read can still be iterated.
        """
        if self._closed:
            return
        self._closed = True
        deadline = time.monotonic() + CLOSE_S
        self.stop()
        self._events.set_policy("drop")
        mine = threading.current_thread()
        if self._segmenter_thread is not None and self._segmenter_thread is not mine:
            self._segmenter_thread.join(max(0.0, deadline - time.monotonic()))
            if self._segmenter_thread.is_alive():
                logger.warning("%s hangs; its thread ends when the device responds", self.source.description)
        self._worker.close(max(0.05, deadline - time.monotonic()))
        if self._segmenter_thread is not None:
            # does nothing if the worker has published it
            self._publish(StreamEnded(stream=self.name, end=self._stream.position))
            self._mark_over()
        self._events.close()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the stream has ended, for programs that only use callbacks; False after the timeout."""
        self._events.set_policy("drop")  # no reader: the publisher must not wait
        self.start()
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while not self._over:
                remaining = _WAKE_S if deadline is None else deadline - time.monotonic()
                if remaining <= 0:
                    return False
                if self._is_blocked():
                    break
                self._changed.wait(min(remaining, _WAKE_S))
        if not self._over:
            self.close()
        return True

    def pause(self) -> None:
        """Pause. A microphone's time continues, and the missed audio is reported as a Gap; a file waits."""
        with self._changed:
            self._paused = True

    def resume(self) -> None:
        """Resume after `pause`."""
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    @property
    def adapts(self) -> bool:
        """Whether utterances are compared with the speaker's earlier ones."""
        return self.recognizer.relative is not None and self.config.pipeline.adapt

    def new_speaker(self) -> None:
        """Another person speaks from now on: the stream's own baseline is reset, the profile stays."""
        self._new_speaker = True

    def status(self) -> StreamStatus:
        """The present status."""
        return self._stream.status(
            device=self.source.description,
            source_state=self.source.state,
            overflows=self.source.overflows,
            events_dropped=self._events.dropped,
            paused=self._paused,
            recording=getattr(self.source, "recording", None),
        )

    def subscribe(self, maxsize: int = 1024, policy: Policy = "drop") -> Subscription:
        """Add a reader: a queue that gets every event from now on.

        `policy` applies when it is full: drop an event, or block the publisher.
        """
        return self._bus.subscribe(maxsize, policy)

    # --- read

    def __enter__(self) -> Listener:
        self._managed = True
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if kind is None:
            self._raise()

    async def __aenter__(self) -> Listener:
        self._managed = True
        return self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import asyncio

        await asyncio.to_thread(self.close)
        if kind is None:
            self._raise()

    def __iter__(self) -> Iterator[Event]:
        self._read()
        try:
            while not self._events.finished:
                event = self._events.get(_WAKE_S)
                if event is not None:
                    yield event
                elif self._is_blocked():
                    self.close()
        finally:
            if not self._managed:
                self.close()
        self._raise()

    async def __aiter__(self) -> AsyncIterator[Event]:
        import asyncio  # importing it takes longer than all of streamser.stream, and few programs need it

        loop, came = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(came.set)

        self._events.on_put = wake
        self._read()
        try:
            while not self._events.finished:
                came.clear()
                while (event := self._events.get(0)) is not None:
                    yield event
                if not self._events.finished:
                    with suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(came.wait(), CLOSE_S)
                    if self._is_blocked():
                        await asyncio.to_thread(self.close)
        finally:
            if not self._managed:
                self.close()
        self._raise()

    def _read(self) -> None:
        if not self.source.live and not self._stopping:
            self._events.set_policy("block")
        self.start()

    def _is_blocked(self) -> bool:
        """Whether no event has come for a second after `stop`: a device may hang and block the segmenter."""
        return self._stopping and time.monotonic() - self._alive_s > CLOSE_S

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    # --- on the worker's thread

    def _deliver(self, event: Event) -> None:
        self._alive_s = time.monotonic()
        self._publish(event)
        try:
            if not self._callback_failed:
                self._call_back(event)
        except BaseException:
            self._callback_failed = (
                True  # a callback that failed is not called for the StreamEnded that reports the failure
            )
            raise
        finally:
            if isinstance(event, StreamEnded):
                self._mark_over()

    def _call_back(self, event: Event) -> None:
        if isinstance(event, EmotionEvent):
            callback = self._on_final if event.final else self._on_partial
            if callback is not None:
                callback(event)
        if self._on_event is not None:
            self._on_event(event)

    def _publish(self, event: Event) -> None:
        if isinstance(event, StreamEnded):
            with self._changed:
                if self._ended:
                    return
                self._ended = True
        self._bus.publish(event)

    def _mark_over(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        self._error = self._error or error
        self.stop()

    # --- on the segmenter's thread

    def _run_source(self) -> None:
        """The segmenter thread: read the source until its end or an error."""
        try:
            for item in self.source:
                self._take(item)
            self._report_skipped()
            self._stream.close()
        except BaseException as error:  # also sys.exit() in a source: readers wait for the StreamEnded
            self._error = self._error or error
            self.source.close()
            self._end_with(error)

    def _take(self, item: SourceItem) -> None:
        with self._changed:
            while self._paused and not self.source.live and not self._stopping:
                self._changed.wait(_WAKE_S)
        if self._paused and self.source.live and not isinstance(item, SourceChanged):
            self._skip(item)
            return
        self._report_skipped()
        if self._new_speaker:
            self._new_speaker = False
            self._stream.new_speaker()
        if isinstance(item, AudioBlock):
            self._stream.feed(item)
        else:
            self._stream.note(item)

    def _skip(self, item: AudioBlock | Gap) -> None:
        """Count audio that came while paused; a gap is reported once it can end the utterance, the rest later."""
        self._skipped += len(item.samples) if isinstance(item, AudioBlock) else item.length
        if not self._pause_reported and self._skipped * 1000 > self.config.segmenter.bridge_gap_ms * SAMPLE_RATE:
            self._report_skipped()
            self._pause_reported = True

    def _report_skipped(self) -> None:
        if self._skipped:
            self._stream.note(Gap(start=self._stream.position, length=self._skipped, reason="paused"))
        self._skipped, self._pause_reported = 0, False

    def _end_with(self, error: BaseException) -> None:
        try:
            self._stream.close(explain(error))
        except Exception:
            logger.debug("the stream could not be flushed", exc_info=True)
            self._publish(StreamEnded(stream=self.name, end=self._stream.position, error=explain(error)))
            self._mark_over()


def listen(
    device: str | int | None = None,
    *,
    model: str | PathLike[str] | Recognizer = DEFAULT_MODEL,
    profile: str | PathLike[str] | None = None,
    config: StreamConfig | None = None,
    **callbacks: Unpack[Callbacks],
) -> Listener:
    """Listen to a microphone, by index or part of its name.

    with streamser.listen() as events:
        for event in events:
            print(event)
    """
    config = config or StreamConfig()
    source = MicSource(config.source if device is None else replace(config.source, device=device))
    return Listener(source, _recognizer(model, profile), config, **callbacks)


def replay(
    paths: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    speed: float | Literal["max"] = "max",
    model: str | PathLike[str] | Recognizer = DEFAULT_MODEL,
    profile: str | PathLike[str] | None = None,
    config: StreamConfig | None = None,
    **callbacks: Unpack[Callbacks],
) -> Listener:
    """Play audio files, or a folder of them, through the pipeline that a microphone uses.

    `speed` 1.0 is paced as a microphone would be, "max" as fast as possible; the events are the same.

        with streamser.replay("talk.wav") as events:
            finals = [event for event in events if event.type == "emotion" and event.final]
    """
    config = config or StreamConfig()
    source = WavSource(paths, speed=speed, config=config.source)
    return Listener(source, _recognizer(model, profile), config, **callbacks)


def _recognizer(model: str | PathLike[str] | Recognizer, profile: str | PathLike[str] | None) -> Recognizer:
    recognizer = model if isinstance(model, Recognizer) else load(model)
    return recognizer if profile is None else recognizer.with_profile(profile)
