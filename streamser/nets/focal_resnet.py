"""ResNet-18 over a mel spectrogram or its MFCC, trained with focal loss.

S. Tripathi, A. Kumar, A. Ramesh, C. Singh, P. Yenigalla, "Focal loss based residual convolutional neural network
for speech emotion recognition", 2019, tables 1 and 4.

The 18-layer network of He et al. 2015 with one input channel: 11.17 M parameters. The paper's spectrogram is relative
to each clip's maximum, as in librosa; ours has a fixed reference, so level differences between clips remain.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from streamser.nets.layers import SerNet

STAGES = (64, 128, 256, 512)
BLOCKS_A_STAGE = 2


class _Residual(nn.Module):
    """Two 3x3 convolutions with batch norm, plus a shortcut; ReLU follows the first and the sum."""

    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, filters, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(filters),
            nn.ReLU(inplace=True),
            nn.Conv2d(filters, filters, 3, padding=1, bias=False),
            nn.BatchNorm2d(filters),
        )
        same = stride == 1 and inputs == filters
        self.shortcut: nn.Module = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, filters, 1, stride, bias=False), nn.BatchNorm2d(filters))
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class FocalResNet(SerNet):
    """(B, T >= 1, F >= 1) frames to logits: every layer is padded, so any size is possible."""

    def __init__(self, n_classes: int, *, bins: int = 128, dropout: float = 0.0) -> None:
        super().__init__(n_classes, bins=bins, embedding_dim=STAGES[-1], min_frames=1, min_bins=1, dropout=dropout)
        self.stem = nn.Sequential(
            nn.Conv2d(1, STAGES[0], 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(STAGES[0]),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        widths = (STAGES[0], *STAGES)
        self.stages = nn.Sequential(
            *(
                _Residual(widths[i] if block == 0 else filters, filters, 2 if block == 0 and i > 0 else 1)
                for i, filters in enumerate(STAGES)
                for block in range(BLOCKS_A_STAGE)
            )
        )

    def embed(self, frames: Tensor) -> Tensor:
        x = self.stem(frames.unsqueeze(1))  # (B, T, F) -> (B, 64, T/4, F/4)
        x = self.stages(x)  # (B, 512, T/32, F/32)
        embedding: Tensor = x.mean(dim=(2, 3))  # (B, 512)
        return embedding
