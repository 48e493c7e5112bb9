"""Four parallel convolutions, a centre loss, and reconstruction of the input as a second task.

S. Tripathi, A. Ramesh, A. Kumar, C. Singh, P. Yenigalla, "Learning discriminative features using center loss and
reconstruction as regularizer for speech emotion recognition", 2019, tables 1 and 2.

260,452 parameters without the decoder: convolutions are valid, and pooling reduces each path to 2 x 2. The paper gives
no sizes for the decoder ("even more FC layers"): ours are 64, 128 and 256. The decoder's output has the size of a whole
window; a shorter input is compared with the output's beginning, and a longer input has no reconstruction.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from streamser.nets.layers import NetOutput, SerNet, rebuilt

KERNELS = ((6, 4), (8, 6), (10, 8), (12, 10))  # (time, frequency)
PATH_FILTERS = 200
SHARED = len(KERNELS) * PATH_FILTERS * 4
EMBEDDING = 64
DECODER = (64, 128, 256)


def _quarters(x: Tensor) -> Tensor:
    """The maximum of each quarter of the plane, (B, C, T, F) -> (B, C * 4).

    A max pool of exactly half the height and width, whose kernel would be a constant in an exported graph.
    """
    t, f = x.shape[2] // 2, x.shape[3] // 2
    rows = (x[:, :, :t], x[:, :, t : 2 * t])
    cells = [part for row in rows for part in (row[..., :f], row[..., f : 2 * f])]
    return torch.stack([cell.amax(dim=(2, 3)) for cell in cells], dim=2).flatten(1)


class ParallelCnn(SerNet):
    """(B, T >= 13, F >= 11) frames in [0, 1] to logits; `decode_frames` > 0 adds the decoder."""

    def __init__(self, n_classes: int, *, bins: int = 128, decode_frames: int = 0, dropout: float = 0.5) -> None:
        # The output of the largest kernel must have two rows and two columns.
        super().__init__(n_classes, bins=bins, embedding_dim=EMBEDDING, min_frames=13, min_bins=11, dropout=dropout)
        self.paths = nn.ModuleList(nn.Conv2d(1, PATH_FILTERS, kernel) for kernel in KERNELS)
        self.hidden = nn.Sequential(nn.Linear(SHARED, EMBEDDING), nn.BatchNorm1d(EMBEDDING), nn.ReLU())
        self.decode_frames = decode_frames
        self.decoder = _decoder(decode_frames * bins, dropout) if decode_frames else None

    def forward(self, frames: Tensor) -> NetOutput:
        self.check(frames)
        shared = self.share(frames)
        embedding = self.hidden(shared)
        logits = self.head(self.dropout(embedding))
        return NetOutput(logits, embedding, rebuilt(self.decoder, shared, frames, self.decode_frames))

    def embed(self, frames: Tensor) -> Tensor:
        embedding: Tensor = self.hidden(self.share(frames))
        return embedding

    def share(self, frames: Tensor) -> Tensor:
        """Input of both branches, (B, T, F) -> (B, 3200)."""
        x = frames.unsqueeze(1)
        return torch.cat([_quarters(torch.relu(path(x))) for path in self.paths], dim=1)


def _decoder(values: int, dropout: float) -> nn.Sequential:
    """The second branch: hidden layers, and a sigmoid layer with `values` outputs."""
    first, *rest = DECODER
    layers: list[nn.Module] = [nn.Linear(SHARED, first), nn.BatchNorm1d(first), nn.ReLU(), nn.Dropout(dropout)]
    for inputs, units in zip(DECODER, rest, strict=False):
        layers += [nn.Linear(inputs, units), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(DECODER[-1], values), nn.Sigmoid())
