"""Each degradation changes a clip as its name says; the tests measure the change."""

from __future__ import annotations

import numpy as np
import pytest
from makers import babble, noise, silence, tone

from streamser.evaluation.degrade import (
    DEGRADATIONS,
    add_noise,
    generator_of,
    level_db,
    pink_noise,
    recorded_noise,
    speech_level_db,
)


def spoil(name: str, samples: np.ndarray) -> np.ndarray:
    return DEGRADATIONS[name].apply(samples, generator_of("c/clip", name))


def band_power(samples: np.ndarray, low_hz: float, high_hz: float) -> float:
    power = np.abs(np.fft.rfft(samples)) ** 2
    hz = np.fft.rfftfreq(len(samples), 1 / 16_000)
    return float(power[(hz >= low_hz) & (hz < high_hz)].sum())


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_a_degraded_clip_has_the_same_length_finite_values_and_is_reproducible(name: str) -> None:
    clip = babble(0.7, seed=1)
    spoilt = spoil(name, clip)
    assert spoilt.shape == clip.shape and spoilt.dtype == np.float32
    assert np.isfinite(spoilt).all()
    assert not np.array_equal(spoilt, clip)
    assert np.array_equal(spoilt, spoil(name, clip))


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_silence_and_a_clip_of_one_sample_can_be_degraded(name: str) -> None:
    assert np.isfinite(spoil(name, silence(0.1))).all()
    assert len(spoil(name, np.array([0.1], np.float32))) == 1


@pytest.mark.parametrize("snr_db", [20, 10, 0])
def test_noise_is_added_at_the_given_signal_to_noise_ratio(snr_db: int) -> None:
    clip = babble(1.0)
    rest = spoil(f"noise-{snr_db}", clip) - clip
    assert speech_level_db(clip) - level_db(rest) == pytest.approx(snr_db, abs=0.1)


def test_a_pause_does_not_lower_the_speech_level() -> None:
    clip = babble(1.0)
    assert speech_level_db(np.concatenate([clip, silence(3.0)])) == pytest.approx(speech_level_db(clip), abs=0.3)


def test_pink_noise_falls_by_three_db_an_octave() -> None:
    audio = pink_noise(160_000, np.random.default_rng(0))
    low, high = band_power(audio, 200, 400), band_power(audio, 1600, 3200)
    assert 10 * np.log10(low / high) == pytest.approx(0.0, abs=0.5)  # equal power in every octave


def test_short_noise_is_repeated_under_long_speech() -> None:
    mixed = add_noise(silence(1.0) + tone(), noise(0.1), 10)
    assert level_db(mixed[-1600:] - tone()[-1600:]) > -40


def test_reverb_adds_a_tail_and_keeps_the_level() -> None:
    clip = np.concatenate([babble(0.5), silence(0.5)])
    wet = spoil("reverb", clip)
    assert level_db(wet) == pytest.approx(level_db(clip), abs=0.1)
    assert level_db(wet[8_400:10_000]) > level_db(clip[8_400:10_000]) + 20


def test_gain_scales_the_samples_and_clipping_limits_them_to_full_scale() -> None:
    clip = babble(0.5)
    assert spoil("gain+20", clip) == pytest.approx(10 * clip, rel=1e-5)
    assert spoil("gain-20", clip) == pytest.approx(clip / 10, rel=1e-5)
    assert np.abs(spoil("clip+20", clip)).max() == 1.0


@pytest.mark.parametrize("name", ["band-8k", "mu-law"])
def test_the_telephone_degradations_remove_everything_above_4_khz(name: str) -> None:
    spoilt = spoil(name, noise(1.0))
    assert band_power(spoilt, 4200, 8000) < 0.01 * band_power(spoilt, 300, 4000)


def test_mu_law_has_the_same_relative_error_for_quiet_and_loud_speech() -> None:
    clip = babble(1.0)
    rest_db = [level_db(spoil("mu-law", g * clip) - g * spoil("band-8k", clip)) - level_db(g * clip) for g in (1, 0.01)]
    assert rest_db[0] == pytest.approx(rest_db[1], abs=0.5)
    assert -45 < rest_db[0] < -25


def test_recorded_noise_is_chosen_by_the_clip_and_not_by_the_order_of_clips() -> None:
    way = recorded_noise([noise(0.5, seed=i) for i in range(9)], 10)
    first, again = (way.apply(tone(), generator_of("c/7", way.name)) for _ in range(2))
    other = way.apply(tone(), generator_of("c/8", way.name))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
