"""Plain text tables for the command line: columns as wide as what is in them."""

from __future__ import annotations

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart, numbers not treated specially, nothing after the last column.

    >>> print(table(("name", "size"), [("a", "1 MB"), ("longer", "12 MB")]))
    name    size
    a       1 MB
    longer  12 MB
    """
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)
