"""Small objects for tests: checkpoints with tiny networks, and synthetic recordings."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from streamser.audio import SAMPLE_RATE, Samples
from streamser.bundle import Bundle, BundleContents, BundleValues, save_bundle
from streamser.calibration import BaselineRule, Calibration
from streamser.features import FeatureConfig, Frames, silent_frame

LABELS = ("angry", "happy", "neutral", "sad")


def make_features(**changes: Any) -> FeatureConfig:
    """The default front end with a window of one second, so that short recordings have several windows."""
    return FeatureConfig(**{"length_s": 1.0, "stride_s": 0.5, **changes})


def make_weights(features: FeatureConfig, classes: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Weights of a linear network on the mean frame, scaled so that recordings' logits differ by a few units."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((features.bins, classes)).astype(np.float32) / np.float32(8 * features.bins**0.5)
    # Centred between silence and a loud tone, so that no class wins everywhere.
    bias = -(silent_frame(features)[0] / 2) @ weight
    return {"weight": weight, "bias": bias.astype(np.float32)}


def make_onnx(weights: dict[str, NDArray[np.float32]], *, time: int | str = "time") -> bytes:
    """The bytes of a graph: frames -> embedding (mean over time) -> logits (embedding @ weight + bias)."""
    bins, classes = weights["weight"].shape
    nodes = [
        helper.make_node("ReduceMean", ["frames", "axes"], ["embedding"], keepdims=0),
        helper.make_node("MatMul", ["embedding", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("frames", TensorProto.FLOAT, ["batch", time, bins])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", bins]),
        ],
        [
            numpy_helper.from_array(np.array([1], np.int64), "axes"),
            *(numpy_helper.from_array(value, name) for name, value in weights.items()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def make_bundle(
    folder: Path,
    labels: tuple[str, ...] = LABELS,
    seed: int = 0,
    *,
    features: FeatureConfig | None = None,
    calibration: Calibration | None = None,
    **changes: Any,
) -> Bundle:
    """Save a checkpoint with random weights in `folder`; its predictions depend on the audio."""
    features = features or make_features()
    weights = make_weights(features, len(labels), seed)
    values: dict[str, Any] = {
        "labels": labels,
        "features": features,
        "variant": "tiny-linear",
        "weights": weights,
        "onnx": make_onnx(weights),
        "calibration": calibration or Calibration(threshold=0.3),
        "provenance": {"corpora": ["none: random weights for tests"]},
        "scores": {"ua": 0.25},
        "licence": "Apache-2.0",
        "card": f"# {folder.name}\n\nRandom weights for tests.\n",
        **changes,
    }
    names = {field.name for field in fields(BundleContents)}
    contents = BundleContents(**{name: value for name, value in values.items() if name in names})
    manifest = BundleValues(**{name: value for name, value in values.items() if name not in names})
    return save_bundle(folder, manifest, contents)


def make_rule(**changes: Any) -> BaselineRule:
    """A baseline rule with which a few utterances already change the predictions."""
    return BaselineRule(**{"exponent": 1.0, "memory": 50, "half": 0.5, "calibration": Calibration(), **changes})


def make_relative(weights: dict[str, NDArray[np.float32]]) -> bytes:
    """The bytes of a graph: logits = (embedding - total / (weight + 2)) @ W. The 2 moves the mean towards zero."""
    bins, classes = weights["weight"].shape
    nodes = [
        helper.make_node("Add", ["weight", "shrinkage"], ["count"]),
        helper.make_node("Div", ["total", "count"], ["baseline"]),
        helper.make_node("Sub", ["embedding", "baseline"], ["difference"]),
        helper.make_node("MatMul", ["difference", "W"], ["logits"]),
    ]
    inputs = {"embedding": bins, "total": bins, "weight": 1}
    graph = helper.make_graph(
        nodes,
        "relative",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name, size in inputs.items()],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        [
            numpy_helper.from_array(np.array([2.0], np.float32), "shrinkage"),
            numpy_helper.from_array(weights["weight"], "W"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def make_adaptive(folder: Path, rule: BaselineRule | None = None, **changes: Any) -> Bundle:
    """Save a checkpoint like that of `make_bundle`, with a relative head."""
    weights = make_weights(changes.get("features") or make_features(), len(LABELS))
    return make_bundle(folder, **{"relative": make_relative(weights), "baseline": rule or make_rule(), **changes})


def tone(hz: float = 440.0, duration_s: float = 1.0, level: float = 0.3) -> Samples:
    """A sine at 16 kHz."""
    t = np.arange(round(duration_s * SAMPLE_RATE)) / SAMPLE_RATE
    return (level * np.sin(2 * np.pi * hz * t)).astype(np.float32)


def silence(duration_s: float = 1.0) -> Samples:
    """Digital silence."""
    return np.zeros(round(duration_s * SAMPLE_RATE), np.float32)


def noise(duration_s: float = 1.0, level: float = 0.1, seed: int = 0) -> Samples:
    """White noise."""
    return (level * np.random.default_rng(seed).standard_normal(round(duration_s * SAMPLE_RATE))).astype(np.float32)


def babble(duration_s: float = 1.0, seed: int = 0, level: float = 0.2) -> Samples:
    """A synthetic voice that a VAD takes for speech: harmonics of a varying pitch, with a syllable rhythm of 4 Hz."""
    rng = np.random.default_rng(seed)
    n = round(duration_s * SAMPLE_RATE)
    t = np.arange(n) / SAMPLE_RATE
    pitch = 140 * 2 ** (0.3 * np.sin(2 * np.pi * 0.7 * t + rng.uniform(0, 6.28)))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    voice = sum(np.sin(k * phase + rng.uniform(0, 6.28)) / k for k in range(1, 20))
    envelope = 0.6 + 0.4 * np.sin(2 * np.pi * 4 * t)
    return (level * envelope * voice / 2).astype(np.float32)


def frames_of(audio: Samples, features: FeatureConfig) -> Frames:
    """The feature frames of a recording, by the reference front end."""
    from streamser.features import extract

    return extract(audio, features)
