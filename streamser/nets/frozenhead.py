"""The head that learns on top of a frozen encoder: standardize its statistics, one hidden layer, one logit a class."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamser.nets.layers import SerNet


def hidden_of(statistics: Tensor, standard: nn.Module, hidden: nn.Module) -> Tensor:
    """The hidden layer, (B, size) -> (B, D), in float32 also under autocast."""
    with torch.autocast(statistics.device.type, enabled=False):
        return F.relu(hidden(standard(statistics.float())))


class Standard(nn.BatchNorm1d):
    """Each statistic relative to the training set's mean and deviation, nothing learnt."""

    def __init__(self, size: int) -> None:
        super().__init__(size, affine=False)

    def forward(self, values: Tensor) -> Tensor:
        if self.training:
            return super().forward(values)
        # Written out: the exporter asks for a size that the graph of a stream does not have.
        assert self.running_mean is not None and self.running_var is not None
        return (values - self.running_mean) * torch.rsqrt(self.running_var + self.eps)


class FrozenHead(SerNet):
    """(B, 1, size) of an encoder's statistics to logits, built from the modules of the net that it is a part of."""

    def __init__(self, n_classes: int, standard: nn.Module, hidden: nn.Linear, head: nn.Module, dropout: nn.Dropout):
        super().__init__(
            n_classes, bins=hidden.in_features, embedding_dim=hidden.out_features, min_frames=1, min_bins=1
        )
        self.standard, self.hidden, self.head, self.dropout = standard, hidden, head, dropout

    def embed(self, frames: Tensor) -> Tensor:
        return hidden_of(frames.flatten(1), self.standard, self.hidden)
