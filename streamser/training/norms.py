"""Re-estimate batch norm's statistics, for weights that change faster than the running averages follow."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def norms_of(net: nn.Module) -> list[_BatchNorm]:
    """The batch norm layers that keep running statistics."""
    return [module for module in net.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]


def reestimate_norms(net: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """Replace the running statistics by the mean over these batches; weights do not change, and dropout is off.

    A running average covers about the last ten batches. With a large learning rate (Adadelta at 1.0) the weights of ten
    batches ago were very different; a network that classifies every training batch correctly is then at chance level in
    evaluation mode.
    """
    norms = norms_of(net)
    if not norms:
        return
    net.eval()  # dropout off, as in the recognizer
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
        norm.train()
    with torch.no_grad():
        for batch in batches:
            net(*batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
