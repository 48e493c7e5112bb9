"""The interface of an audio source: its settings, its output, and the attributes that a Listener uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from streamser.audio import SAMPLE_RATE, AudioBlock
from streamser.events import Gap, SourceChanged
from streamser.settings import require
from streamser.stream.status import SourceState

__all__ = ["PatientSource", "Source", "SourceConfig", "SourceItem", "WrappedSource", "no_wait"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """Which microphone, and how long to wait when it stalls or is lost."""

    device: str | int | None = None
    """Microphone: number or part of the name, as `streamser devices` lists them; None uses the system's default."""
    sample_rate: int | None = None
    """Sample rate of the microphone in Hz; None uses the device's own. Audio is always resampled to 16 kHz."""
    channels: int | None = None
    """Number of channels; None uses one or two, depending on the device. Channels are averaged."""
    block_ms: float = 20.0
    """Length of one block of audio."""
    queue_s: float = 2.0
    """Longest audio that may wait to be segmented; beyond it, a live source drops the oldest and reports a Gap."""
    stall_ms: float = 500.0
    """A microphone that delivers no samples for this long counts as lost."""
    retry_first_ms: float = 250.0
    """Time before a lost microphone is opened again; it doubles with each attempt."""
    retry_max_ms: float = 2000.0
    """Longest time between two attempts."""
    between_files_ms: float = 1000.0
    """Silence between the files of a replay, so that utterances do not merge."""

    def __post_init__(self) -> None:
        rules = {
            "sample_rate: must be 4000 to 384000, or null": self.sample_rate is None
            or 4000 <= self.sample_rate <= 384_000,
            "channels: must be 1 to 64, or null": self.channels is None or 1 <= self.channels <= 64,
            "block_ms: must be 5 to 200": 5 <= self.block_ms <= 200,
            "queue_s: must be 0.2 to 60": 0.2 <= self.queue_s <= 60,
            "stall_ms: must be 200 to 10000, and at least five blocks": 200 <= self.stall_ms <= 10_000
            and self.stall_ms >= 5 * self.block_ms,
            "retry_first_ms: must be 50 to 10000": 50 <= self.retry_first_ms <= 10_000,
            "retry_max_ms: must be at least retry_first_ms": self.retry_max_ms >= self.retry_first_ms,
            "between_files_ms: must be 0 to 60000": 0 <= self.between_files_ms <= 60_000,
        }
        require(rules)

    @property
    def block_samples(self) -> int:
        return round(self.block_ms * SAMPLE_RATE / 1000)


SourceItem = AudioBlock | Gap | SourceChanged
"""An item of a source: audio, or an event of the source itself."""


def no_wait() -> float:
    """0: the source wakes its reader for each block (see `PatientSource.due_s`)."""
    return 0.0


@runtime_checkable
class PatientSource(Protocol):
    """A source that wakes its reader only when there is enough to do."""

    due_s: Callable[[], float]
    """Returns the seconds of audio that the source may keep before it wakes its reader; the reader sets it."""


class Source(Protocol):
    """Interface of a source for a Listener."""

    @property
    def live(self) -> bool:
        """True for a live source: overload drops partials, and pausing loses audio."""

    @property
    def description(self) -> str:
        """Description of the source, for people."""

    @property
    def state(self) -> SourceState:
        """The source's state."""

    @property
    def overflows(self) -> int:
        """Number of times that the audio system reported lost audio."""

    def __iter__(self) -> Iterator[SourceItem]:
        """Blocks and events until the audio ends or `close` is called."""

    def close(self) -> None:
        """End the iteration soon, from any thread."""


class WrappedSource:
    """A source around another one, with the other's attributes; a subclass iterates `self.inner`."""

    def __init__(self, inner: Source) -> None:
        self.inner = inner

    @property
    def live(self) -> bool:
        return self.inner.live

    @property
    def description(self) -> str:
        return self.inner.description

    @property
    def state(self) -> SourceState:
        return self.inner.state

    @property
    def overflows(self) -> int:
        return self.inner.overflows

    def close(self) -> None:
        self.inner.close()
