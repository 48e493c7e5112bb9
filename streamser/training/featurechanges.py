"""The augmentations of log-mel: each class draws the parameters for a batch and applies them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from streamser.errors import ConfigError
from streamser.settings import fill, nearest
from streamser.training.featureaugment import FeatureAugment

__all__ = ["FEATURE_CHANGES", "NEPER_PER_DB", "BatchShape", "FeatureChange", "Scale", "make_changes"]

NEPER_PER_DB = math.log(10.0) / 10.0  # one decibel in natural-log units of power


class BatchShape(NamedTuple):
    """Shape of a batch of log-mel, (B, T, mels)."""

    clips: int
    frames: int
    mels: int


@dataclass(frozen=True, slots=True)
class Scale:
    """Unit, lowest value and frame step of a front end's log-mel."""

    per_db: float
    """Log-mel units per decibel."""
    floor: float
    """Lowest value, in log-mel units."""
    hop_s: float

    def nepers(self, levels: Tensor) -> Tensor:
        return levels / self.per_db * NEPER_PER_DB

    def from_nepers(self, nepers: Tensor) -> Tensor:
        return nepers / NEPER_PER_DB * self.per_db

    def mean_db(self, levels: Tensor) -> Tensor:
        """Mean mel power of each clip in dB, (B, T, mels) -> (B,)."""
        nepers = self.nepers(levels.flatten(1))
        return (torch.logsumexp(nepers, dim=1) - math.log(nepers.shape[1])) / NEPER_PER_DB


class FeatureChange(Protocol):
    """Interface of a change of log-mel; drawing and applying are separate steps."""

    def draw(self, rng: np.random.Generator, shape: BatchShape) -> Any:
        """Draw what `apply` needs for every clip of a batch.

        Tensors, and tuples of them, are moved to the device of the log-mel; anything else reaches `apply` as it is.
        """

    def apply(self, levels: Tensor, drawn: Any, scale: Scale) -> Tensor:
        """Apply the drawn parameters to log-mel, (B, T, mels)."""


def _floats(values: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _swing(rng: np.random.Generator, *shape: int) -> Tensor:
    """Uniform random numbers from -1 to 1."""
    return _floats(rng.uniform(-1.0, 1.0, shape))


@dataclass(frozen=True, slots=True)
class Warp:
    """Vocal-tract warp: stretch or shrink the mel axis by up to this share, by linear interpolation."""

    share: float

    def draw(self, rng: np.random.Generator, shape: BatchShape) -> Tensor:
        return _swing(rng, shape.clips) * self.share

    def apply(self, levels: Tensor, drawn: Tensor, scale: Scale) -> Tensor:
        mels = levels.shape[2]
        place = (torch.arange(mels, device=levels.device) * (1 + drawn[:, None])).clamp(0, mels - 1)  # (B, mels)
        left = place.floor().long().clamp_max(mels - 2)
        part = (place - left)[:, None, :]
        index = left[:, None, :].expand(-1, levels.shape[1], -1)
        return levels.gather(2, index) * (1 - part) + levels.gather(2, index + 1) * part


class ChannelDrawn(NamedTuple):
    strength: Tensor
    """(B,), 0 for clips that keep their spectrum."""
    other: Tensor
    """(B,), index of the clip whose spectrum is used."""


@dataclass(frozen=True, slots=True)
class Channel:
    """Move the long-term spectrum of a share of the clips towards another clip's, by 50 to 100 % of the difference."""

    share: float

    def draw(self, rng: np.random.Generator, shape: BatchShape) -> ChannelDrawn:
        chosen = _floats(rng.random(shape.clips) < self.share)
        strength = chosen * _floats(rng.uniform(0.5, 1.0, shape.clips))
        return ChannelDrawn(strength, torch.from_numpy(rng.permutation(shape.clips)))

    def apply(self, levels: Tensor, drawn: ChannelDrawn, scale: Scale) -> Tensor:
        mean = levels.mean(dim=1)  # (B, mels)
        return levels + (drawn.strength[:, None] * (mean[drawn.other] - mean))[:, None, :]


@dataclass(frozen=True, slots=True)
class Level:
    """Set each clip's mean level to a level drawn from a range."""

    level_db: tuple[float, float]

    def draw(self, rng: np.random.Generator, shape: BatchShape) -> Tensor:
        return _floats(rng.uniform(*self.level_db, shape.clips))

    def apply(self, levels: Tensor, drawn: Tensor, scale: Scale) -> Tensor:
        return levels + ((drawn - scale.mean_db(levels)) * scale.per_db)[:, None, None]


class RoomDrawn(NamedTuple):
    chosen: Tensor
    rt60_s: Tensor
    """(B, mels)"""
    direct_db: Tensor


@dataclass(frozen=True, slots=True)
class Room:
    """Add reverberation to a share of the clips: in each band, an exponentially decaying tail follows every frame."""

    probability: float
    rt60_s: tuple[float, float]
    """In the lowest band; up to 50 % shorter in the highest."""
    direct_db: tuple[float, float]

    def draw(self, rng: np.random.Generator, shape: BatchShape) -> RoomDrawn:
        chosen = torch.from_numpy(rng.random(shape.clips) < self.probability)
        rt60_s = _floats(rng.uniform(*self.rt60_s, shape.clips))
        direct_db = _floats(rng.uniform(*self.direct_db, shape.clips))
        shorter = 1 - 0.5 * _floats(rng.random(shape.clips))[:, None] * torch.linspace(0, 1, shape.mels)
        return RoomDrawn(chosen, rt60_s[:, None] * shorter, direct_db)

    def apply(self, levels: Tensor, drawn: RoomDrawn, scale: Scale) -> Tensor:
        decay = 10 ** (-6 * scale.hop_s / drawn.rt60_s)  # (B, mels), factor on the power per frame
        power = torch.exp(levels * (NEPER_PER_DB / scale.per_db))
        share = (10 ** (-drawn.direct_db / 10))[:, None] * (1 - decay)
        tail = torch.zeros_like(power[:, 0])
        tails = []
        for frame in power.unbind(dim=1):
            tails.append(tail)
            tail = decay * tail + share * frame
        whole = power + torch.stack(tails, dim=1)  # the tail is `direct_db` weaker than the audio itself
        ringing = torch.log(whole.clamp_min(1e-30)) * (scale.per_db / NEPER_PER_DB)
        return torch.where(drawn.chosen[:, None, None], ringing, levels)


class NoiseDrawn(NamedTuple):
    chosen: Tensor
    snr_db: Tensor
    tilt_db: Tensor
    """(B, mels), spectrum of the noise."""
    grain: Tensor
    """(B, T, mels), random variation of the noise's power."""


@dataclass(frozen=True, slots=True)
class Noise:
    """Add a stationary noise floor of random spectrum to a share of the clips."""

    probability: float
    snr_db: tuple[float, float]

    def draw(self, rng: np.random.Generator, shape: BatchShape) -> NoiseDrawn:
        chosen = torch.from_numpy(rng.random(shape.clips) < self.probability)
        snr_db = _floats(rng.uniform(*self.snr_db, shape.clips))
        tilt_db = 12.0 * _curves(_swing(rng, shape.clips, 4), shape.mels)
        grain = _floats(rng.standard_exponential(tuple(shape)))
        return NoiseDrawn(chosen, snr_db, tilt_db, 0.3 + 0.7 * grain)

    def apply(self, levels: Tensor, drawn: NoiseDrawn, scale: Scale) -> Tensor:
        tilt = drawn.tilt_db * scale.per_db
        floor = (scale.mean_db(levels) - drawn.snr_db)[:, None, None] * scale.per_db + tilt[:, None, :]
        noise = floor + 10 * torch.log10(drawn.grain) * scale.per_db
        mixed = scale.from_nepers(torch.logaddexp(scale.nepers(levels), scale.nepers(noise)))
        return torch.where(drawn.chosen[:, None, None], mixed, levels)


@dataclass(frozen=True, slots=True)
class Tilt:
    """Change the spectrum smoothly, as a microphone or a distance does, by up to `tilt_db`."""

    tilt_db: float

    def draw(self, rng: np.random.Generator, shape: BatchShape) -> Tensor:
        return self.tilt_db * _curves(_swing(rng, shape.clips, 4), shape.mels)

    def apply(self, levels: Tensor, drawn: Tensor, scale: Scale) -> Tensor:
        return levels + (drawn * scale.per_db)[:, None, :]


@dataclass(frozen=True, slots=True)
class Gain:
    """Make each clip louder or softer by up to this much."""

    gain_db: float

    def draw(self, rng: np.random.Generator, shape: BatchShape) -> Tensor:
        return self.gain_db * _swing(rng, shape.clips)

    def apply(self, levels: Tensor, drawn: Tensor, scale: Scale) -> Tensor:
        return levels + (drawn * scale.per_db)[:, None, None]


@dataclass(frozen=True, slots=True)
class Mask:
    """SpecAugment: set up to `mels` neighbouring bands and up to `frames` frames of each clip to the clip's mean."""

    mels: int
    frames: int

    def draw(self, rng: np.random.Generator, shape: BatchShape) -> Tensor:
        mask = torch.zeros(tuple(shape), dtype=torch.bool)
        for row in mask:
            if self.mels:
                width = int(rng.integers(0, self.mels + 1))
                first = int(rng.integers(0, shape.mels - width + 1))
                row[:, first : first + width] = True
            if self.frames:
                width = int(rng.integers(0, min(self.frames, shape.frames) + 1))
                first = int(rng.integers(0, shape.frames - width + 1))
                row[first : first + width] = True
        return mask

    def apply(self, levels: Tensor, drawn: Tensor, scale: Scale) -> Tensor:
        levels = levels.clamp_min(scale.floor)  # before the mean is taken
        return torch.where(drawn, levels.mean(dim=(1, 2), keepdim=True), levels)


def _curves(values: Tensor, mels: int) -> Tensor:
    """Piecewise-linear curves through (B, k) random values, spread over the mel axis, (B, mels)."""
    place = torch.linspace(0, 1, mels) * (values.shape[1] - 1)
    left = place.floor().long().clamp_max(values.shape[1] - 2)
    part = place - left
    return values[:, left] * (1 - part) + values[:, left + 1] * part


FEATURE_CHANGES: dict[str, Callable[..., FeatureChange]] = {}
"""Your own changes: dataclasses by the name that a recipe uses. For {"smear": Smear}, a recipe has
`feature_augment: {changes: {smear: {probability: 0.5}}}`."""


def make_changes(config: FeatureAugment) -> list[FeatureChange]:
    """Make the changes that are switched on, in the order in which they are applied."""
    c = config
    own: list[tuple[bool, Callable[[], FeatureChange]]] = [
        (c.shift_mels != 0, lambda: Warp(c.shift_mels)),
        (c.channel_swap != 0, lambda: Channel(c.channel_swap)),
        (c.level_db != (0.0, 0.0), lambda: Level(c.level_db)),
        (c.room_probability != 0, lambda: Room(c.room_probability, c.room_rt60_s, c.room_direct_db)),
        (c.noise_probability != 0, lambda: Noise(c.noise_probability, c.noise_snr_db)),
        (c.tilt_db != 0, lambda: Tilt(c.tilt_db)),
        (c.gain_db != 0, lambda: Gain(c.gain_db)),
    ]
    changes = [make() for is_on, make in own if is_on]
    changes += [_added(name, settings) for name, settings in c.changes.items()]
    return [*changes, Mask(c.mask_mels, c.mask_frames)] if c.mask_mels or c.mask_frames else changes


def _added(name: str, settings: Mapping[str, Any]) -> FeatureChange:
    where = f"feature_augment.changes.{name}"
    kind = FEATURE_CHANGES.get(name)
    if kind is None:
        right = nearest(name, list(FEATURE_CHANGES))
        advice = f"did you mean '{right}'?" if right else "add it to FEATURE_CHANGES first"
        raise ConfigError(f"{where}: there is no such change; {advice}")
    if not isinstance(kind, type):
        return kind(**settings)
    change: FeatureChange = fill(kind, settings, lambda dotted: "recipe", where)
    return change
