"""Keep the newest samples of a stream, addressed by their index since it began."""

from __future__ import annotations

import numpy as np

from streamser.audio import Samples

__all__ = ["Ring"]


class Ring:
    """The last `capacity` samples; the oldest are overwritten, and lost samples are counted.

    >>> import numpy as np
    >>> ring = Ring(4)
    >>> ring.write(np.arange(6, dtype=np.float32), start=0)
    >>> ring.start, ring.end, ring.read(3, 6).tolist(), ring.lost(0, 6)
    (2, 6, [3.0, 4.0, 5.0], 2)
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity: at least 1 sample, not {capacity}")
        self.capacity = capacity
        self.end = 0
        """Index one past the newest sample."""
        self._buffer: Samples = np.zeros(capacity, np.float32)
        self._holes: list[tuple[int, int]] = []  # ranges never written, oldest first, within the last `capacity`

    @property
    def start(self) -> int:
        """Index of the oldest sample that can still be read."""
        return max(0, self.end - self.capacity)

    def write(self, samples: Samples, start: int) -> None:
        """Append samples that begin at index `start`; a jump ahead leaves a hole, which reads as silence."""
        if start < self.end:
            raise ValueError(f"start: {start} lies before {self.end}, the end of what was written")
        if start > self.end:
            self._holes.append((self.end, start))
            self._put(np.zeros(min(start - self.end, self.capacity), np.float32), start)
        self._put(samples, start + len(samples))
        while self._holes and self._holes[0][1] <= self.start:
            del self._holes[0]

    def read(self, start: int, end: int) -> Samples:
        """A copy of the samples from `start` up to `end`; IndexError when some are overwritten or not yet there."""
        if not self.start <= start <= end <= self.end:
            raise IndexError(f"the buffer has samples {self.start} to {self.end}, not {start} to {end}")
        first, length = start % self.capacity, end - start
        tail = self._buffer[first : first + length]
        return tail.copy() if len(tail) == length else np.concatenate([tail, self._buffer[: length - len(tail)]])

    def lost(self, start: int, end: int) -> int:
        """How many samples between `start` and `end` are overwritten, or lie in a hole."""
        overwritten = max(0, min(end, self.start) - start)
        start = max(start, self.start)
        return overwritten + sum(max(0, min(end, stop) - max(start, first)) for first, stop in self._holes)

    def _put(self, samples: Samples, end: int) -> None:
        samples = samples[-self.capacity :]
        first = (end - len(samples)) % self.capacity
        head = min(len(samples), self.capacity - first)
        self._buffer[first : first + head] = samples[:head]
        self._buffer[: len(samples) - head] = samples[head:]
        self.end = end
