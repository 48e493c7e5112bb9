"""`streamser train --paper NAME`: train every row of a paper's tables; repeat the command to continue."""

from __future__ import annotations

import argparse
import difflib
import json
import logging
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from streamser.cli.rayoption import address_of
from streamser.corpora.benchmarks import BENCHMARKS, Benchmark
from streamser.corpora.protocols import PAPERS
from streamser.errors import ConfigError
from streamser.evaluation.folds import load_folds
from streamser.evaluation.foldsummary import summarize
from streamser.nets.variant import Variant
from streamser.nets.zoo import VARIANTS
from streamser.training.estimate import Estimate, estimate
from streamser.training.job import Job, JobEnd, jobs_of
from streamser.training.material import Material, gather, recipe_of, write_left_out, write_recipe
from streamser.training.recipe import Recipe, changed
from streamser.training.table import run_jobs

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a paper's table, its recipe, and the folder of its run."""

    variant: Variant
    benchmark: Benchmark
    recipe: Recipe
    folder: Path


def run_paper(args: argparse.Namespace, changes: Mapping[str, Any], root: Path) -> int:
    """Train the remaining folds. Exit code: 0 when every fold is done, 2 when some are left."""
    rows = _rows(args, changes)
    cache = args.cache or Path("runs") / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    materials = _materials(rows, root, cache)
    devices = _devices(args)
    jobs = {
        row.folder: jobs_of(row.recipe, row.benchmark.name, materials[row.benchmark.name], row.folder) for row in rows
    }
    guesses = {}
    for row in rows:
        left = [job for job in jobs[row.folder] if not job.done]
        guesses[row.folder] = estimate(row.recipe, materials[row.benchmark.name], len(left), devices[0])
    _print_plan(rows, jobs, guesses, None if args.ray is not None else _processes(args))
    if args.dry_run:
        return 0
    for row in rows:
        write_recipe(jobs[row.folder][0].recipe, row.folder)
        write_left_out(materials[row.benchmark.name], row.folder)
    left = [job for of_row in jobs.values() for job in of_row if not job.done]
    until = time.time() + 60 * args.minutes if args.minutes else float("inf")
    failed = 0
    with closing(_ends(args, left, materials, devices, cache, until)) as ends:
        for count, end in enumerate(ends, 1):
            failed += end.failed
            print(f"{count}/{len(left)} {end.job.name}: {end.state}, {end.seconds:.0f} s", file=sys.stderr, flush=True)
    for row in rows:
        _summarize(row, jobs[row.folder])
    undone = sum(not job.done for of_row in jobs.values() for job in of_row)
    if undone:
        print(f"{undone} folds are left ({failed} failed); repeat the command to continue")
    else:
        print(f"all done; python tools/reproduction.py {' '.join(str(row.folder) for row in rows)}")
    return 2 if undone else 0


def _ends(
    args: argparse.Namespace,
    jobs: Sequence[Job],
    materials: Mapping[str, Material],
    devices: Sequence[str],
    cache: Path,
    until: float,
) -> Generator[JobEnd, None, None]:
    """Train the jobs in processes or on a cluster; yields their ends."""
    if args.ray is None:
        yield from run_jobs(jobs, materials, cache=cache, devices=devices, processes=_processes(args), until=until)
        return
    from streamser.cli.common import hushed
    from streamser.cluster.train import Where, train_on_ray

    where = Where(address=address_of(args.ray), compute=args.compute, at_once=args.jobs, cache=cache)
    with hushed(args.debug):
        yield from train_on_ray(jobs, materials, where, until)


def _processes(args: argparse.Namespace) -> int:
    return max(1, args.jobs or 1)


def _rows(args: argparse.Namespace, changes: Mapping[str, Any]) -> list[Row]:
    """The paper's rows that were published on these corpora, in the order of its tables."""
    protocol = f"paper:{args.paper}"
    if protocol not in PAPERS:
        known = [name.removeprefix("paper:") for name in PAPERS]
        near = difflib.get_close_matches(args.paper, known, 1)
        raise ConfigError(
            f"--paper {args.paper}: no such paper"
            + (f"; did you mean '{near[0]}'?" if near else "")
            + f" Known: {', '.join(known)}"
        )
    if not args.corpora:
        raise ConfigError(f"--paper {args.paper}: give the --corpora to train its rows on")
    found = []
    for variant in VARIANTS.values():
        if variant.recipe.protocol != protocol or not fnmatch(variant.name, args.rows):
            continue
        for name in variant.published:
            benchmark = BENCHMARKS[name]
            fits = all(benchmark.fits(Path(folder).name) for folder in args.corpora)
            if fits and args.benchmark in (None, name):
                recipe = changed(recipe_of(variant, benchmark, args.corpora), dict(changes))
                folder = (args.out or Path("runs")) / f"{variant.name}-{name}-{recipe.protocol.replace(':', '-')}"
                found.append(Row(variant, benchmark, recipe, folder))
    if not found:
        raise ConfigError(
            f"--paper {args.paper}: none of its rows {args.rows} was published on {', '.join(args.corpora)}"
            + (f" as {args.benchmark}" if args.benchmark else "")
        )
    return found


def _materials(rows: list[Row], root: Path, cache: Path) -> dict[str, Material]:
    """The clips of each benchmark, read once."""
    materials: dict[str, Material] = {}
    for row in rows:
        if row.benchmark.name not in materials:
            materials[row.benchmark.name] = gather(row.recipe, root, cache)
            for report in materials[row.benchmark.name].reports:
                print(report.text(), file=sys.stderr)
    return materials


def _devices(args: argparse.Namespace) -> list[str]:
    """The processors of this machine to use; with --ray, the one on which the time is estimated."""
    from streamser.training.setup import processor

    if args.ray is not None:  # this machine may have no GPU although the cluster has some
        return ["cpu" if args.compute == "cpu" else processor("auto")]
    return [processor(one) for one in args.compute.split(",")]


def _print_plan(
    rows: list[Row], jobs: Mapping[Path, list[Job]], guesses: Mapping[Path, Estimate], at_once: int | None
) -> None:
    """Print the number of folds that are left, and an estimate of their training time.

    `at_once` is the number of folds that train at a time; None if a cluster decides that.
    """
    whole = 0.0
    for row in rows:
        of_row, guess = jobs[row.folder], guesses[row.folder]
        left = sum(not job.done for job in of_row)
        whole += guess.seconds
        print(f"{row.folder.name}: {left} of {len(of_row)} folds left, {row.recipe.epochs} epochs each, about {guess}")
    if at_once is None:
        rate = f"{Estimate(whole)}, divided by the number of folds that the cluster trains at a time"
    else:
        rate = f"{Estimate(whole / at_once)}, {at_once} at a time"
    print(f"In total at most {rate}; early stopping ends some folds sooner.")


def _summarize(row: Row, jobs: list[Job]) -> None:
    if not any(job.done for job in jobs):
        return
    summary = summarize(load_folds(row.folder))
    (row.folder / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    figures = ", ".join(f"{key} {value:g}" for key, value in row.variant.published[row.benchmark.name].items())
    print(
        f"{row.folder.name}: UA {summary['ua']:.1f}, WA {summary['wa']:.1f}, F1 {summary['weighted_f1']:.1f} "
        f"({summary['folds']} folds); published: {figures}"
    )
