"""Let a worker process end when the process that started it ends."""

from __future__ import annotations

import os
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess
from threading import Thread

__all__ = ["end_with_parent"]


def end_with_parent() -> None:
    """Let this worker process end as soon as its parent ends, also if the parent is killed."""
    parent = parent_process()
    if parent is not None:
        Thread(target=_wait_and_end, args=(parent,), name="streamser-parent", daemon=True).start()


def _wait_and_end(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)  # the parent has ended, so nobody receives a result, an exit code or a traceback
