"""The loss against a teacher's predictions, and the sampling weights of clips without labels.

G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network", 2015: the loss pulls the network's
probabilities, softened by a temperature, towards the teacher's. A second term, which a recipe can add, pulls a linear
map of the network's embedding towards the teacher's embedding (A. Romero et al., "FitNets", ICLR 2015); the map is used
in training only.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from streamser.training.recipe import DistilConfig
from streamser.training.teachers import Predictions

__all__ = ["Distiller", "with_share"]


class Distiller(nn.Module):
    """Kullback-Leibler divergence from the teacher's softened probabilities, and the distance to its embedding."""

    probabilities: Tensor
    embeddings: Tensor

    def __init__(
        self, config: DistilConfig, predictions: Predictions, rows: NDArray[np.int64], embedding_dim: int
    ) -> None:
        """`rows` are the clips to train on; the loss has no predictions for the others."""
        super().__init__()
        self.config = config
        known = predictions.only(rows)
        self.register_buffer("probabilities", torch.from_numpy(known.probabilities), persistent=False)
        self.map: nn.Linear | None = None
        if config.embedding:
            own = known.embeddings[rows]
            wanted = (known.embeddings - own.mean(axis=0)) / (own.std(axis=0) + 1e-5)
            self.register_buffer("embeddings", torch.from_numpy(wanted.astype(np.float32)), persistent=False)
            self.map = nn.Linear(embedding_dim, wanted.shape[1])

    def forward(self, logits: Tensor, embedding: Tensor, rows: Tensor) -> Tensor:
        """Compute the distillation loss of a batch, weighted; `rows` are the indexes of its clips in the store."""
        heat = self.config.temperature
        own = F.log_softmax(logits / heat, dim=1)
        # the square keeps the gradient's size independent of the temperature
        loss = self.config.weight * heat**2 * F.kl_div(own, self.probabilities[rows], reduction="batchmean")
        if self.map is not None:
            loss = loss + self.config.embedding * F.mse_loss(self.map(embedding), self.embeddings[rows])
        return loss


def with_share(weights: NDArray[np.float64], members: NDArray[np.bool_], share: float) -> NDArray[np.float64]:
    """Scale the weights of the members so that they make up this share of the sum of all weights.

    >>> with_share(np.array([1.0, 1.0, 1.0, 1.0]), np.array([False, False, False, True]), 0.5).tolist()
    [1.0, 1.0, 1.0, 3.0]
    """
    if not members.any() or members.all():
        return weights
    factor = share / (1 - share) * weights[~members].sum() / weights[members].sum()
    return np.where(members, weights * factor, weights)
