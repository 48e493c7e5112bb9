"""Building blocks of the papers' networks: the base class, pooling over time, recurrent layers and heads."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamser.features import FeatureConfig
from streamser.nets.tracing import Traceable


class NetOutput(NamedTuple):
    """A network's output for a batch of windows."""

    logits: Tensor
    """(B, C), before softmax and calibration."""
    embedding: Tensor
    """(B, D), the last hidden layer, which the head turns into logits."""
    reconstruction: Tensor | None = None
    """(B, T, F), the decoder's reconstruction of the input; only networks with a decoder."""


class SerNet(nn.Module):
    """A network over feature frames: `embed`, then dropout and a linear head.

    `min_frames` and `min_bins` are the smallest input that is not empty after the last pooling.
    """

    needs_start = False
    """Whether a part of the network is frozen, so that training has to start from weights for this part."""
    column_modules: tuple[str, ...] = ()
    """The modules that compute `columns`; empty if the network has none."""
    column_size = 0
    takes_lengths = False
    """Whether `forward` also takes the true length of each window, so that a batch may be padded."""

    def __init__(
        self, n_classes: int, *, bins: int, embedding_dim: int, min_frames: int, min_bins: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if n_classes < 2:
            raise ValueError(f"n_classes is {n_classes}; a classifier needs at least 2 classes")
        if bins < min_bins:
            raise ValueError(f"{type(self).__name__} needs at least {min_bins} bins, not {bins}")
        self.n_classes = n_classes
        self.bins = bins
        self.embedding_dim = embedding_dim
        self.min_frames = min_frames
        self.dropout = nn.Dropout(dropout)
        self.head: nn.Module = nn.Linear(embedding_dim, n_classes)

    def forward(self, frames: Tensor) -> NetOutput:
        """Score windows of frames, (B, T, F)."""
        self.check(frames)
        embedding = self.embed(frames)
        return NetOutput(self.head(self.dropout(embedding)), embedding)

    def embed(self, frames: Tensor) -> Tensor:
        """The last hidden layer, (B, T, F) -> (B, D)."""
        raise NotImplementedError

    def served(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C), and the embedding (B, D) that the recognizer returns and computes baselines from."""
        output: NetOutput = self(frames)
        return output.logits, output.embedding

    def encode(self, frames: Tensor) -> Tensor:
        """The frozen encoder's output, one vector for each window: (B, T, F) -> (B, size)."""
        raise NotImplementedError(f"{type(self).__name__} has no frozen encoder")

    @property
    def frames_per_column(self) -> int:
        """Frames from one of the `columns` to the next."""
        raise NotImplementedError(f"{type(self).__name__} has no columns")

    def columns(self, frames: Tensor) -> Tensor:
        """The network's vectors over time, before it pools them: (B, T, F) -> (B, columns, column_size)."""
        raise NotImplementedError(f"{type(self).__name__} has no columns")

    def trained(self) -> SerNet:
        """The trained part: the network itself, or its head if the encoder is frozen; parameter names are the same."""
        return self

    def step_graph(self, features: FeatureConfig) -> Traceable | None:
        """The module that computes only new frames of a stream, if the network has one for these features.

        Its metadata `streamser.step` (`window` or `chunks`) decides how `streamser.engines` runs the graph.
        """
        return None

    def check(self, frames: Tensor) -> None:
        """Raise ValueError if this network cannot score frames of this shape."""
        if torch.onnx.is_in_onnx_export():  # a comparison would become a constant when the export is traced
            return
        if frames.ndim != 3 or frames.shape[2] != self.bins or frames.shape[1] < self.min_frames:
            raise ValueError(
                f"{type(self).__name__} takes (batch, time >= {self.min_frames}, {self.bins} bins), "
                f"not {tuple(frames.shape)}"
            )


class CosineHead(nn.Module):
    """Scaled cosines between an embedding and each class direction: no bias, both sides normalised.

    The scale belongs to the head, so that the served and calibrated logits have the scale of training. The
    additive-margin loss only subtracts scale * margin from the true class's logit.
    """

    def __init__(self, embedding_dim: int, n_classes: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_classes, embedding_dim))
        nn.init.xavier_uniform_(self.weight)
        self.scale = scale

    def forward(self, embedding: Tensor) -> Tensor:
        # Without autocast: a bfloat16 cosine has steps of 1/256, a tenth of a logit at scale 30.
        with torch.autocast(embedding.device.type, enabled=False):
            return self.scale * F.linear(_unit(embedding.float()), _unit(self.weight.float()))


def _unit(x: Tensor) -> Tensor:
    """Scale each row to length 1; a zero row stays zero."""
    return x * torch.rsqrt((x * x).sum(1, keepdim=True).clamp_min(1e-12))


class SharedBiGru(nn.Module):
    """A bidirectional GRU whose two directions share their weights, with the single bias of TensorFlow's cell.

    The sequence and its mirror image go through one GRU as one batch of twice the size.
    """

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, units, batch_first=True)
        # torch has two biases that add up (except the candidate's recurrent one); the paper's cell has one.
        bias = self.gru.get_parameter("bias_hh_l0")
        nn.init.zeros_(bias)
        bias.requires_grad_(False)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, T, inputs) -> every step (B, T, 2 units), and both directions' last steps (B, 2 units).

        With `lengths`, (B,), each sequence is mirrored within its own length; later steps are undefined.
        """
        both = torch.cat([x, _mirrored(x, lengths)])
        steps = recur(self.gru, both)
        ahead, behind = steps.chunk(2)
        end: Tensor | int = -1 if lengths is None else lengths - 1
        row = slice(None) if lengths is None else torch.arange(len(x), device=x.device)
        last = torch.cat([ahead[row, end], behind[row, end]], dim=1)
        return torch.cat([ahead, _mirrored(behind, lengths)], dim=2), last


def _mirrored(x: Tensor, lengths: Tensor | None) -> Tensor:
    """The steps of each sequence in reverse, (B, T, D); with `lengths`, only those before its end."""
    if lengths is None:
        return x.flip(1)
    step = torch.arange(x.shape[1], device=x.device)
    place = torch.where(step < lengths[:, None], lengths[:, None] - 1 - step, step)  # (B, T)
    return x.gather(1, place[:, :, None].expand_as(x))


def recur(rnn: nn.GRU | nn.LSTM, x: Tensor) -> Tensor:
    """Every step of a recurrent layer, in float32 also under autocast (CPUs have no mixed-precision recurrence)."""
    with torch.autocast(x.device.type, enabled=False):
        steps: Tensor = rnn(x.float())[0]
    return steps


def rebuilt(decoder: nn.Module | None, code: Tensor, frames: Tensor, most: int) -> Tensor | None:
    """The reconstruction of the input from `code`, (B, T, F).

    None without a decoder, in an exported graph, and for inputs of more than `most` frames.
    """
    if decoder is None or torch.onnx.is_in_onnx_export() or frames.shape[1] > most:
        return None
    whole: Tensor = decoder(code).reshape(-1, most, frames.shape[2])
    return whole[:, : frames.shape[1]]


def attend(x: Tensor, scores: Tensor) -> Tensor:
    """Mean over time weighted by softmax of the scores, (B, T, D) and (B, T) -> (B, D)."""
    return (torch.softmax(scores, dim=1).unsqueeze(2) * x).sum(dim=1)


def channels_last(net: SerNet) -> SerNet:
    """The same network with its kernels in channels_last memory format: a CPU computes them up to twice as fast."""
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def count_parameters(net: nn.Module, *, statistics: bool = False, frozen: bool = False) -> int:
    """Number of trainable parameters; `statistics` adds batch norm's statistics, `frozen` the frozen parameters."""
    trained = sum(p.numel() for p in net.parameters() if frozen or p.requires_grad)
    running = sum(b.numel() for name, b in net.named_buffers() if name.endswith(("running_mean", "running_var")))
    return trained + (running if statistics else 0)
