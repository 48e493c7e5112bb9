"""Shared by the scripts that train many folds within a given time: options, progress and the archive of results."""

from __future__ import annotations

import argparse
import json
import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import torch

from streamser.training.table import JobEnd


def add_options(parser: argparse.ArgumentParser, runs: Path, only: str) -> None:
    """The options that these scripts have in common; `only` explains `--only`."""
    parser.add_argument("out", type=Path, help="folder for the archive, the summary and the log")
    parser.add_argument("--corpora-root", type=Path, required=True, help="folder that holds the corpora")
    parser.add_argument("--minutes", type=float, required=True, help="end after this many minutes")
    parser.add_argument("--runs", type=Path, default=runs, help=f"folder of the runs (default: {runs})")
    parser.add_argument("--compute", default="auto", help="cpu, cuda, or cuda:0,cuda:1 (default: auto)")
    parser.add_argument("--processes", type=int, default=0, help="default: one a core, one core left free")
    parser.add_argument("--only", default="", help=only)
    parser.add_argument("--epochs", type=int, default=0, help="fewer epochs, to try the script")


def processors(compute: str) -> tuple[str, ...]:
    """The processors that `--compute` names."""
    if compute == "auto":
        return ("cuda" if torch.cuda.is_available() else "cpu",)
    return tuple(compute.split(","))


class ProgressLog:
    """Lines with the time since the start, on the terminal and in OUT/progress.log."""

    def __init__(self, out: Path) -> None:
        self.began = time.time()
        self._path = out / "progress.log"

    def report(self, text: str) -> None:
        """Print one line and append it to the log."""
        line = f"{time.time() - self.began:7.1f} s  {text}"
        print(line, flush=True)
        with self._path.open("a", encoding="utf-8") as file:
            print(line, file=file)

    def report_end(self, end: JobEnd) -> None:
        """Report a fold that has ended, unless its time was over before it began."""
        if end.state != "out of time" or end.seconds > 1:
            self.report(f"{end.job.name}: {end.state}, {end.seconds:.1f} s")


def whole_folds(run: Path, kept: Sequence[str]) -> list[Path]:
    """The files of these names in a run's folder and in its finished folds."""
    return [
        path
        for path in sorted(run.rglob("*"))
        if path.name in kept and (path.parent == run or (path.parent / "fold.json").exists())
    ]


def pack(archive: Path, paths: Iterable[Path], runs: Mapping[str, Any], ends: Sequence[JobEnd]) -> None:
    """Write the archive, and summary.json beside it; an older archive stays until the new one is whole."""
    seconds = {end.job.name: [end.state, round(end.seconds, 1)] for end in list(ends)}
    summary = json.dumps({"runs": runs, "jobs": seconds}, indent=1)
    (archive.parent / "summary.json").write_text(summary, encoding="utf-8")
    part = archive.with_name(f"{archive.name}.part")
    with tarfile.open(part, "w:gz") as file:
        for path in paths:
            file.add(path, path)
    part.replace(archive)


def end_at(minutes: float, pack_all: Callable[[], None]) -> threading.Timer:
    """Start the timer that ends the process: a fold that still runs then is given up, and finished ones are packed."""

    def give_up() -> None:
        for child in active_children():
            child.terminate()
        pack_all()
        os._exit(0)

    timer = threading.Timer(minutes * 60, give_up)
    timer.daemon = True
    timer.start()
    return timer
