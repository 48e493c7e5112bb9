"""Settings of the augmentation that is drawn separately for every clip of every batch (needs no torch)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from streamser.errors import ConfigError
from streamser.features import FeatureConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureAugment:
    """Augmentations drawn separately for every clip of every batch, in the log-mel domain; 0 disables one."""

    gain_db: float = 0.0
    """Uniform level offset of up to this much, up or down."""
    level_db: tuple[float, float] = (0.0, 0.0)
    """Draw each clip's mean level (of mel power) from this range instead of keeping its own, so that loudness is
    no cue: in acted corpora, angry clips are 20 dB louder than neutral ones. (0, 0) keeps it."""
    channel_swap: float = 0.0
    """Share of clips whose long-term spectrum is replaced by another clip's of the batch, half-way or more, so
    that the coloration of a microphone or a room is not a cue."""
    tilt_db: float = 0.0
    """Random smooth colouring (microphone, distance): up to this much at the band's edges and middle."""
    room_probability: float = 0.0
    """Share of clips whose power rings on as in a room, each band decaying exponentially. Corpora
    differ in reverberation, and a network trained without this tends to classify dry voices as angry."""
    room_rt60_s: tuple[float, float] = (0.1, 0.8)
    """Time in which the audio dies away by 60 dB; up to half as long in the highest band."""
    room_direct_db: tuple[float, float] = (-3.0, 12.0)
    """Level of the direct sound relative to the reverberation."""
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
    """Share of clips whose leading and trailing silence is removed, as in a stream's segments."""
    pause_probability: float = 0.0
    """Share of clips cut to a piece and padded with their own quietest frames, since corpora differ in silence."""
    crop_probability: float = 0.0
    """Share of clips cut to a random shorter piece (from `crop_min_s`), as partial results get them."""
    crop_min_s: float = 0.6
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Your own changes with their settings, by their name in `streamser.training.featurechanges.FEATURE_CHANGES`."""

    def asked_beside(self, names: Collection[str]) -> list[str]:
        """The settings that differ from their defaults, without those of these names."""
        plain = FeatureAugment()
        asked = [f.name for f in fields(self) if getattr(self, f.name) != getattr(plain, f.name)]
        return [name for name in asked if name not in names]

    def check(self, features: FeatureConfig) -> None:
        """ConfigError for settings that are impossible for frames of this kind."""
        asked = self.asked_beside(_OF_TIME)
        if features.kind == "samples" and asked:
            raise ConfigError(
                f"feature_augment: {', '.join(asked)} change log-mel, but this network takes samples: see `augment`"
            )


_OF_TIME = ("mixup", "trim_probability", "pause_probability", "crop_probability", "crop_min_s")


__all__ = ["FeatureAugment"]
