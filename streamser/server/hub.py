"""Shared by all clients: the inference worker, threads for segmenting, stream names, counters, recordings."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from streamser.audio import SAMPLE_RATE
from streamser.errors import explain
from streamser.events import EVENT_VERSION, EmotionEvent, Event, StreamEnded
from streamser.recognizer import Recognizer
from streamser.server.audiostream import AudioStream
from streamser.server.checkpoints import Checkpoints, describe
from streamser.server.metrics import Metrics, process_gauges
from streamser.server.options import ServerConfig
from streamser.server.protocol import CLOSE_GOING_AWAY, CLOSE_INTERNAL, CLOSE_TRY_LATER, Refusal, without_paths
from streamser.server.recording import RecordingFolder
from streamser.server.sender import Sender
from streamser.stream.channel import Delivery, StreamConfig, WorkerStream
from streamser.stream.wavfile import RecordingError
from streamser.stream.worker import InferenceWorker

logger = logging.getLogger(__name__)

_AUDIO_THREADS = 4  # segmentation of one live stream takes well under a hundredth of a thread

# Figures of the worker and its engine, under their Prometheus names.
_WORKER_NAMES = {
    "busy_s": "streamser_worker_busy_seconds_total",
    "calls": "streamser_worker_calls_total",
    "compute_s": "streamser_engine_compute_seconds_total",
    "errors": "streamser_worker_errors_total",
    "partials_dropped": "streamser_worker_partials_skipped_total",
    "segments_judged": "streamser_worker_segments_total",
    "streams": "streamser_worker_streams",
    "waiting": "streamser_worker_waiting",
    "windows": "streamser_engine_windows_total",
}


class Hub:
    """Shared state of the server; created, used and closed on one event loop."""

    def __init__(self, recognizer: Recognizer, config: ServerConfig, stream: StreamConfig) -> None:
        self.recognizer = recognizer
        self.config = config
        self.metrics = Metrics()
        self.senders: set[Sender] = set()
        """One entry for every open WebSocket."""
        self.checkpoints = Checkpoints(recognizer, stream.pipeline)
        self.worker = self.checkpoints.own
        self.audio_threads = ThreadPoolExecutor(_AUDIO_THREADS, "streamser-audio")
        self._stream = stream
        self._recordings = RecordingFolder(config.record) if config.record else None
        self.draining = False
        """True once the server accepts no new clients and only finishes its streams."""
        self.end_soon: dict[Sender, Callable[[], object]] = {}
        """For each client that sends audio, a function that ends its stream as if the client had ended it."""
        self.files = 0
        """Number of requests to label a file in progress."""
        self._names: set[str] = set()
        self._count = itertools.count(1)
        self._began_s = time.monotonic()

    @property
    def is_recording(self) -> bool:
        return self._recordings is not None

    @property
    def is_busy(self) -> bool:
        """Whether a client still waits for results."""
        return bool(self.senders or self.files)

    def problems(self) -> list[str]:
        """The reasons that the server cannot work now, without secrets; empty when it can."""
        found = [] if self.worker.is_alive else ["inference: the worker has ended"]
        if self._recordings is not None and (problem := self._recordings.problem()) is not None:
            found.append(f"recording: {problem}")
        return found

    @property
    def uptime_s(self) -> float:
        return time.monotonic() - self._began_s

    @cached_property
    def version(self) -> str:
        try:
            return version("streamser")
        except PackageNotFoundError:  # run from a source tree that is not installed
            return "unknown"

    def describe(self, worker: InferenceWorker | None = None) -> dict[str, Any]:
        """The description of the checkpoint that every client gets."""
        recognizer = (worker or self.worker).recognizer
        return {"v": EVENT_VERSION, **describe(recognizer), "recording": self.is_recording}

    def open_stream(
        self,
        on_event: Callable[[Event], None],
        name: str | None,
        *,
        sample_rate: int = SAMPLE_RATE,
        channels: int = 1,
        lossless: bool = False,
        partials: bool = True,
        worker: InferenceWorker | None = None,
    ) -> AudioStream:
        """A new stream; `on_event` gets its events on the event loop, StreamEnded last."""
        name = self._free_name(name)
        loop = asyncio.get_running_loop()

        def arrive(event: Event) -> None:
            self.count(event)
            if isinstance(event, StreamEnded):
                self._names.discard(name)
                if event.error is not None:
                    event = replace(event, error=without_paths(event.error))
            on_event(event)

        def deliver(event: Event) -> None:  # on the worker's thread
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server was stopped
                loop.call_soon_threadsafe(arrive, event)

        try:
            recording = self._recordings.open(name) if self._recordings is not None else None
        except RecordingError as error:
            raise self.refusal_of(error, name) from error
        self._names.add(name)
        delivery = Delivery(deliver, lossless=lossless, partials=partials)
        stream = WorkerStream(worker or self.worker, delivery, self._stream, name)
        return AudioStream(stream, sample_rate, channels, recording)

    def _free_name(self, wanted: str | None) -> str:
        """The requested name, with a number if it is in use, so that the events of two streams stay separate."""
        if wanted is None:
            names: Iterable[str] = (f"client-{number}" for number in self._count)
        else:
            names = itertools.chain([wanted], (f"{wanted}-{number}" for number in itertools.count(2)))
        return next(name for name in names if name not in self._names)

    def count(self, event: Event) -> None:
        """Add an event to the metrics."""
        self.metrics.count("streamser_events_total", type=event.type)
        if isinstance(event, EmotionEvent):
            which = "final" if event.final else "partial"
            self.metrics.observe(f"streamser_{which}_latency_seconds", event.latency_ms / 1000)

    def gauges(self) -> dict[str, float]:
        """Current values for the metrics."""
        worker: Counter[str] = Counter()
        for each in self.checkpoints.workers:
            worker.update({name: value for name, value in each.metrics().items() if name in _WORKER_NAMES})
        return {
            "streamser_clients": len(self.senders),
            "streamser_recording": self.is_recording,
            "streamser_up_seconds": round(self.uptime_s, 1),
            **process_gauges(),
            **{_WORKER_NAMES[name]: value for name, value in worker.items()},
        }

    def refusal_of(self, error: Exception, stream: str) -> Refusal:
        """The message for a client about an internal error, without paths; the log has the whole error."""
        if isinstance(error, RecordingError):
            logger.error("stream %s: %s", stream, error)
            self.metrics.count("streamser_recording_failures_total")
            if self._recordings is not None:
                self._recordings.note(error)
            words = f"this server stores all audio and cannot store it now ({error.reason}); try again later"
            return Refusal("recording", words, CLOSE_TRY_LATER)
        logger.error("stream %s has failed", stream, exc_info=error)
        return Refusal("failed", without_paths(explain(error)), CLOSE_INTERNAL)

    def drain(self) -> None:
        """Accept no new client, and end every stream: its open utterance gets its final."""
        self.draining = True
        for end in list(self.end_soon.values()):
            end()

    def end_connections(self, *, spare_streams: bool = False) -> None:
        """Close clients because the server is being stopped, except those that wait for their last results."""
        for sender in list(self.senders):
            if not (spare_streams and sender in self.end_soon):
                sender.refuse(going_away())

    async def close(self) -> None:
        """Stop the threads; queued jobs that they do not finish in time are discarded."""
        self.audio_threads.shutdown(wait=False, cancel_futures=True)
        await self.checkpoints.close(0.3)


def going_away() -> Refusal:
    """The message to clients when the server is being stopped."""
    return Refusal("going_away", "the server is being stopped", CLOSE_GOING_AWAY)
