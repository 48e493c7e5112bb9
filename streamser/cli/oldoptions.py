"""Accept the old name of a renamed option for one release, and explain options that were removed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["add_gone_option", "add_old_option"]


class _OldOption(argparse.Action):
    """Store the value under the new option's name and warn."""

    def __init__(self, *, new: str, **settings: Any) -> None:
        super().__init__(**settings, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        self.new = new

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option: str | None = None,
    ) -> None:
        print(f"streamser: {option} is now {self.new}; the next release removes the old name", file=sys.stderr)
        setattr(namespace, self.dest, values)


def add_old_option(parser: argparse.ArgumentParser, old: str, new: str, type: Callable[[str], Any] = str) -> None:
    """Accept `old` as another name of `new`; it is not shown in the help."""
    parser.add_argument(old, dest=new.lstrip("-").replace("-", "_"), action=_OldOption, new=new, type=type)


class _GoneOption(argparse.Action):
    """Refuse the option, and explain what to do instead."""

    def __init__(self, *, instead: str, **settings: Any) -> None:
        super().__init__(**settings, nargs=0, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        self.instead = instead

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option: str | None = None,
    ) -> None:
        parser.error(f"{option} was removed: {self.instead}")


def add_gone_option(parser: argparse.ArgumentParser, old: str, instead: str) -> None:
    """Refuse `old` with a sentence that begins "--old was removed:"; it is not shown in the help."""
    parser.add_argument(old, action=_GoneOption, instead=instead)
