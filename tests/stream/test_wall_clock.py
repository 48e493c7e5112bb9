from __future__ import annotations

import ast
from pathlib import Path

import streamser

PACKAGE = Path(streamser.__file__).parent
WALL = {"time.time", "time.localtime", "datetime.now", "datetime.utcnow", "datetime.today", "time.gmtime"}
NAMES_A_FILE = {"stream/recorder.py", "server/recording.py"}


def wall_clock_readers(folder: str) -> set[str]:
    """Files of the package that read the wall clock."""
    return {
        path.relative_to(PACKAGE).as_posix()
        for path in (PACKAGE / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in WALL
    }


def test_streams_and_the_server_read_the_wall_clock_only_to_name_files() -> None:
    found = wall_clock_readers("stream") | wall_clock_readers("server") | wall_clock_readers("integrations")
    assert found == NAMES_A_FILE
