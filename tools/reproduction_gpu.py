"""Train the EMO-DB rows of models/REPRODUCTION.md in parallel processes on one machine, within a given time.

    python tools/reproduction_gpu.py OUT --corpora-root CORPORA --minutes 8

The most important rows come first. Runs are kept in runs/reproduction (`--runs`), fold by fold; the same command
resumes them. OUT gets reproduction.tar.gz (every fold's predictions and curves, no weights), summary.json and
progress.log. Unpack the archive at the repository's root, and `python tools/reproduction.py runs/reproduction/*` writes
the table.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from timed_runs import ProgressLog, add_options, end_at, pack, processors, whole_folds

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


def pack_all(runs: Path, out: Path, ends: Sequence[JobEnd]) -> None:
    """The archive and the summary of every run that has a finished fold."""
    trained = sorted({path.parent.parent for path in runs.glob("*/*/fold.json")})
    found = {folder.name: summarize(load_folds(folder)) for folder in trained}
    paths = [path for folder in trained for path in whole_folds(folder, KEPT)]
    pack(out / "reproduction.tar.gz", paths, found, ends)


def main() -> int:
    """Run what the time allows; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, Path("runs/reproduction"), "only rows whose name holds this")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes: each has one core
    compute = processors(args.compute)
    processes = args.processes or processes_for(compute[0])
    args.out.mkdir(parents=True, exist_ok=True)
    progress = ProgressLog(args.out)
    cache = args.runs.parent / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    material = gather(recipe_of(VARIANTS["lightsernet-3s-ce"], BENCHMARK), args.corpora_root, cache)
    jobs = plan_jobs(material, args.runs, args.only, args.epochs)
    for job in jobs:
        write_recipe(job.recipe, job.folder)
    left = [job for job in jobs if not job.done]
    ends: list[JobEnd] = []
    timer = end_at(args.minutes, lambda: pack_all(args.runs, args.out, ends))
    progress.report(f"{len(left)} of {len(jobs)} jobs left; {processes} processes on {', '.join(compute)}")
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
