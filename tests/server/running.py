"""Run `streamser serve` as a process, as a user does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

START_S = 90.0  # a busy machine imports slowly


class Running:
    """A server process, and its output on stderr so far."""

    def __init__(self, *arguments: str, before: Sequence[str] = (), handles: int = 0, **environment: str) -> None:
        limited = ["sh", "-c", f'ulimit -n {handles}; exec "$@"', "sh"] if handles else []
        self.process = subprocess.Popen(
            [*limited, sys.executable, "-m", "streamser", *before, "serve", "--port", "0", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self.lines: list[str] = []
        self._spoke = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._spoke:
                self.lines.append(line.rstrip("\n"))
                self._spoke.notify_all()

    def wait_for_line(self, pattern: str) -> re.Match[str]:
        """Wait for a line of stderr that matches, and return the match."""

        def found() -> re.Match[str] | None:
            return next((match for line in self.lines if (match := re.search(pattern, line))), None)

        with self._spoke:
            match = self._spoke.wait_for(found, START_S)
        assert match, f"no line like {pattern!r} in {self.lines}"
        return match

    @property
    def url(self) -> str:
        """Wait until the server serves, and return its URL."""
        return self.wait_for_line(r"serving .* at (http://\S+/)")[1]

    def end(self) -> None:
        """Kill the process if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


@contextmanager
def running(
    model: Path, *arguments: str, before: Sequence[str] = (), handles: int = 0, **environment: str
) -> Iterator[Running]:
    """Run the server inside a `with`: `before` precedes the command, `handles` limits the open files."""
    server = Running("--model", str(model), *arguments, before=before, handles=handles, **environment)
    try:
        yield server
    finally:
        server.end()
