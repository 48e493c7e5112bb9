"""The option --ray, for the commands that can use a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["add_ray_option", "address_of"]

_LOCAL = "local"


def add_ray_option(add: Callable[..., Any], more: str = "") -> None:
    """Add the option with a parser's or a group's `add_argument`; `more` is added to its help."""
    add(
        "--ray",
        nargs="?",
        const=_LOCAL,
        metavar="ADDRESS",
        help="use the Ray cluster at ADDRESS; without ADDRESS, start one on this machine (needs the extra 'ray')"
        + more,
    )


def address_of(given: str) -> str | None:
    """The cluster's address; None if one is to be started on this machine."""
    return None if given == _LOCAL else given
