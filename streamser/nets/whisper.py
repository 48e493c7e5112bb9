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
    keys: Tensor
    """(layers, B, CONTEXT_TOKENS, WIDTH), attention keys of the last tokens."""
    values: Tensor
    """(layers, B, CONTEXT_TOKENS, WIDTH), attention values of the last tokens."""
    mean: Tensor
    """(layers, B, WIDTH), mean of each layer's tokens."""
    scatter: Tensor
    """(layers, B, WIDTH), sum of the squared differences from `mean`."""

    @classmethod
    def begin(cls, batch: int, layers: int, device: torch.device | None = None) -> State:
        """The state before an utterance's first frame."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, device=device)

        return cls(
            zeros(batch, 1), zeros(batch, 1), zeros(batch, 1), zeros(batch, 2, BINS), zeros(batch, 1, WIDTH),
            zeros(layers, batch, CONTEXT_TOKENS, WIDTH), zeros(layers, batch, CONTEXT_TOKENS, WIDTH),
            zeros(layers, batch, WIDTH), zeros(layers, batch, WIDTH),
        )  # fmt: skip


STATE_AXES = (0, 0, 0, 0, 0, 1, 1, 1, 1)
"""For each field of the state, the axis of the batch."""


class _Layer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.before_mlp = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(
        self, x: Tensor, blocked: Tensor, keys: Tensor | None, values: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, T, W) after this layer, and all keys and values, those of the context first.

        `blocked` (B or 1, T, context + T) is -inf where a token must not attend, else 0.
        """
        query, key, value = self.qkv(self.before_attention(x)).chunk(3, dim=2)
        if keys is not None and values is not None:
            key, value = torch.cat([keys, key], dim=1), torch.cat([values, value], dim=1)
        scores = _heads(query) @ _heads(key).transpose(2, 3) * (WIDTH // HEADS) ** -0.5
        mixed = torch.softmax(scores + blocked.unsqueeze(1), dim=3) @ _heads(value)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.before_mlp(x)), key, value


def _heads(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], -1, HEADS, WIDTH // HEADS).transpose(1, 2)  # (B, T, W) -> (B, heads, T, 64)


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
            x, _, _ = layer(x, blocked, None, None)
            outputs.append(x)
        return outputs

    def step(self, frames: Tensor, state: State) -> State:
        """The state after one more chunk (B, T, BINS).

        T is FIRST_FRAMES in the first chunk, then CHUNK_FRAMES; in the last chunk, it is any even number.
        """
        ones = torch.ones_like(frames[0, :, 0])
        before = state.seen / FRAMES_PER_TOKEN  # tokens, (B, 1)
        count = state.seen + ones.sum()
        power = state.power + frames.exp().mean(dim=2).sum(dim=1, keepdim=True)
        loudest = frames.amax(dim=(1, 2))[:, None]
        peak = torch.where(state.seen > 0, torch.maximum(state.peak, loudest), loudest)
        mel = torch.cat([state.mel, _scaled(frames, power / count, peak)], dim=1)
        first = F.gelu(self.conv1(mel.transpose(1, 2))).transpose(1, 2)
        joined = torch.cat([state.conv, first], dim=1)
        x = F.gelu(self.conv2(joined.transpose(1, 2))).transpose(1, 2)  # (B, n, WIDTH)
        own = torch.ones_like(x[0, :, 0])
        x = x + positions(before + own.cumsum(0) - 1)
        slot = torch.arange(CONTEXT_TOKENS, dtype=x.dtype, device=x.device)
        filled = slot[None, :] >= CONTEXT_TOKENS - before  # (B, CONTEXT_TOKENS)
        blocked = _blocked(torch.cat([filled, own[None, :].expand(x.shape[0], -1) > 0], dim=1))[:, None, :]
        total = before + own.sum()
        keys, values, means, scatters = [], [], [], []
        for index, layer in enumerate(self.layers):
            x, key, value = layer(x, blocked, state.keys[index], state.values[index])
            keys.append(key[:, -CONTEXT_TOKENS:])
            values.append(value[:, -CONTEXT_TOKENS:])
            # Chan's rule merges the statistics of two parts without a difference of large sums.
            here = x.mean(dim=1)
            away = here - state.mean[index]
            means.append(state.mean[index] + away * own.sum() / total)
            within = (x - here[:, None]).square().sum(dim=1)
            scatters.append(state.scatter[index] + within + away.square() * before * own.sum() / total)
        return State(
            power, peak, count, mel[:, -2:], joined[:, -1:], torch.stack(keys), torch.stack(values),
            torch.stack(means), torch.stack(scatters),
        )  # fmt: skip


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
    stream_axes = STATE_AXES

    def __init__(self, n_classes: int, *, layers: int = 2, hidden: int = 128, dropout: float = 0.3) -> None:
        super().__init__(
            n_classes, bins=BINS, embedding_dim=hidden, min_frames=FRAMES_PER_TOKEN, min_bins=BINS, dropout=dropout
        )
        self.encoder = Encoder(layers).requires_grad_(False)
        size = 2 * layers * WIDTH
        self.standard = Standard(size)
        self.hidden = nn.Linear(size, hidden)

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
        return list(State.begin(streams, len(self.encoder.layers), device))

    def stream_step(self, frames: Tensor, states: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        state = self.encoder.step(frames, State(*states))
        found = statistics(state.mean, state.scatter / (state.seen / FRAMES_PER_TOKEN))
        return self.head(hidden_of(found, self.standard, self.hidden)), found, list(state)

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

    `stream_step` appends a chunk's keys and values to those before it and returns all of them, for many streams in one
    batch on a device. For one stream on the CPU these copies cost a sixth of the step. Here the keys and values of the
    last 4 s are read from a ring, in any order, since positions are part of the tokens, and only those of the new
    tokens are returned; `streamser.engines.steps` writes them into the ring.
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
