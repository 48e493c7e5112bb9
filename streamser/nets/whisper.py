"""The lower layers of Whisper's encoder, frozen and chunk-causal, with a head for emotions.

A. Radford, J. W. Kim, T. Xu, G. Brockman, C. McLeavey, I. Sutskever, "Robust speech recognition via large-scale weak
supervision", 2022; the weights are those of tiny.en (MIT licence). Where we differ, and why: a stream computes each
token once, so attention is bidirectional inside a chunk and causal between chunks, it covers a bounded number of
earlier tokens, and the level and the log-mel clamp are computed from the audio so far, not from the whole 30 s window.
The convolutions are causal, which moves every token by 10 ms.

`forward` takes whole utterances. `step` takes the next frames and a `State`. Both give the same numbers.
"""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamser.features import FeatureConfig
from streamser.nets.frozenhead import FrozenHead, Standard, hidden_of
from streamser.nets.layers import SerNet
from streamser.nets.tracing import Traceable

BINS = 80
WIDTH = 384
HEADS = 6
HEAD_WIDTH = WIDTH // HEADS
FRAMES_PER_TOKEN = 2
CHUNK_FRAMES = 26  # 260 ms: one hop of partial results
# The first chunk ends with the third hop: no partial is due earlier, and an estimate of the utterance's level needs
# some speech. It is two frames shorter, because the last analysis window reaches 15 ms past its hop.
FIRST_FRAMES = 3 * CHUNK_FRAMES - 2
CONTEXT_TOKENS = 200  # a token attends to up to 4 s before it
_SPAN = 8 * math.log(10)  # Whisper clamps log-mel at 80 dB below its maximum
_LEVEL = -3.75  # ln of the mean mel power of speech at -26 dBFS (RMS 0.05); every utterance is shifted to this level


class State(NamedTuple):
    """The encoder's state for the next frames of an utterance; zeros before the first."""

    power: Tensor
    """(B, 1), sum of the frames' mean mel power."""
    peak: Tensor
    """(B, 1), largest mel power."""
    seen: Tensor
    """(B, 1), number of frames so far."""
    mel: Tensor
    """(B, 2, BINS), the last two frames, scaled by `_scaled`."""
    conv: Tensor
    """(B, 1, WIDTH), the first convolution's last output."""
    mean: Tensor
    """(B, layers, WIDTH), mean of each layer's tokens."""
    scatter: Tensor
    """(B, layers, WIDTH), sum of the squared differences from `mean`."""
    keys: tuple[Tensor, ...]
    """For each layer, (B, HEADS, CONTEXT_TOKENS, HEAD_WIDTH): a ring with the attention keys of the last tokens."""
    values: tuple[Tensor, ...]
    """The same with the attention values."""

    @classmethod
    def begin(cls, batch: int, layers: int, device: torch.device | None = None) -> State:
        """The state before an utterance's first frame."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros((batch, *shape), device=device)

        def rings() -> tuple[Tensor, ...]:
            return tuple(zeros(HEADS, CONTEXT_TOKENS, HEAD_WIDTH) for _ in range(layers))

        return cls(
            zeros(1), zeros(1), zeros(1), zeros(2, BINS), zeros(1, WIDTH),
            zeros(layers, WIDTH), zeros(layers, WIDTH), rings(), rings(),
        )  # fmt: skip

    @classmethod
    def of(cls, tensors: list[Tensor]) -> State:
        """The inverse of `tensors`."""
        power, peak, seen, mel, conv, mean, scatter, *rings = tensors
        layers = len(rings) // 2
        keys, values = tuple(rings[:layers]), tuple(rings[layers:])
        return cls(power, peak, seen, mel, conv, mean, scatter, keys, values)

    def statistics(self) -> Tensor:
        """Means and deviations of the utterance so far, (B, 2 * layers * WIDTH)."""
        variance = self.scatter / (self.seen / FRAMES_PER_TOKEN).unsqueeze(2)
        return statistics(self.mean.transpose(0, 1), variance.transpose(0, 1))

    def tensors(self) -> list[Tensor]:
        """All tensors in order, the rings last."""
        fixed = [self.power, self.peak, self.seen, self.mel, self.conv, self.mean, self.scatter]
        return [*fixed, *self.keys, *self.values]


class _Layer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.before_mlp = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor, blocked: Tensor) -> Tensor:
        """Tokens (B, T, WIDTH) after this layer; `blocked` (1, T, T) is -inf where a token must not attend, else 0."""
        query, key, value = self.qkv(self.before_attention(x)).chunk(3, dim=2)
        scores = _heads(query) @ _heads(key).transpose(2, 3) * HEAD_WIDTH**-0.5
        return self._after_attention(x, torch.softmax(scores + blocked.unsqueeze(1), dim=3) @ _heads(value))

    def step(self, x: Tensor, blocked: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, n, WIDTH) of a chunk after this layer, and their keys and values, (B, n, HEADS, HEAD_WIDTH).

        `keys` and `values` are rings of earlier tokens, (B, HEADS, CONTEXT_TOKENS, HEAD_WIDTH), in any order, since
        positions are part of the tokens. `blocked` (B * HEADS, 1, CONTEXT_TOKENS) is -inf for unused entries, else 0.
        """
        query, key, value = self.qkv(self.before_attention(x)).chunk(3, dim=2)
        query, own_keys, own_values = (
            _heads(part).flatten(0, 1) for part in (query * HEAD_WIDTH**-0.5, key, value)
        )  # (B * HEADS, n, HEAD_WIDTH)
        # The rings are large: each is read once by a product, and never joined with the chunk's own entries.
        earlier = torch.baddbmm(blocked, query, keys.flatten(0, 1).transpose(1, 2))
        weight = torch.softmax(torch.cat([earlier, query @ own_keys.transpose(1, 2)], dim=2), dim=2)
        mixed = weight[..., :CONTEXT_TOKENS] @ values.flatten(0, 1) + weight[..., CONTEXT_TOKENS:] @ own_values
        by_head = (*x.shape[:2], HEADS, HEAD_WIDTH)
        x = self._after_attention(x, mixed.reshape(-1, HEADS, *mixed.shape[1:]))
        return x, key.reshape(by_head), value.reshape(by_head)

    def _after_attention(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        after: Tensor = x + self.mlp(self.before_mlp(x))
        return after


def _heads(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], -1, HEADS, HEAD_WIDTH).transpose(1, 2)  # (B, T, WIDTH) -> (B, HEADS, T, HEAD_WIDTH)


def positions(index: Tensor) -> Tensor:
    """Whisper's sinusoids for token indexes (...), (..., WIDTH)."""
    rates = torch.exp(-math.log(10_000) / (WIDTH // 2 - 1) * torch.arange(WIDTH // 2, device=index.device))
    angles = index.unsqueeze(-1) * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class Encoder(nn.Module):
    """Log-mel frames (ln of mel power, 10 ms apart) to tokens 20 ms apart, layer by layer."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(BINS, WIDTH, 3)
        self.conv2 = nn.Conv1d(WIDTH, WIDTH, 3, stride=FRAMES_PER_TOKEN)
        self.layers = nn.ModuleList(_Layer() for _ in range(layers))

    def forward(self, frames: Tensor) -> list[Tensor]:
        """(B, T, BINS) of whole utterances to each layer's tokens, (B, T // 2, WIDTH)."""
        frames = frames[:, : frames.shape[1] // FRAMES_PER_TOKEN * FRAMES_PER_TOKEN]
        ones = torch.ones_like(frames[0, :, 0])
        number = ones.cumsum(0) - 1  # counted, since a size would become a constant in an exported graph
        chunk = torch.floor((number - FIRST_FRAMES) / CHUNK_FRAMES).clamp(min=-1)
        end = torch.minimum(FIRST_FRAMES + (chunk + 1) * CHUNK_FRAMES, ones.sum())  # the end of each frame's chunk
        last = (end - 1).long()
        power = frames.exp().mean(dim=2).cumsum(dim=1)[:, last]
        loudest = frames.amax(dim=2).unsqueeze(1)  # a running maximum, in operators that ONNX has
        peak = loudest.masked_fill(chunk[None, :] > chunk[:, None], -torch.inf).amax(dim=2)
        mel = _scaled(frames, power / end, peak)
        first = F.gelu(self.conv1(F.pad(mel.transpose(1, 2), (2, 0))))
        x = F.gelu(self.conv2(F.pad(first, (1, 0)))).transpose(1, 2)
        token, of = number[::FRAMES_PER_TOKEN] / FRAMES_PER_TOKEN, chunk[::FRAMES_PER_TOKEN]
        x = x + positions(token)
        start = torch.where(of < 0, torch.zeros_like(of), (FIRST_FRAMES + of * CHUNK_FRAMES) / FRAMES_PER_TOKEN)
        visible = (of[None, :] <= of[:, None]) & (token[None, :] >= start[:, None] - CONTEXT_TOKENS)
        blocked = _blocked(visible)[None]
        outputs = []
        for layer in self.layers:
            x = layer(x, blocked)
            outputs.append(x)
        return outputs

    def step(self, frames: Tensor, state: State) -> State:
        """The state after one more chunk (B, T, BINS); `keys` and `values` hold only the new tokens' entries.

        T is FIRST_FRAMES in the first chunk, then CHUNK_FRAMES; in the last chunk, it is any even number. The new
        entries, (B, T / 2, HEADS, HEAD_WIDTH), are to be written into the rings: see `streaming.write`.
        """
        before = state.seen / FRAMES_PER_TOKEN  # tokens, (B, 1)
        count = state.seen + frames.shape[1]
        power = state.power + frames.exp().mean(dim=2).sum(dim=1, keepdim=True)
        loudest = frames.amax(dim=(1, 2))[:, None]
        peak = torch.where(state.seen > 0, torch.maximum(state.peak, loudest), loudest)
        mel = torch.cat([state.mel, _scaled(frames, power / count, peak)], dim=1)
        joined = torch.cat([state.conv, F.gelu(_convolved(mel, self.conv1))], dim=1)
        x = F.gelu(_convolved(joined, self.conv2))  # (B, n, WIDTH)
        own = x.shape[1]
        x = x + positions(before + torch.arange(own, device=x.device))
        entry = torch.arange(CONTEXT_TOKENS, device=x.device)
        blocked = _blocked(entry < before)[:, None].expand(-1, HEADS, -1).reshape(-1, 1, CONTEXT_TOKENS)
        keys, values, heres, withins = [], [], [], []
        for module, old_keys, old_values in zip(self.layers, state.keys, state.values, strict=True):
            layer: Any = module
            x, key, value = layer.step(x, blocked, old_keys, old_values)
            here = x.mean(dim=1)
            keys.append(key)
            values.append(value)
            heres.append(here)
            withins.append((x - here[:, None]).square().sum(dim=1))
        # Chan's rule merges the statistics of two parts without a difference of large sums, for all layers at once.
        away = torch.stack(heres, dim=1) - state.mean
        share = (own / (before + own)).unsqueeze(2)
        mean = state.mean + away * share
        scatter = state.scatter + torch.stack(withins, dim=1) + away.square() * before.unsqueeze(2) * share
        return State(power, peak, count, mel[:, -2:], joined[:, -1:], mean, scatter, tuple(keys), tuple(values))


def _convolved(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """The convolution as one matrix product, (B, T, inputs) -> (B, steps, outputs); tensors are not transposed."""
    (size,), (stride,) = conv.kernel_size, conv.stride
    count = (x.shape[1] - size) // stride * stride + 1
    pieces = torch.cat([x[:, at : at + count : stride] for at in range(size)], dim=2)
    return F.linear(pieces, conv.weight.permute(0, 2, 1).flatten(1), conv.bias)


def _scaled(frames: Tensor, power: Tensor, peak: Tensor) -> Tensor:
    """Whisper's input from ln mel power: shifted to one mean level, clamped 80 dB below the maximum, log10 scaled."""
    ln10 = math.log(10)
    level = power.log().unsqueeze(-1) - _LEVEL
    clamped = torch.maximum(frames, peak.unsqueeze(-1) - _SPAN)
    return ((clamped - level) / ln10 + 4) / 4


def _blocked(seen: Tensor) -> Tensor:
    return torch.zeros_like(seen, dtype=torch.float32).masked_fill(~seen, -torch.inf)


def statistics(mean: Tensor, variance: Tensor) -> Tensor:
    """(layers, B, WIDTH) each, to means and deviations side by side, (B, 2 * layers * WIDTH)."""
    return torch.cat([*mean.unbind(0), *(variance + 1e-5).sqrt().unbind(0)], dim=1)


class Whisper(SerNet):
    """(B, T >= 2, BINS) log-mel to logits: encoder, mean and deviation of each layer over time, one hidden layer.

    The encoder is frozen: a recipe names the file of its weights under `start`. The served embedding is the statistics
    themselves, because a stream compares them with those of the speaker's earlier utterances.
    """

    needs_start = True
    stream_chunks = (FIRST_FRAMES, CHUNK_FRAMES)
    stream_multiple = FRAMES_PER_TOKEN

    def __init__(self, n_classes: int, *, layers: int = 2, hidden: int = 128, dropout: float = 0.3) -> None:
        super().__init__(
            n_classes, bins=BINS, embedding_dim=hidden, min_frames=FRAMES_PER_TOKEN, min_bins=BINS, dropout=dropout
        )
        self.encoder = Encoder(layers).requires_grad_(False)
        size = 2 * layers * WIDTH
        self.standard = Standard(size)
        self.hidden = nn.Linear(size, hidden)
        self.stream_rings = 2 * layers

    def encode(self, frames: Tensor) -> Tensor:
        layers = self.encoder(frames)
        # In float32: many values are large relative to their spread, which bfloat16 would mostly round away.
        with torch.autocast(frames.device.type, enabled=False):
            tokens = torch.stack(layers).float()  # (layers, B, T, WIDTH)
            mean = tokens.mean(dim=2)
            return statistics(mean, (tokens - mean.unsqueeze(2)).square().mean(dim=2))

    def embed(self, frames: Tensor) -> Tensor:
        return hidden_of(self.encode(frames), self.standard, self.hidden)

    def served(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        found = self.encode(frames)
        return self.head(hidden_of(found, self.standard, self.hidden)), found

    def trained(self) -> SerNet:
        return FrozenHead(self.n_classes, self.standard, self.hidden, self.head, self.dropout)

    def stream_states(self, streams: int, device: torch.device) -> list[Tensor]:
        return State.begin(streams, len(self.encoder.layers), device).tensors()

    def stream_step(self, frames: Tensor, states: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        state = self.encoder.step(frames, State.of(states))
        found = state.statistics()
        return self.head(hidden_of(found, self.standard, self.hidden)), found, state.tensors()

    def step_graph(self, features: FeatureConfig) -> Traceable:
        step = _ChunkStep(self)
        states, rings = step.states(), step.rings()
        first, chunk = self.stream_chunks
        sizes = {"first": first, "chunk": chunk, "multiple": FRAMES_PER_TOKEN}
        return Traceable(
            module=step,
            example=(torch.zeros(1, chunk, self.bins), *states.values()),
            inputs=["frames", *states],
            outputs=["logits", "embedding", *(f"next.{name}" for name in states)],
            free_axes={"frames": {1: "time"}, **{f"next.{name}": {axis: "tokens"} for name, axis in rings.items()}},
            metadata={
                "streamser.step": "chunks",
                "streamser.rings": json.dumps(rings),
                **{f"streamser.{name}": str(size) for name, size in sizes.items()},
            },
        )


class _ChunkStep(nn.Module):
    """One chunk of one stream, (1, T, BINS), for ONNX Runtime on the CPU; earlier keys and values are never copied.

    The keys and values of the last 4 s are read from a ring, in any order, since positions are part of the tokens, and
    only those of the new tokens are returned; `streamser.engines.steps` writes them into the ring. `stream_step` does
    the same for a batch of streams.
    """

    first: Tensor
    second: Tensor

    def __init__(self, net: Whisper) -> None:
        super().__init__()
        self.net = net
        encoder = net.encoder
        # Convolutions as matrix products, (kernel * inputs, outputs), which are faster for a few rows at a time.
        self.register_buffer("first", _as_matrix(encoder.conv1.weight))
        self.register_buffer("second", _as_matrix(encoder.conv2.weight))
        assert encoder.conv1.bias is not None and encoder.conv2.bias is not None
        self.biases = encoder.conv1.bias, encoder.conv2.bias

    def states(self) -> dict[str, Tensor]:
        """Initial states by name, in the order of `forward`; those of rings last."""
        layers = len(self.net.encoder.layers)
        states = {
            "power": torch.zeros(1, 1),
            "peak": torch.zeros(1, 1),
            "seen": torch.zeros(1, 1),
            "mel": torch.zeros(2, BINS),
            "conv": torch.zeros(1, WIDTH),
            "mean": torch.zeros(layers, WIDTH),
            "scatter": torch.zeros(layers, WIDTH),
        }
        keys = {f"keys.{layer}": torch.zeros(HEADS, HEAD_WIDTH, CONTEXT_TOKENS) for layer in range(layers)}
        values = {f"values.{layer}": torch.zeros(HEADS, CONTEXT_TOKENS, HEAD_WIDTH) for layer in range(layers)}
        return {**states, **keys, **values}

    def rings(self) -> dict[str, int]:
        """The states that are rings, and the axis along which their entries lie."""
        return {name: 2 if name.startswith("keys") else 1 for name in self.states() if "." in name}

    def forward(self, frames: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """The same numbers as `Whisper.stream_step`, except for the order of sums; states in the order of `states`."""
        power, peak, seen, mel, conv, mean, scatter, *rings = states
        encoder = self.net.encoder
        layers = len(encoder.layers)
        ones = torch.ones_like(frames[0, :, :1])  # (T, 1), counted, since a size would become a constant in the graph
        own = ones[::FRAMES_PER_TOKEN]
        before = seen / FRAMES_PER_TOKEN  # tokens
        count, tokens = seen + ones.sum(), own.sum()
        power = power + frames.exp().mean(dim=2).sum(dim=1, keepdim=True)
        loudest = frames.amax(dim=(1, 2))[:, None]
        peak = torch.where(seen > 0, torch.maximum(peak, loudest), loudest)
        level = torch.cat([mel, _scaled(frames, power / count, peak)[0]])
        inner = F.gelu(torch.cat([level[:-2], level[1:-1], level[2:]], dim=1) @ self.first + self.biases[0])
        joined = torch.cat([conv, inner])
        pairs = joined[:-1].reshape(-1, FRAMES_PER_TOKEN * WIDTH)
        x = F.gelu(torch.cat([pairs, joined[2::2]], dim=1) @ self.second + self.biases[1])
        x = x + positions((before + own.cumsum(0) - 1)[:, 0])
        slot = torch.arange(CONTEXT_TOKENS, dtype=x.dtype)
        blocked = torch.where(slot < before, 0.0, -torch.inf)  # (1, CONTEXT_TOKENS), -inf for unused slots of the ring
        keys, values, heres, withins = [], [], [], []
        for module, old_keys, old_values in zip(encoder.layers, rings[:layers], rings[layers:], strict=True):
            layer: Any = module
            query, key, value = layer.qkv(layer.before_attention(x)).chunk(3, dim=1)
            query = query.reshape(-1, HEADS, HEAD_WIDTH).transpose(0, 1) * HEAD_WIDTH**-0.5
            key = key.reshape(-1, HEADS, HEAD_WIDTH).permute(1, 2, 0)
            value = value.reshape(-1, HEADS, HEAD_WIDTH).transpose(0, 1)
            weight = torch.softmax(torch.cat([query @ old_keys + blocked, query @ key], dim=2), dim=2)
            mixed = weight[:, :, :CONTEXT_TOKENS] @ old_values + weight[:, :, CONTEXT_TOKENS:] @ value
            x = x + layer.out(mixed.transpose(0, 1).reshape(-1, WIDTH))
            x = x + layer.mlp(layer.before_mlp(x))
            here = x.mean(dim=0, keepdim=True)
            keys.append(key)
            values.append(value)
            heres.append(here)
            withins.append((x - here).square().sum(dim=0, keepdim=True))
        # Chan's rule merges the statistics of two parts, for all layers at once.
        away = torch.cat(heres) - mean
        share = tokens / (before + tokens)
        mean = mean + away * share
        scatter = scatter + torch.cat(withins) + away.square() * (before * share)
        found = statistics(mean[:, None], (scatter / (count / FRAMES_PER_TOKEN))[:, None])
        logits = self.net.head(hidden_of(found, self.net.standard, self.net.hidden))
        return logits, found, power, peak, count, level[-2:], joined[-1:], mean, scatter, *keys, *values


def _as_matrix(kernel: Tensor) -> Tensor:
    return kernel.permute(2, 1, 0).reshape(-1, kernel.shape[0])
