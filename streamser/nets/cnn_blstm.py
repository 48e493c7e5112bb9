"""Six convolutions, a bidirectional LSTM and attentive pooling, for discriminative losses.

"Discriminative feature learning for speech emotion recognition" (additive margin, focal loss and combined
attentive pooling on one CNN-BLSTM baseline), 2019, tables 1 and 2.

Attention weighs "each time step and each recurrent direction": all 2 T vectors of 64 values share one softmax, so the
pooled feature has 64 values. Luong's multiplicative score with a constant query is a dot product with a learned vector;
here each direction has its own.

The paper gives two sizes, "less than 360K" and "383K". Built as printed, with torch's two LSTM biases, the network has
401,412 parameters, and 401,668 with combined pooling, whose 256 further weights are the paper's 0.07 %. ReLU after
batch norm is our choice, because the paper names no activation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from streamser.nets.layers import CosineHead, SerNet, attend, recur

FILTERS = (128, 128, 64, 64, 64, 64)
LSTM_UNITS = 64
DROPOUT = 0.25


def _module(inputs: int, filters: int, pooled: bool) -> nn.Sequential:
    layers: Sequence[nn.Module] = [
        nn.Conv2d(inputs, filters, 3, padding=1),
        nn.BatchNorm2d(filters),
        nn.ReLU(inplace=True),
        *([nn.AvgPool2d(2)] if pooled else []),
        nn.Dropout(DROPOUT),
    ]
    return nn.Sequential(*layers)


class CnnBlstm(SerNet):
    """(B, T >= 32, F >= 32) log-mel frames to logits.

    `combined` pools the weighted standard deviation in addition to the mean; `cosine_scale` > 0 replaces the linear
    head by the normalised head of the additive-margin softmax.
    """

    def __init__(self, n_classes: int, *, bins: int = 40, combined: bool = False, cosine_scale: float = 0.0) -> None:
        embedding_dim = LSTM_UNITS * (2 if combined else 1)
        # Five poolings halve both axes.
        super().__init__(n_classes, bins=bins, embedding_dim=embedding_dim, min_frames=32, min_bins=32)
        widths = (1, *FILTERS)
        self.convolutions = nn.Sequential(
            *(_module(widths[i], widths[i + 1], pooled=i < len(FILTERS) - 1) for i in range(len(FILTERS)))
        )
        self.lstm = nn.LSTM(FILTERS[-1] * (bins // 32), LSTM_UNITS, batch_first=True, bidirectional=True)
        self.queries = nn.Parameter(torch.empty(2, LSTM_UNITS))
        nn.init.xavier_uniform_(self.queries)
        self.combined = combined
        if cosine_scale:
            self.head = CosineHead(embedding_dim, n_classes, cosine_scale)

    def embed(self, frames: Tensor) -> Tensor:
        x = self.convolutions(frames.unsqueeze(1))  # (B, T, F) -> (B, 64, T/32, F/32)
        x = recur(self.lstm, x.transpose(1, 2).flatten(2))  # (B, T/32, 128)
        steps = x.reshape(*x.shape[:2], 2, LSTM_UNITS)  # (B, T/32, 2, 64)
        scores = (steps * self.queries).sum(dim=3).flatten(1)  # (B, 2 T/32)
        vectors = steps.flatten(1, 2)  # (B, 2 T/32, 64)
        mean = attend(vectors, scores)
        if not self.combined:
            return mean  # (B, 64)
        variance = attend((vectors - mean.unsqueeze(1)).square(), scores)
        deviation = torch.sqrt(variance.clamp_min(1e-8))  # the root's slope at 0 is infinite
        return torch.cat([mean, deviation], dim=1)  # (B, 128)
