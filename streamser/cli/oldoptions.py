"""Keep the old name of a renamed option for one release, with a warning that names the new one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["add_old_option"]


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
        print(f"streamser: {option} is now {self.new}; the old name will go with the next release", file=sys.stderr)
        setattr(namespace, self.dest, values)


def add_old_option(parser: argparse.ArgumentParser, old: str, new: str, type: Callable[[str], Any] = str) -> None:
    """Accept `old` as another name of `new`; it is not shown in the help."""
    parser.add_argument(old, dest=new.lstrip("-").replace("-", "_"), action=_OldOption, new=new, type=type)
