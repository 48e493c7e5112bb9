"""Step graphs: compute the logits of an utterance in progress from its new frames instead of the whole window.

A bundle may hold `step.onnx` beside `model.onnx`. `open_steps` opens it once; a `Track` follows one utterance.
The graph's metadata `streamser.step` is its kind:

- `chunks`: a causal encoder. Input `frames` (1, time, bins); every other input NAME is a state of fixed shape that
  begins as zeros, with an output `next.NAME`; a state named `carried.*` is kept for the next utterance. The first
  call of an utterance takes `streamser.first` frames, later calls `streamser.chunk`, and the last call takes the
  rest, rounded down to a multiple of `streamser.multiple`. `streamser.rings` (JSON) names states that are rings, with
  the axis of their entries: there `next.NAME` holds only new entries, which overwrite the oldest ones.
- `window`: a pooled convolution over a sliding window; see `streamser.engines.columns`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from streamser.bundle import Bundle
from streamser.engines import Counters, WindowScores, is_audible
from streamser.errors import BundleError, EngineError
from streamser.features import FeatureConfig, Frames, silent_frame

__all__ = ["BatchStepEngine", "ChunkSteps", "StepEngine", "Track", "advance", "open_steps"]

States = dict[str, Frames]


class Track(Protocol):
    """One utterance: takes frames as they arrive and gives logits at any time. For one thread at a time."""

    @property
    def fed(self) -> int:
        """Number of frames fed so far."""

    def feed(self, frames: Frames) -> None:
        """Add the next frames, (n, bins)."""

    def scores(self) -> WindowScores:
        """Logits and embedding of the newest window, or of all frames if the graph keeps them; `feed` may follow."""

    def final(self, kept: slice) -> WindowScores:
        """Logits and embedding of the whole utterance; `kept`: the frames that trimming leaves; `feed` may follow."""

    def close(self) -> None:
        """The utterance is over: nothing is fed or scored any more, but another track may begin `after` this one."""


class StepEngine(Protocol):
    """A bundle's step graph, ready to run."""

    def track(self, after: Track | None = None) -> Track:
        """A track for a new utterance; `after` is the track of the same stream's last utterance."""


@runtime_checkable
class BatchStepEngine(StepEngine, Protocol):
    """A step engine that encodes several tracks together in less time than one by one."""

    def advance(self, tracks: Sequence[Track]) -> None:
        """Encode the frames that these tracks were fed, in as few steps as possible; their `scores` are then ready."""


def advance(steps: StepEngine | None, tracks: Sequence[Track]) -> None:
    """Encode the tracks together if their engine can; otherwise each one encodes its frames itself."""
    if steps is not None and _is_batched(type(steps)):
        cast("BatchStepEngine", steps).advance(tracks)


@cache
def _is_batched(kind: type[StepEngine]) -> bool:
    """Cached, since a test of a protocol takes more than 10 us, and every partial result needs this one."""
    return issubclass(kind, BatchStepEngine)


def open_steps(bundle: Bundle, name: str, open_session: Callable[[bytes], Any], counters: Counters) -> StepEngine:
    """The bundle's step graph of this name in an ONNX Runtime session."""
    graph, path = bundle.graph(name), bundle.path / name
    try:
        session = open_session(graph)
    except Exception as error:  # onnxruntime has no common base for its exceptions
        raise BundleError(f"{path}: not a graph onnxruntime can load ({error}); export it again") from error
    metadata = session.get_modelmeta().custom_metadata_map
    kind = metadata.get("streamser.step")
    steps: StepEngine
    try:
        if kind == "chunks":
            steps = ChunkSteps(bundle, session, counters, metadata)
        elif kind == "window":
            from streamser.engines.columns import WindowSteps

            steps = WindowSteps(bundle, session, counters, metadata)
        else:
            raise ValueError(f"metadata streamser.step must be chunks or window, not {kind!r}")
        # Run every path through the graph once, so that the first real call is fast: a chunk and a shorter rest, or a
        # window.
        frames = steps.first + steps.multiple if isinstance(steps, ChunkSteps) else bundle.features.window_frames
        silence = steps.track()
        silence.feed(np.repeat(silent_frame(bundle.features), frames, axis=0))
        scores = silence.scores()
    except (ValueError, KeyError, EngineError) as error:
        raise BundleError(f"{path}: {error}; export the checkpoint again") from error
    if scores.logits.shape != (1, len(bundle.labels)) or not np.isfinite(scores.logits).all():
        raise BundleError(f"{path}: must give {len(bundle.labels)} finite logits for silence; export it again")
    return steps


def check_features(config: FeatureConfig) -> None:
    """ValueError unless every frame depends only on its own samples, so that the end of the audio adds no frames."""
    if config.center or config.fft_size != config.window_samples or config.sample_rate != 16_000:
        raise ValueError("a step graph needs features at 16 kHz, not centred, with window_samples equal to fft_size")


class ChunkSteps:
    """A causal encoder that takes chunks of frames and returns its state for the next chunk."""

    def __init__(self, bundle: Bundle, session: Any, counters: Counters, metadata: dict[str, str]) -> None:
        check_features(bundle.features)
        self.features = bundle.features
        self.first, self.chunk, self.multiple = (
            int(metadata.get(f"streamser.{name}", default))
            for name, default in (("first", metadata["streamser.chunk"]), ("chunk", ""), ("multiple", 1))
        )
        if not 1 <= self.multiple <= min(self.first, self.chunk) or (
            self.first % self.multiple,
            self.chunk % self.multiple,
        ) != (0, 0):
            raise ValueError("streamser.first and streamser.chunk must be multiples of streamser.multiple")
        self._session = session
        self._counters = counters
        self._path = bundle.step_path
        inputs = {value.name: value for value in session.get_inputs()}
        outputs = {value.name for value in session.get_outputs()}
        self._shapes = {
            name: tuple(size if isinstance(size, int) else 1 for size in value.shape)
            for name, value in inputs.items()
            if name != "frames"
        }
        self._rings = _rings(metadata.get("streamser.rings", "{}"), self._shapes)
        missing = {"logits", "embedding", *(f"next.{name}" for name in self._shapes)} - outputs
        if "frames" not in inputs or missing:
            lacks = "the input 'frames'" if "frames" not in inputs else f"the outputs {', '.join(sorted(missing))}"
            raise ValueError(f"the graph lacks {lacks}")
        self._outputs = ["logits", "embedding", *(f"next.{name}" for name in self._shapes)]

    def track(self, after: Track | None = None) -> ChunkTrack:
        """A track whose states are zeros, except those that are carried over from `after`."""
        states: States = {name: np.zeros(shape, np.float32) for name, shape in self._shapes.items()}
        if isinstance(after, ChunkTrack):
            states.update({name: value for name, value in after.states.items() if name.startswith("carried.")})
        return ChunkTrack(self, states)

    def run(self, frames: Frames, states: States) -> tuple[Frames, Frames, States]:
        """Frames (n, bins) to logits (1, classes), embedding (1, D) and the outputs for `follow`."""
        started = time.perf_counter()
        try:
            logits, embedding, *following = self._session.run(self._outputs, {"frames": frames[None], **states})
        except Exception as error:
            raise EngineError(f"{self._path}: onnxruntime failed on {len(frames)} frames ({error})") from error
        self._counters.add(1, started)
        return logits, embedding, dict(zip(self._shapes, following, strict=True))

    def follow(self, states: States, following: States, written: dict[str, int]) -> None:
        """Update the states after a chunk, and `written`, the number of entries written to each ring so far."""
        for name, new in following.items():
            axis = self._rings.get(name)
            if axis is None:
                states[name] = new
            else:
                _write(np.moveaxis(states[name], axis, 0), np.moveaxis(new, axis, 0), written.get(name, 0))
                written[name] = written.get(name, 0) + new.shape[axis]


def _rings(text: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Axis of each ring's entries; ValueError unless all are states that have this axis."""
    axes = json.loads(text)
    if not (
        isinstance(axes, dict)
        and all(type(axis) is int and 0 <= axis < len(shapes.get(name, ())) for name, axis in axes.items())
        and not any(name.startswith("carried.") for name in axes)
    ):
        raise ValueError(
            f"streamser.rings must name states that are not carried over, and one axis of each, not {text!r}"
        )
    return axes


def _write(ring: Frames, new: Frames, written: int) -> None:
    """Write `new` entries into a ring to which `written` entries were written before; entries lie along axis 0.

    >>> ring = np.zeros(4, np.float32)
    >>> _write(ring, np.array([1, 2, 3], np.float32), 0)
    >>> _write(ring, np.array([4, 5], np.float32), 3)
    >>> ring.tolist()
    [5.0, 2.0, 3.0, 4.0]
    """
    size = len(ring)
    skipped = max(0, len(new) - size)  # entries that later ones of the same step overwrite
    at, new = (written + skipped) % size, new[skipped:]
    head = min(len(new), size - at)
    ring[at : at + head] = new[:head]
    ring[: len(new) - head] = new[head:]


class ChunkTrack:
    """An utterance in a `ChunkSteps`: whole chunks change the states; the rest is scored without changing them."""

    def __init__(self, steps: ChunkSteps, states: States) -> None:
        self.states = states
        self.fed = 0
        self._steps = steps
        self._waiting: Frames = np.zeros((0, steps.features.bins), np.float32)
        self._begun = False
        self._audible = False
        self._scores: tuple[Frames, Frames] | None = None
        self._written: dict[str, int] = {}

    def feed(self, frames: Frames) -> None:
        """Add frames; every chunk that they complete is encoded."""
        self.fed += len(frames)
        self._audible = self._audible or is_audible(frames, self._steps.features)
        waiting = np.concatenate([self._waiting, frames])
        while len(waiting) >= (size := self._steps.chunk if self._begun else self._steps.first):
            chunk, waiting = np.ascontiguousarray(waiting[:size]), waiting[size:]
            logits, embedding, following = self._steps.run(chunk, self.states)
            self._steps.follow(self.states, following, self._written)
            self._scores, self._begun = (logits, embedding), True
        self._waiting = waiting

    def scores(self) -> WindowScores:
        """Logits and embedding of all frames, without a rest of fewer than `streamser.multiple` at the end."""
        steps, rest = self._steps, self._waiting
        whole = len(rest) // steps.multiple * steps.multiple
        if not whole and self._scores is None:  # too short for any call: padded with silence
            silence = np.repeat(silent_frame(steps.features), steps.multiple - len(rest), axis=0)
            rest, whole = np.concatenate([rest, silence]), steps.multiple
        result = self._scores
        if whole or result is None:
            logits, embedding, _ = steps.run(np.ascontiguousarray(rest[:whole]), self.states)
            result = logits, embedding
        return WindowScores(*result, self._audible)

    def final(self, kept: slice) -> WindowScores:
        """The same as `scores`: frames that are already encoded cannot be left out."""
        return self.scores()

    def close(self) -> None:
        """Nothing to give back; the states stay for the next track."""
