"""Constants of a checkpoint that turn logits into calibrated predictions, and earlier utterances into a baseline."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

from streamser.settings import require

__all__ = ["BaselineRule", "Calibration", "check_prior"]


def _finite(values: tuple[float, ...]) -> bool:
    return all(isinstance(value, Real) and math.isfinite(value) for value in values)


@dataclass(frozen=True, slots=True)
class Calibration:
    """How logits become calibrated probabilities: p = softmax((logits + bias) / temperature)."""

    temperature: float = 1.0
    bias: tuple[float, ...] = ()
    """One value for each class, or empty."""
    threshold: float = 0.0
    """Below this confidence the prediction is `uncertain`."""
    risk: float | None = None
    """Share of wrong predictions among those at or above the threshold, as measured when it was chosen."""
    neutral_prior: float | None = None
    """Probability of neutral that the predictions assume; None assumes that all classes are equally likely."""

    def __post_init__(self) -> None:
        if not (_finite((self.temperature,)) and self.temperature > 0):
            raise ValueError(f"calibration.temperature must be a positive number, not {self.temperature!r}")
        if not _finite(self.bias):
            raise ValueError("calibration.bias must be finite numbers")
        if not (_finite((self.threshold,)) and 0 <= self.threshold <= 1):
            raise ValueError(f"calibration.threshold must be 0 to 1, not {self.threshold!r}")
        if self.risk is not None and not (_finite((self.risk,)) and 0 <= self.risk <= 1):
            raise ValueError(f"calibration.risk must be 0 to 1 or null, not {self.risk!r}")
        check_prior("calibration.neutral_prior must be", self.neutral_prior)


def check_prior(rule: str, prior: float | None) -> None:
    """ValueError, beginning with `rule`, unless the prior is None or a probability above 0 and below 1."""
    if prior is not None and not (_finite((prior,)) and 0 < prior < 1):
        raise ValueError(f"{rule} above 0 and below 1, or null, not {prior!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineRule:
    """How a stream's earlier utterances become a baseline, and the weight of the relative prediction."""

    exponent: float
    """Exponent of the absolute prediction's probability of neutral in an utterance's weight."""
    full_s: float = 2.0
    """Utterances shorter than this get a weight reduced in proportion to their length."""
    memory: int
    """Memory in utterances: each new utterance multiplies the sums of the earlier ones by 1 - 1/memory."""
    half: float
    """Weight of the baseline at which the relative prediction counts as much as the absolute one."""
    calibration: Calibration
    """Calibration of the relative logits."""

    def __post_init__(self) -> None:
        rules = {
            f"baseline.exponent must be 0 or more, not {self.exponent!r}": _finite((self.exponent,))
            and self.exponent >= 0,
            f"baseline.full_s must be above 0, not {self.full_s!r}": _finite((self.full_s,)) and self.full_s > 0,
            f"baseline.memory must be a whole number of 2 or more, not {self.memory!r}": type(self.memory) is int
            and self.memory >= 2,
            f"baseline.half must be 0 or more, not {self.half!r}": _finite((self.half,)) and self.half >= 0,
            "baseline.calibration must be a section": isinstance(self.calibration, Calibration),
        }
        require(rules)

    def weight_of(self, neutrality: float, duration_s: float) -> float:
        """An utterance's weight in a baseline, 0 to 1, from the absolute prediction's probability of neutral."""
        return float(neutrality**self.exponent * min(1.0, duration_s / self.full_s))

    def share_of(self, weight: float) -> float:
        """The relative prediction's share in the result, 0 to below 1; 0 for an empty baseline."""
        return weight / (weight + self.half) if weight > 0 else 0.0
