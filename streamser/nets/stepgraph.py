"""Export a network as a step graph, which computes only the new frames of a stream; `streamser.engines` runs it."""

from __future__ import annotations

from streamser.features import FeatureConfig
from streamser.nets.export import frozen_copy, narrowed
from streamser.nets.layers import SerNet
from streamser.nets.tracing import trace

__all__ = ["export_step"]


def export_step(net: SerNet, features: FeatureConfig) -> bytes | None:
    """The network's step graph as ONNX; None if it has none for these features."""
    if features.center or features.fft_size != features.window_samples or features.sample_rate != 16_000:
        return None  # a frame would need samples that come later, or resampling
    step = frozen_copy(net).step_graph(features)
    return None if step is None else narrowed(trace(step))
