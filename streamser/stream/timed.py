"""Segment one stream: blocks and gaps in, segments and events out, each with the time its sound arrived."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from streamser.audio import AudioBlock, Segment
from streamser.events import Event, Gap, SourceChanged, StreamEnded
from streamser.stream.segmenter import Item, Segmenter

__all__ = ["TimedItem", "TimedSegmenter"]

_REMEMBERED_BLOCKS = 4096  # 80 s of 20 ms blocks: longer than any utterance may wait for its cut


class TimedItem(NamedTuple):
    """A segment or an event, and when the last sound it covers arrived (time.monotonic)."""

    item: Segment | Event
    arrived_s: float


class TimedSegmenter:
    """A Segmenter that also remembers when its sound arrived; starts no thread and decides nothing by the clock."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self._ends: deque[tuple[int, float]] = deque(maxlen=_REMEMBERED_BLOCKS)  # block's end, time of its arrival

    @property
    def position(self) -> int:
        """Index one past the last sample received or lost."""
        return self.segmenter.position

    def feed(self, block: AudioBlock, arrived_s: float | None = None) -> list[TimedItem]:
        """What this block brings."""
        self._ends.append((block.end, time.monotonic() if arrived_s is None else arrived_s))
        return self._timed(self.segmenter.feed(block))

    def note(self, event: Gap | SourceChanged) -> list[TimedItem]:
        """Lost sound, which may end an utterance, or news of the source; then the event itself."""
        items: Sequence[Item] = self.segmenter.gap(event.start, event.length) if isinstance(event, Gap) else ()
        return [*self._timed(items), TimedItem(replace(event, stream=self.segmenter.stream), time.monotonic())]

    def end(self, error: str | None = None) -> list[TimedItem]:
        """End the stream: close the open utterance and return the last events."""
        items = self.segmenter.flush()
        ended = StreamEnded(stream=self.segmenter.stream, end=self.position, error=error)
        return [*self._timed(items), TimedItem(ended, time.monotonic())]

    def _timed(self, items: Sequence[Item]) -> list[TimedItem]:
        return [
            TimedItem(item, self._arrival(item.end if isinstance(item, Segment) else self.position)) for item in items
        ]

    def _arrival(self, end: int) -> float:
        """When the sample before index `end` came in."""
        arrived_s = time.monotonic()
        for block_end, block_arrived_s in reversed(self._ends):
            if block_end < end:
                break
            arrived_s = block_arrived_s
        return arrived_s
