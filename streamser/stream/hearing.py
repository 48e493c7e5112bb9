"""The ear of one stream: blocks and gaps in, segments and events out, each with the time its sound came in."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from streamser.audio import AudioBlock, Segment
from streamser.events import Event, Gap, SourceChanged, StreamEnded
from streamser.stream.segmenter import Item, Segmenter

__all__ = ["Cue", "Ear"]

_REMEMBERED_BLOCKS = 4096  # 80 s of 20 ms blocks: longer than any utterance may wait for its cut


class Cue(NamedTuple):
    """Something the ear has to say, and when the last sound it speaks of came in (time.monotonic)."""

    item: Segment | Event
    heard_s: float


class Ear:
    """A segmenter that also keeps the wall time of what it hears; no thread, and the clock decides nothing."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self._ends: deque[tuple[int, float]] = deque(maxlen=_REMEMBERED_BLOCKS)  # block's end, time of its arrival

    @property
    def position(self) -> int:
        """Index one past the last sample heard or lost."""
        return self.segmenter.position

    def feed(self, block: AudioBlock, arrived_s: float | None = None) -> list[Cue]:
        """What this block brings."""
        self._ends.append((block.end, time.monotonic() if arrived_s is None else arrived_s))
        return self._cues(self.segmenter.feed(block))

    def note(self, event: Gap | SourceChanged) -> list[Cue]:
        """Lost sound, which may end an utterance, or news of the source; then the event itself."""
        items: Sequence[Item] = self.segmenter.gap(event.start, event.length) if isinstance(event, Gap) else ()
        return [*self._cues(items), Cue(replace(event, stream=self.segmenter.stream), time.monotonic())]

    def end(self, error: str | None = None) -> list[Cue]:
        """The stream is over: close the open utterance and say so."""
        items = self.segmenter.flush()
        ended = StreamEnded(stream=self.segmenter.stream, end=self.position, error=error)
        return [*self._cues(items), Cue(ended, time.monotonic())]

    def _cues(self, items: Sequence[Item]) -> list[Cue]:
        return [Cue(item, self._arrival(item.end if isinstance(item, Segment) else self.position)) for item in items]

    def _arrival(self, end: int) -> float:
        """When the sample before index `end` came in."""
        arrived_s = time.monotonic()
        for block_end, block_arrived_s in reversed(self._ends):
            if block_end < end:
                break
            arrived_s = block_arrived_s
        return arrived_s
