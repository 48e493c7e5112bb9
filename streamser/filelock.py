"""Lock a file, so that only one process writes it; a second one gets an error."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import IO

__all__ = ["try_lock"]


def try_lock(file: IO[bytes]) -> bool:
    """Take the lock of an open file until it is closed or the process ends; False when another process has it.

    A file system without locks, as some network shares are, locks nothing.
    """
    if sys.platform == "win32":
        import msvcrt

        at = file.tell()
        try:
            file.seek(1 << 40)  # Windows forbids reading a locked range: lock one beyond the content
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            file.seek(at)
        return True
    import fcntl

    with suppress(OSError):
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
