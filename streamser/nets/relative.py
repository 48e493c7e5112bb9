"""The relative head as a graph: an utterance's embedding compared with the speaker's own baseline."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from streamser.errors import BundleError
from streamser.nets.export import TOLERANCE, open_session
from streamser.nets.layers import SerNet
from streamser.nets.tracing import Traceable, trace


class RelativeHead(nn.Module):
    """Embedding, weighted sum of earlier embeddings and sum of their weights to logits.

    The baseline is a weighted mean of the earlier embeddings and of the mean neutral embedding of the training corpora,
    which has the weight `shrinkage`. Without an earlier utterance, the baseline is that mean neutral embedding.
    """

    mean: Tensor

    def __init__(self, head: SerNet, mean: Tensor, shrinkage: float) -> None:
        super().__init__()
        self.head = head
        self.shrinkage = shrinkage
        self.register_buffer("mean", mean)

    def forward(self, embedding: Tensor, total: Tensor, weight: Tensor) -> Tensor:
        """(B, D), (B, D) and (B, 1) to (B, classes)."""
        baseline = (total + self.shrinkage * self.mean) / (weight + self.shrinkage)
        logits: Tensor = self.head((embedding - baseline).unsqueeze(1)).logits
        return logits


def export_relative(head: RelativeHead) -> bytes:
    """The head as ONNX, compared with torch's numbers; BundleError if they differ."""
    head = head.to("cpu").eval()
    size = len(head.mean)
    rng = np.random.default_rng(0)
    probe = [torch.from_numpy(rng.normal(0, 1, shape).astype(np.float32)) for shape in ((3, size), (3, size))]
    inputs = (*probe, torch.tensor([[0.0], [0.5], [9.0]]))
    names = ("embedding", "total", "weight")
    graph = trace(
        Traceable(
            module=head,
            example=inputs,
            inputs=names,
            outputs=("logits",),
            free_axes={name: {0: "batch"} for name in (*names, "logits")},
        )
    )
    with torch.no_grad():
        expected = head(*inputs).numpy()
    (found,) = open_session(graph).run(None, dict(zip(names, (value.numpy() for value in inputs), strict=True)))
    difference = float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max())))
    if not difference <= TOLERANCE:
        raise BundleError(f"the relative head's graph differs from the network by {difference:.1e}; export it again")
    return graph
