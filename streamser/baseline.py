"""A baseline: the weighted mean of a speaker's earlier embeddings, stored as a sum and its weight.

The relative head of a checkpoint compares an utterance with it. An utterance that the absolute head classifies as
neutral has a large weight, and an angry one a small weight: otherwise, for a speaker who is always angry, anger would
become the usual voice. `BaselineRule` in `streamser.calibration` has the constants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamser.calibration import BaselineRule

__all__ = ["Baseline", "BaselineKind", "BaselineSource", "weighted_sum"]

BaselineSource = Literal["own", "profile"]
BaselineKind = Literal["none", "own", "profile"]


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """The baseline of one voice; immutable, so that streams and threads may share one."""

    total: NDArray[np.float64]
    """(D,), the weighted sum of embeddings."""
    weight: float
    """The sum of the weights."""
    utterances: int
    """Number of utterances in the baseline."""
    source: BaselineSource = "own"
    """`profile` as long as a profile is part of it, else `own`: a stream's own utterances."""

    def __post_init__(self) -> None:
        if self.total.ndim != 1 or not np.isfinite(self.total).all():
            raise ValueError(f"total must be one-dimensional and finite; its shape is {self.total.shape}")
        if not (np.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"weight must be 0 or more, not {self.weight!r}")
        if self.utterances < 0:
            raise ValueError(f"utterances must be 0 or more, not {self.utterances!r}")
        if self.source not in ("own", "profile"):
            raise ValueError(f"source must be own or profile, not {self.source!r}")

    @classmethod
    def empty(cls, size: int) -> Baseline:
        """A baseline without utterances; `size` is the length of an embedding."""
        return cls(np.zeros(size, np.float64), 0.0, 0)

    @property
    def kind(self) -> BaselineKind:
        """Kind of baseline that a prediction is compared with: `none` while its weight is 0, else its source."""
        return self.source if self.weight > 0 else "none"

    def plus(self, embedding: NDArray[np.floating[Any]], weight: float, rule: BaselineRule) -> Baseline:
        """The baseline with one more utterance; earlier ones lose a little weight (`rule.memory`).

        >>> from streamser.calibration import Calibration
        >>> rule = BaselineRule(exponent=1.0, memory=10, half=2.0, calibration=Calibration())
        >>> once = Baseline.empty(2).plus(np.array([1.0, 0.0]), 1.0, rule)
        >>> twice = once.plus(np.array([0.0, 1.0]), 0.5, rule)
        >>> twice.total.tolist(), twice.weight, twice.utterances
        ([0.9, 0.5], 1.4, 2)
        """
        if np.shape(embedding) != self.total.shape:
            raise ValueError(f"embedding must have shape {self.total.shape}, not {np.shape(embedding)}")
        kept = 1.0 - 1.0 / rule.memory
        return Baseline(
            kept * self.total + weight * np.asarray(embedding, np.float64),
            kept * self.weight + weight,
            self.utterances + 1,
            self.source,
        )


def weighted_sum(
    embeddings: NDArray[np.floating[Any]], weights: NDArray[np.floating[Any]], kept: float = 1.0
) -> tuple[NDArray[np.float64], float]:
    """Total (D,) and weight of a baseline, from embeddings (N, D) and their weights (N,), the newest last.

    Each utterance multiplies the weights of all earlier ones by `kept`, which is 1 - 1 / `memory` in `Baseline.plus`.
    """
    faded = weights * kept ** np.arange(len(weights) - 1, -1, -1)
    return faded @ np.asarray(embeddings, np.float64), float(faded.sum())
