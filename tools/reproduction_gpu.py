"""Train the EMO-DB rows of models/REPRODUCTION.md in parallel processes on one machine, within a given time.

    python tools/reproduction_gpu.py OUT --corpora-root CORPORA --minutes 8

The most important rows are trained first. Rows that models/reproduction.json already has, completely measured, are
skipped unless `--again` is given. The run folders are in runs/reproduction (`--runs`); a second call with the same
options resumes unfinished folds. OUT receives reproduction.tar.gz (predictions and learning curves of every fold, no
weights), summary.json and progress.log. To write the table, unpack the archive at the root of the repository and call
`python tools/reproduction.py runs/reproduction/*`.

Small networks use little of a GPU. Start NVIDIA's Multi-Process Service first (`nvidia-cuda-mps-control -d`), so that
the processes use the GPU at the same time instead of in turn.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reproduction import LOSSES, OLD, STORE, load_store, own_recipe
from timed_runs import ProgressLog, add_options, end_at, pack, processors, whole_folds

from streamser.corpora.benchmarks import BENCHMARKS
from streamser.evaluation.folds import load_folds
from streamser.evaluation.foldsummary import summarize
from streamser.nets.zoo import VARIANTS
from streamser.training.job import Job, JobEnd, jobs_of
from streamser.training.material import Material, gather, recipe_of, write_recipe
from streamser.training.options import RunOptions
from streamser.training.recipe import Recipe, load_recipe
from streamser.training.table import processes_for, run_jobs
from streamser.training.trainer import Trainer

BENCHMARK = BENCHMARKS["emodb"]
KEPT = ("fold.json", "fold.npz", "log.jsonl", "recipe.json")
"""Files of a run that the archive contains: all that the table and its pictures need."""
LAST_EPOCHS_S = 25.0
"""No epoch begins in this last part of the time, so that trained folds can still be exported, scored and packed."""


_AS_PAPER = {"protocol": "paper:lightsernet", "choose_by": "wa", "validate_every": 1}


@dataclass(frozen=True, slots=True)
class Step:
    """Rows of equal importance that are trained for one column of the table."""

    rows: tuple[str, ...]
    column: str
    """`paper` or `honest`."""
    folds: int = 0
    """Number of folds to train, from the first; 0: all."""
    epochs: int = 0
    """Number of epochs, for rows that only have to show that they learn; 0: as in the row's recipe."""


def _beginning_with(*starts: str) -> tuple[str, ...]:
    return tuple(name for start in starts for name in VARIANTS if name.startswith(start))


def _not_published_here(*starts: str) -> tuple[str, ...]:
    """The variants with these beginnings of a name that were not published on EMO-DB."""
    return tuple(name for name in _beginning_with(*starts) if BENCHMARK.name not in VARIANTS[name].published)


def _sepconvs(*blocks: int, prefix: str = "sepconv-hop768") -> tuple[str, ...]:
    return tuple(f"{prefix}-n{n}-wce" for n in blocks)


_HOP768 = (*_sepconvs(5, 4, 1, 2, 3, 6), "sepconv-hop768-n4-no-attention")
_HOP_10_MS = (*_sepconvs(5, 4, 1, 2, 3, 6, prefix="sepconv"), "sepconv-n4-no-attention")
PLAN = (
    Step(_HOP768, "paper"),
    Step(_HOP768, "honest"),
    Step(("lightsernet-3s-ce", "lightsernet-3s-focal"), "paper"),
    Step(("lightsernet-report-emodb-parent", "lightsernet-report-emodb"), "paper"),
    Step(tuple(LOSSES), "paper"),
    Step(("lightsernet-3s-ce", "lightsernet-3s-focal"), "honest"),
    Step(("lightsernet-report-emodb-parent",), "honest"),
    Step(_beginning_with("focal-resnet"), "honest", folds=1, epochs=15),
    Step(_beginning_with("parallel-cnn"), "honest", folds=1, epochs=12),
    Step(_beginning_with("cnn-blstm"), "honest", folds=1, epochs=30),
    Step(_not_published_here("sepconv-hop768"), "honest", folds=1, epochs=30),
    Step(_beginning_with("lightsernet-7s"), "honest", folds=1, epochs=60),
    Step(("lightsernet-report-emodb",), "honest"),
    Step(("lightsernet-emodb",), "paper"),
    Step(("lightsernet-emodb-plain",), "honest"),
    Step(_HOP_10_MS, "paper", folds=1),  # a process needs about 8 GB, so few fit on a GPU
    Step(_HOP_10_MS, "honest", folds=1),
    Step(tuple(name for name in _not_published_here("sepconv-") if "hop768" not in name), "honest", folds=1, epochs=20),
)
"""All rows to train on EMO-DB, the slowest last. Rows published only on IEMOCAP get one fold with fewer epochs."""


def recipe_for(row: str, column: str, epochs: int) -> Recipe:
    """The recipe of a row on EMO-DB for one column; `epochs` replaces its number of epochs, 0 keeps it."""
    fewer = {"epochs": epochs} if epochs else {}
    if (own := own_recipe(row)) is not None:
        protocol = _AS_PAPER if column == "paper" else {"protocol": own.honest} if own.honest else {}
        return load_recipe(own.path, {"name": row, **own.changes, **protocol, **fewer})
    recipe = recipe_of(VARIANTS[row], BENCHMARK)
    return replace(recipe, protocol=recipe.protocol if column == "paper" else "honest", **fewer)


def measured_cells(store: Path) -> set[tuple[str, str, str]]:
    """The keys of the cells that are completely measured with the present trainer."""
    return {one.key for one in load_store(store) if one.whole and one.measured != OLD}


def plan_jobs(material: Material, args: argparse.Namespace) -> list[Job]:
    """The jobs of PLAN in its order, each once, without rows that are already measured."""
    skipped = set() if args.again else measured_cells(STORE)
    jobs: dict[str, Job] = {}
    for step in PLAN:
        for row in step.rows:
            if args.only not in row or (row, BENCHMARK.name, step.column) in skipped:
                continue
            recipe = recipe_for(row, step.column, args.epochs or step.epochs)
            folder = args.runs / f"{row}-emodb-{step.column}"
            for job in jobs_of(recipe, "emodb", material, folder, args.folds or step.folds):
                jobs.setdefault(job.name, job)
    return list(jobs.values())


def compute_features(jobs: Sequence[Job], material: Material, cache: Path) -> None:
    """Compute the features of all jobs on all cores and store them in `cache`, from which the processes read them."""
    for folder, job in {job.folder: job for job in jobs}.items():
        Trainer(job.recipe, material, folder, RunOptions(cache=cache, device="cpu", workers=os.cpu_count() or 1))


def pack_all(runs: Path, out: Path, ends: Sequence[JobEnd]) -> None:
    """Write the archive and summary.json for all runs that have a finished fold."""
    trained = sorted({path.parent.parent for path in runs.glob("*/*/fold.json")})
    found = {folder.name: summarize(load_folds(folder)) for folder in trained}
    paths = [path for folder in trained for path in whole_folds(folder, KEPT)]
    pack(out / "reproduction.tar.gz", paths, found, ends)


def main() -> int:
    """Train as many folds as the time allows; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, Path("runs/reproduction"), "train only rows whose name contains this text")
    parser.add_argument("--again", action="store_true", help="also train rows that are already measured completely")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each process has one core
    compute = processors(args.compute)
    processes = args.processes or processes_for(compute[0])
    args.out.mkdir(parents=True, exist_ok=True)
    progress = ProgressLog(args.out)
    cache = args.runs.parent / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    material = gather(recipe_of(VARIANTS["lightsernet-3s-ce"], BENCHMARK), args.corpora_root, cache)
    jobs = plan_jobs(material, args)
    for job in jobs:
        write_recipe(job.recipe, job.folder)
    left = [job for job in jobs if not job.done]
    ends: list[JobEnd] = []
    timer = end_at(args.minutes, lambda: pack_all(args.runs, args.out, ends))
    compute_features(left, material, cache)
    progress.report(f"{len(left)} of {len(jobs)} folds left; {processes} processes on {', '.join(compute)}")
    until = progress.began + args.minutes * 60 - LAST_EPOCHS_S
    for end in run_jobs(left, {"emodb": material}, cache=cache, devices=compute, processes=processes, until=until):
        ends.append(end)
        progress.report_end(end)
    pack_all(args.runs, args.out, ends)
    progress.report(f"packed {sum(end.state == 'done' for end in ends)} folds of this run")
    timer.cancel()
    return 0


if __name__ == "__main__":
    sys.exit(main())
