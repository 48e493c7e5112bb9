"""The server that each process of the deployment runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

from streamser.cluster.gate import Address
from streamser.config import Config
from streamser.recognizer import open_recognizer
from streamser.server.app import Server

__all__ = ["Replica"]


class Replica:
    """A `streamser serve` process on a free port; Ray Serve starts it, counts its connections, and ends it."""

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it
        self, config: Config, host: str | None
    ) -> None:
        if host is None:
            import ray

            host = ray.util.get_node_ip_address()
        recognizer = await asyncio.to_thread(open_recognizer, config.recognizer)
        self._server = Server(recognizer, replace(config.server, host=host, port=0), config)
        await self._server.start()
        self._address: Address = (host, self._server.port)

    async def hold(self) -> AsyncGenerator[Address, None]:
        """Yield the address; Ray Serve counts this call as a connection until the caller cancels it."""
        yield self._address
        await asyncio.Event().wait()

    async def drain(self) -> None:
        """Accept no new client; every stream gets its last results."""
        self._server.drain()

    async def check_health(self) -> None:
        """Raise an error if only a restart would help."""
        if not self._server.is_live:
            raise RuntimeError("the inference worker has ended")
