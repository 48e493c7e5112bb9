"""Measure how many live streams one process serves: push more and more streams until results are too late."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from streamser.audio import SAMPLE_RATE, Samples
from streamser.events import EmotionEvent, Event
from streamser.recognizer import Recognizer
from streamser.stream.pipeline import InferenceWorker, StreamConfig, WorkerStream

__all__ = ["Trial", "largest", "try_streams"]

LATE_MS = 150.0
"""Longest acceptable p95 of partial results, time to compute a final, and delay of pushed audio."""
_BLOCK = SAMPLE_RATE // 50


@dataclass(frozen=True, slots=True)
class Trial:
    """Measurements of a number of concurrent streams."""

    streams: int
    partials: int
    partials_dropped: int
    finals: int
    partial_p95_ms: float
    """Time from a window's last sample to its result."""
    slowest_final_ms: float
    """Time from the end of an utterance's closing silence to its final."""
    behind_ms: float
    """Delay of the slowest push of audio."""
    cpu_cores: float
    """CPU seconds per second, over all threads."""

    @property
    def in_time(self) -> bool:
        return max(self.partial_p95_ms, self.slowest_final_ms, self.behind_ms) <= LATE_MS and self.finals > 0


def try_streams(recognizer: Recognizer, audio: Samples, streams: int, seconds: float) -> Trial:
    """Push this number of streams in real time, each from another position in the audio."""
    config = StreamConfig()
    closing_ms = config.segmenter.end_silence_ms - config.segmenter.post_roll_ms
    partials: list[float] = []
    finals: list[float] = []

    def deliver(event: Event) -> None:
        if isinstance(event, EmotionEvent):
            (finals if event.final else partials).append(event.latency_ms - (closing_ms if event.final else 0.0))

    pcm = (np.clip(audio, -1, 1) * 32767).astype("<i2")
    starts = [number * len(pcm) // streams for number in range(streams)]
    behind_ms = 0.0
    with InferenceWorker(recognizer, config.pipeline) as worker:
        opened = [WorkerStream(worker, deliver, config, f"bench {number}") for number in range(streams)]
        began, cpu_s = time.perf_counter(), time.process_time()
        for block in range(int(seconds * 50)):
            due_s = began + (block + 1) * 0.02
            for stream, start in zip(opened, starts, strict=True):
                at = (start + block * _BLOCK) % (len(pcm) - _BLOCK)
                stream.push(pcm[at : at + _BLOCK].tobytes())
            now = time.perf_counter()
            behind_ms = max(behind_ms, (now - due_s) * 1000)
            time.sleep(max(0.0, due_s - now))
        cpu_s, took_s = time.process_time() - cpu_s, time.perf_counter() - began
        dropped = sum(stream.tally.partials_dropped for stream in opened)
    return Trial(
        streams=streams,
        partials=len(partials),
        partials_dropped=dropped,
        finals=len(finals),
        partial_p95_ms=float(np.percentile(partials or [0.0], 95)),
        slowest_final_ms=max(finals, default=0.0),
        behind_ms=behind_ms,
        cpu_cores=cpu_s / took_s,
    )


def largest(attempt: Callable[[int], Trial], most: int) -> dict[str, Any]:
    """The largest number of streams, up to `most`, that is served in time (to within 10 %), and all trials."""
    tried: dict[int, Trial] = {}

    def in_time(streams: int) -> bool:
        tried[streams] = tried.get(streams) or attempt(streams)
        return tried[streams].in_time

    good, bad = 0, most + 1
    count = min(4, most)
    while count < bad and in_time(count):
        good, count = count, min(2 * count, most)
        if good == most:
            break
    else:
        bad = min(bad, count)
    while bad - good > max(1, good // 10) and good < most:
        middle = (good + bad) // 2
        if in_time(middle):
            good = middle
        else:
            bad = middle
    return {"streams": good, "tried": [asdict(tried[count]) for count in sorted(tried)]}
