"""Run `streamser` commands as processes, and find the processes that a command has started."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def command(*words: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a `streamser` command in a new session; it is killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "streamser", *map(str, words)],
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def until(true: Callable[[], object], what: str, patience_s: float = 90.0) -> None:
    """Wait until the condition `true` holds."""
    end_s = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < end_s, f"waited for {what}"
        time.sleep(0.02)


def family(pid: int) -> dict[int, str]:
    """The process IDs and command lines of all descendants of a process, without zombies."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                after = (entry / "stat").read_text().rpartition(")")[2].split()
                names[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if after[0] != "Z":
                parents[int(entry.name)] = int(after[1])
    found: set[int] = set()
    fresh = {pid}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return {one: names[one] for one in found}


def lives(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
