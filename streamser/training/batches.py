"""Batches drawn from the store: balanced, and augmented in the log-mel domain.

Augmentations that are cheap on log-mel (level, spectral tilt, rooms, a stationary noise floor, masks, mixup) are drawn
separately for every batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamser.corpora.clips import Clip
from streamser.features import TRIM_BESIDE_S, FeatureConfig, Frames, dct_matrix, trimmed, window_starts
from streamser.training.featureaugment import FeatureAugment
from streamser.training.featurechanges import NEPER_PER_DB, BatchShape, Scale, make_changes
from streamser.training.store import Levels, LevelStore

# A frame whose strongest band is this far below that of the clip's loud frames is a pause, not speech.
_SPOKEN_DB = 35.0


class BatchMaker:
    """Make the network's input from clips: `draw` augments one window of each; `window` and `whole` do not augment."""

    def __init__(
        self, store: LevelStore, features: FeatureConfig, augment: FeatureAugment, train_frames: int | None = None
    ) -> None:
        augment.check(features)
        self.store = store
        self.train_frames = train_frames or features.window_frames
        self.features = features
        self.augment = augment
        self._dct = torch.from_numpy(dct_matrix(features)) if features.mfcc else None
        self._mean = torch.tensor(features.mean, dtype=torch.float32) if features.scale == "standard" else None
        self._std = torch.tensor(features.std, dtype=torch.float32) if features.scale == "standard" else None
        level = 10 * np.log10(features.floor) - 10 * np.log10(max(features.reference, features.floor))
        per_db = 1.0 if features.log == "db" else NEPER_PER_DB
        self._scale = Scale(per_db, float(level) * per_db, features.hop_s)
        self._changes = make_changes(augment)

    def draw(self, clips: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        """One augmented window of each clip, (B, T, bins)."""
        levels = torch.from_numpy(np.stack([self._window(int(clip), rng) for clip in clips]))
        return self.finish(self.augmented(levels, rng) if self.features.kind == "mel" else levels)

    @property
    def fixed(self) -> bool:
        """Whether a clip's training window never changes: no copies, no random pieces, no augmentation except mixup."""
        drawn = replace(self.augment, mixup=0.0) != FeatureAugment()
        return not (drawn or self.store.copies or self.features.long == "windows")

    def frames_of(self, clip: int) -> int:
        """Frames of a clip's training window."""
        return min(int(self.store.lengths[0, clip]), self.train_frames) if self.features.short == "keep" else (
            self.train_frames
        )  # fmt: skip

    def starts_of(self, clip: int) -> list[int]:
        """First frame of each window of the clean clip; the prediction for the clip is made from these windows."""
        return window_starts(int(self.store.lengths[0, clip]), self.features)

    def window(self, clip: int, *, own_length: bool, start: int | None = None) -> Tensor:
        """The clip's training window, or the piece that begins at frame `start`, (T, bins), without random changes.

        With `own_length`, a short window stays short if the recognizer keeps it short; otherwise it is lengthened.
        """
        frames = self.store.frames(clip)
        if start is not None:
            frames = frames[start : start + self.train_frames]
        frames = self._piece(frames, self.train_frames, None)
        if not (own_length and self.features.short == "keep"):
            frames = self._lengthened(frames, self.train_frames)
        return self.finish(torch.from_numpy(frames.astype(np.float32)))

    def _window(self, clip: int, rng: np.random.Generator) -> Frames:
        frames = self.store.frames(clip, int(rng.integers(0, self.store.copies + 1)))
        if self.augment.trim_probability and rng.random() < self.augment.trim_probability:
            frames = frames[self._spoken(frames)]
        length = self.train_frames
        if self.augment.pause_probability and rng.random() < self.augment.pause_probability:
            return self._with_pause(frames, rng).astype(np.float32)
        want = length
        if self.augment.crop_probability and rng.random() < self.augment.crop_probability:
            shortest = round(self.augment.crop_min_s / self.features.hop_s)
            want = int(rng.integers(min(shortest, length - 1), length))
        return self._lengthened(self._piece(frames, want, rng), length)

    def _piece(self, frames: Levels, want: int, rng: np.random.Generator | None) -> Levels:
        """Cut to `want` frames: a random piece if the recognizer uses several windows of a clip, else its one window.

        Without a Generator, the first window is taken.
        """
        if len(frames) <= want:
            return frames
        if rng is not None and self.features.long in ("windows", "pieces"):
            first = int(rng.integers(0, len(frames) - want + 1))
        else:
            first = window_starts(len(frames), self.features)[0]
        return frames[first : first + want]

    def _lengthened(self, frames: Levels, length: int) -> Frames:
        if self.features.short == "keep":  # the recognizer takes short windows, a batch needs one length
            return np.take(frames, np.arange(length) % len(frames), axis=0).astype(np.float32)
        return self._fit(frames, length)

    def _spoken(self, frames: Levels, below_db: float = _SPOKEN_DB, beside: int = 0) -> slice:
        """Trim to the range from the first to the last frame whose level is near that of the loudest frames."""
        level = self._loudness(frames)
        loud = np.flatnonzero(level >= np.quantile(level, 0.95) - below_db * self._scale.per_db)
        return slice(max(0, int(loud[0]) - beside), int(loud[-1]) + 1 + beside)

    def _loudness(self, frames: Levels) -> NDArray[np.float32]:
        """Loudness of each frame on the features' log scale: its strongest mel band, or the power of its samples."""
        values = frames.astype(np.float32)
        if self.features.kind == "mel":
            return np.asarray(values.max(axis=1), np.float32)
        return np.asarray(10 * self._scale.per_db * np.log10(np.square(values).mean(axis=1) + 1e-10), np.float32)

    def _with_pause(self, frames: Levels, rng: np.random.Generator) -> Levels:
        """A training window: a piece of the clip, with the clip's quietest frames before and after it."""
        quiet = frames[np.argsort(self._loudness(frames))[: max(1, len(frames) // 10)]]
        speech = int(self.train_frames * rng.uniform(0.3, 1.0))
        first = int(rng.integers(0, max(1, len(frames) - speech + 1)))
        piece = frames[first : first + speech]
        pause = self.train_frames - len(piece)
        before = int(rng.integers(0, pause + 1))
        around = quiet[rng.integers(0, len(quiet), pause)]
        return np.concatenate([around[:before], piece, around[before:]])

    def _fit(self, frames: Levels, length: int) -> Frames:
        """Lengthen log-mel by the rule that the recognizer uses for short recordings (`cut_window`), or cut it."""
        values = frames.astype(np.float32)
        if len(values) >= length or self.features.short == "keep":
            return values[:length]
        if self.features.short == "tile":
            return np.take(values, np.arange(length) % len(values), axis=0)
        silence = self._scale.floor if self.features.kind == "mel" else 0.0
        return np.pad(values, ((0, length - len(values)), (0, 0)), constant_values=silence)

    def augmented(self, levels: Tensor, rng: np.random.Generator) -> Tensor:
        """Apply every augmentation in turn to log-mel, (B, T, mels)."""
        shape = BatchShape(*levels.shape)
        for change in self._changes:
            levels = change.apply(levels, _on(levels.device, change.draw(rng, shape)), self._scale)
        return levels.clamp_min(self._scale.floor)

    def finish(self, levels: Tensor) -> Tensor:
        """Convert log-mel to network input (see `features.from_log_mel`); raw samples pass unchanged."""
        values = levels @ self._dct.to(levels.device) if self._dct is not None else levels
        if self.features.clip is not None:
            values = values.clamp(*self.features.clip)
        if self.features.scale == "unit":
            assert self.features.clip is not None
            low, high = self.features.clip
            values = (values - low) / (high - low)
        elif self._mean is not None and self._std is not None:
            values = (values - self._mean.to(levels.device)) / self._std.to(levels.device)
        return values

    def whole(self, clip: int, copy: int = 0) -> Tensor:
        """All windows from which the recognizer classifies a clip or a copy of it, (windows, T, bins).

        If the front end trims silence, silence is found in the log-mel here, which is nearly as exact as in samples.
        """
        frames = self.store.frames(clip, copy)
        if self.features.kind == "samples" and self.features.trim_db:
            samples = trimmed(frames.astype(np.float32).ravel(), self.features).astype(np.float16)  # the store's type
            frames = samples[: len(samples) // self.features.bins * self.features.bins].reshape(-1, self.features.bins)
        elif self.features.trim_db:
            beside = round(TRIM_BESIDE_S / self.features.hop_s)
            frames = frames[self._spoken(frames, self.features.trim_db, beside)]
        starts = window_starts(len(frames), self.features)
        windows = torch.from_numpy(
            np.stack([self._fit(frames[start:], self.features.window_frames) for start in starts])
        )
        return self.finish(windows)


def _on(device: torch.device, drawn: Any) -> Any:
    """Move the parameters of a change, a tensor or a tuple of tensors, to the device of the log-mel."""
    if isinstance(drawn, Tensor):
        return drawn.to(device)
    if isinstance(drawn, tuple):
        moved = [_on(device, value) for value in drawn]
        return type(drawn)(*moved) if hasattr(drawn, "_fields") else tuple(moved)
    return drawn


def sampling_weights(clips: Sequence[Clip], balance: Sequence[str]) -> NDArray[np.float64]:
    """Probability of drawing each clip, balanced over the named properties, outermost first.

    With `("corpus", "label", "speaker")`, all corpora are equally likely, then all labels of a corpus, then all
    speakers of that label. With an empty list, all clips are equally likely.
    """
    weights = np.ones(len(clips))

    def spread(members: NDArray[np.int64], share: float, names: Sequence[str]) -> None:
        if not names:
            weights[members] = share / len(members)
            return
        values = np.array([str(getattr(clips[i], names[0])) for i in members])
        groups = sorted(set(values.tolist()))
        for group in groups:
            spread(members[values == group], share / len(groups), names[1:])

    if len(clips):
        spread(np.arange(len(clips)), 1.0, list(balance))
    return weights
