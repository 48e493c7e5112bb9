"""Limit a server's connections so that its process does not run out of file handles."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

__all__ = ["ACCEPTED_AT_ONCE", "affordable_connections", "widen_backlog"]

ACCEPTED_AT_ONCE = 4
"""The `backlog` for asyncio: connections that it accepts in one turn; a refused one is closed some turns later."""

_RESERVED_HANDLES = 12 + 4 * ACCEPTED_AT_ONCE  # for listening and refused sockets, and for files
_FEWEST = 4
_BACKLOG = 128  # connections that may wait in the kernel


def affordable_connections(wanted: int, handles_each: int = 1) -> int:
    """How many connections the free file handles of this process allow, at most `wanted`.

    A server without free handles can accept no client and open no file, so it must refuse clients before that.
    """
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = sum(1 for _ in Path("/dev/fd").iterdir())
    except (ImportError, OSError):  # Windows has no such limit
        return wanted
    if limit == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, max(_FEWEST, (limit - used - _RESERVED_HANDLES) // handles_each))


def widen_backlog(server: asyncio.Server) -> None:
    """Let more connections wait in the kernel than asyncio accepts at once: many clients may connect together."""
    for listening in server.sockets:
        with socket.fromfd(listening.fileno(), listening.family, listening.type) as twin:
            twin.listen(_BACKLOG)
