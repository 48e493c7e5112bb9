"""Learning-rate schedules: one function each, and the table that recipes choose from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from streamser.settings import check_choice

__all__ = ["SCHEDULES", "Schedule", "rate_factor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The learning rate over a run, as a factor on `lr`."""

    kind: str = "constant"
    """A name in SCHEDULES: constant, onecycle, cosine or steps."""
    warmup: float = 0.15
    """onecycle, cosine: share of the run spent rising to the peak."""
    start_epoch: int = 0
    every_epochs: int = 1
    factor: float = 1.0
    """steps: multiply by `factor` every `every_epochs` epochs, from `start_epoch` on."""

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, SCHEDULES)
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup: must be 0 or more and below 1, not {self.warmup}")
        if self.every_epochs < 1:
            raise ValueError(f"every_epochs: must be at least 1, not {self.every_epochs}")


def rate_factor(schedule: Schedule, epoch: float, epochs: int) -> float:
    """Factor of the learning rate at a moment of the run, counted in epochs."""
    return SCHEDULES[schedule.kind](schedule, epoch, epochs)


def _constant(schedule: Schedule, epoch: float, epochs: int) -> float:
    return 1.0


def _steps(schedule: Schedule, epoch: float, epochs: int) -> float:
    # A step follows an epoch: with start_epoch 0 the first step comes after the first `every_epochs` epochs.
    first = schedule.start_epoch or schedule.every_epochs
    steps = 0 if epoch < first else math.floor((epoch - first) / schedule.every_epochs) + 1
    return schedule.factor**steps


def _cosine(schedule: Schedule, epoch: float, epochs: int) -> float:
    """Rise in a straight line, then fall along half a cosine."""
    done = min(epoch / epochs, 1.0)
    return done / schedule.warmup if done < schedule.warmup else _fall(schedule, done)


def _onecycle(schedule: Schedule, epoch: float, epochs: int) -> float:
    """Rise and fall along half a cosine each (Smith and Topin 2019)."""
    done = min(epoch / epochs, 1.0)
    if done >= schedule.warmup:
        return _fall(schedule, done)
    return 0.04 + 0.96 * (0.5 - 0.5 * math.cos(math.pi * done / schedule.warmup))


def _fall(schedule: Schedule, done: float) -> float:
    share = (done - schedule.warmup) / (1.0 - schedule.warmup)
    return 1e-4 + (1 - 1e-4) * (0.5 + 0.5 * math.cos(math.pi * share))


SCHEDULES: dict[str, Callable[[Schedule, float, int], float]] = {
    "constant": _constant,
    "onecycle": _onecycle,
    "cosine": _cosine,
    "steps": _steps,
}
"""(schedule, epoch so far, epochs in all) -> factor; add a schedule as one row."""
