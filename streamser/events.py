"""The events of a stream: small frozen dataclasses, timed by sample index; `to_dict()` makes JSON values.

Every event carries `v` (the format's version), `type` and `stream`. Times are seconds since the stream
began, derived from sample indexes and never from a clock. Only `latency_ms` is wall time, and only it may
differ between two replays of the same audio.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from streamser.audio import SAMPLE_RATE

EVENT_VERSION = 1
"""Version of the event format. It is increased when a program for the old format could misread the new one; adding a
key does not increase it."""

UNCERTAIN = "uncertain"
"""Shown in place of the label when an event is uncertain; never a class name."""


def _seconds(samples: int) -> float:
    return round(samples / SAMPLE_RATE, 5)  # a sample lasts 0.0625 ms: with four decimals, two would have equal times


@dataclass(frozen=True, slots=True, kw_only=True)
class EventBase:
    """Base class of all events."""

    type: ClassVar[str] = "event"

    stream: str = "main"
    """Name of the stream it belongs to."""

    def to_dict(self) -> dict[str, Any]:
        """The event as JSON-ready values; the shape is in event_schema.json."""
        return {"v": EVENT_VERSION, "type": self.type, "stream": self.stream}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechStarted(EventBase):
    """An utterance has begun."""

    type: ClassVar[Literal["speech_started"]] = "speech_started"

    utterance: int
    """Counts the stream's utterances from 0."""
    start: int
    """Sample index of its onset, pre-roll included."""
    continues: bool = False
    """True when it is the next piece of an utterance that was cut at the maximum length."""

    @property
    def start_s(self) -> float:
        """`start` in seconds since the stream began."""
        return _seconds(self.start)

    def to_dict(self) -> dict[str, Any]:
        return {
            **EventBase.to_dict(self),
            "utterance": self.utterance,
            "start_s": self.start_s,
            "continues": self.continues,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EmotionEvent(EventBase):
    """The emotion of the utterance so far (`final` false), or of the whole utterance (`final` true)."""

    type: ClassVar[Literal["emotion"]] = "emotion"

    utterance: int
    seq: int
    """Counts the emotion events of this utterance from 0."""
    start: int
    """Sample index of the first sample scored."""
    end: int
    """Sample index one past the last sample scored."""
    final: bool
    label: str
    """The likeliest class, even if `uncertain`; show it only if the event is not uncertain."""
    scores: Mapping[str, float]
    """Calibrated probability of each class; they sum to 1."""
    confidence: float
    """Probability of `label`."""
    uncertain: bool
    """True if the confidence is below the threshold or the audio is heavily clipped; `label` is then only a guess."""
    baseline: Literal["none", "own", "profile"] = "none"
    """Baseline that was used: `none`, `own` (the stream's earlier utterances) or `profile` (a profile and these)."""
    baseline_utterances: int = 0
    """Number of utterances in that baseline."""
    latency_ms: float = field(default=0.0, compare=False)
    """Wall time from the arrival of the last sample scored to this event."""

    @property
    def start_s(self) -> float:
        """`start` in seconds since the stream began."""
        return _seconds(self.start)

    @property
    def end_s(self) -> float:
        """`end` in seconds since the stream began."""
        return _seconds(self.end)

    def to_dict(self) -> dict[str, Any]:
        return {
            **EventBase.to_dict(self),
            "utterance": self.utterance,
            "seq": self.seq,
            "start_s": self.start_s,
            "end_s": self.end_s,
            "final": self.final,
            "label": self.label,
            "scores": {name: round(float(score), 4) for name, score in self.scores.items()},
            "confidence": round(float(self.confidence), 4),
            "uncertain": self.uncertain,
            "baseline": self.baseline,
            "baseline_utterances": self.baseline_utterances,
            "latency_ms": round(float(self.latency_ms), 2),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechEnded(EventBase):
    """An utterance has ended; its final came before this event."""

    type: ClassVar[Literal["speech_ended"]] = "speech_ended"

    utterance: int
    start: int
    end: int
    reason: Literal["silence", "max_length", "stream_end", "gap"] = "silence"

    @property
    def start_s(self) -> float:
        """`start` in seconds since the stream began."""
        return _seconds(self.start)

    @property
    def end_s(self) -> float:
        """`end` in seconds since the stream began."""
        return _seconds(self.end)

    def to_dict(self) -> dict[str, Any]:
        return {
            **EventBase.to_dict(self),
            "utterance": self.utterance,
            "start_s": self.start_s,
            "end_s": self.end_s,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap(EventBase):
    """Audio that was lost; it counts in the timeline, so that later times stay correct."""

    type: ClassVar[Literal["gap"]] = "gap"

    start: int
    """Sample index of the first lost sample."""
    length: int
    """How many samples were lost."""
    reason: Literal["overflow", "queue_full", "unplugged", "stalled", "paused", "client"] = "overflow"

    @property
    def end(self) -> int:
        """Sample index one past the last lost sample."""
        return self.start + self.length

    @property
    def start_s(self) -> float:
        """`start` in seconds since the stream began."""
        return _seconds(self.start)

    @property
    def end_s(self) -> float:
        """`end` in seconds since the stream began."""
        return _seconds(self.end)

    def to_dict(self) -> dict[str, Any]:
        return {
            **EventBase.to_dict(self),
            "start_s": self.start_s,
            "end_s": self.end_s,
            "lost_ms": round(self.length * 1000 / SAMPLE_RATE, 2),
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceChanged(EventBase):
    """The microphone went away or came back."""

    type: ClassVar[Literal["source"]] = "source"

    state: Literal["lost", "back"]
    at: int
    """Sample index at which the change was detected."""
    detail: str = ""
    """Description for people: the device, and its message."""
    another: bool = False
    """True when it is another microphone than before."""

    @property
    def at_s(self) -> float:
        """`at` in seconds since the stream began."""
        return _seconds(self.at)

    def to_dict(self) -> dict[str, Any]:
        return {
            **EventBase.to_dict(self),
            "state": self.state,
            "at_s": self.at_s,
            "detail": self.detail,
            "another": self.another,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEnded(EventBase):
    """The last event of every stream."""

    type: ClassVar[Literal["stream_ended"]] = "stream_ended"

    end: int
    """Sample index one past the last sample received."""
    error: str | None = None
    """The error that ended the stream, or None."""

    @property
    def end_s(self) -> float:
        """`end` in seconds since the stream began."""
        return _seconds(self.end)

    def to_dict(self) -> dict[str, Any]:
        return {**EventBase.to_dict(self), "end_s": self.end_s, "error": self.error}


Event: TypeAlias = SpeechStarted | EmotionEvent | SpeechEnded | Gap | SourceChanged | StreamEnded
"""Any event. Type checkers narrow it by its type: after `if event.type == "emotion"`, it is an EmotionEvent."""


_KINDS: dict[str, type[Event]] = {kind.type: kind for kind in get_args(Event)}
_TYPES: dict[str, tuple[type, ...]] = {
    "utterance": (int,),
    "baseline": (str,),
    "baseline_utterances": (int,),
    "another": (bool,),
    "seq": (int,),
    "final": (bool,),
    "uncertain": (bool,),
    "continues": (bool,),
    "confidence": (int, float),
    "latency_ms": (int, float),
    "scores": (dict,),
    "error": (str, type(None)),
}
_LONGEST_S = 1e7  # four months: a longer stream is an error


def event_from_dict(data: Mapping[str, Any]) -> Event:
    """The event with these JSON values, the inverse of `to_dict`; ValueError if they are wrong.

    >>> event_from_dict({"type": "gap", "start_s": 1.0, "end_s": 1.5, "reason": "client"}).length
    8000
    >>> event_from_dict({"type": "speech_started", "start_s": 1.0})
    Traceback (most recent call last):
    ...
    ValueError: speech_started: the field 'utterance' is missing
    """
    kind = _KINDS.get(str(data.get("type")))
    if kind is None:
        raise ValueError(f"type must be one of {', '.join(_KINDS)}, not {data.get('type')!r:.40}")
    values: dict[str, Any] = {}
    for one in fields(kind):
        if one.name in ("start", "end", "at"):
            values[one.name] = _index(data, f"{one.name}_s", kind)
        elif one.name == "length":
            values["length"] = _index(data, "end_s", kind) - values["start"]
        elif one.name in data:
            values[one.name] = _typed(data[one.name], one.name, kind)
        elif one.default is MISSING and one.default_factory is MISSING:
            raise ValueError(f"{kind.type}: the field {one.name!r} is missing")
    event: Event = kind(**values)
    return event


def _index(data: Mapping[str, Any], name: str, kind: type[EventBase]) -> int:
    """A time in seconds as a sample index."""
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LONGEST_S:
        raise ValueError(
            f"{kind.type}: {name} must be a number of seconds from 0 to {_LONGEST_S:.0f}, not {value!r:.40}"
        )
    return round(value * SAMPLE_RATE)


def _typed(value: Any, name: str, kind: type[EventBase]) -> Any:
    types = _TYPES.get(name, (str, int, type(None)))
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise ValueError(f"{kind.type}: {name} cannot be {value!r:.40}")
    numbers: list[Any] = []
    if isinstance(value, dict):
        numbers = list(value.values())
    elif name in ("confidence", "latency_ms"):
        numbers = [value]
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        raise ValueError(f"{kind.type}: {name} has a value that is not a finite number")
    return value
