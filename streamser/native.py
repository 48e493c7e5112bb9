"""Let the end of the process wait for native code that other threads are still running.

onnxruntime, torch and soxr release the GIL while they compute. Python ends a daemon thread that asks for the GIL after
the interpreter was finalized, by unwinding its stack; in these C++ libraries this aborts the whole process ("terminate
called without an active exception"). So every call of them that a stream can make runs in `native_call`:

    with native_call:
        outputs = session.run(...)

At exit, after all other threads were joined, Python then waits until every such call has returned. Daemon threads begin
no further call. A daemon thread that hangs in a callback or in a device is not waited for.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time

__all__ = ["native_call"]

logger = logging.getLogger(__name__)

_LONGEST_WAIT_S = 10.0  # far longer than any computation on a CPU; a GPU's driver may hang
_POLL_S = 0.002


class _NativeCall:
    """The context manager `native_call`; it may be nested, and any thread may use it."""

    def __init__(self) -> None:
        # Without a lock, which a child process could inherit locked: setting an item and reading it are atomic.
        self._depths: dict[int, int] = {}  # by thread
        self._registered = False
        self._is_ending = False

    def __enter__(self) -> None:
        if not self._registered:
            self._registered = True
            atexit.register(self._wait)
        thread = threading.get_ident()
        depth = self._depths.get(thread, 0)
        self._depths[thread] = depth + 1  # before _is_ending is read: otherwise _wait could miss this call
        if self._is_ending and not depth and _is_daemon():
            del self._depths[thread]
            while True:  # until the process ends
                time.sleep(_LONGEST_WAIT_S)

    def __exit__(self, *_: object) -> None:
        thread = threading.get_ident()
        depth = self._depths[thread] - 1
        if depth:
            self._depths[thread] = depth
        else:
            del self._depths[thread]

    def _wait(self) -> None:
        """At exit: wait until no other thread is in a native call."""
        self._is_ending = True
        deadline = time.monotonic() + _LONGEST_WAIT_S
        while self._is_busy():
            if time.monotonic() > deadline:
                logger.warning(
                    "a computation has not ended within %.0f s; the process ends without it", _LONGEST_WAIT_S
                )
                return
            time.sleep(_POLL_S)

    def _is_busy(self) -> bool:
        mine = threading.get_ident()
        # In a child process that was forked during a call, the calling thread does not exist.
        return any(thread.ident != mine and thread.ident in self._depths for thread in threading.enumerate())


def _is_daemon() -> bool:
    """Whether this thread ends with the process.

    A thread that Python did not start may be a sound library's callback; that library waits for it at exit.
    """
    thread = threading.current_thread()
    return thread.daemon and not isinstance(thread, threading._DummyThread)


native_call = _NativeCall()
"""Context of a call of native code, see above."""
