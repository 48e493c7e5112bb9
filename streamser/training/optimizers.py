"""Optimizers: one function each, and the table that recipes choose from (torch is imported at the first use)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

__all__ = ["OPTIMIZERS", "make_optimizer"]


def make_optimizer(name: str, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> Optimizer:
    """Make the named optimizer for the parameters that are trained."""
    return OPTIMIZERS[name]([p for p in parameters if p.requires_grad], lr, weight_decay)


def _adamw(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> Optimizer:
    """AdamW in which biases and norms have no weight decay."""
    from torch.optim import AdamW

    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=lr)


def _adam(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> Optimizer:
    from torch.optim import Adam

    return Adam(parameters, lr=lr, weight_decay=weight_decay)


def _adadelta(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> Optimizer:
    from torch.optim import Adadelta

    return Adadelta(parameters, lr=lr, weight_decay=weight_decay)


def _sgd(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> Optimizer:
    from torch.optim import SGD

    return SGD(parameters, lr=lr, momentum=0.9, weight_decay=weight_decay)


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter], float, float], Optimizer]] = {
    "adam": _adam,
    "adamw": _adamw,
    "adadelta": _adadelta,
    "sgd": _sgd,
}
"""(parameters, lr, weight_decay) -> optimizer; add an optimizer as one row."""
