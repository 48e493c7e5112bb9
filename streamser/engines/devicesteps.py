"""Tracks whose states stay on a torch device: the chunks of many streams are encoded in one batch.

A track owns a slot of `DeviceStreams` until its utterance is over. `feed` only stores frames; `advance` encodes the
frames of several tracks together. If no slot is free, the utterance is encoded as a whole each time, with the same
results.
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

__all__ = ["DeviceSteps", "Slots"]

logger = logging.getLogger(__name__)

Run = Callable[[Frames], tuple[Frames, Frames]]
"""Whole utterances (B, T, bins) to logits (B, classes) and embedding (B, D)."""


class Slots(Protocol):
    """The interface of `DeviceStreams` that steps use."""

    streams: int
    features: FeatureConfig
    chunks: tuple[int, int]
    multiple: int

    def begin(self, slots: NDArray[np.int64]) -> None:
        """Start new utterances."""

    def step(self, slots: NDArray[np.int64], chunks: Frames) -> tuple[Frames, Frames]:
        """Logits and embedding after the next chunks, (slots, frames, bins)."""

    def peek(self, slots: NDArray[np.int64], chunks: Frames) -> tuple[Frames, Frames]:
        """The same, but the states stay as they are."""


class DeviceSteps:
    """A checkpoint's chunk steps on a device; any thread may use it.

    `run` scores whole utterances. `lock` excludes other computation with the same network.
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
                    "all %d places for streams on the device are in use; further streams are computed as a whole, "
                    "which takes longer",
                    self._slots.streams,
                )
            return _WholeTrack(self, self._run)
        track = _DeviceTrack(self, slot, self._free.append)
        with self._lock:
            self._slots.begin(np.array([slot]))
        return track

    def advance(self, tracks: Sequence[Track]) -> None:
        """Encode the frames that these tracks were fed, in as few steps as possible."""
        own = [track for track in tracks if isinstance(track, _DeviceTrack) and not track.lost]
        with self._lock:
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
    """The tracks for which frames are due, by their number."""
    groups: dict[int, list[_DeviceTrack]] = {}
    for track in tracks:
        if size := due(track):
            groups.setdefault(size, []).append(track)
    return groups


class _DeviceTrack:
    """An utterance in a slot: whole chunks change its state; the rest is scored without changing it."""

    def __init__(self, steps: DeviceSteps, slot: int, release: Callable[[int], None]) -> None:
        self.slot = slot
        self.fed = 0
        self.lost = False
        """Whether a step failed, so that the state on the device is unknown, or the slot was given back."""
        self._steps = steps
        self._release = weakref.finalize(self, release, slot)  # without `close` if a stream ends in mid-utterance
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
        """Logits and embedding of all frames, without a rest smaller than the network's smallest chunk."""
        self._steps.advance([self])
        if self.lost or self._scores is None:
            raise EngineError("the state of an utterance on the device was lost in an earlier error")
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
        """Number of frames after the last chunk that are not yet scored; too few for any score are padded."""
        multiple = self._steps.multiple
        rest = len(self._waiting) // multiple * multiple
        if self._scores is None:
            return max(rest, multiple)
        return rest if self.fed - len(self._waiting) + rest != self._scored else 0

    def waiting(self, size: int) -> Frames:
        """The next frames, padded with silence if there are not enough."""
        missing = max(0, size - len(self._waiting))
        silence = np.repeat(silent_frame(self._steps.features), missing, axis=0)
        return np.concatenate([self._waiting[:size], silence])

    def take(self, scores: tuple[Frames, Frames], encoded: int) -> None:
        """Store the scores after a step that encoded this many frames for good."""
        before = self.fed - len(self._waiting)
        rest = len(self._waiting) // self._steps.multiple * self._steps.multiple
        self._scores, self._scored = scores, before + (encoded or rest)
        self._waiting = self._waiting[encoded:]
        self._begun = self._begun or encoded > 0
        self.lost = False


class _WholeTrack:
    """An utterance without a slot: all its frames are kept, and encoded again each time."""

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
        """Logits and embedding of all frames; too few for any score are padded."""
        config, multiple = self._steps.features, self._steps.multiple
        frames = np.concatenate([np.zeros((0, config.bins), np.float32), *self._frames])
        audible = is_audible(frames, config)
        missing = max(0, multiple - len(frames))
        frames = np.concatenate([frames, np.repeat(silent_frame(config), missing, axis=0)])
        return WindowScores(*self._run(frames[None, : len(frames) // multiple * multiple]), audible)

    def final(self, kept: slice) -> WindowScores:
        """The same as `scores`, as in a track with a slot."""
        return self.scores()

    def close(self) -> None:
        """Drop the frames."""
        self._frames.clear()
