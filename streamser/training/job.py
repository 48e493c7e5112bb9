"""One fold as a job: which jobs a recipe has, and how a worker process trains them."""

from __future__ import annotations

import gc
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from streamser.evaluation.folds import folder_name
from streamser.training.material import Material, splits_of, with_labels
from streamser.training.options import RunOptions
from streamser.training.recipe import Recipe
from streamser.training.trainer import Trainer

__all__ = ["FOLD_FILE", "OUT_OF_TIME", "Job", "JobEnd", "JobRunner", "jobs_of"]

log = logging.getLogger(__name__)

FOLD_FILE = "fold.json"
"""The file that is written last: a fold whose folder has it is done."""
OUT_OF_TIME = "out of time"


@dataclass(frozen=True, slots=True)
class Job:
    """One fold of one seed of one recipe."""

    recipe: Recipe
    folder: Path
    """Folder of the run; each fold has its own folder in it."""
    material: str
    """Key of the job's clips among the materials of all jobs."""
    fold: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.folder.name} {self.fold} s{self.seed}"

    @property
    def place(self) -> Path:
        return self.folder / folder_name(self.fold, self.seed)

    @property
    def done(self) -> bool:
        return (self.place / FOLD_FILE).exists()


@dataclass(frozen=True, slots=True)
class JobEnd:
    """The end of a job."""

    job: Job
    state: str
    """`done`, `out of time` (the job can be resumed), or the error."""
    seconds: float

    @property
    def failed(self) -> bool:
        return self.state not in ("done", OUT_OF_TIME)


class _OutOfTimeError(Exception):
    """The time for all jobs is used up."""


def jobs_of(recipe: Recipe, name: str, material: Material, folder: Path, most: int = 0) -> list[Job]:
    """Jobs for all folds of all seeds of a recipe, or for each seed's first `most`; `name` is the material's key."""
    settled = with_labels(recipe, material)
    return [
        Job(settled, folder, name, split.name, seed)
        for seed in settled.seeds
        for split in splits_of(settled, material, seed)[: most or None]
    ]


class JobRunner:
    """Trains one job after the other on one processor."""

    def __init__(self, cache: Path, device: str, until: float) -> None:
        """No epoch begins after `until` (seconds of `time.time`)."""
        self._device, self._until = device, until
        self._options = RunOptions(cache=cache, device=device, on_epoch=lambda _, row: self._check_time())
        self._latest: tuple[tuple[Path, str], Trainer] | None = None

    def run(self, job: Job, material: Material) -> JobEnd:
        """Train a job unless it is done; a job that was stopped continues from its checkpoint. Never raises errors."""
        began = time.monotonic()
        state = "done"
        try:
            self._check_time()
            if not job.done:
                trainer = self._trainer(job, material)
                split = next(one for one in trainer.splits(job.seed) if one.name == job.fold)
                trainer.run_split(split, job.seed)
        except _OutOfTimeError:
            state = OUT_OF_TIME
        except Exception as error:  # a failed row must not stop the others
            log.exception("%s", job.name)
            state = f"{type(error).__name__}: {error}"
        finally:
            self._free_device()
        return JobEnd(job, state, time.monotonic() - began)

    def _trainer(self, job: Job, material: Material) -> Trainer:
        """The job's trainer; the latest trainer is kept, because folds of one run follow each other."""
        key = (job.folder, job.recipe.name)
        if self._latest is None or self._latest[0] != key:
            self._latest = key, Trainer(job.recipe, material, job.folder, self._options)
        return self._latest[1]

    def _free_device(self) -> None:
        """Free a GPU's memory between jobs, because other processes may need it."""
        if self._device.startswith("cuda"):
            gc.collect()
            torch.cuda.empty_cache()

    def _check_time(self) -> None:
        if time.time() >= self._until:
            raise _OutOfTimeError
