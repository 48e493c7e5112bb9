"""LightSERNet: three parallel views of the MFCC, then small convolutions down to one vector.

A. Aftab, A. Morsali, S. Ghaemmaghami, B. Champagne, "Light-SERNet: a lightweight fully convolutional neural
network for speech emotion recognition", ICASSP 2022, tables 1 and 2; and A. Scardino, L. Distefano, A. Cadoli's
report on it, whose variant has PReLU for ReLU and a residual connection over each parallel path.

462,468 parameters with batch-norm statistics and four classes: the parallel paths' convolutions have a bias,
the blocks after them have none. The report does not define how its residual joins the pooled path: we add the
input before pooling. Nor by how much it widened the first two blocks for ASVP-ESD: we take half as much again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from streamser.nets.layers import SerNet

PATH_KERNELS = ((11, 1), (1, 9), (3, 3))  # over time, over frequency, over both
PATH_FILTERS = 32
BODY_FILTERS = (64, 96, 128, 160)
BODY_POOLS = ((2, 2), (2, 2), (2, 1), (2, 1))  # (time, frequency)
EMBEDDING = 320


def _activation(prelu: bool) -> nn.Module:
    return nn.PReLU() if prelu else nn.ReLU(inplace=True)


class _Path(nn.Module):
    """Convolution, batch norm, activation, average pool; with the report's residual on request."""

    def __init__(self, kernel: tuple[int, int], prelu: bool, residual: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, PATH_FILTERS, kernel, padding=(kernel[0] // 2, kernel[1] // 2))
        self.norm = nn.BatchNorm2d(PATH_FILTERS)
        self.activation = _activation(prelu)
        self.pool = nn.AvgPool2d(2)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.norm(self.conv(x)))
        pooled: Tensor = self.pool(y + x if self.residual else y)
        return pooled


def _block(inputs: int, filters: int, kernel: int, pool: tuple[int, int] | None, prelu: bool) -> nn.Sequential:
    """A local feature learning block; the last one's pool is the mean over everything, taken by the net."""
    layers = [
        nn.Conv2d(inputs, filters, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(filters),
        _activation(prelu),
    ]
    return nn.Sequential(*layers, *([nn.AvgPool2d(pool)] if pool else []))


class LightSerNet(SerNet):
    """(B, T >= 32, F >= 8) frames to logits; plain layers only, so channels_last memory format applies."""

    def __init__(
        self,
        n_classes: int,
        *,
        bins: int = 40,
        dropout: float = 0.3,
        prelu: bool = False,
        residual: bool = False,
        body_filters: Sequence[int] = BODY_FILTERS,
        embedding_dim: int = EMBEDDING,
    ) -> None:
        # Five halvings of time and three of frequency leave one value of 32 frames and 8 bins.
        super().__init__(n_classes, bins=bins, embedding_dim=embedding_dim, min_frames=32, min_bins=8, dropout=dropout)
        self.paths = nn.ModuleList(_Path(kernel, prelu, residual) for kernel in PATH_KERNELS)
        widths = (len(PATH_KERNELS) * PATH_FILTERS, *body_filters)
        self.body = nn.Sequential(
            *(_block(widths[i], widths[i + 1], 3, pool, prelu) for i, pool in enumerate(BODY_POOLS)),
            _block(widths[-1], EMBEDDING, 1, None, prelu),
        )

    def embed(self, frames: Tensor) -> Tensor:
        embedding: Tensor = self.maps(frames).mean(dim=(2, 3))  # (B, 320)
        return embedding

    def maps(self, frames: Tensor) -> Tensor:
        """What the convolutions leave to be pooled, (B, T, F) -> (B, 320, T/32, F/8)."""
        x = frames.unsqueeze(1)  # (B, T, F) -> (B, 1, T, F)
        x = torch.cat([path(x) for path in self.paths], dim=1)  # (B, 96, T/2, F/2)
        maps: Tensor = self.body(x)
        return maps
