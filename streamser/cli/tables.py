"""Plain text tables and paragraphs for the command line, no wider than the terminal."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TextIO

__all__ = ["refill", "table", "terminal_width"]

_WIDEST_TEXT = 100  # longer lines are harder to read


def terminal_width(stream: TextIO | None = None) -> int | None:
    """Width of the terminal that the stream writes to; None if it does not write to a terminal."""
    stream = sys.stdout if stream is None else stream
    return shutil.get_terminal_size().columns if stream.isatty() else None


def table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Format rows as columns two spaces apart, or if `width` is too small, as one block of lines for each row.

    >>> rows = [("a", "1 MB", "angry, happy"), ("longer", "12 MB", "calm")]
    >>> print(table(("name", "size", "labels"), rows))
    name    size   labels
    a       1 MB   angry, happy
    longer  12 MB  calm
    >>> print(table(("name", "size", "labels"), rows[:1], width=16))
    a
      size    1 MB
      labels  angry,
              happy
    """
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    whole = [line.rstrip() for line in padded]
    if width is None or max(map(len, whole)) <= width:
        return "\n".join(whole)
    return "\n\n".join(_block(header, row, width) for row in rows)


def _block(header: Sequence[str], row: Sequence[str], width: int) -> str:
    """A row as its first cell and, below it, a line for each of the others."""
    margin = 4 + max(map(len, header[1:]))
    lines = [row[0]]
    for name, cell in zip(header[1:], row[1:], strict=True):
        first = f"  {name}".ljust(margin)
        lines += textwrap.wrap(cell, max(width, margin + 8), initial_indent=first, subsequent_indent=" " * margin) or [
            first.rstrip()
        ]
    return "\n".join(lines)


def refill(text: str, width: int | None) -> str:
    """Wrap paragraphs to lines shorter than `width` (80 if unknown, at most 100); each keeps its indent.

    >>> print(refill("Speak calmly, as you do.\\n\\n    Tomorrow it will\\n    be cloudy.", 30))
    Speak calmly, as you do.
    <BLANKLINE>
        Tomorrow it will be
        cloudy.
    """
    columns = min(_WIDEST_TEXT, width or 80) - 1
    filled = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        indent = re.match(r" *", paragraph)
        margin = indent[0] if indent else ""
        words = " ".join(paragraph.split())
        filled.append(textwrap.fill(words, columns, initial_indent=margin, subsequent_indent=margin))
    return "\n\n".join(filled)
