"""Export a trained network as an ONNX graph with free batch and time axes, and compare it with torch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from streamser.errors import BundleError
from streamser.features import FeatureConfig, Frames, from_log_mel
from streamser.nets.layers import SerNet
from streamser.nets.tracing import Traceable, trace
from streamser.onnxgraph import check_graph
from streamser.ort import onnxruntime

_LONG = 1024  # shorter constants stay float32: they would save little, and each would need a Cast node
TOLERANCE = 1e-4
"""Largest difference of a logit or an embedding value between torch and ONNX Runtime."""


class _Served(nn.Module):
    """The exported network: logits and embedding, no reconstruction."""

    def __init__(self, net: SerNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        return self.net.served(frames)


def export_onnx(net: SerNet, features: FeatureConfig, n_classes: int) -> bytes:
    """The network in evaluation mode as ONNX: frames (batch, time, bins) -> logits, embedding.

    The graph's numbers are compared with torch's at several lengths and batch sizes; a graph that differs by more than
    `TOLERANCE` raises BundleError, a graph that the runtime would refuse raises ValueError. The network's own mode,
    device and memory layout are unchanged.
    """
    if net.n_classes != n_classes or net.bins != features.bins:
        raise ValueError(
            f"the network has {net.n_classes} classes and {net.bins} bins, "
            f"but {n_classes} classes and {features.bins} bins are needed"
        )
    twin = frozen_copy(net)
    example = torch.from_numpy(probe_frames(features, 2, net.min_frames + 20))
    served = Traceable(
        module=_Served(twin),
        example=(example,),
        inputs=("frames",),
        outputs=("logits", "embedding"),
        free_axes={"frames": {0: "batch", 1: "time"}, "logits": {0: "batch"}, "embedding": {0: "batch"}},
    )
    graph = narrowed(trace(served))
    check_graph(graph)
    check_onnx(twin, features, graph)
    return graph


def is_narrow(values: NDArray[Any]) -> bool:
    """Whether an array is long and half precision represents all its values exactly."""
    if values.dtype != np.float32 or values.size < _LONG:
        return False
    with np.errstate(over="ignore"):
        return bool((values.astype(np.float16).astype(np.float32) == values).all())


def narrowed(graph: bytes) -> bytes:
    """Store every long constant in half precision if that changes no value; a Cast node restores float32 on loading."""
    model = onnx.load_from_string(graph)
    kept = list(model.graph.initializer)
    casts = []
    del model.graph.initializer[:]
    for tensor in kept:
        values = onnx.numpy_helper.to_array(tensor)
        if is_narrow(values):
            name = tensor.name
            casts.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
            tensor = onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}.half")
        model.graph.initializer.append(tensor)
    if not casts:
        return graph
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])  # the nodes of a graph must be in the order of computation
    return bytes(model.SerializeToString())


def frozen_copy(net: SerNet) -> SerNet:
    """The same network in float32 evaluation mode on the CPU, sharing nothing with the original."""
    twin = copy.deepcopy(net).to(torch.device("cpu"), torch.float32).eval().requires_grad_(False)
    for values in (*twin.parameters(), *twin.buffers()):  # not channels_last, which a graph does not have
        values.data = values.data.contiguous()
    return twin


def check_onnx(net: SerNet, features: FeatureConfig, graph: bytes) -> float:
    """Largest difference between the graph's outputs and the network's; BundleError beyond `TOLERANCE`."""
    session = open_session(graph)
    worst = 0.0
    for batch, frames in probe_shapes(net, features):
        probe = probe_frames(features, batch, frames)
        with torch.no_grad():
            expected, expected_embedding = net.served(torch.from_numpy(probe))
            hidden = net(torch.from_numpy(probe)).embedding
        logits, embedding = run_session(session, probe)
        differences = [
            largest_difference(logits, expected.numpy(), _terms(net.head, hidden)),
            # A small value may be a sum of large terms, so the allowed error follows the layer's largest value.
            largest_difference(embedding, expected_embedding.numpy(), 10.0 * float(expected_embedding.abs().max())),
        ]
        difference = float(np.max(differences))  # NaN if one of them is NaN, unlike Python's max
        if not difference <= TOLERANCE:
            raise BundleError(
                f"the exported graph differs from the network by {difference:.1e} at {batch} x {frames} frames, "
                f"more than {TOLERANCE:.0e}; use the versions of torch and onnxruntime that streamser[torch] requires"
            )
        worst = max(worst, difference)
    return worst


def compare_graphs(graph: bytes, other: bytes, net: SerNet, features: FeatureConfig) -> float:
    """Largest difference between two graphs' outputs at the lengths and batch sizes of `probe_shapes`."""
    sessions = [open_session(graph), open_session(other)]
    differences: list[float] = []
    for batch, frames in probe_shapes(net, features):
        probe = probe_frames(features, batch, frames, seed=1)
        values, others = (run_session(session, probe) for session in sessions)
        differences += [largest_difference(a, b) for a, b in zip(values, others, strict=True)]
    return float(np.max(differences))


def largest_difference(values: Frames, references: Frames, terms: float = 0.0) -> float:
    """Largest difference between values and references, scaled for the seven digits of float32.

    Each difference is divided by the largest of 1, a tenth of the reference, and a hundredth of `terms`: the magnitude
    of the terms that were summed.
    """
    slack = np.maximum(max(1.0, terms / 100.0), np.abs(references) / 10.0)
    return float(np.max(np.abs(values - references) / slack))


def _terms(head: nn.Module, embedding: Tensor) -> float:
    """The largest sum of magnitudes in a linear head's logit, which limits its rounding error."""
    if not isinstance(head, nn.Linear):
        return 0.0
    with torch.no_grad():
        return float(F.linear(embedding.abs(), head.weight.abs(), head.bias.abs()).max())


def probe_shapes(net: SerNet, features: FeatureConfig) -> list[tuple[int, int]]:
    """Batch sizes and numbers of frames to check: a whole window, the shortest input, and two more."""
    least = net.min_frames
    return [(2, max(features.window_frames, least)), (1, least), (5, least + 7), (3, least + 40)]


def probe_frames(features: FeatureConfig, batch: int, frames: int, seed: int = 0) -> Frames:
    """Random frames with levels like speech, scaled by the front end, (batch, frames, bins)."""
    rng = np.random.default_rng(seed)
    if features.kind == "samples":
        level = 10.0 ** rng.uniform(-3.0, -1.0, (batch, 1, 1)) * (1.0 + 0.8 * rng.uniform(-1, 1, (batch, frames, 1)))
        return (level * rng.normal(0.0, 1.0, (batch, frames, features.bins))).astype(np.float32)
    unit = 1.0 if features.log == "db" else np.log(10.0) / 10.0
    level_db = rng.uniform(-70.0, 0.0, (batch, 1, features.n_mels)) + rng.normal(0.0, 12.0, (batch, frames, 1))
    level_db = level_db + rng.normal(0.0, 6.0, (batch, frames, features.n_mels))
    return from_log_mel((level_db * unit).astype(np.float32), features)


def open_session(graph: bytes) -> onnxruntime.InferenceSession:
    """Load the graph into ONNX Runtime, to run on one CPU thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def run_session(session: onnxruntime.InferenceSession, frames: Frames) -> Sequence[Frames]:
    """Logits and embedding of frames, (batch, classes) and (batch, D)."""
    logits, embedding = session.run(["logits", "embedding"], {"frames": frames})
    return logits, embedding
