"""Tracks whose states stay on a torch device: the chunks of many streams are encoded in one batch.

A track owns a slot of `DeviceStreams` until its utterance is over. `feed` only stores frames; `advance` encodes the
frames of several tracks together. If no slot is free, all frames of the utterance are encoded again for each result;
the results are the same.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from streamser.engines import Counters, WindowScores, is_audible
from streamser.engines.steps import Track
from streamser.errors import EngineError
from streamser.features import FeatureConfig, Frames, silent_frame
from streamser.native import native_call

__all__ = ["DeviceSteps", "Slots"]

logger = logging.getLogger(__name__)

Run = Callable[[Frames], tuple[Frames, Frames]]
"""Whole utterances (B, T, bins) to logits (B, classes) and embedding (B, D)."""


class Slots(Protocol):
    """The part of `DeviceStreams` that `DeviceSteps` uses."""

    streams: int
    features: FeatureConfig
    chunks: tuple[int, int]
    multiple: int

    def begin(self, slots: NDArray[np.int64]) -> None:
        """Start new utterances."""

    def step(self, slots: NDArray[np.int64], chunks: Frames) -> tuple[Frames, Frames]:
        """Encode the next chunks, (slots, frames, bins); returns logits and embedding of each utterance so far."""

    def peek(self, slots: NDArray[np.int64], chunks: Frames) -> tuple[Frames, Frames]:
        """Like `step`, but the states stay unchanged."""


class DeviceSteps:
    """Computes a checkpoint's streams in chunks on a device; any thread may use it.

    `run` scores whole utterances. `lock` is held during each computation, as by the engine's other calls.
    """

    def __init__(self, slots: Slots, run: Run, counters: Counters, lock: AbstractContextManager[Any]) -> None:
        self.features = slots.features
        self.first, self.chunk = slots.chunks
        self.multiple = slots.multiple
        self._slots = slots
        self._run = run
        self._counters = counters
        self._lock = lock
        self._free = list(range(slots.streams))
        self._warned = False

    @property
    def free(self) -> int:
        """Number of slots that no track owns."""
        return len(self._free)

    def track(self, after: Track | None = None) -> Track:
        """A track for a new utterance."""
        try:
            slot = self._free.pop()
        except IndexError:
            if not self._warned:
                self._warned = True
                logger.warning(
                    "all %d slots for streams on the device are in use; for further streams, each result is computed "
                    "from the whole utterance, which takes longer",
                    self._slots.streams,
                )
            return _WholeTrack(self, self._run)
        track = _DeviceTrack(self, slot, self._free.append)
        with native_call, self._lock:
            self._slots.begin(np.array([slot]))
        return track

    def advance(self, tracks: Sequence[Track]) -> None:
        """Encode the frames that these tracks were fed, in as few steps as possible."""
        own = [track for track in tracks if isinstance(track, _DeviceTrack) and not track.lost]
        with native_call, self._lock:
            while groups := _by_size(own, _DeviceTrack.chunk_due):
                for size, group in groups.items():
                    self._compute(group, size, encoded=size)
            for size, group in _by_size(own, _DeviceTrack.rest_due).items():
                self._compute(group, size, encoded=0)

    def _compute(self, group: Sequence[_DeviceTrack], size: int, encoded: int) -> None:
        """Score the next `size` frames of each track; `encoded` of them change the state."""
        started, call = time.perf_counter(), self._slots.step if encoded else self._slots.peek
        for track in group:
            track.lost = True  # unless the step succeeds
        slots = np.array([track.slot for track in group])
        logits, embedding = call(slots, np.stack([track.waiting(size) for track in group]))
        for place, track in enumerate(group):
            track.take((logits[place : place + 1], embedding[place : place + 1]), encoded)
        self._counters.add(len(group), started)


def _by_size(tracks: Sequence[_DeviceTrack], due: Callable[[_DeviceTrack], int]) -> dict[int, list[_DeviceTrack]]:
    """The tracks that have frames to encode, grouped by the number of these frames."""
    groups: dict[int, list[_DeviceTrack]] = {}
    for track in tracks:
        if size := due(track):
            groups.setdefault(size, []).append(track)
    return groups


def _padded(frames: Frames, least: int, config: FeatureConfig) -> Frames:
    """The frames, lengthened with silence to `least` if there are fewer."""
    missing = max(0, least - len(frames))
    return np.concatenate([frames, np.repeat(silent_frame(config), missing, axis=0)])


class _DeviceTrack:
    """An utterance in a slot: whole chunks change its state; the rest is scored without changing it."""

    def __init__(self, steps: DeviceSteps, slot: int, release: Callable[[int], None]) -> None:
        self.slot = slot
        self.fed = 0
        self.lost = False
        """True after a failed step, which leaves the state on the device unknown, and after `close`."""
        self._steps = steps
        self._release = weakref.finalize(self, release, slot)  # a stream that ends in mid-utterance never calls `close`
        self._release.atexit = False
        self._waiting: Frames = np.zeros((0, steps.features.bins), np.float32)
        self._begun = False
        self._audible = False
        self._scores: tuple[Frames, Frames] | None = None
        self._scored = 0  # number of frames that the scores cover

    def feed(self, frames: Frames) -> None:
        """Add frames; `scores` or `DeviceSteps.advance` encodes them."""
        self.fed += len(frames)
        self._audible = self._audible or is_audible(frames, self._steps.features)
        self._waiting = np.concatenate([self._waiting, frames])

    def scores(self) -> WindowScores:
        """Logits and embedding of all frames; a rest that is shorter than `multiple` is left out."""
        self._steps.advance([self])
        if self.lost or self._scores is None:
            raise EngineError("the state of an utterance on the device was lost by an earlier error")
        return WindowScores(*self._scores, self._audible)

    def final(self, kept: slice) -> WindowScores:
        """The same as `scores`: frames that are already encoded cannot be left out."""
        return self.scores()

    def close(self) -> None:
        """Give the slot back."""
        self.lost = True
        self._release()

    def chunk_due(self) -> int:
        """Number of frames of the next whole chunk; 0 if it is not complete."""
        size = self._steps.chunk if self._begun else self._steps.first
        return size if len(self._waiting) >= size else 0

    def rest_due(self) -> int:
        """Number of frames to score after the last whole chunk; 0 if the scores already cover them.

        An utterance that is too short for any score gets one from padded frames.
        """
        multiple = self._steps.multiple
        rest = len(self._waiting) // multiple * multiple
        if self._scores is None:
            return max(rest, multiple)
        return rest if self.fed - len(self._waiting) + rest != self._scored else 0

    def waiting(self, size: int) -> Frames:
        """The next frames, padded with silence if there are not enough."""
        return _padded(self._waiting[:size], size, self._steps.features)

    def take(self, scores: tuple[Frames, Frames], encoded: int) -> None:
        """Store the scores of a step that encoded this many frames into the state; 0 for a peek."""
        before = self.fed - len(self._waiting)
        rest = len(self._waiting) // self._steps.multiple * self._steps.multiple
        self._scores, self._scored = scores, before + (encoded or rest)
        self._waiting = self._waiting[encoded:]
        self._begun = self._begun or encoded > 0
        self.lost = False


class _WholeTrack:
    """An utterance without a slot: all its frames are kept, and encoded again for each result."""

    def __init__(self, steps: DeviceSteps, run: Run) -> None:
        self.fed = 0
        self._steps = steps
        self._run = run
        self._frames: list[Frames] = []

    def feed(self, frames: Frames) -> None:
        """Add frames; `scores` encodes them."""
        self.fed += len(frames)
        self._frames.append(frames)

    def scores(self) -> WindowScores:
        """Logits and embedding of all frames; frames that are too few for a score are padded with silence."""
        config, multiple = self._steps.features, self._steps.multiple
        frames = np.concatenate([np.zeros((0, config.bins), np.float32), *self._frames])
        audible = is_audible(frames, config)
        frames = _padded(frames, multiple, config)
        return WindowScores(*self._run(frames[None, : len(frames) // multiple * multiple]), audible)

    def final(self, kept: slice) -> WindowScores:
        """The same as `scores`, as in a track with a slot."""
        return self.scores()

    def close(self) -> None:
        """Drop the frames."""
        self._frames.clear()
