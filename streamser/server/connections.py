"""Bound the open connections, and the time until a request's header is complete."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from streamser.server.metrics import Metrics

__all__ = ["ConnectionLimit"]

_TRIES = 8  # a client may take this many times `header_timeout_s` to read a response
_BUSY_BODY = b'{"error": {"code": "too_many_connections", "message": "all connections are in use; try again later"}}'
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json; charset=utf-8\r\nRetry-After: 5\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(_BUSY_BODY), _BUSY_BODY)
)


class ConnectionLimit:
    """A protocol factory for `loop.create_server` that wraps another one.

    A connection is idle until `begin` is called for it and after `end`. Idle connections are closed after
    `header_timeout_s`. When `most` connections are open, the oldest idle one gives way to a new one; when none is idle,
    the new one gets HTTP status 503.
    """

    def __init__(
        self, make_protocol: Callable[[], asyncio.Protocol], metrics: Metrics, *, most: int, header_timeout_s: float
    ) -> None:
        self.most = most
        self.header_timeout_s = header_timeout_s
        self._make_protocol = make_protocol
        self._metrics = metrics
        self._idle: dict[asyncio.BaseTransport, asyncio.TimerHandle] = {}  # the oldest first
        self._busy: set[asyncio.BaseTransport] = set()

    def __call__(self) -> asyncio.Protocol:
        return _Limited(self, self._make_protocol())

    def __len__(self) -> int:
        return len(self._idle) + len(self._busy)

    def admit(self, transport: asyncio.Transport) -> bool:
        """Count a new connection; False when it was refused."""
        if len(self) >= self.most:
            if not self._idle:
                self._metrics.count("streamser_refusals_total", reason="too_many_connections")
                transport.write(_BUSY)
                transport.close()
                return False
            self._drop(next(iter(self._idle)), "too_many_connections")
        self._wait(transport)
        return True

    def begin(self, transport: asyncio.BaseTransport | None) -> None:
        """A request's header is complete: its connection is busy."""
        if transport is not None and (timer := self._idle.pop(transport, None)) is not None:
            timer.cancel()
            self._busy.add(transport)

    def end(self, transport: asyncio.BaseTransport | None) -> None:
        """The response was sent: the connection waits for the next request."""
        if transport in self._busy:
            self._busy.discard(transport)
            self._wait(transport)

    def leave(self, transport: asyncio.BaseTransport) -> None:
        """The connection is closed."""
        self._busy.discard(transport)
        if (timer := self._idle.pop(transport, None)) is not None:
            timer.cancel()

    def _wait(self, transport: asyncio.BaseTransport, tries: int = _TRIES) -> None:
        loop = asyncio.get_running_loop()
        self._idle[transport] = loop.call_later(self.header_timeout_s, self._expire, transport, tries)

    def _expire(self, transport: asyncio.BaseTransport, tries: int) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's transport is not a subclass
        if tries > 1 and transport.get_write_buffer_size():  # a long response to a slow reader
            self._wait(transport, tries - 1)
        else:
            self._drop(transport, "header_timeout")

    def _drop(self, transport: asyncio.BaseTransport, reason: str) -> None:
        self._metrics.count("streamser_refusals_total", reason=reason)
        self.leave(transport)
        cast(asyncio.Transport, transport).abort()


class _Limited(asyncio.Protocol):
    """Passes everything to the wrapped protocol, unless the connection was refused."""

    def __init__(self, limit: ConnectionLimit, inner: asyncio.Protocol) -> None:
        self._limit = limit
        self._inner = inner
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        if self._limit.admit(transport):
            self._transport = transport
            self._inner.connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport is not None:
            self._limit.leave(self._transport)
            self._inner.connection_lost(error)

    def data_received(self, data: bytes) -> None:
        if self._transport is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._transport is not None else None

    def pause_writing(self) -> None:
        if self._transport is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._inner.resume_writing()
