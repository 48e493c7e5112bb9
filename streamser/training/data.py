"""Log-mel of every clip, computed once, kept on disk, and drawn from in balanced, augmented batches.

The cache holds the log-mel *before* cepstra and scaling, one clean copy of each clip and as many
waveform-augmented copies as the recipe asks for. What is cheap in the feature domain (level, spectral
tilt, a stationary noise floor, masks, mixup) is drawn afresh for every batch.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamser.audio import Samples, read_audio
from streamser.features import FeatureConfig, Frames, dct_matrix, extract, window_starts
from streamser.training.augment import AugmentConfig, Augmenter
from streamser.training.corpora import Clip

# Half precision keeps 0.06 dB at 100 dB: far below anything a net or an ear could tell.
_STORED = np.float16

# A frame's strongest band this far below the clip's loud frames is a pause or the room, not the voice.
_SPOKEN_DB = 35.0

_NEPER_PER_DB = math.log(10.0) / 10.0  # of power


def level_config(features: FeatureConfig) -> FeatureConfig:
    """The same front end, stopped at the log-mel: no cepstra, clipping or scaling, and nothing trimmed.

    Silence that a net is not served is worth hearing in training: trimmed clips taught less (EMO-DB, left out: UA 50
    for 66, recipe and seed alike).
    """
    plain = replace(features, mfcc=0, clip=None, scale="none", mean=(), std=(), length_s=3.0, stride_s=1.0)
    return replace(plain, trim_db=0.0)


@dataclass(frozen=True, slots=True)
class LevelStore:
    """Log-mel of clips, all copies end to end; `starts[copy, clip]` and `lengths[copy, clip]` find one."""

    levels: NDArray[np.float16]  # (all frames, n_mels)
    starts: NDArray[np.int64]  # (1 + copies, clips)
    lengths: NDArray[np.int64]  # (1 + copies, clips)

    def frames(self, clip: int, copy: int = 0) -> NDArray[np.float16]:
        start = self.starts[copy, clip]
        return self.levels[start : start + self.lengths[copy, clip]]

    @property
    def copies(self) -> int:
        """Augmented copies beside the clean one."""
        return len(self.starts) - 1


def _cache_key(
    clips: Sequence[Clip], features: FeatureConfig, augment: AugmentConfig | None, copies: int, seed: int
) -> str:
    parts = [json.dumps(features.to_dict(), sort_keys=True), repr(augment), str(copies), str(seed), "v1"]
    parts += [f"{clip.path}:{clip.path.stat().st_size}" for clip in clips]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _job(
    paths: Sequence[Path], features: FeatureConfig, augment: AugmentConfig | None, copies: int, seeds: Sequence[int]
) -> list[list[NDArray[np.float16]]]:
    """Log-mel of a few clips, clean copy first; one seed a clip, so that the order of work changes nothing."""
    torch.set_num_threads(1)
    done = []
    for path, seed in zip(paths, seeds, strict=True):
        sound = read_audio(path)
        augmenter = Augmenter(augment, np.random.default_rng(seed)) if augment is not None and copies else None
        versions = [sound] + [augmenter(sound) for _ in range(copies) if augmenter is not None]
        done.append([_levels(version, features) for version in versions])
    return done


def _levels(sound: Samples, features: FeatureConfig) -> NDArray[np.float16]:
    short = features.samples_in(1) - len(sound)
    return extract(np.pad(sound, (0, max(0, short))), features).astype(_STORED)


def build_store(
    clips: Sequence[Clip],
    features: FeatureConfig,
    *,
    augment: AugmentConfig | None = None,
    copies: int = 0,
    seed: int = 0,
    cache: Path,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LevelStore:
    """Read the store from the cache folder, or compute it over several processes and keep it there."""
    features = level_config(features)
    folder = cache / _cache_key(clips, features, augment, copies, seed)
    index = folder / "index.npz"
    if not index.exists():
        _compute(clips, features, augment, copies, seed, folder, workers or os.cpu_count() or 1, progress)
    arrays = np.load(index)
    levels = np.memmap(folder / "levels.f16", dtype=_STORED, mode="r").reshape(-1, features.n_mels)
    return LevelStore(levels, arrays["starts"], arrays["lengths"])


def _compute(
    clips: Sequence[Clip],
    features: FeatureConfig,
    augment: AugmentConfig | None,
    copies: int,
    seed: int,
    folder: Path,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    copies = copies if augment is not None else 0
    starts = np.zeros((1 + copies, len(clips)), np.int64)
    lengths = np.zeros_like(starts)
    seeds = np.random.default_rng(seed).integers(0, 2**63, len(clips)).tolist()
    batch = 32
    jobs = [range(i, min(i + batch, len(clips))) for i in range(0, len(clips), batch)]
    written = 0
    partial = folder / "levels.f16.part"
    # spawn: the same on every system, and no fork of a process that already runs torch's threads
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool, partial.open("wb") as out:
        results = pool.map(
            _job,
            [[clips[i].path for i in job] for job in jobs],
            [features] * len(jobs),
            [augment] * len(jobs),
            [copies] * len(jobs),
            [[seeds[i] for i in job] for job in jobs],
        )
        for job, versions in zip(jobs, results, strict=True):
            for clip, version in zip(job, versions, strict=True):
                for copy, levels in enumerate(version):
                    starts[copy, clip], lengths[copy, clip] = written, len(levels)
                    out.write(np.ascontiguousarray(levels).tobytes())
                    written += len(levels)
            if progress:
                progress(job[-1] + 1, len(clips))
    partial.replace(folder / "levels.f16")
    np.savez(folder / "index.npz", starts=starts, lengths=lengths)  # last: its presence says the rest is whole


def standard_of(
    store: LevelStore, clips: Iterable[int], features: FeatureConfig
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each input bin over the clean copies of some clips."""
    total = square = np.zeros(features.bins)
    count = 0
    cepstra = dct_matrix(features) if features.mfcc else None
    for clip in clips:
        frames = store.frames(clip).astype(np.float32)
        values = frames @ cepstra if cepstra is not None else frames
        total = total + values.sum(axis=0, dtype=np.float64)
        square = square + np.square(values, dtype=np.float64).sum(axis=0)
        count += len(values)
    mean = total / max(count, 1)
    deviation = np.sqrt(np.maximum(square / max(count, 1) - mean**2, 1e-6))
    return tuple(np.round(mean, 5).tolist()), tuple(np.round(deviation, 5).tolist())


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureAugment:
    """What is drawn anew for every clip of every batch, in the log-mel domain; 0 switches a thing off."""

    gain_db: float = 0.0
    """Uniform level offset of up to this much, up or down."""
    level_db: tuple[float, float] = (0.0, 0.0)
    """Draw each clip's mean level (of mel power) from this range instead of keeping its own: loudness then says
    nothing, where acted corpora have an angry clip 20 dB above a neutral one. (0, 0) keeps it."""
    channel_swap: float = 0.0
    """Share of clips whose long-term spectrum is replaced by another clip's of the batch, half-way or more: what a
    microphone and a room add says nothing then."""
    tilt_db: float = 0.0
    """Random smooth colouring (microphone, distance): up to this much at the band's edges and middle."""
    room_probability: float = 0.0
    """Share of clips whose power rings on as in a room, each band decaying exponentially. Corpora differ in how dry
    they are, and a net that never heard otherwise takes a dry voice for an angry one."""
    room_rt60_s: tuple[float, float] = (0.1, 0.8)
    """Time in which the sound dies away by 60 dB; up to half as long in the highest band."""
    room_direct_db: tuple[float, float] = (-3.0, 12.0)
    """Direct sound against what rings on."""
    noise_probability: float = 0.0
    """Share of clips that get a stationary noise floor of random colour."""
    noise_snr_db: tuple[float, float] = (0.0, 30.0)
    """Its level below the clip's mean level."""
    mask_mels: int = 0
    """SpecAugment: widest band set to the clip's mean."""
    mask_frames: int = 0
    """SpecAugment: longest stretch set to the clip's mean."""
    shift_mels: float = 0.0
    """Vocal-tract warp: bins move by up to this share of the mel axis."""
    mixup: float = 0.0
    """Beta(a, a) parameter of mixup; both targets are kept, weighted."""
    trim_probability: float = 0.0
    """Share of clips without the silence before and after their speech, as a stream's segments come."""
    pause_probability: float = 0.0
    """Share of clips of which a piece is heard in a pause: corpora leave silence around their clips, each its own."""
    crop_probability: float = 0.0
    """Share of clips cut to a random shorter piece (from `crop_min_s`), as a partial hears them."""
    crop_min_s: float = 0.6


class BatchMaker:
    """Windows of chosen clips as the net's input, augmented when a Generator is given."""

    def __init__(
        self, store: LevelStore, features: FeatureConfig, augment: FeatureAugment, train_frames: int | None = None
    ) -> None:
        self.store = store
        self.train_frames = train_frames or features.window_frames
        self.features = features
        self.augment = augment
        # log units per dB: the augmentation thinks in dB whatever the front end's logarithm is
        self._per_db = 1.0 if features.log == "db" else _NEPER_PER_DB
        self._dct = torch.from_numpy(dct_matrix(features)) if features.mfcc else None
        self._mean = torch.tensor(features.mean, dtype=torch.float32) if features.scale == "standard" else None
        self._std = torch.tensor(features.std, dtype=torch.float32) if features.scale == "standard" else None
        level = 10 * np.log10(features.floor) - 10 * np.log10(max(features.reference, features.floor))
        self._floor = float(level) * self._per_db

    def draw(self, clips: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        """One augmented window of each clip, (B, T, bins)."""
        levels = torch.from_numpy(np.stack([self._window(int(clip), rng) for clip in clips]))
        return self.finish(self._colour(levels, rng))

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
        if len(frames) > want:
            anywhere = self.features.long == "windows"  # else the part that will be judged is the part to learn
            first = (
                int(rng.integers(0, len(frames) - want + 1))
                if anywhere
                else window_starts(len(frames), self.features)[0]
            )
            frames = frames[first : first + want]
        return self._fit(frames, length)

    def _spoken(self, frames: NDArray[np.float16], below_db: float = _SPOKEN_DB, beside: int = 0) -> slice:
        """From the first to the last frame that is loud beside the clip's loudest ones."""
        level = frames.astype(np.float32).max(axis=1)
        loud = np.flatnonzero(level >= np.quantile(level, 0.95) - below_db * self._per_db)
        return slice(max(0, int(loud[0]) - beside), int(loud[-1]) + 1 + beside)

    def _with_pause(self, frames: NDArray[np.float16], rng: np.random.Generator) -> NDArray[np.float16]:
        """A shorter piece with the clip's own quietest frames before and after it, as long as a training piece."""
        level = frames.astype(np.float32).mean(axis=1)
        quiet = frames[np.argsort(level)[: max(1, len(frames) // 10)]]
        speech = int(self.train_frames * rng.uniform(0.3, 1.0))
        first = int(rng.integers(0, max(1, len(frames) - speech + 1)))
        piece = frames[first : first + speech]
        pause = self.train_frames - len(piece)
        before = int(rng.integers(0, pause + 1))
        around = quiet[rng.integers(0, len(quiet), pause)]
        return np.concatenate([around[:before], piece, around[before:]])

    def _fit(self, frames: NDArray[np.float16], length: int) -> Frames:
        """The serving rule for short sound (`cut_window`), applied to log-mel."""
        values = frames.astype(np.float32)
        if len(values) >= length or self.features.short == "keep":
            return values[:length]
        if self.features.short == "tile":
            return np.take(values, np.arange(length) % len(values), axis=0)
        return np.pad(values, ((0, length - len(values)), (0, 0)), constant_values=self._floor)

    def _colour(self, levels: Tensor, rng: np.random.Generator) -> Tensor:
        """Level, tilt, noise floor, vocal-tract warp and masks on (B, T, mels) log-mel."""
        a, per_db = self.augment, self._per_db
        batch, frames, mels = levels.shape

        def uniform(*shape: int) -> Tensor:
            return torch.from_numpy(rng.uniform(-1.0, 1.0, shape).astype(np.float32))

        if a.shift_mels:
            levels = _warp(levels, uniform(batch) * a.shift_mels)
        if a.channel_swap:
            chosen = torch.from_numpy(rng.random(batch) < a.channel_swap).float()
            strength = chosen * torch.from_numpy(rng.uniform(0.5, 1.0, batch).astype(np.float32))
            mean = levels.mean(dim=1)  # (B, mels)
            other = mean[torch.from_numpy(rng.permutation(batch))]
            levels = levels + (strength[:, None] * (other - mean))[:, None, :]
        if a.level_db != (0.0, 0.0):
            wanted = torch.from_numpy(rng.uniform(*a.level_db, batch).astype(np.float32))
            levels = levels + ((wanted - self._mean_db(levels)) * per_db)[:, None, None]
        knots = torch.linspace(0, 1, mels)
        if a.room_probability:
            chosen = torch.from_numpy(rng.random(batch) < a.room_probability)
            rt60_s = torch.from_numpy(rng.uniform(*a.room_rt60_s, batch).astype(np.float32))
            direct_db = torch.from_numpy(rng.uniform(*a.room_direct_db, batch).astype(np.float32))
            shorter = 1 - 0.5 * torch.from_numpy(rng.random(batch).astype(np.float32))[:, None] * knots
            decay = 10 ** (-6 * self.features.hop_s / (rt60_s[:, None] * shorter))  # (B, mels), of power, a frame
            levels = torch.where(chosen[:, None, None], self._ringing(levels, decay, direct_db), levels)
        if a.noise_probability:
            chosen = torch.from_numpy(rng.random(batch) < a.noise_probability)
            low, high = a.noise_snr_db
            snr_db = torch.from_numpy(rng.uniform(low, high, batch).astype(np.float32))
            colour = 12.0 * _smooth(uniform(batch, 4), knots) * per_db
            floor = (self._mean_db(levels) - snr_db)[:, None, None] * per_db + colour[:, None, :]
            grain = torch.from_numpy(rng.standard_exponential((batch, frames, mels)).astype(np.float32))
            noise = floor + (10 * torch.log10(0.3 + 0.7 * grain)) * per_db
            mixed = (
                torch.logaddexp(levels / per_db * _NEPER_PER_DB, noise / per_db * _NEPER_PER_DB)
                / _NEPER_PER_DB
                * per_db
            )
            levels = torch.where(chosen[:, None, None], mixed, levels)
        if a.tilt_db:
            levels = levels + (a.tilt_db * _smooth(uniform(batch, 4), knots) * per_db)[:, None, :]
        if a.gain_db:
            levels = levels + (a.gain_db * uniform(batch) * per_db)[:, None, None]
        levels = levels.clamp_min(self._floor)
        if a.mask_mels or a.mask_frames:
            mean = levels.mean(dim=(1, 2), keepdim=True)
            mask = torch.zeros(batch, frames, mels, dtype=torch.bool)
            for row in range(batch):
                if a.mask_mels:
                    width = int(rng.integers(0, a.mask_mels + 1))
                    first = int(rng.integers(0, mels - width + 1))
                    mask[row, :, first : first + width] = True
                if a.mask_frames:
                    width = int(rng.integers(0, min(a.mask_frames, frames) + 1))
                    first = int(rng.integers(0, frames - width + 1))
                    mask[row, first : first + width] = True
            levels = torch.where(mask, mean, levels)
        return levels

    def _ringing(self, levels: Tensor, decay: Tensor, direct_db: Tensor) -> Tensor:
        """The levels with an exponential tail after every frame, all of it `direct_db` weaker than the sound itself."""
        power = torch.exp(levels * (_NEPER_PER_DB / self._per_db))
        share = (10 ** (-direct_db / 10))[:, None] * (1 - decay)
        tail = torch.zeros_like(power[:, 0])
        tails = []
        for frame in power.unbind(dim=1):
            tails.append(tail)
            tail = decay * tail + share * frame
        whole = power + torch.stack(tails, dim=1)
        return torch.log(whole.clamp_min(1e-30)) * (self._per_db / _NEPER_PER_DB)

    def _mean_db(self, levels: Tensor) -> Tensor:
        """Mean mel power of each clip in dB, (B, T, mels) -> (B,)."""
        nepers = levels.flatten(1) / self._per_db * _NEPER_PER_DB
        return (torch.logsumexp(nepers, dim=1) - math.log(nepers.shape[1])) / _NEPER_PER_DB

    def finish(self, levels: Tensor) -> Tensor:
        """Log-mel to the net's input, as `features.from_log_mel` does it."""
        values = levels @ self._dct if self._dct is not None else levels
        if self.features.clip is not None:
            values = values.clamp(*self.features.clip)
        if self.features.scale == "unit":
            assert self.features.clip is not None
            low, high = self.features.clip
            values = (values - low) / (high - low)
        elif self._mean is not None and self._std is not None:
            values = (values - self._mean) / self._std
        return values

    def whole(self, clip: int) -> Tensor:
        """All the windows that judge a clip when it is served, clean, (windows, T, bins).

        Where the front end trims, the log-mel says where the speech is, as nearly as the samples do.
        """
        frames = self.store.frames(clip)
        if self.features.trim_db:
            frames = frames[self._spoken(frames, self.features.trim_db, beside=2)]
        starts = window_starts(len(frames), self.features)
        return self.finish(
            torch.from_numpy(np.stack([self._fit(frames[start:], self.features.window_frames) for start in starts]))
        )


def _smooth(values: Tensor, knots: Tensor) -> Tensor:
    """Piecewise-linear curves through (B, k) random values, spread over the mel axis, (B, mels)."""
    place = knots * (values.shape[1] - 1)
    left = place.floor().long().clamp_max(values.shape[1] - 2)
    part = place - left
    return values[:, left] * (1 - part) + values[:, left + 1] * part


def _warp(levels: Tensor, shift: Tensor) -> Tensor:
    """Stretch the mel axis of each clip by 1 + shift, by linear interpolation."""
    mels = levels.shape[2]
    place = (torch.arange(mels) * (1 + shift[:, None])).clamp(0, mels - 1)  # (B, mels)
    left = place.floor().long().clamp_max(mels - 2)
    part = (place - left)[:, None, :]
    index = left[:, None, :].expand(-1, levels.shape[1], -1)
    return levels.gather(2, index) * (1 - part) + levels.gather(2, index + 1) * part


def sampling_weights(clips: Sequence[Clip], balance: Sequence[str]) -> NDArray[np.float64]:
    """Probability of drawing each clip, so that each named property in turn is drawn evenly.

    `("corpus", "label", "speaker")`: every corpus as often as every other, in each every label, in each of
    these every speaker. An empty list draws all clips alike.
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
