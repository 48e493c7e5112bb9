"""Slow down a client that sends more messages than a stream needs."""

from __future__ import annotations

__all__ = ["RateLimit"]

_BURST_S = 4.0


class RateLimit:
    """Counts messages against a steady rate; four seconds' worth of them may come at once.

    >>> limit = RateLimit(10, now_s=0.0)
    >>> [limit.pause_s(now_s=0.0) for _ in range(41)][-2:]
    [0.0, 0.1]
    """

    def __init__(self, per_s: float, now_s: float) -> None:
        self._each_s = 1.0 / per_s
        self._paid_s = now_s - _BURST_S  # time at which the last message would have come at the steady rate

    def pause_s(self, now_s: float) -> float:
        """Count one message; returns how long to wait before it is processed."""
        self._paid_s = max(self._paid_s, now_s - _BURST_S) + self._each_s
        return round(max(0.0, self._paid_s - now_s), 6)
