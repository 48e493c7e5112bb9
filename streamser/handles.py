"""How many connections the file handles of this process allow."""

from __future__ import annotations

from pathlib import Path

__all__ = ["affordable_connections"]

_RESERVED_HANDLES = 12  # the listening sockets, a connection to be refused, files that a request opens
_FEWEST = 4


def affordable_connections(wanted: int, handles_each: int = 1) -> int:
    """How many connections the free file handles of this process allow, at most `wanted`.

    A server that runs out of handles can accept nobody and can open no file, so it must stop before.
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
