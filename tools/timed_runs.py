"""Options, progress log and archive of the scripts that train many folds within a given time."""

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

from streamser.training.job import JobEnd
from streamser.training.setup import processor


def add_options(parser: argparse.ArgumentParser, runs: Path, only: str) -> None:
    """Add the common options; `runs` is the default of `--runs`, and `only` the help of `--only`."""
    parser.add_argument("out", type=Path, help="folder for the archive, the summary and the log")
    parser.add_argument("--corpora-root", type=Path, required=True, help="folder that holds the corpora")
    parser.add_argument("--minutes", type=float, required=True, help="end after this many minutes")
    parser.add_argument("--runs", type=Path, default=runs, help=f"folder that holds the run folders (default: {runs})")
    parser.add_argument("--compute", default="auto", help="cpu, cuda, or cuda:0,cuda:1 (default: auto)")
    parser.add_argument(
        "--processes", type=int, default=0, help="default: one per CPU core; with a GPU, one core stays free"
    )
    parser.add_argument("--only", default="", help=only)
    parser.add_argument(
        "--folds", type=int, default=0, help="train only the first FOLDS folds of each seed, to try the script"
    )
    parser.add_argument("--epochs", type=int, default=0, help="number of epochs, to try the script with fewer")


def processors(compute: str) -> tuple[str, ...]:
    """The processors that `--compute` names."""
    return tuple(processor(one) for one in compute.split(","))


class ProgressLog:
    """Writes lines with the time since the start to the terminal and to OUT/progress.log."""

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
        """Report how a job ended, unless time was over before it began."""
        if end.state != "out of time" or end.seconds > 1:
            self.report(f"{end.job.name}: {end.state}, {end.seconds:.1f} s")


def whole_folds(run: Path, kept: Sequence[str]) -> list[Path]:
    """The files named in `kept` that are in the run folder itself or in one of its finished folds."""
    return [
        path
        for path in sorted(run.rglob("*"))
        if path.name in kept and (path.parent == run or (path.parent / "fold.json").exists())
    ]


def pack(archive: Path, paths: Iterable[Path], runs: Mapping[str, Any], ends: Sequence[JobEnd]) -> None:
    """Write summary.json, then the archive; an older archive is replaced only when the new one is complete."""
    seconds = {end.job.name: [end.state, round(end.seconds, 1)] for end in list(ends)}
    summary = json.dumps({"runs": runs, "jobs": seconds}, indent=1)
    (archive.parent / "summary.json").write_text(summary, encoding="utf-8")
    part = archive.with_name(f"{archive.name}.part")
    with tarfile.open(part, "w:gz") as file:
        for path in paths:
            file.add(path, path)
    part.replace(archive)


def end_at(minutes: float, pack_all: Callable[[], None]) -> threading.Timer:
    """Start a timer that, after `minutes`, stops folds that still run, packs the finished ones and ends the process."""

    def end() -> None:
        for child in active_children():
            child.terminate()
        pack_all()
        os._exit(0)

    timer = threading.Timer(minutes * 60, end)
    timer.daemon = True
    timer.start()
    return timer
