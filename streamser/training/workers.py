"""Settings of the processes that train and compute features."""

from __future__ import annotations

import ctypes

import torch

from streamser.parent import end_with_parent

__all__ = ["begin_worker", "keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_LARGEST_INT = 2**31 - 1


def begin_worker() -> None:
    """Set up a worker process: it uses one core, keeps freed memory, and ends with its parent."""
    end_with_parent()
    keep_freed_memory()
    torch.set_num_threads(1)


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory in this process; False if it has no such setting.

    By default, glibc returns large blocks to the system at once, and the system clears every page when a block is
    needed again. Each step of a training needs as much memory as the step before.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT))
