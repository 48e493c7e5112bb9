"""The preview page plays each augmentation of a recipe alone, and then all together, drawn as in training."""

from __future__ import annotations

import html
from pathlib import Path

import numpy as np
import pytest
import soundfile
from makers import babble, make_features, silence, tone

from streamser.audio import SAMPLE_RATE, Samples, read_audio
from streamser.corpora.clips import Clip
from streamser.errors import ConfigError
from streamser.features import FeatureConfig, extract
from streamser.training.augment import AugmentConfig
from streamser.training.featureaugment import FeatureAugment
from streamser.training.preview import SHOWN, preview_augment, with_gains
from streamser.training.store import level_config

FEATURES = make_features()
WINDOW_S = 2.0


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    recordings = [np.concatenate([silence(0.4), babble(1.2, seed=seed), silence(0.4)]) for seed in (1, 2)]
    for number, audio in enumerate(recordings):
        soundfile.write(tmp_path / f"{number}.wav", audio, SAMPLE_RATE)
    return [Clip(tmp_path / f"{number}.wav", "c", f"c/{number}", "sad") for number in (0, 1)]


def previewed(
    clips: list[Clip],
    out: Path,
    augment: AugmentConfig | None = None,
    drawn: FeatureAugment | None = None,
    seed: int = 0,
) -> dict[str, Samples]:
    """Return the audio that the page plays for the first clip, by name."""
    page = preview_augment(clips, out, FEATURES, augment, drawn, window_s=WINDOW_S, seed=seed)
    text = html.unescape(page.read_text(encoding="utf-8"))
    files = sorted(out.glob("*.wav"))
    assert all(f'src="{file.name}"' in text for file in files)
    return {file.stem[3:]: read_audio(file) for file in files if file.name.startswith("00-")}


def levels(audio: Samples, features: FeatureConfig = FEATURES) -> np.ndarray:
    return np.asarray(extract(audio, level_config(features)))


def frames(begin_s: float, end_s: float) -> slice:
    return slice(round(begin_s / FEATURES.hop_s), round(end_s / FEATURES.hop_s))


def test_each_change_of_a_recipe_is_played_alone_and_then_all_together(clips: list[Clip], tmp_path: Path) -> None:
    augment = AugmentConfig(gain_probability=0.2, noise_probability=0.1)
    drawn = FeatureAugment(mask_mels=8, room_probability=0.3, mixup=0.2, crop_probability=0.5)
    recordings = previewed(clips, tmp_path / "out", augment, drawn)
    assert sorted(recordings) == ["crop", "drawn-room", "gain", "mixup", "noise", "original", "specaugment", "together"]
    assert np.allclose(recordings["original"], read_audio(clips[0].path), atol=1e-4)
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "noise: snr_db" in text and "gain: gain_db" in text and "mask_mels 8" in text and "room_rt60_s" in text
    for name in ("drawn-room", "specaugment", "mixup", "together"):
        assert len(recordings[name]) == WINDOW_S * SAMPLE_RATE
        assert np.isfinite(recordings[name]).all() and np.abs(recordings[name]).max() > 0.01


def test_all_changes_are_played_when_none_is_switched_on(clips: list[Clip], tmp_path: Path) -> None:
    recordings = previewed(clips, tmp_path / "out")
    line = ["band", "gain", "noise", "pitch", "room", "speed", "telephone"]
    assert sorted(recordings) == sorted([*line, "specaugment", "mixup", "original", "together"])
    assert SHOWN.mask_mels and SHOWN.mixup


def test_a_drawn_level_is_the_level_of_the_audio(clips: list[Clip], tmp_path: Path) -> None:
    quiet = previewed(clips, tmp_path / "q", drawn=FeatureAugment(level_db=(-40.0, -40.0)))["drawn-level"]
    louder = previewed(clips, tmp_path / "l", drawn=FeatureAugment(level_db=(-30.0, -30.0)))["drawn-level"]
    assert 20 * np.log10(louder.std() / quiet.std()) == pytest.approx(10.0, abs=0.5)


def test_a_masked_band_goes_to_the_mean_and_the_others_stay_as_they_are(clips: list[Clip], tmp_path: Path) -> None:
    recordings = previewed(clips, tmp_path / "out", drawn=FeatureAugment(mask_mels=30), seed=0)
    before = levels(np.resize(recordings["original"], int(WINDOW_S * SAMPLE_RATE)))
    after = levels(recordings["specaugment"])
    spoken = frames(0.5, 1.5)
    # Bands more than 30 dB below the loudest band have only leakage of other bands.
    sounding = before[spoken].mean(axis=0) > before[spoken].mean(axis=0).max() - 30
    change = np.abs(after - before)[spoken].mean(axis=0)[sounding]
    masked, kept = change > 3.5, change < 2.5
    # The bands that count as neither masked nor kept are at the edges of the mask.
    assert masked.sum() >= 3 and kept.sum() >= 3 and (masked | kept).mean() > 0.8
    away = [abs(of[spoken][:, sounding][:, masked].mean() - before.mean()) for of in (before, after)]
    assert away[1] < 0.5 * away[0]  # masked bands are set to the clip's mean


def test_noise_and_rooms_change_the_pause_more_than_the_speech(clips: list[Clip], tmp_path: Path) -> None:
    loud = FeatureAugment(noise_probability=1.0, noise_snr_db=(10.0, 10.0))
    ringing = FeatureAugment(room_probability=1.0, room_rt60_s=(0.8, 0.8), room_direct_db=(-3.0, -3.0))
    soundfile.write(clips[0].path, np.concatenate([0.3 * babble(1.0, seed=3), 1e-3 * babble(0.8, seed=4)]), SAMPLE_RATE)
    for name, drawn in (("drawn-noise", loud), ("drawn-room", ringing)):
        recordings = previewed(clips, tmp_path / name, drawn=drawn)
        before = levels(np.resize(recordings["original"], int(WINDOW_S * SAMPLE_RATE)))
        rise = levels(recordings[name]) - before
        loudest = np.argsort(before[frames(0.2, 0.8)].mean(axis=0))[-10:]
        pause = np.median(rise[frames(1.1, 1.5), loudest])
        words = np.median(rise[frames(0.2, 0.8), loudest])
        assert pause > 6.0 and words < pause - 4.0, (name, pause, words)


def test_mixup_plays_both_clips_in_one_mix(tmp_path: Path) -> None:
    for number, hz in enumerate((300.0, 2000.0)):
        soundfile.write(tmp_path / f"{number}.wav", tone(hz, WINDOW_S), SAMPLE_RATE)
    pair = [Clip(tmp_path / f"{number}.wav", "c", "c/1", "sad") for number in (0, 1)]
    for seed in range(8):  # until a seed mixes the second clip into the first
        mixed = previewed(pair, tmp_path / f"out{seed}", drawn=FeatureAugment(mixup=5.0), seed=seed)["mixup"]
        spectrum = np.abs(np.fft.rfft(mixed)) / len(mixed) * 2
        first, second = spectrum[round(300 * WINDOW_S)], spectrum[round(2000 * WINDOW_S)]
        if second > 0.01:
            break
    assert first + second == pytest.approx(0.3, abs=0.01) and min(first, second) > 0.01


def test_a_crop_is_a_shorter_piece_of_the_clip(clips: list[Clip], tmp_path: Path) -> None:
    soundfile.write(clips[0].path, tone(440.0, 1.5) * np.linspace(0.1, 1.0, 24_000, dtype=np.float32), SAMPLE_RATE)
    piece = previewed(clips, tmp_path / "out", drawn=FeatureAugment(crop_probability=1.0, crop_min_s=0.6))["crop"]
    assert np.abs(piece).max() < 0.299  # the loud end is not in the piece
    assert len(piece) == WINDOW_S * SAMPLE_RATE  # the piece is repeated to fill the window


@pytest.mark.parametrize("center", [False, True])
def test_a_gain_applies_to_the_audio_of_its_frames(center: bool) -> None:
    features = make_features(center=center)
    audio = tone(1000.0, 2.0, level=0.1)
    gains = np.zeros(levels(audio, features).shape, np.float32)
    middles_s = np.arange(len(gains)) * features.hop_s + (
        0.0 if center else features.window_samples / 2 / features.sample_rate
    )
    gains[middles_s >= 1.0] = 20.0
    loud = np.abs(with_gains(audio, gains, features))
    at_s = np.flatnonzero(loud > 0.4)[0] / SAMPLE_RATE  # half-way up, from 0.1 to 1.0
    assert at_s == pytest.approx(1.0, abs=0.015)


def test_a_single_clip_has_no_preview_of_mixup(clips: list[Clip], tmp_path: Path) -> None:
    drawn = FeatureAugment(mixup=0.4, channel_swap=0.5, tilt_db=3.0)
    assert sorted(previewed(clips[:1], tmp_path / "out", drawn=drawn)) == ["drawn-tilt", "original", "together"]
    assert {"mixup", "drawn-channel"} <= set(previewed(clips, tmp_path / "both", drawn=drawn))


def test_a_change_of_log_mel_is_refused_for_a_network_that_takes_samples(clips: list[Clip], tmp_path: Path) -> None:
    samples = FeatureConfig(kind="samples", window_samples=384, hop_samples=384, fft_size=384, short="keep")
    with pytest.raises(ConfigError, match="change log-mel, but this network takes samples"):
        preview_augment(clips, tmp_path / "out", samples, drawn=FeatureAugment(mask_mels=8))
    assert not (tmp_path / "out").exists()
    page = preview_augment(clips, tmp_path / "samples", samples)
    names = {path.stem[3:] for path in page.parent.glob("*.wav")}
    assert {"mixup", "pitch", "together"} <= names and "specaugment" not in names
