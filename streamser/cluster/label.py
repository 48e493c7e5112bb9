"""Label files on a Ray cluster with Ray Data: each file once, also when workers die."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from streamser.cluster.start import connected
from streamser.config import Config
from streamser.errors import EngineError
from streamser.labelling.worker import Labelled, Mode, Worker
from streamser.recognizer import open_recognizer

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["Settings", "label_on_ray"]

Settings: TypeAlias = tuple[Path, Config, Mode]
"""The folder to which file names are relative, the configuration, and the mode (see `Mode`)."""

_MOST_FILES = 64  # for one task: its results arrive together, and if its worker dies, all its files are labelled again
_TASKS_EACH = 8  # tasks for each worker, so that all workers end at about the same time
_RETRIES = 2  # more tries of a task whose worker died
_ROUNDS = 2  # in the second round, each task has one file


def label_on_ray(
    address: str | None, workers: int | None, settings: Settings, files: Sequence[str]
) -> Iterator[Labelled]:
    """Results in the order of the files; then, also in order, the results of the files whose worker died.

    These files are tried again, each in a separate task. If the worker dies in every try, the result is an error.
    """
    if not files:
        return
    with connected(address, workers) as cluster:
        count = min(workers or cluster.cpus, len(files))
        _quiet()
        missing = list(files)
        for number in range(_ROUNDS):
            share = math.ceil(len(missing) / (count * _TASKS_EACH))
            size = 1 if number else max(1, min(_MOST_FILES, share))
            found: set[str] = set()
            for labelled in _round(missing, size, count, settings):
                if labelled.file not in found:
                    found.add(labelled.file)
                    yield labelled
            missing = [file for file in missing if file not in found]
            if not missing:
                return
        tries = _ROUNDS * (1 + _RETRIES)
        for file in missing:
            why = f"the process that read it died {tries} times; it may have run out of memory"
            yield Labelled(file, error=f"{settings[0] / file}: {why}")


class RayWorker:
    """A `Worker` in a process of the cluster, made once; rows of Ray Data go in and out."""

    def __init__(self, folder: Path, config: Config, mode: Mode) -> None:
        self._folder = folder
        self._worker = Worker(folder, open_recognizer(config.recognizer), config, mode)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        file = bytes(row["file"]).decode("utf-8", errors="surrogateescape")
        try:
            labelled = self._worker(file)
        except Exception as error:  # one file must not end a run of days
            labelled = Labelled(file, error=f"{self._folder / file}: {type(error).__name__}: {error}")
        return {"labelled": labelled}


def _round(files: Sequence[str], size: int, workers: int, settings: Settings) -> Iterator[Labelled]:
    """Results of the tasks that succeeded; Ray repeats a task when its worker dies."""
    import ray.data
    from ray.exceptions import RayError

    # As bytes: a file name need not be text.
    rows = [{"file": file.encode("utf-8", errors="surrogateescape")} for file in files]
    tasks = math.ceil(len(rows) / size)
    with warnings.catch_warnings():
        # Ray warns that the last two arguments will be renamed in 2.64; without them it would retry forever.
        warnings.simplefilter("ignore")
        data: Dataset = ray.data.from_items(rows, override_num_blocks=tasks).map(
            RayWorker,
            fn_constructor_args=settings,
            concurrency=min(workers, tasks),
            num_cpus=1,
            num_gpus=1 if settings[1].recognizer.compute.startswith("cuda") else 0,
            max_restarts=-1,
            max_task_retries=_RETRIES,
        )
    try:
        for row in data.iter_rows():
            yield row["labelled"]
    except RayError as error:
        reason = str(error).strip().rpartition("\n")[2]
        raise EngineError(f"the Ray cluster failed ({reason}); run it again to continue") from error


def _quiet() -> None:
    """Keep the order of the files, let no failed task end the run, and print no progress bars or logs."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.max_errored_blocks = -1  # any number; the files without a result are tried again
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
