"""Train the EMO-DB rows of models/REPRODUCTION.md in parallel processes on one machine, within a given time.

    python tools/reproduction_gpu.py OUT --corpora-root CORPORA --minutes 8

The most important rows come first. Runs are kept in runs/reproduction (`--runs`), fold by fold; the same command
resumes them. OUT gets reproduction.tar.gz (every fold's predictions and curves, no weights), summary.json and
progress.log. Unpack the archive at the repository's root, and `python tools/reproduction.py runs/reproduction/*` writes
the table.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tarfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import active_children
from pathlib import Path

import torch

from streamser.corpora.benchmarks import BENCHMARKS
from streamser.evaluation.folds import load_folds
from streamser.evaluation.foldsummary import summarize
from streamser.nets.zoo import VARIANTS
from streamser.training.material import Material, gather, recipe_of, write_recipe
from streamser.training.recipe import Recipe
from streamser.training.table import Job, JobEnd, jobs_of, processes_for, run_jobs

BENCHMARK = BENCHMARKS["emodb"]
KEPT = ("fold.json", "fold.npz", "log.jsonl", "recipe.json")
"""Files of a run that come back: all that the table and its pictures need."""
LAST_EPOCHS_S = 25.0
"""No epoch begins in the last seconds: a fold that is trained is exported, scored and packed in them."""


@dataclass(frozen=True, slots=True)
class Step:
    """Rows of equal importance, in one column of the table."""

    rows: tuple[str, ...]
    column: str
    """`paper` or `honest`."""
    folds: int = 0
    """Only the first ones; 0 for all."""
    epochs: int = 0
    """Fewer than the row's own, where one fold only shows that it learns; 0 for the row's."""
    seeds: tuple[int, ...] = (0,)


def _named(*starts: str) -> tuple[str, ...]:
    return tuple(name for start in starts for name in VARIANTS if name.startswith(start))


def _sepconvs(*blocks: int, prefix: str = "sepconv-hop768") -> tuple[str, ...]:
    return tuple(f"{prefix}-n{n}-wce" for n in blocks)


_WITHOUT = ("sepconv-hop768-n4-no-attention",)
PLAN = (
    Step(("lightsernet-3s-ce", "lightsernet-3s-focal"), "paper"),
    Step(("lightsernet-report-emodb-parent",), "paper", seeds=(0, 1, 2)),
    Step(("lightsernet-report-emodb",), "paper"),
    Step((*_sepconvs(4), *_WITHOUT, *_sepconvs(5)), "paper"),
    Step(("lightsernet-3s-ce", "lightsernet-3s-focal"), "honest"),
    Step((*_sepconvs(4), *_WITHOUT, *_sepconvs(5)), "honest"),
    Step(_named("focal-resnet"), "honest", folds=1, epochs=15),
    Step(_named("parallel-cnn-mfcc-s"), "honest", folds=1, epochs=12),
    Step(_named("cnn-blstm"), "honest", folds=1, epochs=30),
    Step(_sepconvs(2, 3, 1, 6), "paper"),
    Step(_sepconvs(2, 3, 1, 6), "honest"),
    Step(_named("parallel-cnn-mel-s"), "honest", folds=1, epochs=12),
    Step(("lightsernet-report-emodb-parent", "lightsernet-report-emodb"), "honest"),
    Step(_sepconvs(4, 5, prefix="sepconv"), "paper", folds=1),  # some 8 GB each: few at a time
    Step(_sepconvs(4, 5, prefix="sepconv"), "honest", folds=1),
    Step(("sepconv-n4-no-attention",), "paper", folds=1),
    Step(("sepconv-n4-no-attention",), "honest", folds=1),
)
"""Every EMO-DB row, the dearest last; IEMOCAP's own rows with one short fold on new speakers."""


def recipe_for(row: str, step: Step, epochs: int) -> Recipe:
    """A row's recipe on EMO-DB in one column; a shorter run has a name of its own."""
    recipe = recipe_of(VARIANTS[row], BENCHMARK)
    recipe = replace(recipe, protocol=recipe.protocol if step.column == "paper" else "honest", seeds=step.seeds)
    fewer = epochs or step.epochs
    return replace(recipe, epochs=fewer) if fewer else recipe


def plan_jobs(material: Material, runs: Path, only: str, epochs: int) -> list[Job]:
    """All jobs, in the order of PLAN, each once."""
    jobs: dict[str, Job] = {}
    for step in PLAN:
        for row in step.rows:
            if only not in row:
                continue
            recipe = recipe_for(row, step, epochs)
            folder = runs / f"{row}-emodb-{step.column}"
            for job in jobs_of(recipe, "emodb", material, folder, step.folds):
                jobs.setdefault(job.name, job)
    return list(jobs.values())


def pack(runs: Path, out: Path, ends: Sequence[JobEnd]) -> None:
    """The archive and the summary of every run that has a finished fold."""
    trained = sorted({path.parent.parent for path in runs.glob("*/*/fold.json")})
    found = {folder.name: summarize(load_folds(folder)) for folder in trained}
    seconds = {end.job.name: [end.state, round(end.seconds, 1)] for end in ends}
    summary = {"runs": found, "jobs": seconds}
    (out / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    with tarfile.open(out / "reproduction.tar.gz.part", "w:gz") as archive:
        for path in _kept(runs, found):
            archive.add(path, path)
    (out / "reproduction.tar.gz.part").replace(out / "reproduction.tar.gz")


def _kept(runs: Path, names: Iterable[str]) -> Iterator[Path]:
    for name in names:
        for path in sorted((runs / name).rglob("*")):
            whole = path.parent == runs / name or (path.parent / "fold.json").exists()
            if path.name in KEPT and whole:
                yield path


def main() -> int:
    """Run what the time allows; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for what comes back")
    parser.add_argument("--corpora-root", type=Path, required=True, help="folder that holds emodb")
    parser.add_argument("--minutes", type=float, required=True, help="end by then")
    parser.add_argument("--runs", type=Path, default=Path("runs/reproduction"))
    parser.add_argument("--devices", default="auto", help="cpu, cuda, or cuda:0,cuda:1 (default: auto)")
    parser.add_argument("--processes", type=int, default=0, help="default: one a core, one core left free")
    parser.add_argument("--only", default="", help="only rows whose name holds this")
    parser.add_argument("--epochs", type=int, default=0, help="fewer epochs, to try the script")
    args = parser.parse_args()
    began = time.time()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes: each has one core
    devices = args.devices.split(",")
    if devices == ["auto"]:
        devices = ["cuda" if torch.cuda.is_available() else "cpu"]
    processes = args.processes or processes_for(devices[0])
    args.out.mkdir(parents=True, exist_ok=True)
    cache = args.runs.parent / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    material = gather(recipe_of(VARIANTS["lightsernet-3s-ce"], BENCHMARK), args.corpora_root, cache)
    jobs = plan_jobs(material, args.runs, args.only, args.epochs)
    for job in jobs:
        write_recipe(job.recipe, job.folder)
    left = [job for job in jobs if not job.done]
    ends: list[JobEnd] = []
    hard = threading.Timer(args.minutes * 60, _give_up, (args.runs, args.out, ends))
    hard.daemon = True
    hard.start()
    with (args.out / "progress.log").open("a", encoding="utf-8") as progress:

        def report(text: str) -> None:
            line = f"{time.time() - began:7.1f} s  {text}"
            print(line, flush=True)
            print(line, file=progress, flush=True)

        report(f"{len(left)} of {len(jobs)} jobs left; {processes} processes on {', '.join(devices)}")
        until = began + args.minutes * 60 - LAST_EPOCHS_S
        for end in run_jobs(left, {"emodb": material}, cache=cache, devices=devices, processes=processes, until=until):
            ends.append(end)
            if end.state != "out of time" or end.seconds > 1:
                report(f"{end.job.name}: {end.state}, {end.seconds:.1f} s")
        pack(args.runs, args.out, ends)
        report(f"packed {sum(end.state == 'done' for end in ends)} folds of this run")
    hard.cancel()
    return 0


def _give_up(runs: Path, out: Path, ends: list[JobEnd]) -> None:
    """The time is over and a fold still runs: archive the finished ones and end."""
    for child in active_children():
        child.terminate()
    pack(runs, out, list(ends))
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
