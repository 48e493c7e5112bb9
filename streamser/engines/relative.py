"""The relative head: compare an utterance's embedding with a speaker's baseline, in ONNX Runtime on the CPU.

`relative.onnx` takes `embedding` (B, D), `total` (B, D) and `weight` (B, 1), where total is the weighted sum of the
embeddings of earlier utterances and weight the sum of their weights, and gives `logits` (B, classes). The graph itself
shrinks the baseline of few utterances towards the mean of the training corpora. It is small, so it runs on the CPU even
when the network runs on the GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamser.bundle import Bundle
from streamser.engines.onnx import open_session
from streamser.errors import BundleError, EngineError
from streamser.features import Frames

__all__ = ["RelativeHead", "open_relative"]


class RelativeHead:
    """The relative head of a checkpoint, loaded in ONNX Runtime; several threads may call it."""

    def __init__(self, bundle: Bundle, session: Any) -> None:
        self._path = bundle.relative_path
        self._session = session
        inputs = {value.name: value for value in session.get_inputs()}
        outputs = {value.name for value in session.get_outputs()}
        if set(inputs) != {"embedding", "total", "weight"} or "logits" not in outputs:
            raise self._broken(
                f"maps {', '.join(inputs)} to {', '.join(outputs)}, but must map embedding, total and weight to logits"
            )
        size = inputs["embedding"].shape[-1]
        if not isinstance(size, int) or size < 1:
            raise self._broken("must take an embedding of fixed length")
        self.size = size
        """Length of an embedding."""
        try:
            logits = self.run(np.zeros(size, np.float32), np.zeros(size), 0.0)
        except EngineError as error:
            raise self._broken(f"fails if all inputs are zero ({error})") from error
        if logits.shape != (len(bundle.labels),) or logits.dtype != np.float32 or not np.isfinite(logits).all():
            raise self._broken(f"must give {len(bundle.labels)} finite float32 logits if all inputs are zero")

    def run(self, embedding: Frames, total: np.ndarray[Any, np.dtype[np.float64]], weight: float) -> Frames:
        """Logits (classes,) of one utterance; one at a time, so that its bits do not depend on other utterances."""
        values = {
            "embedding": np.asarray(embedding, np.float32)[None],
            "total": np.asarray(total, np.float32)[None],
            "weight": np.array([[weight]], np.float32),
        }
        try:
            logits: Frames = self._session.run(["logits"], values)[0]
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise EngineError(f"{self._path}: onnxruntime failed ({error})") from error
        if logits.ndim != 2:
            raise EngineError(f"{self._path}: gives logits of shape {logits.shape}, not (B, classes)")
        first: Frames = logits[0]
        return first

    def _broken(self, rule: str) -> BundleError:
        return BundleError(f"{self._path}: the graph {rule}; export the checkpoint again")


def open_relative(bundle: Bundle) -> RelativeHead | None:
    """The bundle's relative head; None if it has none."""
    if bundle.relative_path is None:
        return None
    graph = bundle.graph(bundle.relative_path.name)
    try:
        session = open_session(graph, threads=1)
    except Exception as error:
        raise BundleError(
            f"{bundle.relative_path}: not a graph onnxruntime can load ({error}); export it again"
        ) from error
    return RelativeHead(bundle, session)
