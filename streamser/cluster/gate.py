"""One address for many servers: each connection is forwarded to one of them for as long as it lasts.

The gateway forwards bytes unchanged, so the protocol, the token, the limits and the pages are those of the servers. TCP
slows down a client that sends too fast or reads too slowly. If a server dies, the gateway sends the reason to its
clients and closes their connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from types import TracebackType
from typing import TypeAlias

from streamser.cluster.frames import Follower, closing_frames, unavailable
from streamser.errors import ConfigError
from streamser.handles import ACCEPTED_AT_ONCE, affordable_connections, widen_backlog
from streamser.server.options import ServerConfig
from streamser.server.security import check_bind

__all__ = ["Address", "Gate", "Pick"]

logger = logging.getLogger(__name__)

Address: TypeAlias = tuple[str, int]
Pick: TypeAlias = Callable[[], AsyncGenerator[Address, None]]
"""Yields a server's address and reserves a place there until the caller closes the generator.

If the server dies, the generator ends or raises.
"""

_PATIENCE_S = 20.0  # longest wait for a server with room: a new server starts within this time
_BUFFER_BYTES = 16 * 1024  # the kernel's buffers are small, so that old results wait at the server, which can drop them
_WRITE_BYTES = 8 * 1024
_POLL_S = 0.02
_CLOSE_S = 2.0
_BEFORE_BYTES = 64 * 1024  # read at most this much of a request until it has a server
_LOST = "the process that served this connection has ended; connect again to continue"


class Gate:
    """Listens on the configuration's address until closed; an async context manager."""

    def __init__(
        self, config: ServerConfig, pick: Pick, drain: Callable[[], Awaitable[None]], most: int | None = None
    ) -> None:
        check_bind(config)
        self.config = config
        self.port = config.port
        """The port that the gateway listens on; if the configuration has port 0, it is set by `start`."""
        self.most = most or config.max_connections
        """Largest number of open connections."""
        self.pick = pick
        self._drain = drain
        self.connections: set[Connection] = set()

    @property
    def url(self) -> str:
        """URL of the page."""
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"http://{host}:{self.port}/"

    async def start(self) -> Gate:
        """Listen on the address; ConfigError if that is not possible."""
        self.most = affordable_connections(self.most, handles_each=2)
        try:
            self._listening = await asyncio.get_running_loop().create_server(
                lambda: Connection(self), self.config.host, self.config.port, backlog=ACCEPTED_AT_ONCE
            )
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"server.port: cannot listen on {self.config.host}:{self.config.port} ({error})"
            ) from error
        widen_backlog(self._listening)
        self.port = self._listening.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        """Accept no new connections, give the servers `drain_s` to send the last results, and close."""
        self._listening.close()
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self.config.drain_s
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._drain(), max(0.1, self.config.drain_s))
        while any(one.is_streaming for one in self.connections) and loop.time() < deadline_s:
            await asyncio.sleep(_POLL_S)
        for one in list(self.connections):
            one.end()
        while self.connections and loop.time() < deadline_s + _CLOSE_S:
            await asyncio.sleep(_POLL_S)
        if waiting := [one.routing for one in self.connections if one.routing is not None]:
            await asyncio.wait(waiting, timeout=_CLOSE_S)

    async def __aenter__(self) -> Gate:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Connection(asyncio.Protocol):
    """The client's side of a connection; it owns the server's side."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._before = b""
        self._server: _ServerSide | None = None
        self.routing: asyncio.Task[None] | None = None
        """Finds a server and reserves a place there until the connection ends."""
        self.follower = Follower()
        self.asked = False
        """True from the client's bytes until the server's next bytes: a response is due."""
        self._over = False

    @property
    def is_streaming(self) -> bool:
        """Whether the connection is an open WebSocket."""
        return self.follower.upgraded and not self._over

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=_WRITE_BYTES)
        if (raw := transport.get_extra_info("socket")) is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        if len(self._gate.connections) >= self._gate.most:
            self._close_with(unavailable("too_many_connections", "all connections are in use; try again later"))
            return
        self._gate.connections.add(self)
        self._timer = asyncio.get_running_loop().call_later(self._gate.config.header_timeout_s, self.end)

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        self.asked = True
        if self._server is not None:
            self._server.transport.write(data)
            return
        self._before += data
        if self.routing is None:  # only now: a connection without a request needs no server
            self._timer.cancel()
            self.routing = asyncio.ensure_future(self._route())
        if len(self._before) > _BEFORE_BYTES:
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        if self._server is not None and not self._server.transport.is_closing():
            self._server.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._server is not None and not self._server.transport.is_closing():
            self._server.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._finish()
        self._gate.connections.discard(self)

    def end(self) -> None:
        """Close both sides, after the waiting bytes were sent to the client."""
        if not self._over:
            self._close_with(b"")

    def take(self, data: bytes) -> None:
        """Forward bytes from the server to the client."""
        self.follower.feed(data)
        self.asked = False
        if not self._over:
            self.transport.write(data)

    def server_left(self) -> None:
        """The server closed the connection or died: close the client, with a reason unless the server gave one."""
        if self._over:
            return
        if self.follower.upgraded and not self.follower.closed:
            logger.warning("a connection was lost because its server process ended")
            self._close_with(closing_frames("replica_lost", _LOST) if self.follower.between_frames else b"")
        elif self.asked:
            self._close_with(unavailable("replica_lost", _LOST))
        else:
            self._close_with(b"")

    def _close_with(self, last: bytes) -> None:
        """Send `last` to the client, and close both sides."""
        self._finish()
        self.transport.write(last)
        self.transport.close()
        asyncio.get_running_loop().call_later(_CLOSE_S, self.transport.abort)  # in case the client does not read

    def _finish(self) -> None:
        self._over = True
        if hasattr(self, "_timer"):
            self._timer.cancel()
        if self._server is not None:
            self._server.transport.close()
        if self.routing is not None:
            self.routing.cancel()

    async def _route(self) -> None:
        """Find a server with room, connect to it, and keep the place until the connection ends or the server dies."""
        held = self._gate.pick()
        try:
            async with contextlib.aclosing(held):
                await asyncio.wait_for(self._connect(held), _PATIENCE_S)
                async for _ in held:
                    pass
        except (OSError, asyncio.TimeoutError, StopAsyncIteration) as error:
            logger.warning("no server for a connection: %r", error)
        except Exception as error:  # any error of the cluster
            logger.warning("a server of this connection has ended: %r", error)
        if self._over:
            return
        if self._server is None:
            self._close_with(unavailable("busy", "no server has room for this connection now; try again later"))
        else:
            self.server_left()

    async def _connect(self, held: AsyncGenerator[Address, None]) -> None:
        host, port = await anext(held)
        side = await _open(self, host, port)
        if self._over:
            side.transport.close()
            return
        self._server = side
        side.transport.write(self._before)
        self._before = b""
        self.transport.resume_reading()


class _ServerSide(asyncio.Protocol):
    """The server's side of a connection."""

    transport: asyncio.Transport

    def __init__(self, client: Connection) -> None:
        self._client = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._client.take(data)

    def pause_writing(self) -> None:
        self._client.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self._client.transport.is_closing():
            self._client.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._client.server_left()


async def _open(client: Connection, host: str, port: int) -> _ServerSide:
    """Connect to a server with a small receive buffer; its size must be set before the connection is made."""
    loop = asyncio.get_running_loop()
    ((family, kind, number, _, place), *_) = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    raw = socket.socket(family, kind, number)
    try:
        raw.setblocking(False)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        await loop.sock_connect(raw, place)
        _, side = await loop.create_connection(lambda: _ServerSide(client), sock=raw)
    except BaseException:
        raw.close()
        raise
    return side
