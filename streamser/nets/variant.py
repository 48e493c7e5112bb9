"""One published result: its row in the paper's table, front end, network, loss and recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from streamser.features import FeatureConfig
from streamser.nets.layers import SerNet
from streamser.nets.losses import LossSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRecipe:
    """The published training settings of a variant; values that a paper does not give keep their defaults."""

    protocol: str
    """`honest`, or `paper:<name>` for the split and the selection rules of that paper."""
    optimizer: Literal["adam", "adamw", "adadelta", "sgd"] = "adam"
    lr: float = 1e-4
    """Learning rate at its peak."""
    schedule: Literal["constant", "onecycle", "steps"] = "constant"
    start_epoch: int = 0
    every_epochs: int = 1
    factor: float = 1.0
    """`steps`: the rate is multiplied by `factor` every `every_epochs` epochs, from `start_epoch` on."""
    batch: int = 32
    epochs: int = 100
    patience: int = 0
    """Epochs without a better validation score after which training stops; 0 runs to the end."""
    weight_decay: float = 0.0
    choose_by: Literal["ua", "wa", "last"] = "ua"
    """Criterion for the kept epoch."""
    norm_clips: int = 0
    """Training clips from which batch norm's statistics are re-estimated before each validation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One row of the zoo."""

    name: str
    """Name in commands."""
    paper: str
    """Authors and year."""
    table: str
    """The row's place in the paper."""
    features: FeatureConfig
    build: Callable[[int], SerNet]
    """Number of classes -> a fresh network."""
    loss: LossSpec
    recipe: PublishedRecipe
    published: Mapping[str, Mapping[str, float]] = field(default_factory=lambda: MappingProxyType({}))
    """Published figures by benchmark (see `corpora.benchmarks`): ua, wa, f1, accuracy in percent; mse_e4 in 1e-4."""
    notes: str = ""
    """Differences from the paper, and choices that the paper does not specify."""
