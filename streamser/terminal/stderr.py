"""Keep messages of the sound system off the screen.

PortAudio and ALSA write to file descriptor 2 from C, and loggers to `sys.stderr`, which may be a descriptor of its own.
While the view is shown, both are redirected to a log file. textual draws on `sys.__stderr__`, which is meanwhile a copy
of descriptor 1, standard output.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Complaints:
    """The messages that were written to standard error while the view was shown."""

    path: Path | None = None
    """The file that holds them; None when there were none."""


@contextmanager
def stderr_kept() -> Iterator[Complaints]:
    """A context in which standard error is redirected to a log file, if it is a terminal."""
    complaints = Complaints()
    before, screen = sys.__stderr__, os.fdopen(os.dup(1), "w", encoding="utf-8")
    vars(sys)["__stderr__"] = screen
    kept: dict[int, int] = {}  # descriptor: a copy of its original file
    log = Path()
    if sys.stderr.isatty() or os.isatty(2):
        sys.stderr.flush()
        file, name = tempfile.mkstemp(prefix="streamser-", suffix=".log")
        log = Path(name)
        for descriptor in {2, *_python_stderr()}:
            kept[descriptor] = os.dup(descriptor)
            os.dup2(file, descriptor)
        os.close(file)
    try:
        yield complaints
    finally:
        vars(sys)["__stderr__"] = before
        with suppress(OSError):  # the terminal may be gone
            screen.close()
        if kept:
            sys.stderr.flush()
            if log.stat().st_size:
                complaints.path = log
            else:
                log.unlink()
        for descriptor, copy in kept.items():
            os.dup2(copy, descriptor)
            os.close(copy)


def _python_stderr() -> list[int]:
    with suppress(OSError, ValueError):  # a stream in memory has none
        return [sys.stderr.fileno()]
    return []
