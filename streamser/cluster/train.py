"""Train the folds of many runs on a Ray cluster, each as one task; only this process writes the run folders."""

from __future__ import annotations

import math
import secrets
import shutil
import socket
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from streamser.cluster.start import Cluster, connected
from streamser.errors import ConfigError, CorpusError, StreamserError
from streamser.training.foldfiles import read_files, replace_files
from streamser.training.job import OUT_OF_TIME, Job, JobEnd, JobRunner
from streamser.training.material import Material
from streamser.training.workers import begin_worker

__all__ = ["Where", "check_machine", "train_on_ray"]

_RETRIES = 2  # more tries of a task whose worker died
_CANCEL_S = 5.0  # time in which cancelled tasks delete their files


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """The cluster and its use."""

    address: str | None = None
    """None: a new cluster on this machine."""
    compute: str = "auto"
    """`cpu`; `cuda`; or `auto`: GPUs if the cluster has any."""
    at_once: int | None = None
    """Largest number of jobs that train at a time (None: one for each CPU); on GPUs, jobs that share one (None: 1)."""
    cache: Path
    """Folder for computed features, on each machine."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What all tasks of a run have in common."""

    cache: Path
    device: str
    until: float


@dataclass(frozen=True, slots=True)
class Task:
    """A task that was submitted."""

    job: Job
    scratch: str
    """Name of the folder in which it trains, in its machine's folder for temporary files; hard to guess, because other
    users can write there."""


def train_on_ray(
    jobs: Sequence[Job], materials: Mapping[str, Material], where: Where, until: float = math.inf
) -> Iterator[JobEnd]:
    """Train jobs on a cluster; yields each job's end after the job's files were written into its folder.

    No epoch begins after `until` (seconds of `time.time`). A job that is done is not done again; one that was stopped
    continues from its checkpoint. Ray retries a job whose worker dies. Raises CorpusError or ConfigError if a machine
    lacks the corpora or the cache.
    """
    yield from (JobEnd(job, "done", 0.0) for job in jobs if job.done)
    queue = deque(job for job in jobs if not job.done)
    if not queue:
        return
    gpu_here = where.compute != "cpu" and torch.cuda.is_available()
    with connected(where.address, None if gpu_here else where.at_once) as cluster:
        import ray

        on_gpu = _uses_gpus(where, cluster)
        most = len(queue) if on_gpu or where.at_once is None else where.at_once
        share = 1 / (where.at_once or 1) if on_gpu else 0
        remote = ray.remote(num_cpus=1, num_gpus=share, max_retries=_RETRIES)(train_fold)
        settings = Settings(where.cache.absolute(), "cuda" if on_gpu else "cpu", until)
        stored = {key: ray.put(_absolute(material)) for key, material in materials.items()}
        running: dict[Any, Task] = {}
        try:
            while queue or running:
                while queue and len(running) < most:
                    job = queue.popleft()
                    if time.time() >= until:
                        yield JobEnd(job, OUT_OF_TIME, 0.0)
                        continue
                    task = Task(job, f"streamser-train-{secrets.token_hex(8)}")
                    running[remote.remote(task, stored[job.material], read_files(job.place), settings)] = task
                if running:
                    (ref,), _ = ray.wait([*running])
                    end = _end_of(running[ref].job, ref)
                    _delete_scratch(running.pop(ref))
                    yield end
        finally:
            _cancel(running)


def _uses_gpus(where: Where, cluster: Cluster) -> bool:
    if where.compute == "cuda" and not cluster.gpus:
        raise ConfigError("--compute cuda: the Ray cluster has no GPU; use --compute cpu")
    return where.compute != "cpu" and cluster.gpus > 0


def _absolute(material: Material) -> Material:
    """The material with paths that do not depend on the current folder."""
    clips, unlabelled = (
        tuple(replace(clip, path=clip.path.absolute()) for clip in part)
        for part in (material.clips, material.unlabelled)
    )
    root = None if material.root is None else material.root.absolute()
    return replace(material, clips=clips, unlabelled=unlabelled, root=root)


def _end_of(job: Job, ref: Any) -> JobEnd:
    """Write the files of a task that ended, and return its job's end."""
    import ray
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

    try:
        answer: tuple[JobEnd, dict[str, bytes]] = ray.get(ref)
    except RayTaskError as error:
        if isinstance(error.cause, StreamserError):
            raise error.cause from None
        return JobEnd(job, str(error).strip().rpartition("\n")[2], 0.0)
    except OutOfMemoryError:
        return JobEnd(job, "its machine ran out of memory in every try", 0.0)
    except (NodeDiedError, WorkerCrashedError):
        return JobEnd(job, f"its process died {1 + _RETRIES} times; it may have run out of memory", 0.0)
    except RayError as error:
        return JobEnd(job, f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}", 0.0)
    end, files = answer
    if files:
        replace_files(job.place, files)
    return replace(end, job=job)


def _cancel(running: Mapping[Any, Task]) -> None:
    """Stop tasks, and give them time to delete their files."""
    import ray

    with suppress(Exception):  # the cluster may be gone
        for ref in running:
            ray.cancel(ref)
        if running:
            ray.wait([*running], num_returns=len(running), timeout=_CANCEL_S)
    for task in running.values():
        _delete_scratch(task)


def _scratch(task: Task) -> Path:
    return Path(tempfile.gettempdir()) / task.scratch


def _delete_scratch(task: Task) -> None:
    """Delete the folder in which a task trained on this machine; a task whose worker dies cannot do it itself."""
    shutil.rmtree(_scratch(task), ignore_errors=True)


# --- in a worker process of the cluster

_complete: set[str] = set()  # keys of the materials whose files are all on this machine


def train_fold(
    task: Task, material: Material, begun: Mapping[str, bytes], settings: Settings
) -> tuple[JobEnd, dict[str, bytes]]:
    """Train a job in a folder of this machine; returns its end and its files. `begun` are the files of a stopped job.

    Raises CorpusError or ConfigError if this machine lacks the corpora or the cache.
    """
    begin_worker()
    if task.job.material not in _complete:
        check_machine(material, settings.cache)
        _complete.add(task.job.material)
    scratch = _scratch(task)
    job = replace(task.job, folder=scratch / task.job.folder.name)
    try:
        scratch.mkdir(mode=0o700, exist_ok=True)
        if not job.place.exists():  # else it has the files of an earlier try, whose worker died
            replace_files(job.place, begun)
        end = JobRunner(settings.cache, settings.device, settings.until).run(job, material)
        return end, read_files(job.place)
    finally:
        _delete_scratch(task)


def check_machine(material: Material, cache: Path) -> None:
    """CorpusError or ConfigError unless this machine has all clips, and a folder for their features."""
    missing = next((clip.path for clip in material.stored if not clip.path.is_file()), None)
    if missing is not None:
        raise CorpusError(
            f"{missing}: not found on {socket.gethostname()}; with --ray, each machine needs the corpora at the same "
            "path"
        )
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--cache {cache}: cannot be made on {socket.gethostname()} ({error.strerror}); give a folder that can be "
            "made on each machine"
        ) from error
