"""A queue that gives each waiting stream an equal share of the worker's time."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["FairQueue"]

S = TypeVar("S", bound=Hashable)
J = TypeVar("J")


class FairQueue(Generic[S, J]):
    """Jobs of many streams: each stream's jobs in order, the next job always from the stream that has used least time.

    Time that a stream did not use while it had no job is not saved up, so a stream that was idle cannot hold up the
    others later. A stream that uses less than its share is served next whenever it has a job, however many jobs of
    other streams wait.

    >>> queue = FairQueue[str, int]()
    >>> for stream, job in (("fast", 1), ("fast", 2), ("fast", 3), ("live", 4)):
    ...     queue.append(stream, job)
    >>> order = []
    >>> while queue:
    ...     stream, job = queue.pop()
    ...     queue.charge(stream, 0.02)
    ...     order.append(job)
    >>> order
    [1, 4, 2, 3]
    """

    def __init__(self) -> None:
        self._jobs: dict[S, deque[J]] = {}  # the waiting streams, in the order in which they began to wait
        self._used_s: dict[S, float] = {}
        self._clock_s = 0.0  # time used by the stream that was served last
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, stream: S, job: J) -> None:
        """Add the stream's next job."""
        if stream not in self._jobs:
            self._jobs[stream] = deque()
            self._used_s[stream] = max(self._used_s.get(stream, 0.0), self._clock_s)
        self._jobs[stream].append(job)
        self._length += 1

    def pop(self) -> tuple[S, J]:
        """The next job and its stream; IndexError when there is none."""
        if not self._jobs:
            raise IndexError("no job waits")
        stream = min(self._jobs, key=self._used_s.__getitem__)
        self._clock_s = self._used_s[stream]
        job = self._jobs[stream].popleft()
        self._shrink(stream)
        return stream, job

    def charge(self, stream: S, seconds: float) -> None:
        """Add the time that a job of this stream took."""
        if stream in self._used_s:
            self._used_s[stream] += seconds

    def remove(self, stream: S, job: J) -> None:
        """Remove a waiting job."""
        self._jobs[stream].remove(job)
        self._shrink(stream)

    def waiting(self, stream: S) -> list[J]:
        """The stream's jobs that wait, the oldest first."""
        return list(self._jobs.get(stream, ()))

    def forget(self, stream: S) -> None:
        """Remove a stream: drop its jobs and its used time."""
        self._length -= len(self._jobs.pop(stream, ()))
        self._used_s.pop(stream, None)

    def clear(self) -> None:
        """Drop all jobs."""
        self._jobs.clear()
        self._length = 0

    def _shrink(self, stream: S) -> None:
        self._length -= 1
        if not self._jobs[stream]:
            del self._jobs[stream]
