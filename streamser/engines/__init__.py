"""Run a network on windows: ONNX Runtime on the CPU by default, torch on CUDA or CPU on request.

`open_engine` chooses. `compute: auto` uses CUDA if torch finds a device. Importing torch takes over a second, so it
is imported for this check only if a CUDA driver is present (`cuda_is_likely`); otherwise auto means ONNX Runtime.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from streamser.audio import Samples
from streamser.bundle import Bundle
from streamser.errors import AudioError, EngineError, MissingExtraError, StreamserError
from streamser.features import FeatureConfig, Frames, cut_window, extract, silent_frame, window_starts

if TYPE_CHECKING:
    from streamser.engines.steps import StepEngine

logger = logging.getLogger(__name__)

T = TypeVar("T")

MOST_THREADS = 256
"""Limit of CPU threads: more do not make one window faster, and 100,000 of them hang the machine."""

ENGINES = ("auto", "onnx", "onnx-int8", "torch")
DEVICES = re.compile(r"auto|cpu|cuda(:\d+)?")


class WindowScores(NamedTuple):
    """The network's output for one recording, one row for each window."""

    logits: Frames
    """(windows, classes), not calibrated."""
    embedding: Frames
    """(windows, dimensions)."""
    audible: bool
    """False if every frame is digital silence."""


class Engine(Protocol):
    """Computes logits and embeddings of windows; may be called from several threads."""

    @property
    def name(self) -> str:
        """onnx, onnx-int8 or torch."""

    @property
    def compute(self) -> str:
        """The processor: cpu, or cuda:N."""

    def run(self, frames: Frames) -> tuple[Frames, Frames]:
        """Windows (B, T, bins) to logits (B, classes) and embedding (B, D)."""

    def metrics(self) -> dict[str, Any]:
        """Operating figures: engine, processor (`device`), windows, compute seconds, fallbacks."""


@runtime_checkable
class AudioEngine(Protocol):
    """An engine that also computes the features on its processor, in one pass with the network."""

    def run_audio(self, recordings: Sequence[Samples]) -> list[WindowScores]:
        """Whole 16 kHz recordings to the logits and embeddings of their windows."""


def steps_of(engine: Engine) -> StepEngine | None:
    """The engine's step graph; None if the engine or the checkpoint has none."""
    steps: StepEngine | None = getattr(engine, "steps", None)
    return steps


def run_audio(engine: Engine, recordings: Sequence[Samples], config: FeatureConfig) -> list[WindowScores]:
    """Scores of recordings; features are computed by the engine if it can, else in NumPy."""
    if isinstance(engine, AudioEngine):
        return engine.run_audio(recordings)
    return run_frames(engine, [extract(samples, config) for samples in recordings], config)


def run_frames(engine: Engine, utterances: Sequence[Frames], config: FeatureConfig) -> list[WindowScores]:
    """Scores of whole utterances from their frames, in as few calls of the engine as memory allows."""
    starts = [window_starts(len(frames), config) for frames in utterances]
    audible = [
        any(is_audible(frames[start : start + config.window_frames], config) for start in of_one)
        for frames, of_one in zip(utterances, starts, strict=True)
    ]
    cuts = (
        cut_window(frames, start, config) for frames, of_one in zip(utterances, starts, strict=True) for start in of_one
    )
    logits, embedding = _run_batched(engine, cuts)
    ends = np.cumsum([len(of_one) for of_one in starts])[:-1]
    parts = zip(np.split(logits, ends), np.split(embedding, ends), audible, strict=True)
    return [WindowScores(*part) for part in parts]


# Frames stacked for one engine call, 64 MiB of 64 bins: the windows of a two-hour file must not be in memory together.
_BATCH_FRAMES = 1 << 18


def _run_batched(engine: Engine, cuts: Iterable[Frames]) -> tuple[Frames, Frames]:
    outputs: list[tuple[Frames, Frames]] = []
    for length, alike in itertools.groupby(cuts, key=len):  # lengths differ only if `short` is "keep"
        while batch := list(itertools.islice(alike, max(1, _BATCH_FRAMES // length))):
            outputs.append(engine.run(np.stack(batch)))
    return np.concatenate([logits for logits, _ in outputs]), np.concatenate([embedding for _, embedding in outputs])


def is_audible(frames: Frames, config: FeatureConfig) -> bool:
    """Whether any frame differs from digital silence."""
    return bool(audible_frames(frames, config).any())


def audible_frames(frames: Frames, config: FeatureConfig) -> NDArray[np.bool_]:
    """Which frames differ from digital silence, (frames,)."""
    silent = silent_frame(config)
    audible: NDArray[np.bool_] = (np.abs(frames - silent) > 1e-4 + 1e-5 * np.abs(silent)).any(axis=1)
    return audible


def check_frames(frames: Frames, bundle: Bundle) -> None:
    """ValueError if an array is not a batch of windows for this checkpoint."""
    bins = bundle.features.bins
    if frames.ndim != 3 or frames.shape[2] != bins:
        raise ValueError(f"frames must have shape (batch, time, {bins}) for {bundle.name}, not {frames.shape}")


def check_length(n_frames: int, bundle: Bundle, error: Exception) -> None:
    """Raise an AudioError from `error` if a window was too short for the network, which only `short: keep` allows."""
    if n_frames < bundle.features.window_frames:
        seconds = n_frames * bundle.features.hop_s
        raise AudioError(f"{seconds:.3f} s of audio ({n_frames} frames) is too little for {bundle.name}") from error


class Counters:
    """Counts for an engine's `metrics()`; any thread may add to them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._windows = 0
        self._compute_s = 0.0

    def add(self, windows: int, started: float) -> None:
        """Count a call that began at `started` on time.perf_counter."""
        with self._lock:
            self._windows += windows
            self._compute_s += time.perf_counter() - started

    def to_dict(self) -> dict[str, Any]:
        with self._lock:
            return {"windows": self._windows, "compute_s": round(self._compute_s, 6)}


class OldNames:
    """Names of an engine's properties that still work for one release, with a warning."""

    @property
    def device(self: Engine) -> str:
        """The old name of `compute`."""
        warnings.warn("engine.device is now engine.compute", DeprecationWarning, stacklevel=2)
        return self.compute


class FallbackEngine(OldNames):
    """Uses the first engine until it fails, then the second; it warns once, and `metrics()` has the reason."""

    def __init__(self, first: Callable[[], Engine], second: Callable[[], Engine], features: FeatureConfig) -> None:
        self._second = second
        self._features = features
        self._lock = threading.Lock()
        self._fallback: str | None = None
        try:
            self._engine = first()
        except StreamserError as error:  # no such processor, no extra 'torch', or no weights for it
            self._fall_back(error)

    @property
    def name(self) -> str:
        return self._engine.name

    @property
    def compute(self) -> str:
        return self._engine.compute

    def run(self, frames: Frames) -> tuple[Frames, Frames]:
        return self._try(lambda engine: engine.run(frames))

    def run_audio(self, recordings: Sequence[Samples]) -> list[WindowScores]:
        return self._try(lambda engine: run_audio(engine, recordings, self._features))

    @property
    def steps(self) -> StepEngine | None:
        on_second = self._fallback is not None  # read before the engine; `_fall_back` sets them in the other order
        steps = steps_of(self._engine)
        if steps is None or on_second:
            return steps
        from streamser.engines.fallbacksteps import FallbackSteps

        return FallbackSteps(self._try)

    def metrics(self) -> dict[str, Any]:
        return {**self._engine.metrics(), "fallback": self._fallback}

    def _try(self, call: Callable[[Engine], T]) -> T:
        engine = self._engine
        try:
            return call(engine)
        except EngineError as error:
            with self._lock:  # several threads may meet the same failure; the first one changes the engine
                if self._engine is engine:
                    if self._fallback is not None:
                        raise
                    self._fall_back(error)
            return call(self._engine)

    def _fall_back(self, error: StreamserError) -> None:
        self._engine = engine = self._second()
        self._fallback = str(error)
        logger.warning("%s; from here on the %s engine computes on the %s", error, engine.name, engine.compute)


def open_engine(bundle: Bundle, engine: str = "auto", compute: str = "auto", threads: int = 1) -> Engine:
    """Open the engine for a checkpoint; EngineError if an engine or processor asked for by name cannot be used.

    | compute| engine auto           | engine onnx | engine torch          |
    |--------|-----------------------|-------------|-----------------------|
    | auto   | CUDA, else ONNX (CPU) | ONNX (CPU)  | CUDA, else torch (CPU)|
    | cpu    | ONNX (CPU)            | ONNX (CPU)  | torch (CPU)           |
    | cuda:N | torch (CUDA)          | ValueError  | torch (CUDA)          |

    Engine onnx-int8 is engine onnx with 8-bit weights, for checkpoints that have these graphs.
    """
    check_choice(engine, compute)
    if compute.startswith("cuda"):
        return _open_torch(bundle, compute)
    int8 = engine == "onnx-int8"
    on_cpu = partial(_open_torch, bundle, "cpu") if engine == "torch" else partial(_open_onnx, bundle, threads, int8)
    if compute == "auto" and not engine.startswith("onnx") and cuda_is_likely():
        return FallbackEngine(partial(_open_torch, bundle, "cuda"), on_cpu, bundle.features)
    return on_cpu()


def check_choice(engine: str, compute: str) -> None:
    """Raise a ValueError for an engine or a processor that does not exist."""
    if engine not in ENGINES:
        raise ValueError(f"engine: {', '.join(ENGINES)}, not {engine!r}")
    if not DEVICES.fullmatch(compute):
        raise ValueError(f"compute: auto, cpu, cuda or cuda:N, not {compute!r}")
    if engine.startswith("onnx") and compute.startswith("cuda"):
        raise ValueError(f"compute: {compute} is for the torch engine; the {engine} engine computes on the cpu")


def cuda_is_likely() -> bool:
    """Whether importing torch (over a second) is worth it: torch is installed and an NVIDIA driver is present."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") or importlib.util.find_spec("torch") is None:
        return False
    if sys.platform == "win32":
        return (Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32" / "nvcuda.dll").exists()
    # Device nodes of the driver on Linux, on WSL 2 and on Jetson.
    return any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/dxg", "/dev/nvmap"))


def _open_onnx(bundle: Bundle, threads: int, int8: bool) -> Engine:
    from streamser.engines.onnx import OnnxEngine

    if int8 and not bundle.has_int8:
        raise EngineError(f"{bundle.name} has no graphs with 8-bit weights; use the engine onnx")
    return OnnxEngine(bundle, threads, int8=int8)


def _open_torch(bundle: Bundle, compute: str) -> Engine:
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError("the torch engine", "torch")
    try:
        from streamser.engines.torch import TorchEngine
    except (ImportError, OSError) as error:  # OSError: a CUDA library that torch needs is missing
        raise EngineError(
            f"torch is installed but cannot be imported ({error}); install streamser[torch] again"
        ) from error
    return TorchEngine(bundle, compute)
