"""Keep the sound system's complaints off the screen.

PortAudio and ALSA write to file descriptor 2 from C. While the view is up that goes to a log file. The view itself
draws on standard output's terminal: textual draws on `sys.__stderr__`, which here means a copy of descriptor 1.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Complaints:
    """What was written to descriptor 2 meanwhile."""

    path: Path | None = None
    """The file that holds them; None when there were none."""


@contextmanager
def stderr_kept() -> Iterator[Complaints]:
    """Within, descriptor 2 is a log file (unless it is no terminal: then it disturbs nobody)."""
    complaints = Complaints()
    screen = os.fdopen(os.dup(1), "w", encoding="utf-8")
    before = sys.__stderr__
    vars(sys)["__stderr__"] = screen
    terminal = -1
    log = ""
    if os.isatty(2):
        sys.stderr.flush()
        terminal = os.dup(2)
        file, log = tempfile.mkstemp(prefix="streamser-", suffix=".log")
        os.dup2(file, 2)
        os.close(file)
    try:
        yield complaints
    finally:
        vars(sys)["__stderr__"] = before
        with suppress(OSError):  # the terminal may be gone
            screen.close()
        if log:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            if Path(log).stat().st_size:
                complaints.path = Path(log)
            else:
                Path(log).unlink()
