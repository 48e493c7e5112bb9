"""An adversary predicts the speaker or corpus from the embedding; the network is trained to prevent this.

Features that depend on the corpus shift all predictions of an unseen corpus in one direction, for example to "angry".
Ganin et al., "Domain-adversarial training of neural networks", JMLR 2016: the adversary's gradient is reversed before
it reaches the network. (An adversary that also got the label helped less.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from streamser.corpora.clips import Clip
from streamser.training.recipe import AdversaryConfig

_HIDDEN = 64


class _Reversed(torch.autograd.Function):
    """The identity, with a reversed and scaled gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * gradients[0], None


class Adversary(nn.Module):
    """A small classifier of corpora or speakers; its loss is added to the network's."""

    steps: Tensor

    def __init__(self, config: AdversaryConfig, clips: Sequence[Clip], embedding_dim: int) -> None:
        super().__init__()
        self.config = config
        names = [str(getattr(clip, config.of)) for clip in clips]
        self.groups = sorted(set(names))
        self.group_of = np.array([self.groups.index(name) for name in names])
        """Index in `groups` of each training clip."""
        self.guess = nn.Sequential(nn.Linear(embedding_dim, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, len(self.groups)))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, embedding: Tensor, drawn: NDArray[np.int64]) -> Tensor:
        """The adversary's loss for the training clips `drawn`. Its gradient reaches the embedding reversed, with a
        weight that rises from 0."""
        if self.training:
            self.steps += 1
        weight = self.config.weight * min(1.0, int(self.steps) / max(1, self.config.warmup_steps))
        guesses = self.guess(_Reversed.apply(embedding, weight))  # type: ignore[no-untyped-call]
        groups = torch.from_numpy(self.group_of[drawn]).to(embedding.device)
        return F.cross_entropy(guesses, groups)
