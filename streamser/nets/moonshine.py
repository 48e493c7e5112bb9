"""Moonshine: the lower layers of a small speech recognizer's encoder, kept as they are, with a head for emotions.

N. Jeffries, E. King, M. Kudlur, G. Nicholson, J. Wang, P. Warden, "Moonshine: speech recognition for live
transcription and voice commands", 2024. The encoder of its tiny English model (MIT licence) has learnt from some
200,000 hours of speech what five acted corpora cannot teach: what a voice is made of, whoever speaks wherever. Its
lower layers still hear how something is said; the upper ones hear more and more only what.

Frames are samples: 384 of them, 24 ms, one step of the encoder. No level is left in what it hears, for each window is
brought to one loudness first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamser.nets.frozenhead import FrozenHead, hidden_of
from streamser.nets.layers import SerNet

STEP_SAMPLES = 384  # the three convolutions' strides: 64, 3 and 2
WIDTH = 288
HEADS = 8
ROTATED = 32  # of a head's 36 values; the others carry no position
_STEM_PAD = 255, 256  # as many zeros as give exactly one step a frame, whatever their number
_LOUDNESS = 0.05  # root mean square that a window is brought to
_SILENCE = 1e-5  # and what is added to its own, so that silence stays silence


class _Attention(nn.Module):
    """Self-attention with rotary positions, neighbouring values turned in pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH, bias=False)
        self.key = nn.Linear(WIDTH, WIDTH, bias=False)
        self.value = nn.Linear(WIDTH, WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        def heads(y: Tensor) -> Tensor:
            return y.reshape(*y.shape[:2], HEADS, WIDTH // HEADS).transpose(1, 2)  # (B, T, W) -> (B, heads, T, 36)

        query, key = _rotate(heads(self.query(x)), turn), _rotate(heads(self.key(x)), turn)
        scores = query @ key.transpose(2, 3) * (WIDTH // HEADS) ** -0.5
        heard = torch.softmax(scores, dim=3) @ heads(self.value(x))
        out: Tensor = self.out(heard.transpose(1, 2).flatten(2))
        return out


def _turns(x: Tensor) -> Tensor:
    """Cosine and sine of each step's angles, (2, T, ROTATED / 2)."""
    rates = 10_000.0 ** (-torch.arange(0, ROTATED, 2, dtype=torch.float32, device=x.device) / ROTATED)
    # counted, not sized: a size would be frozen into the exported graph
    steps = torch.ones_like(x[0, :, 0], dtype=torch.float32).cumsum(0) - 1
    angles = steps[:, None] * rates
    return torch.stack([angles.cos(), angles.sin()])


def _rotate(x: Tensor, turn: Tensor) -> Tensor:
    cos, sin = turn[0].to(x.dtype), turn[1].to(x.dtype)
    pairs = x[..., :ROTATED].reshape(*x.shape[:3], ROTATED // 2, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)
    return torch.cat([turned, x[..., ROTATED:]], dim=-1)


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(WIDTH, bias=False)
        self.attention = _Attention()
        self.before_mlp = nn.LayerNorm(WIDTH, bias=False)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        x = x + self.attention(self.before_attention(x), turn)
        mixed: Tensor = x + self.mlp(self.before_mlp(x))
        return mixed


class _Norm(nn.Module):
    """Group norm of one group; torch's own asks for sizes that an export would freeze."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))
        self.bias = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=(1, 2), keepdim=True)
        x = centred * torch.rsqrt(centred.square().mean(dim=(1, 2), keepdim=True) + 1e-5)
        return x * self.weight[:, None] + self.bias[:, None]


class Encoder(nn.Module):
    """(B, samples) to one vector every 24 ms, (B, T, 288)."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(1, WIDTH, 127, stride=64, bias=False)
        self.norm = _Norm()
        self.conv2 = nn.Conv1d(WIDTH, 2 * WIDTH, 7, stride=3)
        self.conv3 = nn.Conv1d(2 * WIDTH, WIDTH, 3, stride=2)
        self.layers = nn.ModuleList(_Layer() for _ in range(layers))

    def forward(self, samples: Tensor) -> Tensor:
        x = self.norm(torch.tanh(self.conv1(samples.unsqueeze(1))))
        x = F.gelu(self.conv3(F.gelu(self.conv2(x)))).transpose(1, 2)
        turn = _turns(x)
        for layer in self.layers:
            x = layer(x, turn)
        heard: Tensor = x
        return heard


class Moonshine(SerNet):
    """(B, T >= 1, 384) samples to logits: encoder, mean and standard deviation over time, one hidden layer.

    The encoder is frozen: a recipe says under `start` where its weights come from.
    """

    needs_start = True

    def __init__(self, n_classes: int, *, layers: int = 3, hidden: int = 128, dropout: float = 0.3) -> None:
        super().__init__(n_classes, bins=STEP_SAMPLES, embedding_dim=hidden, min_frames=1, min_bins=1, dropout=dropout)
        self.encoder = Encoder(layers).requires_grad_(False)
        self.standard = nn.BatchNorm1d(2 * WIDTH, affine=False)  # each statistic against the training set's
        self.hidden = nn.Linear(2 * WIDTH, hidden)

    def encode(self, frames: Tensor) -> Tensor:
        samples = frames.flatten(1)
        loudness = samples.square().mean(dim=1, keepdim=True).sqrt()
        samples = samples * (_LOUDNESS / (loudness + _SILENCE))
        before, after = (torch.zeros_like(loudness).expand(-1, count) for count in _STEM_PAD)
        x = self.encoder(torch.cat([before, samples, after], dim=1))
        # Written out: many of its values are far from 0 beside their spread, of which bfloat16 would leave little.
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            mean = x.mean(dim=1)
            variance = (x - mean[:, None]).square().mean(dim=1)
            return torch.cat([mean, (variance + 1e-5).sqrt()], dim=1)

    def embed(self, frames: Tensor) -> Tensor:
        return hidden_of(self.encode(frames), self.standard, self.hidden)

    def trained(self) -> SerNet:
        return FrozenHead(self.n_classes, self.standard, self.hidden, self.head, self.dropout)
