"""One client's waiting messages: bounded, oldest partials dropped first, finals kept until the client is refused."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from streamser.server.protocol import CLOSE_SLOW_READER, Refusal


class SendQueue:
    """Filled by the event loop, emptied by the client's writer task; `put` never waits.

    When `limit` messages wait, the oldest droppable one is dropped and counted; if none is droppable, the client does
    not read, and `put` raises the refusal.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.dropped = 0
        self._waiting: deque[tuple[dict[str, Any], bool]] = deque()
        self._droppable = 0
        self._closed = False
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, message: dict[str, Any], *, droppable: bool = False) -> None:
        """Queue a message; a droppable one may later give way to newer ones."""
        if self._closed:
            return
        if len(self._waiting) >= self.limit:
            if not self._droppable and droppable:  # only finals wait: the new message itself is dropped
                self.dropped += 1
                return
            self._drop_oldest()
        self._waiting.append((message, droppable))
        self._droppable += droppable
        self._changed.set()

    def _drop_oldest(self) -> None:
        if not self._droppable:
            raise Refusal(
                "slow_reader",
                f"{self.limit} results are waiting and none is read: read from the socket while you send",
                CLOSE_SLOW_READER,
            )
        oldest = next(index for index, (_, droppable) in enumerate(self._waiting) if droppable)
        del self._waiting[oldest]
        self._droppable -= 1
        self.dropped += 1

    async def get(self) -> dict[str, Any] | None:
        """Take the oldest message, waiting for one; None once the queue is closed and empty."""
        while not self._waiting:
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        message, droppable = self._waiting.popleft()
        self._droppable -= droppable
        return message

    def close(self, last: dict[str, Any] | None = None) -> None:
        """Accept nothing after `last`; waiting messages can still be taken."""
        if last is not None and not self._closed:
            self._waiting.append((last, False))
        self._closed = True
        self._changed.set()

    def clear(self) -> None:
        """Drop the waiting messages."""
        self._waiting.clear()
        self._droppable = 0
