"""The running average of a network's weights, which is often better than the weights themselves."""

from __future__ import annotations

import copy

import torch
from torch import nn

from streamser.nets.layers import SerNet

__all__ = ["copied", "follow"]


def copied(net: SerNet) -> SerNet:
    """A copy of the network on its device; `to` lays its recurrent layers out in one piece of memory, as cuDNN asks."""
    return copy.deepcopy(net).to(next(net.parameters()).device)


def follow(average: nn.Module, net: nn.Module, share: float) -> None:
    """Move each value of the average by this share towards that of the network; integers are copied."""
    with torch.no_grad():
        for mean, value in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, share)
            else:
                mean.copy_(value)
