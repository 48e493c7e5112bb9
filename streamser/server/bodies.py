"""Receive whole request bodies within limits on size, time, and the memory of all bodies together."""

from __future__ import annotations

import asyncio

from aiohttp import web

from streamser.server.options import ServerConfig
from streamser.server.refusals import HttpRefusal

_CHUNK_BYTES = 64 * 1024
_HELD_BODIES = 4  # number of bodies of the largest size that may be in memory together
_START_S = 10.0  # an upload may take this long, plus the time for its bytes at the slowest rate
_SLOWEST_BYTES_S = 8_000  # 64 kbit/s: an MP3 of telephone audio, in the time that it plays


class Bodies:
    """The request bodies that one server holds in memory; a body is released when its `with` ends.

    async with bodies.receive(request) as body:
        ...
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._held_bytes = 0  # of all bodies that were received, in part or whole

    def receive(self, request: web.Request) -> Body:
        """The request's body, refused at once when its Content-Length is too large."""
        if (request.content_length or 0) > self._config.max_body_bytes:
            raise too_large(self._config.max_body_bytes)
        return Body(self, request)

    def count(self, change: int) -> None:
        """Count bytes that are held in addition (or, if negative, released)."""
        self._held_bytes += change

    @property
    def is_full(self) -> bool:
        """Whether the limit of memory is exceeded."""
        return self._held_bytes > _HELD_BODIES * self._config.max_body_bytes

    async def read(self, request: web.Request, body: bytearray) -> None:
        """Append the request's body; an upload that is too slow is refused."""
        limit, loop = self._config.max_body_bytes, asyncio.get_running_loop()
        began_s = loop.time()
        while True:
            left_s = began_s + _START_S + len(body) / _SLOWEST_BYTES_S - loop.time()
            try:
                chunk = await asyncio.wait_for(
                    request.content.read(_CHUNK_BYTES), max(0.0, min(left_s, self._config.idle_timeout_s))
                )
            except asyncio.TimeoutError:
                raise HttpRefusal(408, "idle", "the body stopped, or arrived too slowly; send it again") from None
            if not chunk:
                break
            body += chunk
            self.count(len(chunk))
            if len(body) > limit:
                raise too_large(limit)
            if self.is_full:
                raise HttpRefusal(503, "busy", "too many files are being sent; try again later", Retry_After="10")


class Body:
    """One body; holds its bytes for as long as the `with` lasts."""

    def __init__(self, bodies: Bodies, request: web.Request) -> None:
        self._bodies = bodies
        self._request = request
        self._bytes = bytearray()

    async def __aenter__(self) -> bytearray:
        try:
            await self._bodies.read(self._request, self._bytes)
        except BaseException:
            self._bodies.count(-len(self._bytes))
            raise
        return self._bytes

    async def __aexit__(self, *_: object) -> None:
        self._bodies.count(-len(self._bytes))


def too_large(limit: int) -> HttpRefusal:
    """The refusal of a body over the limit."""
    return HttpRefusal(
        413,
        "too_large",
        f"the body may have at most {limit} bytes (server.max_body_mb); use streamser replay for long files",
    )
