"""One client's audio that waits for a worker thread: bounded, and joined into larger pieces when it piles up."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Literal, TypeAlias

from streamser.server.protocol import Lost

Message: TypeAlias = bytes | Lost | Literal["new_speaker"]
"""Audio, or a message at a position in the audio."""


class ReceiveQueue:
    """Messages that wait for a worker thread; when the queue is full, TCP back pressure makes the client wait."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._waiting: deque[tuple[Message, float]] = deque()
        self._bytes = 0
        self._closed = False
        self._changed = asyncio.Condition()

    async def put(self, message: Message) -> None:
        """Add a message, once there is room for it."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or self._bytes < self._limit_bytes)
            if self._closed:
                return
            self._waiting.append((message, time.monotonic()))
            self._bytes += _size(message)
            self._changed.notify_all()

    async def get(self, most_bytes: int) -> tuple[Message, float] | None:
        """The waiting audio, joined up to `most_bytes`, and the arrival time of its last piece; None at the end."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or bool(self._waiting))
            if not self._waiting:
                return None
            message, arrived_s = self._take()
            if not isinstance(message, bytes):
                return message, arrived_s
            parts, size = [message], len(message)
            while self._waiting and isinstance(following := self._waiting[0][0], bytes):
                if (size := size + len(following)) > most_bytes:
                    break
                _, arrived_s = self._take()
                parts.append(following)
            self._changed.notify_all()
            return b"".join(parts), arrived_s

    def _take(self) -> tuple[Message, float]:
        message, arrived_s = self._waiting.popleft()
        self._bytes -= _size(message)
        self._changed.notify_all()
        return message, arrived_s

    async def close(self, *, forget: bool = False) -> None:
        """Accept no more messages; those that wait can still be taken, unless `forget` drops them."""
        async with self._changed:
            self._closed = True
            if forget:
                self._waiting.clear()
            self._changed.notify_all()


def _size(message: Message) -> int:
    return len(message) if isinstance(message, bytes) else 64
