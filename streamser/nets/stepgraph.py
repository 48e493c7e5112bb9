"""Export a network as a step graph, which computes only columns that earlier windows did not compute.

`streamser.engines.columns` runs it.
"""

from __future__ import annotations

import io
import json
import warnings
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamser.features import FeatureConfig
from streamser.nets.export import OPSET, frozen_copy, narrowed
from streamser.nets.layers import SerNet
from streamser.nets.lightsernet import PATH_KERNELS, LightSerNet
from streamser.nets.whisper import FRAMES_PER_TOKEN, State, Whisper

__all__ = ["export_step", "has_step"]

_REACH = max(kernel[0] for kernel in PATH_KERNELS) // 2  # frames on either side that a path's convolution covers


def has_step(net: SerNet, features: FeatureConfig) -> bool:
    """Whether `export_step` knows how to make a step graph of this net with these features."""
    plain = not features.center and features.fft_size == features.window_samples and features.sample_rate == 16_000
    return plain and (isinstance(net, Whisper) or (isinstance(net, LightSerNet) and features.short == "tile"))


def export_step(net: SerNet, features: FeatureConfig) -> bytes | None:
    """The net's step graph as ONNX; None where there is none for it."""
    if not has_step(net, features):
        return None
    twin = frozen_copy(net)
    if isinstance(twin, Whisper):
        return _export_chunks(twin)
    assert isinstance(twin, LightSerNet)
    step = _LightSerNetStep(twin).eval()
    frames = torch.zeros(1, 2 * _REACH + 12, net.bins)
    with torch.no_grad():
        shapes = step.shapes(torch.zeros(1, 2 * _REACH + 2 ** len(step.levels), net.bins))
    known = [torch.zeros(4, *shape) for shape in shapes]
    runs = [torch.arange(6) for _ in shapes[:-1]] + [torch.arange(5)]
    count = len(shapes)
    inputs = ["frames", *(f"c{n}" for n in range(1, count + 1)), *(f"r{n}" for n in range(1, count)), "window"]
    outputs = ["logits", "embedding", *(f"x{n}" for n in range(1, count + 1))]
    axes = {name: {0: name} for name in [*inputs[1:], *outputs[2:]]}
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=r"Constant folding - Only steps=1")
        torch.onnx.export(
            step,
            (frames, *known, *runs),
            buffer,  # type: ignore[arg-type]  # a stream is welcome, its annotation forgot
            input_names=inputs,
            output_names=outputs,
            dynamic_axes={"frames": {1: "time"}, **axes},
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load_from_string(buffer.getvalue())
    metadata = {"streamser.step": "window", "streamser.levels": json.dumps(step.levels)}
    onnx.helper.set_model_props(model, metadata)
    return bytes(model.SerializeToString())


class _Chunks(nn.Module):
    """A causal encoder's step with its states in line, as ONNX takes them."""

    def __init__(self, net: Whisper) -> None:
        super().__init__()
        self.net = net

    def forward(self, frames: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        logits, embedding, following = self.net.stream_step(frames, list(states))
        return logits, embedding, *following


def _export_chunks(net: Whisper) -> bytes:
    first, chunk = net.stream_chunks
    states = net.stream_states(1, torch.device("cpu"))
    names = list(State._fields)
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=r"Constant folding - Only steps=1")
        torch.onnx.export(
            _Chunks(net).eval(),
            (torch.zeros(1, chunk, net.bins), *states),
            buffer,  # type: ignore[arg-type]  # a stream is welcome, its annotation forgot
            input_names=["frames", *names],
            output_names=["logits", "embedding", *(f"next.{name}" for name in names)],
            dynamic_axes={"frames": {1: "time"}},
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load_from_string(narrowed(buffer.getvalue()))
    sizes = {"first": first, "chunk": chunk, "multiple": FRAMES_PER_TOKEN}
    metadata = {"streamser.step": "chunks", **{f"streamser.{name}": str(size) for name, size in sizes.items()}}
    onnx.helper.set_model_props(model, metadata)
    return bytes(model.SerializeToString())


class _LightSerNetStep(nn.Module):
    """LightSERNet on runs of columns. Convolutions have no padding in time, since a run includes its neighbours."""

    def __init__(self, net: LightSerNet) -> None:
        super().__init__()
        self.net = net
        # (before, after, stride, extra) of each layer, as streamser.engines.columns reads them
        self.levels = [(_REACH, _REACH, 2, 0), *((1, 1, 2, 0) for _ in list(net.body)[:-1])]

    def forward(self, frames: Tensor, *columns_and_runs: Tensor) -> tuple[Tensor, ...]:
        count = len(self.levels)
        columns, runs = columns_and_runs[:count], columns_and_runs[count:]
        computed = [self._paths(frames)]
        for block, known, run in zip(list(self.net.body)[:-1], columns, runs, strict=False):
            computed.append(_block(block, _chosen(known, computed[-1], run)))
        window = _chosen(columns[-1], computed[-1], runs[-1])
        embedding = self.net.body[-1](window).mean(dim=(2, 3))
        # (1, C, n, F) -> (n, C, F): a column is what is kept and looked up
        return self.net.head(embedding), embedding, *(x.squeeze(0).transpose(0, 1) for x in computed)

    def shapes(self, frames: Tensor) -> list[tuple[int, int]]:
        """(channels, bins) of each layer's columns."""
        x = self._paths(frames)
        shapes = [(x.shape[1], x.shape[3])]
        for block in list(self.net.body)[:-1]:
            x = block(x)
            shapes.append((x.shape[1], x.shape[3]))
        return shapes

    def _paths(self, frames: Tensor) -> Tensor:
        """(1, n + 10, bins) -> (1, 96, n / 2, bins / 2)"""
        x = frames.unsqueeze(1)
        size = x.shape[2]
        pooled = []
        for module in self.net.paths:
            path: Any = module
            conv = path.conv
            cut = _REACH - conv.kernel_size[0] // 2
            y = F.conv2d(x[:, :, cut : size - cut], conv.weight, conv.bias, padding=(0, conv.padding[1]))
            y = path.activation(path.norm(y))
            pooled.append(path.pool(y + x[:, :, _REACH : size - _REACH] if path.residual else y))
        return torch.cat(pooled, dim=1)


def _chosen(known: Tensor, computed: Tensor, run: Tensor) -> Tensor:
    """Columns in the order of the run, of the known ones (n, C, F) and the computed ones (1, C, m, F)."""
    return torch.cat([known.transpose(0, 1).unsqueeze(0), computed], dim=2).index_select(2, run)


def _block(block: nn.Module, x: Tensor) -> Tensor:
    """One of the body's blocks without its padding in time."""
    assert isinstance(block, nn.Sequential)
    conv, *others = block
    assert isinstance(conv, nn.Conv2d)
    x = F.conv2d(x, conv.weight, conv.bias, padding=(0, int(conv.padding[1])))
    for layer in others:
        x = layer(x)
    return x
