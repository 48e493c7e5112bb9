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
    """Offset of each clip's level, uniform from minus to plus this value."""
    level_db: tuple[float, float] = (0.0, 0.0)
    """Set each clip's mean level (of mel power) to a value drawn from this range, so that loudness is not a cue: in
    acted corpora, angry clips are 20 dB louder than neutral ones. (0, 0) keeps the clip's level."""
    channel_swap: float = 0.0
    """Share of clips whose long-term spectrum moves towards that of another clip of the batch, by 50 to 100 % of the
    difference, so that the coloration of a microphone or a room is not a cue."""
    tilt_db: float = 0.0
    """Random smooth change of the spectrum, like that of a microphone or a distance: each of four points of the mel
    axis moves by up to this much."""
    room_probability: float = 0.0
    """Share of clips with added reverberation, which decays exponentially in each band. Corpora differ in
    reverberation, and a network trained without this tends to classify dry voices as angry."""
    room_rt60_s: tuple[float, float] = (0.1, 0.8)
    """Time in which the reverberation decays by 60 dB; it is up to 50 % shorter in the highest band."""
    room_direct_db: tuple[float, float] = (-3.0, 12.0)
    """Level of the direct sound relative to the reverberation."""
    noise_probability: float = 0.0
    """Share of clips with an added stationary noise floor of random spectrum."""
    noise_snr_db: tuple[float, float] = (0.0, 30.0)
    """Difference between the clip's mean level and that of the noise floor."""
    mask_mels: int = 0
    """SpecAugment: largest number of neighbouring bands that are set to the clip's mean."""
    mask_frames: int = 0
    """SpecAugment: largest number of consecutive frames that are set to the clip's mean."""
    shift_mels: float = 0.0
    """Vocal-tract warp: bins move by up to this share of the mel axis."""
    mixup: float = 0.0
    """Parameter a of mixup: Beta(a, a) gives the weights of two mixed clips, and of their losses."""
    trim_probability: float = 0.0
    """Share of clips whose leading and trailing silence is removed, as in a stream's segments."""
    pause_probability: float = 0.0
    """Share of clips cut to a piece and padded with their own quietest frames, because corpora differ in silence."""
    crop_probability: float = 0.0
    """Share of clips cut to a random shorter piece of at least `crop_min_s`, like the windows of partial results."""
    crop_min_s: float = 0.6
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings of your own changes, by their name in `streamser.training.featurechanges.FEATURE_CHANGES`."""

    def asked_beside(self, names: Collection[str]) -> list[str]:
        """Names of the settings that differ from their defaults, except `names`."""
        plain = FeatureAugment()
        asked = [f.name for f in fields(self) if getattr(self, f.name) != getattr(plain, f.name)]
        return [name for name in asked if name not in names]

    def check(self, features: FeatureConfig) -> None:
        """Raise ConfigError for settings that change log-mel if the network takes samples."""
        asked = self.asked_beside(_OF_TIME)
        if features.kind == "samples" and asked:
            raise ConfigError(
                f"feature_augment: {', '.join(asked)} change log-mel, but this network takes samples; use `augment`"
            )


_OF_TIME = ("mixup", "trim_probability", "pause_probability", "crop_probability", "crop_min_s")


__all__ = ["FeatureAugment"]
