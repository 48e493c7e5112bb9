"""Rules of this project that no linter checks."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import streamser

PACKAGE = Path(streamser.__file__).parent
SOURCES = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}


def files_with(pattern: str) -> set[str]:
    return {name for name, text in SOURCES.items() if re.search(pattern, text, re.M)}


def test_threads_are_started_in_few_files_only() -> None:
    stuck = "stream/portaudio.py"  # a thread ends a stream, which may hang if the sound server has died
    parent = "parent.py"  # a thread ends a worker process if its parent dies
    assert files_with(r"\bThread\(") == {"stream/worker.py", "stream/pipeline.py", stuck, parent}


def test_queues_and_locks_are_used_in_few_files_only() -> None:
    modules = {"bus", "worker", "pipeline", "portaudio", "sources"}
    assert files_with(r"^(import|from) (threading|queue)\b") <= {
        *(f"stream/{module}.py" for module in modules),
        "parent.py",
        "engines/__init__.py",  # a lock for the counters of an engine that many threads share
        "engines/onnx.py",  # a lock, so that a step graph is opened only once
        "engines/torch.py",  # a lock, so that a device computes one batch at a time
        "native.py",  # lists the threads that are in native code
        "integrations/mqtt.py",  # an event: paho's thread has connected
        "server/client.py",  # the worker's thread passes events to the event loop
        "server/hub.py",
    }


def test_every_module_begins_with_a_docstring() -> None:
    silent = [name for name, text in SOURCES.items() if not re.match(r'(?:#!.*\n)?r?"""\S', text)]
    assert not silent


def test_no_module_reads_pickles() -> None:
    assert not files_with(r"^(import|from) pickle\b|allow_pickle=True|weights_only=False")


MOST_PARAMETERS = 7


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The number of parameters without self and cls. Fields of dataclasses have docstrings and are not counted."""
    args = function.args
    named = [arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    collected = [arg for arg in (args.vararg, args.kwarg) if arg is not None]
    return len([name for name in named if name not in ("self", "cls")]) + len(collected)


def test_no_function_takes_more_than_seven_parameters() -> None:
    root = PACKAGE.parent
    files = [*PACKAGE.rglob("*.py"), *(root / "tests").rglob("*.py"), *(root / "tools").rglob("*.py")]
    counts = {
        f"{path.relative_to(root)}:{node.lineno} {node.name}": parameters(node)
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert len(counts) > 2000
    assert not {place: count for place, count in counts.items() if count > MOST_PARAMETERS}


def test_files_are_short() -> None:
    lengths = sorted(text.count("\n") for text in SOURCES.values())
    assert lengths[-1] <= 450
    assert lengths[len(lengths) // 2] <= 150


def test_no_two_test_modules_share_a_name() -> None:
    """Pytest imports test modules by their file names, so two equal names would stop the collection."""
    names = Counter(path.name for path in (PACKAGE.parent / "tests").rglob("*.py") if path.name != "conftest.py")
    assert [name for name, count in names.items() if count > 1] == []
