"""Augmentation: the parameters of each change are drawn first, and the change follows them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamser.audio import SAMPLE_RATE, Samples
from streamser.errors import CorpusError
from streamser.training.acoustics import (
    active_power,
    add_noise,
    band_limit,
    change_speed,
    coloured_noise,
    mu_law,
    reverberate,
    room_response,
    shift_pitch,
    stretch,
    telephone,
)
from streamser.training.augment import AugmentConfig, Augmenter, Band, Gain, Noise, Room, apply_plan

EVERYTHING = AugmentConfig(
    speed_probability=0.5,
    pitch_probability=0.5,
    room_probability=0.5,
    noise_probability=0.5,
    band_probability=0.5,
    telephone_probability=0.5,
    gain_probability=0.5,
)


def sine(hz: float = 220.0, seconds: float = 1.0, peak: float = 0.3) -> Samples:
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (peak * np.sin(2 * np.pi * hz * time)).astype(np.float32)


def loudest_hz(samples: Samples) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 1 << 18))
    return float(np.argmax(spectrum) * SAMPLE_RATE / (1 << 18))


def db(ratio: float) -> float:
    return 10 * float(np.log10(ratio))


def level_at(samples: Samples, low_hz: float, high_hz: float) -> float:
    """Power between two frequencies."""
    spectrum = np.square(np.abs(np.fft.rfft(samples)))
    hz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    return float(spectrum[(hz >= low_hz) & (hz < high_hz)].sum())


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A folder with two files: a hum, and a click, which as a room response has no reverberation."""
    soundfile.write(tmp_path / "click.wav", np.eye(1, 4000, 10)[0], SAMPLE_RATE)
    soundfile.write(tmp_path / "hum.wav", sine(1000.0, 0.5), SAMPLE_RATE)
    return tmp_path


# ---- noise


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 20.0])
def test_noise_has_the_drawn_ratio_to_the_speech_however_long_the_pauses_are(snr_db: float) -> None:
    speech = np.concatenate([sine(), np.zeros(3 * SAMPLE_RATE, np.float32)])
    noise = coloured_noise(len(speech), "white", 1)
    added = add_noise(speech, noise, snr_db) - speech
    assert db(np.mean(np.square(speech[:SAMPLE_RATE])) / np.mean(np.square(added))) == pytest.approx(snr_db, abs=0.1)


@pytest.mark.parametrize(("colour", "slope_db"), [("white", 0.0), ("pink", -3.0), ("brown", -6.0)])
def test_colored_noise_falls_by_its_slope_in_each_octave(colour: str, slope_db: float) -> None:
    noise = coloured_noise(8 * SAMPLE_RATE, colour, 3)  # type: ignore[arg-type]
    densities = [level_at(noise, hz, 2 * hz) / hz for hz in (250, 500, 1000, 2000)]
    slopes = [db(after / before) for before, after in pairwise(densities)]
    assert np.mean(slopes) == pytest.approx(slope_db, abs=0.5)


def test_noise_comes_from_the_folder_if_one_is_given(recordings: Path) -> None:
    noise = Noise((0.0, 0.0), (str(recordings),), colour_share=0.0)
    drawn = noise.draw(np.random.default_rng(0))._replace(file=0.9)  # the second file: the hum
    changed = noise.apply(sine(220.0), drawn)
    assert db(level_at(changed, 990, 1010) / level_at(changed, 210, 230)) == pytest.approx(0.0, abs=0.5)


def test_noise_added_to_silence_is_silence() -> None:
    silence = np.zeros(1000, np.float32)
    assert not add_noise(silence, coloured_noise(1000, "pink", 0), 0.0).any()
    assert add_noise(np.zeros(0, np.float32), np.zeros(0, np.float32), 0.0).shape == (0,)


def test_a_missing_or_empty_noise_folder_is_reported_when_the_augmenter_is_made(tmp_path: Path) -> None:
    config = AugmentConfig(noise_probability=0.5, noise_folders=(str(tmp_path / "gone"),))
    with pytest.raises(CorpusError, match="no such corpus folder"):
        Augmenter(config, np.random.default_rng(0))
    with pytest.raises(CorpusError, match="has no audio files"):
        Augmenter(replace(config, noise_folders=(str(tmp_path),)), np.random.default_rng(0))


# ---- rooms


def test_a_room_response_of_one_click_changes_nothing(recordings: Path) -> None:
    room = Room(str(recordings), synthetic_share=0.0)
    drawn = room.draw(np.random.default_rng(0))._replace(file=0.0)  # the first file: the click
    assert np.allclose(room.apply(sine(), drawn), sine(), atol=1e-4)


def test_a_room_keeps_length_and_level_and_fills_the_pauses() -> None:
    speech = np.concatenate([sine(), np.zeros(SAMPLE_RATE, np.float32), sine()])
    wet = reverberate(speech, room_response(0.6, 0.0, 0))
    assert len(wet) == len(speech)
    assert db(active_power(wet) / active_power(speech)) == pytest.approx(0.0, abs=0.1)
    pause = wet[SAMPLE_RATE + 1600 : SAMPLE_RATE + 3200]
    assert -40 < db(np.mean(np.square(pause)) / active_power(wet)) < -5


@pytest.mark.parametrize("rt60_s", [0.2, 0.6])
def test_a_synthetic_room_decays_by_60_db_in_its_reverberation_time(rt60_s: float) -> None:
    response = room_response(rt60_s, 6.0, 0)
    decay = np.cumsum(np.square(response[1:], dtype=np.float64)[::-1])[::-1]
    half = len(response) // 2
    assert db(decay[half] / decay[0]) == pytest.approx(-30.0, abs=3.0)
    assert db(1.0 / decay[0]) == pytest.approx(6.0, abs=0.1)


# ---- level, tempo, pitch


def test_a_gain_changes_the_level_as_drawn_but_not_above_full_scale() -> None:
    assert db(active_power(Gain().apply(sine(), -20.0)) / active_power(sine())) == pytest.approx(-20.0, abs=0.01)
    loud = Gain().apply(sine(peak=0.5), 20.0)
    assert np.abs(loud).max() == pytest.approx(1.0)
    assert np.corrcoef(loud, sine())[0, 1] > 0.9999  # turned down, not clipped


def test_a_change_of_speed_changes_tempo_and_pitch_together() -> None:
    fast = change_speed(sine(400.0), 1.1)
    assert len(fast) == pytest.approx(SAMPLE_RATE / 1.1, abs=1)
    assert loudest_hz(fast) == pytest.approx(440.0, abs=1.0)


@pytest.mark.parametrize("semitones", [-2.0, -0.5, 1.0, 2.0])
def test_a_pitch_shift_moves_the_tone_and_keeps_its_length_and_purity(semitones: float) -> None:
    shifted = shift_pitch(sine(300.0), semitones)
    hz = 300.0 * 2 ** (semitones / 12)
    assert len(shifted) == SAMPLE_RATE
    assert loudest_hz(shifted) == pytest.approx(hz, rel=0.01)
    middle = shifted[2000:-2000] * np.hanning(SAMPLE_RATE - 4000).astype(np.float32)
    assert level_at(middle, 0.9 * hz, 1.1 * hz) / level_at(middle, 0, 8000) > 0.98


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_stretching_keeps_the_pitch_and_the_order_of_speech(factor: float) -> None:
    two_tones = np.concatenate([sine(300.0), sine(600.0)])
    longer = stretch(two_tones, factor)
    assert len(longer) == round(len(two_tones) * factor)
    half = len(longer) // 2
    assert loudest_hz(longer[: half - 800]) == pytest.approx(300.0, rel=0.01)
    assert loudest_hz(longer[half + 800 :]) == pytest.approx(600.0, rel=0.01)
    assert np.abs(longer).max() < 0.45


# ---- lines


def test_a_band_limit_keeps_the_frequencies_inside_and_removes_those_outside() -> None:
    noise = coloured_noise(SAMPLE_RATE, "white", 0)
    changed = band_limit(noise, 300.0, 3400.0)
    assert db(level_at(changed, 400, 3200) / level_at(noise, 400, 3200)) == pytest.approx(0.0, abs=0.1)
    assert db(level_at(changed, 4000, 8000) / level_at(noise, 4000, 8000)) < -40
    assert db(level_at(changed, 0, 200) / level_at(noise, 0, 200)) < -30


def test_band_edges_are_drawn_within_their_ranges() -> None:
    rng = np.random.default_rng(0)
    drawn = [Band((50.0, 200.0), (3000.0, 6000.0)).draw(rng) for _ in range(50)]
    assert all(50 <= one.low_hz <= 200 and 3000 <= one.high_hz <= 6000 for one in drawn)


def test_mu_law_has_255_levels_and_an_error_that_follows_the_level() -> None:
    ramp = np.linspace(-1, 1, 50_000, dtype=np.float32)
    assert len(np.unique(mu_law(ramp))) == 255
    for peak in (1.0, 0.1):
        tone = sine(peak=peak)
        assert 30 < db(np.mean(tone**2) / np.mean((mu_law(tone) - tone) ** 2)) < 45


def test_a_telephone_line_keeps_level_and_length_and_distorts_soft_audio_more() -> None:
    tone = sine(1000.0)
    loud, soft = telephone(tone, -3.0), telephone(tone, -40.0)
    assert len(loud) == len(tone)
    assert db(active_power(loud) / active_power(tone)) == pytest.approx(0.0, abs=0.2)
    assert np.mean((soft - tone) ** 2) > 2 * np.mean((loud - tone) ** 2)
    noise = coloured_noise(SAMPLE_RATE, "white", 0)
    assert db(level_at(telephone(noise), 4500, 8000) / level_at(noise, 4500, 8000)) < -40


# ---- together


def test_by_default_no_augmentation_is_on() -> None:
    augmenter = Augmenter(AugmentConfig(), np.random.default_rng(0))
    assert np.array_equal(augmenter(sine()), sine())


@pytest.mark.parametrize("name", ["speed", "pitch", "room", "noise", "band", "telephone", "gain"])
def test_each_augmentation_can_be_switched_on_alone(name: str) -> None:
    config = AugmentConfig(**{f"{name}_probability": 1.0})  # type: ignore[arg-type]
    augmenter = Augmenter(config, np.random.default_rng(1))
    ((one, _),) = augmenter.draw()
    assert one.name == name
    tones = sine(100.0) + sine(5000.0)
    assert not np.array_equal(augmenter(tones), tones)


def test_the_same_seed_changes_clips_the_same_way() -> None:
    changed = [[Augmenter(EVERYTHING, rng)(sine()) for _ in range(4)] for rng in map(np.random.default_rng, (5, 5, 6))]
    assert all(np.array_equal(a, b) for a, b in zip(changed[0], changed[1], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(changed[0], changed[2], strict=True))


def test_drawn_parameters_give_the_same_result_when_applied_again() -> None:
    plan = Augmenter(EVERYTHING, np.random.default_rng(2)).draw()
    assert plan
    assert np.array_equal(apply_plan(sine(), plan), apply_plan(sine(), plan))


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(0, np.float32),
        np.zeros(SAMPLE_RATE, np.float32),
        sine(seconds=0.01),
        sine(peak=1.0),
        np.eye(1, 3000, dtype=np.float32)[0],
    ],
    ids=["empty", "silent", "short", "full-scale", "click"],
)
def test_any_augmented_audio_is_finite_and_within_full_scale(samples: Samples) -> None:
    everything = [step for _, step in EVERYTHING.steps()]
    for seed in range(5):
        rng = np.random.default_rng(seed)
        changed = apply_plan(samples, tuple((one, one.draw(rng)) for one in everything))
        assert changed.dtype == np.float32
        assert np.isfinite(changed).all()
        assert np.abs(changed).max(initial=0.0) <= 1.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gain_probability": 1.5}, "gain_probability: 1.5 is not between 0 and 1"),
        ({"gain_db": (20.0, -20.0)}, "gain_db: .* is not .low, high."),
        ({"speed": (0.0, 1.0)}, "speed: .* is not positive"),
        ({"band_high_hz": (200.0, 9000.0)}, "band_low_hz < band_high_hz <= 8000"),
    ],
)
def test_an_invalid_setting_is_refused_with_its_name(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**wrong)  # type: ignore[arg-type]
