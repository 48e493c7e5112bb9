"""A stream's status: seconds of audio, events, drops, gaps and latencies."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

from streamser.audio import SAMPLE_RATE
from streamser.events import EmotionEvent, Event, Gap, SpeechEnded
from streamser.stream.segmenter import State

__all__ = ["SourceState", "StreamStatus", "Tally", "percentile"]

SourceState = Literal["waiting", "open", "lost", "ended"]
"""State of the source: no audio yet, running, lost or stalled, ended."""

_REMEMBERED = 256  # number of latencies kept: about a minute of partials, so that the figures follow the machine's load


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatus:
    """The status of a stream at one moment."""

    stream: str
    position_s: float
    """Seconds of audio since the stream began, lost audio included."""
    level_db: float
    """Present level: RMS in dB of full scale."""
    vad_state: State
    source_state: SourceState
    device: str
    """Where the audio comes from, for people."""
    model: str
    engine: str
    """Engine and processor, as "onnx on cpu"."""
    finals: int
    partials: int
    partials_dropped: int
    """Partial results that were replaced by newer ones because the recognizer was busy."""
    events_dropped: int
    """Events dropped because the iterating program was too slow."""
    latency_p50_ms: float
    """Time from the completion of a segment to its event: waiting and computing. Median of the last 256."""
    latency_p95_ms: float
    final_latency_p50_ms: float
    """Time from an utterance's last sample to its final: the end silence, waiting and computing."""
    gaps: int
    """Gaps in the audio, without those that the user made by pausing."""
    lost_ms: float
    """Audio lost in those gaps."""
    overflows: int
    """How often the audio system reported lost audio."""
    paused: bool
    recording: str | None
    """File that the audio is written to, if the user asked for it."""


class Tally:
    """Counts a stream's events; one thread writes, any thread reads."""

    def __init__(self) -> None:
        self.finals = 0
        self.partials = 0
        self.partials_dropped = 0
        self.utterances = 0
        self.gaps = 0
        self.lost_samples = 0
        self.latencies_ms: deque[float] = deque(maxlen=_REMEMBERED)
        self.final_latencies_ms: deque[float] = deque(maxlen=_REMEMBERED)

    @property
    def lost_ms(self) -> float:
        return round(self.lost_samples * 1000 / SAMPLE_RATE, 2)

    def count(self, event: Event, waited_ms: float | None = None) -> None:
        """Count an outgoing event; `waited_ms` is the time since its segment was complete."""
        if isinstance(event, EmotionEvent):
            if waited_ms is not None:
                self.latencies_ms.append(waited_ms)
            if event.final:
                self.finals += 1
                self.final_latencies_ms.append(event.latency_ms)
            else:
                self.partials += 1
        elif isinstance(event, SpeechEnded):
            self.utterances += 1
        elif isinstance(event, Gap) and event.reason != "paused":
            self.gaps += 1
            self.lost_samples += event.length


def percentile(values: deque[float], share: float) -> float:
    """The `share` quantile of the values (0.5: the median, the upper one of two); 0 without values.

    >>> percentile(deque([3.0, 1.0, 2.0]), 0.5)
    2.0
    """
    for _ in range(3):  # another thread may append meanwhile
        try:
            ordered = sorted(values)
            break
        except RuntimeError:
            continue
    else:
        return 0.0
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) if ordered else 0.0
