"""Options of a training run that do not change its result: cache, processor, workers, progress (needs no torch)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["RunOptions", "StageProgress"]

StageProgress = Callable[[str, int, int], None]
"""Callback (stage, done, total)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Where and how a run computes; nothing here changes its result."""

    cache: Path
    """Folder for features that are computed once."""
    device: str = "cpu"
    workers: int = 1
    """Processes that compute features."""
    on_epoch: Callable[[str, dict[str, float]], None] | None = None
    """Called after every epoch with the fold's name and its figures."""
    progress: StageProgress | None = None

    def stage(self, name: str) -> Callable[[int, int], None] | None:
        """A callback (done, total) for one stage; None if no progress is reported."""
        progress = self.progress
        return None if progress is None else lambda done, total: progress(name, done, total)
