"""Print untrusted text on a terminal safely: file names, cards and licences may contain control sequences."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

__all__ = ["guarded", "guarded_output", "printable"]

# Control characters except tab and line feed, marks that change the direction of text, and lone surrogates.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_NOT_OURS = re.compile(rf"(?!\r|\x1b\[K){_COMMANDS.pattern}")  # all except those that redraw a progress line


def printable(text: str) -> str:
    r"""Replace each character that controls a terminal, or that cannot be encoded, by its escape in JSON.

    >>> print(printable("a.wav\x1b]52;c;cm0gLXJm\x07"))
    a.wav\u001b]52;c;cm0gLXJm\u0007
    """
    return _COMMANDS.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match.group()):04x}"


class _Guarded:
    """A text stream that writes printable text and the control sequences of a progress line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(_NOT_OURS.sub(_escaped, text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guarded(stream: TextIO) -> TextIO:
    """The stream, with control sequences escaped except those of a progress line."""
    return stream if isinstance(stream, _Guarded) else cast(TextIO, _Guarded(stream))


@contextmanager
def guarded_output() -> Iterator[None]:
    """Inside the `with`, escape control characters in everything written to standard output and standard error."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(guarded, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
