"""The papers' training losses: one spec, one module, every term in float32.

    loss = classification * sample weight * (cross entropy | focal | additive margin | Lq)
           + centre * L_centre + reconstruction * MSE

The mean is taken over the batch. Class weights are inverse frequencies whose mean over the training set is 1,
so that a learning rate means the same with and without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamser.nets.layers import NetOutput

KINDS = ("softmax", "focal", "difficulty_focal", "am_softmax", "soft", "lq")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSpec:
    """The loss that a variant was trained with."""

    kind: Literal["softmax", "focal", "difficulty_focal", "am_softmax", "soft", "lq"] = "softmax"
    """`soft` is cross entropy with the shares of the annotators' labels, `lq` is (1 - p^q) / q of the true class."""
    classification: float = 1.0
    """Weight of the classification loss; 0 trains with the other terms only."""
    weighted: bool = False
    """Weigh each sample by its class's inverse frequency."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""
    gamma: float = 2.0
    """`focal`: -alpha (1 - p)^gamma log p."""
    alpha: float = 1.0
    gamma_by_difficulty: tuple[float, ...] = (0.0, 1.0, 2.0)
    """`difficulty_focal`: gamma for clips on which all, most or few annotators agree (Zhong et al. 2020)."""
    scale: float = 10.0
    """`am_softmax`: scale of the network's cosine head."""
    margin: float = 0.4
    """`am_softmax`: margin by which the true class's cosine must be larger."""
    q: float = 0.7
    """`lq`: exponent between cross entropy (near 0) and the mean absolute error (1)."""
    centre: float = 0.0
    """Weight of half the squared distance between an embedding and its class's learned centre."""
    reconstruction: float = 0.0
    """Weight of the mean squared error between the network's reconstruction and its input frames."""

    def __post_init__(self) -> None:
        rules = {
            f"kind must be one of {', '.join(KINDS)}": self.kind in KINDS,
            "0 < q <= 1": 0.0 < self.q <= 1.0,
            "classification must not be negative": self.classification >= 0.0,
            "0 <= label_smoothing < 1": 0.0 <= self.label_smoothing < 1.0,
            "label_smoothing must be 0, except for softmax": self.label_smoothing == 0.0 or self.kind == "softmax",
            "gamma must not be negative, alpha must be positive": self.gamma >= 0.0 and self.alpha > 0.0,
            "gamma_by_difficulty must not be empty or negative": bool(self.gamma_by_difficulty)
            and min(self.gamma_by_difficulty) >= 0.0,
            "scale must be positive, margin must not be negative": self.scale > 0.0 and self.margin >= 0.0,
            "centre and reconstruction must not be negative": self.centre >= 0.0 and self.reconstruction >= 0.0,
        }
        broken = [rule for rule, held in rules.items() if not held]
        if broken:
            raise ValueError("LossSpec: " + "; ".join(broken))

    def alone(self) -> LossSpec:
        """The classification loss alone, for another head: without the terms that need the network's own layers.

        The additive margin needs a cosine head; it becomes softmax.
        """
        kind = "softmax" if self.kind == "am_softmax" else self.kind
        return replace(self, kind=kind, classification=1.0, centre=0.0, reconstruction=0.0)

    def build(self, n_classes: int, embedding_dim: int, class_counts: Sequence[int] | None = None) -> SerLoss:
        """The loss as a module; `class_counts` of the training set are needed if `weighted`."""
        return SerLoss(self, n_classes, embedding_dim, class_counts)


def class_weights(class_counts: Sequence[int]) -> Tensor:
    """Inverse frequencies, (C,), whose mean over the training set is 1.

    >>> class_weights([10, 30]).tolist()
    [2.0, 0.6666666865348816]
    """
    counts = torch.tensor(list(class_counts), dtype=torch.float64)
    if bool((counts <= 0).any()):
        raise ValueError(f"class_counts is {list(class_counts)}; every class needs a clip in the training set")
    return (counts.sum() / (len(counts) * counts)).float()


def focal(log_probability: Tensor, gamma: Tensor | float) -> Tensor:
    """-(1 - p)^gamma log p of each sample, from log p of its true class, (B,) -> (B,)."""
    miss = -torch.expm1(log_probability)  # 1 - p without cancellation if p is near 1
    return -(torch.pow(miss, torch.as_tensor(gamma, dtype=miss.dtype, device=miss.device))) * log_probability


def centre_distance(embedding: Tensor, centres: Tensor, targets: Tensor) -> Tensor:
    """Half the squared distance to the true class's centre, mean over the batch."""
    return 0.5 * (embedding - centres[targets]).square().sum(dim=1).mean()


class SerLoss(nn.Module):
    """The loss of a LossSpec; its parameters, if any, must be given to the optimizer too."""

    weights: Tensor | None
    gammas: Tensor

    def __init__(
        self, spec: LossSpec, n_classes: int, embedding_dim: int, class_counts: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        if spec.weighted and (class_counts is None or len(class_counts) != n_classes):
            raise ValueError(f"a weighted loss needs class_counts, one for each of {n_classes} classes")
        self.spec = spec
        weights = class_weights(class_counts) if spec.weighted and class_counts is not None else None
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("gammas", torch.tensor(spec.gamma_by_difficulty), persistent=False)
        self.centres = nn.Parameter(torch.zeros(n_classes, embedding_dim)) if spec.centre else None

    def forward(
        self,
        output: NetOutput,
        targets: Tensor,
        frames: Tensor | None = None,
        difficulty: Tensor | None = None,
        shares: Tensor | None = None,
    ) -> Tensor:
        """The batch's loss, a scalar. `frames` are the reconstruction's target, `difficulty` (B,) indexes
        `gamma_by_difficulty`, `shares` (B, C) has each label's share of a clip's annotations."""
        with torch.autocast(output.logits.device.type, enabled=False):
            each = self._classification(_full(output.logits), targets, difficulty, shares)
            if self.weights is not None:
                each = each * self.weights.to(each.dtype)[targets]
            total = self.spec.classification * each.mean()
            if self.centres is not None:
                total = total + self.spec.centre * centre_distance(_full(output.embedding), self.centres, targets)
            if self.spec.reconstruction:
                if output.reconstruction is None or frames is None:
                    raise ValueError("a reconstruction loss needs a network with a decoder, and its input frames")
                error = F.mse_loss(_full(output.reconstruction), _full(frames))
                total = total + self.spec.reconstruction * error
            return total

    def _classification(
        self, logits: Tensor, targets: Tensor, difficulty: Tensor | None, shares: Tensor | None
    ) -> Tensor:
        """The loss of each sample, (B,)."""
        spec = self.spec
        if spec.kind == "softmax":
            return F.cross_entropy(logits, targets, label_smoothing=spec.label_smoothing, reduction="none")
        if spec.kind == "am_softmax":
            lead = F.one_hot(targets, logits.shape[1]).to(logits.dtype) * (spec.scale * spec.margin)
            return F.cross_entropy(logits - lead, targets, reduction="none")
        if spec.kind == "soft":
            if shares is None:
                raise ValueError("a soft loss needs `shares`, each label's share of the annotators' votes")
            return -(shares.to(logits.dtype) * F.log_softmax(logits, dim=1)).sum(dim=1)
        own = F.log_softmax(logits, dim=1).gather(1, targets[:, None]).squeeze(1)
        if spec.kind == "focal":
            return spec.alpha * focal(own, spec.gamma)
        if spec.kind == "lq":
            return -torch.expm1(spec.q * own) / spec.q
        if difficulty is None:
            raise ValueError("a difficulty_focal loss needs the difficulty of each sample")
        return focal(own, self.gammas.to(own.dtype)[difficulty])


def _full(x: Tensor) -> Tensor:
    """Convert half precision to float32; float64 stays, for gradient checks."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
