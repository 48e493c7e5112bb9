"""Train many folds of many recipes in parallel processes, within a given time; every fold can be resumed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from streamser.training.job import Job, JobEnd, JobRunner
from streamser.training.material import Material
from streamser.training.workers import begin_worker


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
_runner: JobRunner | None = None  # of a worker process
_materials: dict[str, Material] = {}  # of a worker process


def _begin(places: Any, materials: dict[str, Material], cache: Path, until: float) -> None:
    global _runner
    begin_worker()
    _runner = JobRunner(cache, places.get(), until)
    _materials.update(materials)


def _run(job: Job) -> JobEnd:
    assert _runner is not None
    return _runner.run(job, _materials[job.material])


def processes_for(device: str) -> int:
    """Number of processes that use a machine fully: small networks use little of a GPU, and each needs a CPU core."""
    cores = os.cpu_count() or 1
    return max(1, cores - 1) if device.startswith("cuda") else cores


__all__ = ["processes_for", "run_jobs"]
