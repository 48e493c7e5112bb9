"""The sending half of a WebSocket: callers queue messages without waiting, and one task sends them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Callable
from typing import Any

from aiohttp import web

from streamser.server.metrics import Metrics
from streamser.server.options import ServerConfig
from streamser.server.protocol import CLOSE_DONE, CLOSE_SLOW_READER, Refusal
from streamser.server.sendqueue import SendQueue

logger = logging.getLogger(__name__)

# Results are small, and a larger buffer in the kernel would only hold outdated results.
_SEND_BUFFER_BYTES = 16 * 1024
_WRITE_BUFFER_BYTES = 8 * 1024
_CLOSE_PATIENCE_S = 0.5
_LAST_SEND_S = 0.05  # sending only fills a buffer, so it does not show whether the client reads
# aiohttp's own limit closes the connection within a message; this lower limit leaves time to send a reason.
_HARD_LIMIT = 16


def open_socket(config: ServerConfig) -> web.WebSocketResponse:
    """A WebSocket for small messages: compression would cost a third of a megabyte and much time for each client."""
    return web.WebSocketResponse(
        max_msg_size=_HARD_LIMIT * config.max_message_bytes,
        compress=False,
        timeout=_CLOSE_PATIENCE_S,
        writer_limit=_WRITE_BUFFER_BYTES // 2,
    )


class Sender:
    """Queue messages with `put`, end with `finish`, abort with `refuse`; `run` is the task that sends."""

    def __init__(
        self,
        ws: web.WebSocketResponse,
        transport: asyncio.Transport | None,
        config: ServerConfig,
        metrics: Metrics,
    ) -> None:
        self.queue = SendQueue(config.client_queue)
        self.refusal: Refusal | None = None
        self.on_refuse: Callable[[], object] = lambda: None
        """Called once when the client is refused; its reader must not use the socket afterwards."""
        self._ws = ws
        self._transport = transport
        self._timeout_s = config.send_timeout_s
        self._metrics = metrics
        if transport is not None:
            transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
            if (raw := transport.get_extra_info("socket")) is not None:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)

    def put(self, message: dict[str, Any], *, droppable: bool = False) -> None:
        """Queue a message; a client that does not read is refused here."""
        before = self.queue.dropped
        try:
            self.queue.put(message, droppable=droppable)
        except Refusal as refusal:
            self.refuse(refusal)
        self._metrics.count("streamser_dropped_total", self.queue.dropped - before)

    def refuse(self, refusal: Refusal) -> None:
        """Send the reason and close; waiting messages are sent first, unless the client does not read."""
        if self.refusal is not None:
            return
        self.refusal = refusal
        self._metrics.count("streamser_refusals_total", reason=refusal.code)
        logger.info("a client was refused: %s", refusal, extra={"fields": {"refusal": refusal.code}})
        if refusal.close_code == CLOSE_SLOW_READER:
            self.queue.clear()
        self.queue.close(refusal.to_dict())
        self.on_refuse()

    def finish(self) -> None:
        """Close after all waiting messages are sent."""
        self.queue.close()

    def hang_up(self) -> None:
        """The client has left: drop the waiting messages, except the reason for a refused client."""
        if self.refusal is None:
            self.queue.clear()
            self.queue.close()

    async def run(self) -> None:
        """Send the waiting messages until the end, then close the socket."""
        with contextlib.suppress(ConnectionError):  # the client has left, which its reader detects too
            try:
                await self._send(self._timeout_s)
            except asyncio.TimeoutError:
                self.refuse(
                    Refusal("slow_reader", f"the client read no message for {self._timeout_s:g} s", CLOSE_SLOW_READER)
                )
                with contextlib.suppress(asyncio.TimeoutError):
                    await self._send(_LAST_SEND_S)
            await self._close()

    async def _send(self, timeout_s: float) -> None:
        while (message := await self.queue.get()) is not None:
            await asyncio.wait_for(self._ws.send_str(json.dumps(message)), timeout_s)

    async def _close(self) -> None:
        """Close without waiting for a client that may never read; the last messages stay in the buffer for a while."""
        code, reason = CLOSE_DONE, ""
        if self.refusal is not None:
            code, reason = self.refusal.close_code, str(self.refusal)
        closing = self._ws.close(code=code, message=_fit(reason), drain=False)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(closing, 2 * _CLOSE_PATIENCE_S)
        if self._transport is not None:
            asyncio.get_running_loop().call_later(self._timeout_s, self._transport.abort)


def _fit(reason: str) -> bytes:
    """Cut a reason to the 123 bytes that a close frame may hold; the error message before it has the whole reason."""
    return reason.encode()[:123].decode(errors="ignore").encode()
