"""One progress line on a terminal: stage, progress and time left; nothing if the output is not a terminal."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_WIDTH = 24
_EVERY_S = 0.1  # a terminal line that changes more often only flickers


class ProgressLine:
    """Call `progress(what, done, of, note)` at any rate; the line is redrawn at most ten times per second.

    A new `what` restarts the estimate of the time left.

    >>> import io
    >>> line = ProgressLine(io.StringIO())  # no terminal
    >>> line("clips", 1, 2); line.close()
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = sys.stderr if file is None else file
        self._shown = self._file.isatty()
        self._what = ""
        self._began = self._last = 0.0

    def __call__(self, what: str, done: int, of: int, note: str = "") -> None:
        if not self._shown:
            return
        now = time.monotonic()
        if what != self._what:
            self.close()
            self._what, self._began, self._last = what, now, 0.0
        if now - self._last < _EVERY_S and done < of:
            return
        self._last = now
        full = round(_WIDTH * done / max(1, of))
        left_s = (now - self._began) * (of - done) / max(1, done)
        bar = "#" * full + "." * (_WIDTH - full)
        self._file.write(f"\r\x1b[K{what}  [{bar}]  {done}/{of}  {clock_left(left_s)}{note and '  ' + note}")
        self._file.flush()

    def close(self) -> None:
        """Erase the line."""
        if self._what:
            self._file.write("\r\x1b[K")
            self._file.flush()
            self._what = ""


def clock_left(seconds: float) -> str:
    """The time left, as text.

    >>> clock_left(75), clock_left(3700)
    ('1:15 left', '1:01:40 left')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} left" if hours else f"{minutes}:{rest:02d} left"
