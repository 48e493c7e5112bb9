"""Train many folds of many recipes in parallel processes, within a given time; every fold can be resumed."""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from streamser.training.material import Material, splits_of, with_labels
from streamser.training.options import RunOptions
from streamser.training.recipe import Recipe
from streamser.training.trainer import Trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """One fold of one seed of one recipe."""

    recipe: Recipe
    folder: Path
    """Folder of the run; each fold has its own folder in it."""
    material: str
    """Key of the job's clips among those given to `run_jobs`."""
    fold: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.folder.name} {self.fold} s{self.seed}"

    @property
    def place(self) -> Path:
        return self.folder / f"{self.fold.replace('/', '-')}-s{self.seed}"

    @property
    def done(self) -> bool:
        return (self.place / "fold.json").exists()


@dataclass(frozen=True, slots=True)
class JobEnd:
    """The end of a job."""

    job: Job
    state: str
    """`done`, `out of time` (the job can be resumed), or the error."""
    seconds: float


class OutOfTimeError(Exception):
    """The time for all jobs is used up."""


def jobs_of(recipe: Recipe, name: str, material: Material, folder: Path, most: int = 0) -> list[Job]:
    """Jobs for all folds of all seeds of a recipe, or for each seed's first `most`; `name` is the material's key."""
    settled = with_labels(recipe, material)
    return [
        Job(settled, folder, name, split.name, seed)
        for seed in settled.seeds
        for split in splits_of(settled, material, seed)[: most or None]
    ]


def run_jobs(
    jobs: Sequence[Job],
    materials: Mapping[str, Material],
    *,
    cache: Path,
    devices: Sequence[str],
    processes: int,
    until: float = float("inf"),
) -> Iterator[JobEnd]:
    """Train jobs in the order given, `processes` at a time, on the devices in turn; yields each job's end.

    No epoch begins after `until` (seconds of `time.time`). A job that is done is not done again; one that was stopped
    continues from its checkpoint.
    """
    left, stuck = list(jobs), 0
    while left:
        broken: list[Job] = []
        for job, end in _round(left, materials, cache, devices, processes, until):
            if end is None:
                broken.append(job)
            else:
                yield end
        stuck = stuck + 1 if len(broken) == len(left) else 0
        if stuck > _TRIES:
            yield from (JobEnd(job, "its process was killed more than once", 0.0) for job in broken)
            return
        left = broken


def _round(
    jobs: Sequence[Job],
    materials: Mapping[str, Material],
    cache: Path,
    devices: Sequence[str],
    processes: int,
    until: float,
) -> Iterator[tuple[Job, JobEnd | None]]:
    """Jobs and their ends; None for jobs that were not done when a process was killed (for example, out of memory)."""
    context = get_context("spawn")
    places = context.Queue()
    for worker in range(processes):
        places.put(devices[worker % len(devices)])
    with ProcessPoolExecutor(processes, context, _begin, (places, dict(materials), cache, until)) as pool:
        waiting = {pool.submit(_run, job): job for job in jobs}
        for future in as_completed(waiting):
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                yield waiting[future], None
            elif error is not None:
                yield waiting[future], JobEnd(waiting[future], f"{type(error).__name__}: {error}", 0.0)
            else:
                yield waiting[future], future.result()


_TRIES = 1  # rounds in which no job ends, after which the remaining jobs are abandoned
_shared: dict[str, Any] = {}  # settings and latest trainer of a worker process


def _begin(places: Any, materials: dict[str, Material], cache: Path, until: float) -> None:
    torch.set_num_threads(1)
    _shared.update(device=places.get(), materials=materials, cache=cache, until=until)


def _run(job: Job) -> JobEnd:
    began = time.monotonic()
    state = "done"
    try:
        _check_time()
        if not job.done:
            trainer = _trainer(job)
            split = next(one for one in trainer.splits(job.seed) if one.name == job.fold)
            trainer.run_split(split, job.seed)
    except OutOfTimeError:
        state = "out of time"
    except Exception as error:  # a failed row must not stop the others
        log.exception("%s", job.name)
        state = f"{type(error).__name__}: {error}"
    finally:
        _free_device()
    return JobEnd(job, state, time.monotonic() - began)


def _trainer(job: Job) -> Trainer:
    """The job's trainer; the latest trainer is kept, because folds of one run follow each other."""
    key = (job.folder, job.recipe.name)
    if _shared.get("key") != key:
        material = _shared["materials"][job.material]
        _shared["trainer"] = Trainer(
            job.recipe,
            material,
            job.folder,
            RunOptions(cache=_shared["cache"], device=_shared["device"], on_epoch=lambda _, row: _check_time()),
        )
        _shared["key"] = key
    trainer: Trainer = _shared["trainer"]
    return trainer


def _free_device() -> None:
    """Free a GPU's memory between jobs, because other processes may need it."""
    if str(_shared["device"]).startswith("cuda"):
        gc.collect()
        torch.cuda.empty_cache()


def _check_time() -> None:
    if time.time() >= _shared["until"]:
        raise OutOfTimeError


def processes_for(device: str) -> int:
    """Number of processes that use a machine fully: small networks use little of a GPU, and each needs a CPU core."""
    cores = os.cpu_count() or 1
    return max(1, cores - 1) if device.startswith("cuda") else cores


__all__ = ["Job", "JobEnd", "OutOfTimeError", "jobs_of", "processes_for", "run_jobs"]
