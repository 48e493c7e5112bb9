"""LightSERNet: three parallel convolutions of the MFCC, then small convolutions to one vector.

A. Aftab, A. Morsali, S. Ghaemmaghami, B. Champagne, "Light-SERNet: a lightweight fully convolutional neural
network for speech emotion recognition", ICASSP 2022, tables 1 and 2; and a report on it by A. Scardino, L. Distefano
and A. Cadoli, whose variant has PReLU instead of ReLU and a residual connection over each parallel path.

462,468 parameters with batch-norm statistics and four classes: the parallel paths' convolutions have a bias, the blocks
after them have none. The report does not define how its residual joins the pooled path: we add the input before
pooling. It does not define by how much it widened the first two blocks for ASVP-ESD either: we take 1.5 times the
width.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamser.features import FeatureConfig
from streamser.nets.layers import SerNet
from streamser.nets.tracing import Traceable

PATH_KERNELS = ((11, 1), (1, 9), (3, 3))  # over time, over frequency, over both
FILTERS = (32, 64, 96, 128, 160)  # of each path, then of the blocks
BODY_POOLS = ((2, 2), (2, 2), (2, 1), (2, 1))  # (time, frequency)
EMBEDDING = 320
_REACH = max(kernel[0] for kernel in PATH_KERNELS) // 2  # frames on either side that a path's convolution covers


def _activation(prelu: bool) -> nn.Module:
    return nn.PReLU() if prelu else nn.ReLU(inplace=True)


class _Path(nn.Module):
    """Convolution, batch norm, activation, average pool; `residual` adds the input before pooling."""

    def __init__(self, filters: int, kernel: tuple[int, int], prelu: bool, residual: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, filters, kernel, padding=(kernel[0] // 2, kernel[1] // 2))
        self.norm = nn.BatchNorm2d(filters)
        self.activation = _activation(prelu)
        self.pool = nn.AvgPool2d(2)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.norm(self.conv(x)))
        pooled: Tensor = self.pool(y + x if self.residual else y)
        return pooled


def _block(inputs: int, filters: int, kernel: int, pool: tuple[int, int] | None, prelu: bool) -> nn.Sequential:
    """A local feature learning block; the last one has no `pool`, because `pooled` pools its maps."""
    layers = [
        nn.Conv2d(inputs, filters, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(filters),
        _activation(prelu),
    ]
    return nn.Sequential(*layers, *([nn.AvgPool2d(pool)] if pool else []))


class LightSerNet(SerNet):
    """(B, T >= 32, F >= 8) frames to logits; plain layers only, so channels_last memory format applies."""

    column_modules = ("paths", "body")
    column_size = EMBEDDING

    def __init__(
        self,
        n_classes: int,
        *,
        bins: int = 40,
        dropout: float = 0.3,
        prelu: bool = False,
        residual: bool = False,
        filters: Sequence[int] = FILTERS,
        embedding_dim: int = EMBEDDING,
    ) -> None:
        # Five halvings of time and three of frequency reduce 32 frames and 8 bins to one value. `filters` may leave out
        # the last of the published four blocks.
        super().__init__(n_classes, bins=bins, embedding_dim=embedding_dim, min_frames=32, min_bins=8, dropout=dropout)
        self.paths = nn.ModuleList(_Path(filters[0], kernel, prelu, residual) for kernel in PATH_KERNELS)
        widths = (len(PATH_KERNELS) * filters[0], *filters[1:])
        self.body = nn.Sequential(
            *(_block(widths[i], widths[i + 1], 3, BODY_POOLS[i], prelu) for i in range(len(filters) - 1)),
            _block(widths[-1], EMBEDDING, 1, None, prelu),
        )

    def embed(self, frames: Tensor) -> Tensor:
        return self.pooled(self.maps(frames))

    def pooled(self, maps: Tensor) -> Tensor:
        """The embedding of a window: the mean of its last maps over time and frequency, (B, 320, t, f) -> (B, 320)."""
        return maps.mean(dim=(2, 3))

    def maps(self, frames: Tensor) -> Tensor:
        """The last block's output before its mean over time and frequency, (B, T, F) -> (B, 320, T/32, F/8)."""
        x = frames.unsqueeze(1)  # (B, T, F) -> (B, 1, T, F)
        x = torch.cat([path(x) for path in self.paths], dim=1)  # (B, 96, T/2, F/2)
        maps: Tensor = self.body(x)
        return maps

    @property
    def frames_per_column(self) -> int:
        return 2 * math.prod(time for time, _ in BODY_POOLS[: len(self.body) - 1])  # the paths halve time too

    def columns(self, frames: Tensor) -> Tensor:
        return self.maps(frames).mean(dim=3).transpose(1, 2)

    def step_graph(self, features: FeatureConfig) -> Traceable | None:
        if features.short != "tile":
            return None
        step = _LightSerNetStep(self)
        frames = torch.zeros(1, 2 * _REACH + 12, self.bins)
        with torch.no_grad():
            shapes = step.shapes(torch.zeros(1, 2 * _REACH + 2 ** len(step.levels), self.bins))
        columns = [torch.zeros(4, *shape) for shape in shapes]
        runs = [torch.arange(6) for _ in shapes[:-1]] + [torch.arange(5)]
        count = len(shapes)
        inputs = ["frames", *(f"c{n}" for n in range(1, count + 1)), *(f"r{n}" for n in range(1, count)), "window"]
        outputs = ["logits", "embedding", *(f"x{n}" for n in range(1, count + 1))]
        axes = {name: {0: name} for name in [*inputs[1:], *outputs[2:]]}
        return Traceable(
            module=step,
            example=(frames, *columns, *runs),
            inputs=inputs,
            outputs=outputs,
            free_axes={"frames": {1: "time"}, **axes},
            metadata={"streamser.step": "window", "streamser.levels": json.dumps(step.levels)},
        )


class _LightSerNetStep(nn.Module):
    """LightSERNet on runs of columns, as `streamser.engines.columns` gives them. Convolutions do not pad in time,
    because a run includes its neighbouring columns."""

    def __init__(self, net: LightSerNet) -> None:
        super().__init__()
        self.net = net
        # (before, after, stride, extra) of each layer, as streamser.engines.columns reads them
        self.levels = [(_REACH, _REACH, 2, 0), *((1, 1, 2, 0) for _ in list(net.body)[:-1])]

    def forward(self, frames: Tensor, *columns_and_runs: Tensor) -> tuple[Tensor, ...]:
        count = len(self.levels)
        columns, runs = columns_and_runs[:count], columns_and_runs[count:]
        computed = [_as_columns(self._paths(frames))]
        for block, known, run in zip(list(self.net.body)[:-1], columns, runs, strict=False):
            computed.append(_as_columns(_unpadded(block, _chosen(known, computed[-1], run))))
        window = _chosen(columns[-1], computed[-1], runs[-1])
        embedding = self.net.pooled(self.net.body[-1](window))
        return self.net.head(embedding), embedding, *computed

    def shapes(self, frames: Tensor) -> list[tuple[int, int]]:
        """(channels, bins) of each layer's columns."""
        x = self._paths(frames)
        shapes = [(x.shape[1], x.shape[3])]
        for block in list(self.net.body)[:-1]:
            x = block(x)
            shapes.append((x.shape[1], x.shape[3]))
        return shapes

    def _paths(self, frames: Tensor) -> Tensor:
        """(1, n + 10, bins) -> (1, 96, n / 2, bins / 2)"""
        x = frames.unsqueeze(1)
        size = x.shape[2]
        pooled = []
        for module in self.net.paths:
            path: Any = module
            conv = path.conv
            cut = _REACH - conv.kernel_size[0] // 2
            y = F.conv2d(x[:, :, cut : size - cut], conv.weight, conv.bias, padding=(0, conv.padding[1]))
            y = path.activation(path.norm(y))
            pooled.append(path.pool(y + x[:, :, _REACH : size - _REACH] if path.residual else y))
        return torch.cat(pooled, dim=1)


def _as_columns(x: Tensor) -> Tensor:
    """A layer's output (1, C, n, F) as rows that can be stored and indexed, (n, C, F)."""
    return x.squeeze(0).transpose(0, 1)


def _chosen(known: Tensor, computed: Tensor, run: Tensor) -> Tensor:
    """Select the columns of a run, in its order, from the known (n, C, F) and the computed (m, C, F): (1, C, r, F)."""
    return torch.cat([known, computed]).index_select(0, run).transpose(0, 1).unsqueeze(0)


def _unpadded(block: nn.Module, x: Tensor) -> Tensor:
    """Apply a block of the body without padding in time."""
    assert isinstance(block, nn.Sequential)
    conv, *others = block
    assert isinstance(conv, nn.Conv2d)
    x = F.conv2d(x, conv.weight, conv.bias, padding=(0, int(conv.padding[1])))
    for layer in others:
        x = layer(x)
    return x
