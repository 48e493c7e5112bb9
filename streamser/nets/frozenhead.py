"""The trained head on a frozen encoder: standardized statistics, one hidden layer, one logit for each class."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamser.nets.layers import SerNet


def hidden_of(statistics: Tensor, standard: nn.Module, hidden: nn.Module) -> Tensor:
    """The hidden layer, (B, size) -> (B, D), in float32 also under autocast."""
    with torch.autocast(statistics.device.type, enabled=False):
        return F.relu(hidden(standard(statistics.float())))


class Standard(nn.Module):
    """Standardize each statistic with its mean and deviation in the training set, which the trainer measures first."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(size))
        self.register_buffer("running_var", torch.ones(size))

    def forward(self, values: Tensor) -> Tensor:
        return (values - self.running_mean) * torch.rsqrt(self.running_var + 1e-5)

    def measure(self, values: Tensor) -> None:
        """Take mean and variance from training vectors, (N, size)."""
        self.running_mean.copy_(values.mean(dim=0))
        self.running_var.copy_(values.var(dim=0, unbiased=False))


class FrozenHead(SerNet):
    """An encoder's statistics (B, 1, size) to logits; the modules may be shared with the whole network."""

    def __init__(self, n_classes: int, standard: Standard, hidden: nn.Linear, head: nn.Module, dropout: nn.Dropout):
        super().__init__(
            n_classes, bins=hidden.in_features, embedding_dim=hidden.out_features, min_frames=1, min_bins=1
        )
        self.standard, self.hidden, self.head, self.dropout = standard, hidden, head, dropout

    def embed(self, frames: Tensor) -> Tensor:
        return hidden_of(frames.flatten(1), self.standard, self.hidden)
