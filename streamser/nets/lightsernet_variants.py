"""LightSERNet with one idea of papers 1 to 3 (docs/papers.md) at a time, to compare their claims on one network.

Two of their losses need a change of the network: a normalised head for the additive margin, and a decoder for the
reconstruction.
Pooling: `spread` appends the standard deviation to the mean, `attention` weighs every position of the last feature map
by a learned query, `combined` does both, as paper 3 does with its recurrent steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from streamser.nets.layers import CosineHead, NetOutput, attend, rebuilt
from streamser.nets.lightsernet import EMBEDDING, FILTERS, LightSerNet

DECODER_UNITS = 128

Pooling = Literal["mean", "spread", "attention", "combined"]


class LightSerNetVariant(LightSerNet):
    """(B, T >= 32, F >= 8) frames to logits.

    `cosine_scale` > 0 replaces the head by the additive margin's; `decode_frames` > 0 adds a decoder that reconstructs
    windows of up to that many frames from the embedding. An exported graph has no decoder.
    """

    def __init__(
        self,
        n_classes: int,
        *,
        bins: int = 40,
        pooling: Pooling = "mean",
        cosine_scale: float = 0.0,
        decode_frames: int = 0,
        filters: Sequence[int] = FILTERS,
    ) -> None:
        size = EMBEDDING * (2 if pooling in ("spread", "combined") else 1)
        super().__init__(n_classes, bins=bins, embedding_dim=size, filters=filters)
        self.pooling = pooling
        self.query = nn.Parameter(torch.zeros(EMBEDDING)) if pooling in ("attention", "combined") else None
        if cosine_scale:
            self.head = CosineHead(size, n_classes, cosine_scale)
        self.decode_frames = decode_frames
        self.decoder = (
            nn.Sequential(nn.Linear(size, DECODER_UNITS), nn.ReLU(), nn.Linear(DECODER_UNITS, decode_frames * bins))
            if decode_frames
            else None
        )

    def forward(self, frames: Tensor) -> NetOutput:
        output = super().forward(frames)
        return output._replace(reconstruction=rebuilt(self.decoder, output.embedding, frames, self.decode_frames))

    def pooled(self, maps: Tensor) -> Tensor:
        places = maps.flatten(2).transpose(1, 2)  # (B, places, 320)
        # With a zero query, as at the beginning, all places have the same weight.
        scores = (places * self.query).sum(dim=2) if self.query is not None else places.new_zeros(places.shape[:2])
        mean = attend(places, scores)
        if self.pooling in ("mean", "attention"):
            return mean  # (B, 320)
        variance = attend((places - mean.unsqueeze(1)).square(), scores)
        return torch.cat([mean, (variance + 1e-5).sqrt()], dim=1)  # (B, 640)
