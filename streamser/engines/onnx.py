"""ONNX Runtime on the CPU: the default engine, which starts in a fraction of a second and does not import torch."""

from __future__ import annotations

import logging
import threading
import time
from functools import cache, partial
from typing import Any

import numpy as np

from streamser.bundle import GRAPH, INT8_GRAPH, INT8_STEP, STEP, Bundle
from streamser.engines import MOST_THREADS, Counters, OldNames, check_frames, check_length
from streamser.engines.steps import StepEngine, open_steps
from streamser.errors import BundleError, EngineError
from streamser.features import Frames, silent_frame
from streamser.ort import Session, onnxruntime

logger = logging.getLogger(__name__)

_MEMORY_BYTES = 4 << 30
"""Memory that all graphs of a process may use at once; the largest published network takes about 100 MB a window."""

_FATAL_ONLY = 4  # onnxruntime's log level: errors arrive as exceptions anyway


class OnnxEngine(OldNames):
    """A bundle's graphs in onnxruntime sessions.

    Windows run one at a time: on a CPU a batch is less than a tenth faster, and the last bits of a window's logits
    could depend on the other windows in it. So a replay equals the live stream.

    Streams use the step graph and files the whole one, so each is opened only when it is needed.
    """

    compute = "cpu"

    def __init__(self, bundle: Bundle, threads: int = 1, *, int8: bool = False) -> None:
        """`int8` takes the graphs with 8-bit weights, which `bundle` must have."""
        if not 1 <= threads <= MOST_THREADS:
            raise ValueError(f"threads: 1 to {MOST_THREADS}, not {threads}")
        self.name = "onnx-int8" if int8 else "onnx"
        self._bundle = bundle
        self._threads = threads
        self._counters = Counters()
        self._whole_name = INT8_GRAPH if int8 else GRAPH
        self._step_name = (INT8_STEP if int8 else STEP) if bundle.step_path is not None else None
        self._opening = threading.Lock()
        self._steps: StepEngine | None = None
        self._whole: _WholeGraph | None = None
        if self._step_name is None:
            self._open_whole()

    @property
    def steps(self) -> StepEngine | None:
        """The bundle's step graph, opened by the first stream that asks for it."""
        with self._opening:
            if self._step_name is not None and self._steps is None:
                opener = partial(open_session, threads=self._threads)
                self._steps = open_steps(self._bundle, self._step_name, opener, self._counters)
            return self._steps

    def run(self, frames: Frames) -> tuple[Frames, Frames]:
        """Run the network on windows of frames (B, T, bins); returns logits (B, classes) and embeddings (B, D)."""
        started = time.perf_counter()
        check_frames(frames, self._bundle)
        whole = self._whole or self._open_whole()
        results = whole.run(frames)
        self._counters.add(len(frames), started)
        return results

    def metrics(self) -> dict[str, Any]:
        return {"engine": self.name, "device": self.compute, "threads": self._threads, **self._counters.to_dict()}

    def _open_whole(self) -> _WholeGraph:
        with self._opening:
            if self._whole is None:
                self._whole = _WholeGraph(self._bundle, self._whole_name, self._threads)
            return self._whole


class _WholeGraph:
    """A graph for whole windows, checked against bundle.yaml and run once, so that the first real call is fast."""

    def __init__(self, bundle: Bundle, name: str, threads: int) -> None:
        self._bundle = bundle
        self._path = bundle.path / name
        graph = bundle.graph(name)  # the verified bytes; ONNX Runtime gets these, not the file
        try:
            self._session = open_session(graph, threads)
        except Exception as error:  # onnxruntime has no common base for its exceptions
            raise BundleError(f"{self._path}: not a graph onnxruntime can load ({error}); export it again") from error
        self._check_signature()
        self._dimensions = self._probe()

    def run(self, frames: Frames) -> tuple[Frames, Frames]:
        """Logits and embedding of each window."""
        if not len(frames):
            return np.zeros((0, len(self._bundle.labels)), np.float32), np.zeros((0, self._dimensions), np.float32)
        frames = np.ascontiguousarray(frames, np.float32)
        try:
            outputs = [
                self._session.run(["logits", "embedding"], {"frames": frames[i : i + 1]}) for i in range(len(frames))
            ]
        except Exception as error:
            check_length(frames.shape[1], self._bundle, error)
            raise EngineError(
                f"{self._path}: onnxruntime failed on windows of shape {frames.shape} ({error})"
            ) from error
        return np.concatenate([o[0] for o in outputs]), np.concatenate([o[1] for o in outputs])

    def _check_signature(self) -> None:
        """BundleError unless the graph has the expected names, rank and bins."""
        inputs = {value.name: value for value in self._session.get_inputs()}
        outputs = {value.name: value for value in self._session.get_outputs()}
        bins = self._bundle.features.bins
        if set(inputs) != {"frames"} or not {"logits", "embedding"} <= set(outputs):
            raise self._broken(
                f"maps {', '.join(inputs)} to {', '.join(outputs)}, but must map frames to logits and embedding"
            )
        frames = inputs["frames"]
        if frames.type != "tensor(float)" or len(frames.shape) != 3:
            raise self._broken(
                f"takes frames as {frames.type} of shape {frames.shape}, but must take float32 (B, T, bins)"
            )
        if isinstance(frames.shape[2], int) and frames.shape[2] != bins:
            raise self._broken(f"takes {frames.shape[2]} bins, but features in bundle.yaml give {bins}")

    def _probe(self) -> int:
        """Run one window of silence; returns the length of an embedding."""
        features, labels = self._bundle.features, self._bundle.labels
        silence = np.repeat(silent_frame(features)[None], features.window_frames, axis=1)
        try:
            logits, embedding = self._session.run(["logits", "embedding"], {"frames": silence})
        except Exception as error:
            raise self._broken(f"fails on one window of {silence.shape[1]} frames ({error})") from error
        if logits.ndim != 2 or logits.shape[1] != len(labels):
            raise self._broken(
                f"gives logits of shape {logits.shape}, but labels in bundle.yaml has {len(labels)} names"
            )
        if embedding.ndim != 2 or logits.dtype != np.float32 or embedding.dtype != np.float32:
            raise self._broken("must give float32 logits (B, classes) and embedding (B, D)")
        if not (np.isfinite(logits).all() and np.isfinite(embedding).all()):
            raise self._broken("gives NaN or infinite logits for silence")
        return int(embedding.shape[1])

    def _broken(self, rule: str) -> BundleError:
        return BundleError(f"{self._path}: the graph {rule}; export the checkpoint again")


def open_session(graph: bytes, threads: int) -> Any:
    """An ONNX Runtime session on the CPU for a graph that `Bundle.graph` has verified."""
    _limit_memory()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _FATAL_ONLY
    options.add_session_config_entry("session.load_model_format", "ONNX")  # never guess another format from the bytes
    options.add_session_config_entry("session.use_env_allocators", "1")
    return Session(graph, options, providers=["CPUExecutionProvider"])


@cache
def _limit_memory() -> None:
    """Give the sessions of this process one allocator that refuses to grow beyond `_MEMORY_BYTES`.

    A graph of a few hundred bytes may request any amount: then its session fails, but not the process.
    """
    place = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    # Minus one keeps a default: how the arena grows, and the size of its first chunk.
    limits = onnxruntime.OrtArenaCfg(_MEMORY_BYTES, -1, -1, -1)
    try:
        onnxruntime.create_and_register_allocator(place, limits)
    except Exception as error:  # the host program has registered an allocator, which is then used here too
        logger.debug("onnxruntime keeps the allocator it has (%s)", error)
