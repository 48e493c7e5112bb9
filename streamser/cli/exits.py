"""End a command correctly on a signal, or when its output can no longer be written."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

__all__ = [
    "ENDING_SIGNALS",
    "SOME_FAILED",
    "Terminated",
    "explain_os_error",
    "interruptible",
    "leave_output",
    "open_missing_streams",
    "reader_has_left",
]

SOME_FAILED = 3
"""Exit code when some of several files could not be read."""

ENDING_SIGNALS: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Signals that end a command, besides Ctrl-C: from a service manager, and from a terminal window that was closed."""

_READER_LEFT = (errno.EPIPE, errno.EIO)  # a closed pipe; a terminal that hung up


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP arrived: everything is closed as after Ctrl-C; the exit code is 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def interruptible() -> Iterator[None]:
    """A context in which the first Ctrl-C, SIGTERM or SIGHUP raises KeyboardInterrupt, so that everything is closed.

    A second signal ends the process at once. Ignored signals (nohup) and a host program's handlers stay unchanged.
    """
    usual: dict[signal.Signals, Any] = {
        signal.SIGINT: signal.default_int_handler,
        **dict.fromkeys(ENDING_SIGNALS, signal.SIG_DFL),
    }
    ours = [number for number, handler in usual.items() if signal.getsignal(number) is handler]

    def interrupt(number: int, _frame: FrameType | None) -> None:
        for ending in ours:
            signal.signal(ending, signal.SIG_DFL)
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)

    with suppress(ValueError):  # not the main thread: the host program handles the signals
        for number in ours:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        with suppress(ValueError):
            for number in ours:
                signal.signal(number, usual[number])


def reader_has_left(error: OSError) -> bool:
    """Whether writing failed because the pipe or the terminal was closed."""
    return error.errno in _READER_LEFT and error.filename is None


def explain_os_error(error: OSError) -> str:
    """One line for a file or an output that cannot be written or read."""
    what = f"{error.filename}: " if error.filename is not None else "the output cannot be written: "
    advice = "; free some disk space and run it again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{what}{error.strerror or error}{advice}"


def open_missing_streams() -> None:
    """Open standard input, output and error as /dev/null if the caller has closed them.

    Otherwise the next file that is opened would get their number, and printed text would be written to it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def leave_output() -> None:
    """Redirect standard output to the null device; otherwise Python would fail again when it flushes it at exit."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
