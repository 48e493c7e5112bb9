"""Separable convolutions in inverted residuals, a BiGRU and attention, for audio of any length.

Y. Zhong, Y. Hu, H. Huang, W. Silamu, "A lightweight model based on separable convolution for speech emotion
recognition", Interspeech 2020, tables 2 to 5.

860,166 + 17,728 N parameters for four classes and N inverted residuals. This is exactly table 4 in units of 2^20, and
only these choices give it: both directions of the GRU share their weights, with one bias; the first block's depthwise
convolution has a bias and the residuals' have none; PReLU has one slope; attention has a bias. Untied directions would
give 1.78 M. Initial weights are Glorot and biases zero, as in TensorFlow: from torch's initial weights, this network
without norms learns several times more slowly. For "no attention" the paper names no substitute: we take the GRU's last
step of each direction. If the figure shows no activation, we take the one in the text.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from streamser.nets.layers import NetOutput, SerNet, SharedBiGru, attend

ENTRY_FILTERS = 32
FILTERS = 64
EXPANSION = 128
GRU_UNITS = 128
EMBEDDING = 64


class _InvertedResidual(nn.Module):
    """64 -> 128 by 1x1 and ReLU, depthwise 3x3, linear 1x1 back to 64, added to the input."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(FILTERS, EXPANSION, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(EXPANSION, EXPANSION, 3, padding=1, groups=EXPANSION, bias=False),
            nn.Conv2d(EXPANSION, FILTERS, 1),
        )

    def forward(self, x: Tensor, inside: Tensor | None = None) -> Tensor:
        if inside is None:
            y: Tensor = x + self.body(x)
            return y
        widen, relu, depthwise, project = self.body
        whole: Tensor = x + project(depthwise(torch.where(inside, relu(widen(x)), 0.0)))
        return whole


def _halved(size: int) -> int:
    """Size after a valid 3-wide convolution of stride 2 and a padded 3-wide pool of stride 2."""
    return ((size - 3) // 2) // 2 + 1


def _begin(module: nn.Module) -> None:
    """Glorot-uniform weights, orthogonal recurrent ones, no biases."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.GRU):
        nn.init.xavier_uniform_(module.get_parameter("weight_ih_l0"))
        nn.init.orthogonal_(module.get_parameter("weight_hh_l0"))
        nn.init.zeros_(module.get_parameter("bias_ih_l0"))


class SepConv(SerNet):
    """(B, T >= 3, F >= 3) log-mel frames to logits."""

    column_modules = ("entry", "first", "residuals", "gru")
    column_size = 2 * GRU_UNITS
    takes_lengths = True

    def __init__(
        self, n_classes: int, *, bins: int = 128, blocks: int = 5, attention: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__(n_classes, bins=bins, embedding_dim=EMBEDDING, min_frames=3, min_bins=3, dropout=dropout)
        self.entry = nn.Sequential(nn.Conv2d(1, ENTRY_FILTERS, 3, stride=2), nn.ReLU(inplace=True))
        self.first = nn.Sequential(
            nn.Conv2d(ENTRY_FILTERS, FILTERS, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(FILTERS, FILTERS, 3, padding=1, groups=FILTERS),
            nn.Conv2d(FILTERS, FILTERS, 1),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.residuals = nn.Sequential(*(_InvertedResidual() for _ in range(blocks)))
        self.gru = SharedBiGru(FILTERS * _halved(bins), GRU_UNITS)
        self.attention = nn.Linear(2 * GRU_UNITS, 1) if attention else None
        self.exit = nn.Sequential(nn.Linear(2 * GRU_UNITS, EMBEDDING), nn.PReLU())
        self.apply(_begin)

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> NetOutput:
        """Score windows of frames, (B, T, F); frames after the first `lengths`, (B,), of a window are padding."""
        self.check(frames)
        embedding = self.embed(frames, lengths)
        return NetOutput(self.head(self.dropout(embedding)), embedding)

    @property
    def frames_per_column(self) -> int:
        return 4

    def columns(self, frames: Tensor) -> Tensor:
        return self._steps(frames, None)[0]

    def _steps(self, frames: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """The GRU's steps, (B, T/4, 256), the last of each direction, (B, 256), and each row's number of steps."""
        x = self.entry(frames.unsqueeze(1))  # (B, T, F) -> (B, 32, T/2, F/2)
        if lengths is None:
            x = self.residuals(self.first(x))  # (B, 64, T/4, F/4)
        else:
            x, lengths = self._middle(x, torch.div(lengths - 3, 2, rounding_mode="floor") + 1)
        steps, last = self.gru(x.transpose(1, 2).flatten(2), lengths)  # from (B, T/4, 64 * F/4)
        return steps, last, lengths

    def embed(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        steps, last, lengths = self._steps(frames, lengths)
        pooled = last if self.attention is None else self._attended(steps, self.attention(steps).squeeze(2), lengths)
        embedding: Tensor = self.exit(pooled)  # (B, 64)
        return embedding

    def _middle(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Run the first block and the residuals on padded maps; every row gets the result that it would get alone.

        Returns the maps and their new lengths. Only 3x3 kernels read beyond a row's end. Their input there must equal
        their own padding: zeros for a convolution, the lowest number for the pooling.
        """
        widen, relu, depthwise, project, pool = self.first
        inside = _inside(x, lengths)
        x = project(depthwise(torch.where(inside, relu(widen(x)), 0.0)))
        x = pool(torch.where(inside, x, torch.finfo(x.dtype).min))
        lengths = torch.div(lengths - 1, 2, rounding_mode="floor") + 1
        inside = _inside(x, lengths)
        x = torch.where(inside, x, 0.0)
        for residual in self.residuals:
            assert isinstance(residual, _InvertedResidual)
            x = residual(x, inside)
        return x, lengths

    @staticmethod
    def _attended(steps: Tensor, scores: Tensor, lengths: Tensor | None) -> Tensor:
        if lengths is not None:
            step = torch.arange(steps.shape[1], device=steps.device)
            scores = scores.masked_fill(step >= lengths[:, None], -torch.inf)
        return attend(steps, scores)


def _inside(x: Tensor, lengths: Tensor) -> Tensor:
    """True for the times of maps (B, C, T, F) that lie before each row's end, (B, 1, T, 1)."""
    return (torch.arange(x.shape[2], device=x.device) < lengths[:, None])[:, None, :, None]
