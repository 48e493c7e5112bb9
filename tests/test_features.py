"""The NumPy front end equals librosa, itself in small pieces, and the torch front end."""

from __future__ import annotations

from dataclasses import replace

import librosa
import numpy as np
import pytest
import scipy.fft
import torch
from makers import babble, noise, silence, tone

from streamser.audio import SAMPLE_RATE, Resampler, Samples, resample
from streamser.features import (
    FeatureConfig,
    Frames,
    FrontEnd,
    cut_window,
    extract,
    from_log_mel,
    hz_mel,
    mel_hz,
    mel_matrix,
    silent_frame,
    trimmed,
    window_starts,
    windows,
)
from streamser.nets.frontend import TorchFrontEnd

CONFIGS = {
    "mel 64 ms": FeatureConfig(),
    "mfcc in nepers": FeatureConfig(n_mels=128, mfcc=40, log="ln", floor=1e-8),
    "window shorter than its FFT": FeatureConfig(
        window_samples=640, hop_samples=160, n_mels=128, mel_min_hz=0.0, mel_max_hz=8000.0
    ),
    "25 ms": FeatureConfig(window_samples=400, hop_samples=160, fft_size=512, n_mels=40, log="ln"),
    "centred": FeatureConfig(window_samples=2048, hop_samples=512, fft_size=2048, center=True, n_mels=128, mfcc=40),
    "hamming, htk": FeatureConfig(window="hamming", mel_scale="htk", mel_norm="none", mel_min_hz=40.0),
    "another reference": FeatureConfig(reference=1e-3, floor=1e-7),
    "unit": FeatureConfig(clip=(-80.0, 20.0), scale="unit"),
    "standard": FeatureConfig(scale="standard", mean=tuple(range(-64, 0)), std=tuple(np.linspace(5, 20, 64).tolist())),
    "22.05 kHz": FeatureConfig(
        sample_rate=22_050,
        window_samples=2048,
        hop_samples=512,
        fft_size=2048,
        center=True,
        n_mels=128,
        mel_min_hz=0.0,
        mel_max_hz=11_025.0,
    ),
    "samples": FeatureConfig(kind="samples", window_samples=384, hop_samples=384, fft_size=384),
}


def click() -> Samples:
    samples = silence(1.5)
    samples[7000] = 1.0
    return samples


RECORDINGS = {
    "speech-like": babble(1.5),
    "silence": silence(1.5),
    "full-scale tone": tone(440.0, 1.5, level=1.0),
    "full-scale square": np.sign(tone(440.0, 1.5)),
    "full-scale noise": np.clip(noise(1.5, level=1.0), -1.0, 1.0),
    "single click": click(),
    "direct current": np.ones(24_000, np.float32),
}

every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
every_recording = pytest.mark.parametrize("audio", RECORDINGS.values(), ids=RECORDINGS.keys())


def by_librosa(samples: Samples, config: FeatureConfig) -> Frames:
    """Compute the features (frames, bins) with functions of librosa and SciPy."""
    audio = resample(samples, 16_000, config.sample_rate)
    if config.kind == "samples":
        return librosa.util.frame(audio, frame_length=config.hop_samples, hop_length=config.hop_samples).T
    if not config.center:  # librosa centres a short window in the FFT; streamser puts it at the start
        lead = (config.fft_size - config.window_samples) // 2
        audio = np.pad(audio, (lead, config.fft_size - config.window_samples - lead))
    spectrum = librosa.stft(
        audio,
        n_fft=config.fft_size,
        hop_length=config.hop_samples,
        win_length=config.window_samples,
        window=config.window,
        center=config.center,
    )
    filters = librosa.filters.mel(
        sr=config.sample_rate,
        n_fft=config.fft_size,
        n_mels=config.n_mels,
        fmin=config.mel_min_hz,
        fmax=config.mel_max_hz,
        htk=config.mel_scale == "htk",
        norm="slaney" if config.mel_norm == "slaney" else None,
    )
    level = librosa.power_to_db(filters @ np.abs(spectrum) ** 2, ref=config.reference, amin=config.floor, top_db=None)
    level = level * np.log(10.0) / 10.0 if config.log == "ln" else level
    if config.mfcc:
        level = scipy.fft.dct(level.astype(np.float64), axis=0, type=2, norm="ortho")[: config.mfcc]
    if config.scale == "unit":
        level = (np.clip(level, *config.clip) - config.clip[0]) / (config.clip[1] - config.clip[0])
    elif config.scale == "standard":
        level = (level - np.array(config.mean)[:, None]) / np.array(config.std)[:, None]
    return level.T


@every_recording
@every_config
def test_the_numpy_front_end_equals_librosa(config: FeatureConfig, audio: Samples) -> None:
    ours, theirs = extract(audio, config), by_librosa(audio, config)
    assert ours.dtype == np.float32
    assert ours.shape == theirs.shape
    # float32 has seven digits, so a cepstral coefficient of 1000 cannot be more exact
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=1e-6)


@every_recording
@every_config
def test_the_torch_front_end_equals_the_numpy_front_end(config: FeatureConfig, audio: Samples) -> None:
    there = resample(audio, 16_000, config.sample_rate)
    batch = torch.from_numpy(np.stack([there, there * 0.5]))
    frames = TorchFrontEnd(config)(batch)
    assert frames.dtype == torch.float32
    np.testing.assert_allclose(frames[0].numpy(), extract(audio, config), atol=1e-4, rtol=1e-6)
    np.testing.assert_allclose(frames[1].numpy(), extract(audio * np.float32(0.5), config), atol=1e-4, rtol=1e-6)


def test_the_comparisons_of_front_ends_can_detect_other_audio() -> None:
    config = CONFIGS["mel 64 ms"]
    apart = np.abs(extract(RECORDINGS["speech-like"], config) - extract(babble(1.5, seed=1), config)).max()
    assert apart > 1.0


def feed_in_crumbs(audio: Samples, config: FeatureConfig, rng: np.random.Generator, largest: int) -> Frames:
    front_end = FrontEnd(config)
    parts, at = [], 0
    while at < len(audio):
        size = int(rng.integers(0, largest))
        parts.append(front_end.feed(audio[at : at + size]))
        at += size
    return np.concatenate([*parts, front_end.flush()])


@every_config
@pytest.mark.parametrize("largest", [300, 3000, 20_000])
def test_audio_in_random_pieces_has_the_frames_of_the_whole(config: FeatureConfig, largest: int) -> None:
    audio = babble(1.5)
    frames = feed_in_crumbs(audio, config, np.random.default_rng(largest), largest)
    whole = extract(audio, config)
    assert frames.shape == whole.shape
    np.testing.assert_allclose(frames, whole, atol=1e-5, rtol=1e-7)


@pytest.mark.parametrize("n_samples", [0, 1, 639, 640, 641, 1023, 1024, 1025, 1279, 1280, 1281])
@every_config
def test_the_number_of_frames_is_that_of_frames_in_at_every_length(config: FeatureConfig, n_samples: int) -> None:
    received = n_samples
    if config.sample_rate != 16_000:
        resampler = Resampler(16_000, config.sample_rate)
        received = sum(map(len, (resampler.feed(np.zeros(n_samples, np.float32)), resampler.flush())))
    frames = extract(np.zeros(n_samples, np.float32), config)
    assert frames.shape == (config.frames_in(received), config.bins)


def test_a_frame_does_not_depend_on_its_window_or_its_neighbours() -> None:
    config = replace(CONFIGS["mfcc in nepers"], length_s=1.0, stride_s=0.3)
    audio = babble(3.0)
    loud = audio.copy()
    loud[40_000:] = tone(500.0, level=1.0)[: len(loud) - 40_000]
    frames, beside = extract(audio, config), extract(loud, config)
    untouched = config.frames_in(40_000)
    assert np.array_equal(frames[:untouched], beside[:untouched])
    assert not np.array_equal(frames[untouched:], beside[untouched:])
    for start, window in zip(window_starts(len(frames), config), windows(frames, config), strict=True):
        samples = audio[start * config.hop_samples :][: config.samples_in(config.window_frames)]
        np.testing.assert_allclose(window, extract(samples, config), atol=1e-5)


def test_the_torch_front_end_propagates_gradients_to_the_samples() -> None:
    config = FeatureConfig(window_samples=256, hop_samples=64, fft_size=256, n_mels=8, mfcc=4)
    front_end = TorchFrontEnd(config)
    samples = torch.from_numpy(babble(0.1)[:512]).double().requires_grad_(True)
    front_end(samples[None]).square().sum().backward()
    assert samples.grad is not None
    assert bool(torch.isfinite(samples.grad).all()) and float(samples.grad.abs().max()) > 0

    def total(at: int, by: float) -> float:
        moved = samples.detach().clone()
        moved[at] += by
        # float64 everywhere; the whole front end would round the result to float32
        level = front_end._log_mel(front_end._framed(moved[None]))
        return float(front_end._scaled(level).square().sum())

    for at in (100, 300, 411):
        slope = (total(at, 1e-6) - total(at, -1e-6)) / 2e-6
        assert float(samples.grad[at]) == pytest.approx(slope, rel=1e-3)


def test_the_torch_front_end_has_a_gradient_of_0_in_silence() -> None:
    samples = torch.zeros(1, 4000, requires_grad=True)
    TorchFrontEnd(FeatureConfig())(samples).sum().backward()
    assert samples.grad is not None and bool((samples.grad == 0).all())


def test_the_torch_front_end_gives_no_frame_for_audio_that_is_too_short() -> None:
    assert TorchFrontEnd(FeatureConfig())(torch.zeros(2, 1023)).shape == (2, 0, 64)
    with pytest.raises(ValueError, match="shape"):
        TorchFrontEnd(FeatureConfig())(torch.zeros(16_000))


def test_the_torch_front_end_keeps_its_precision_under_autocast() -> None:
    config, audio = FeatureConfig(mfcc=20), babble(0.5)
    with torch.autocast("cpu", torch.bfloat16):
        frames = TorchFrontEnd(config)(torch.from_numpy(audio)[None])
    np.testing.assert_allclose(frames[0].numpy(), extract(audio, config), atol=1e-4, rtol=1e-6)


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_hz_mel_inverts_mel_hz(scale: str) -> None:
    hz = np.array([0.0, 50.0, 999.0, 1000.0, 1001.0, 4000.0, 8000.0])
    np.testing.assert_allclose(hz_mel(mel_hz(hz, scale), scale), hz, atol=1e-9)
    np.testing.assert_allclose(mel_hz(hz, scale), librosa.hz_to_mel(hz, htk=scale == "htk"), atol=1e-9)


def test_the_frames_of_silence_equal_the_silent_frame() -> None:
    for config in CONFIGS.values():
        frames = extract(silence(1.0), config)
        np.testing.assert_allclose(frames, np.repeat(silent_frame(config), len(frames), axis=0), atol=1e-5)


def test_a_short_recording_is_padded_tiled_or_kept_short() -> None:
    config = FeatureConfig(length_s=1.0)
    frames = extract(babble(0.7), config)
    missing = config.window_frames - len(frames)
    zero = cut_window(frames, 0, replace(config, short="zero"))
    assert np.array_equal(zero[: len(frames)], frames)
    assert np.array_equal(zero[len(frames) :], np.repeat(silent_frame(config), missing, axis=0))
    tiled = cut_window(frames, 0, replace(config, short="tile"))
    assert np.array_equal(tiled[len(frames) :], frames[:missing])
    assert len(cut_window(frames, 0, replace(config, short="keep"))) == len(frames)


@pytest.mark.parametrize("short", ["zero", "tile"])
def test_without_any_frame_the_window_is_silence(short: str) -> None:
    config = FeatureConfig(length_s=1.0, short=short)  # type: ignore[arg-type]
    window = cut_window(np.zeros((0, config.bins), np.float32), 0, config)
    assert window.shape == (config.window_frames, config.bins)
    assert np.array_equal(window, np.repeat(silent_frame(config), len(window), axis=0))


@pytest.mark.parametrize("n_frames", [0, 1, 60, 61, 62, 100, 500])
@pytest.mark.parametrize("long", ["head", "middle", "windows"])
def test_windows_lie_within_the_audio_and_the_last_one_ends_with_the_audio(n_frames: int, long: str) -> None:
    config = FeatureConfig(length_s=1.0, stride_s=0.4, long=long)  # type: ignore[arg-type]
    starts = window_starts(n_frames, config)
    spare = max(0, n_frames - config.window_frames)
    assert all(0 <= start <= spare for start in starts)
    if long == "windows":
        assert starts == sorted(set(starts)) and starts[0] == 0 and starts[-1] == spare
    else:
        assert starts == [0 if long == "head" else spare // 2]


@every_config
def test_a_feature_config_can_be_converted_to_plain_values_and_back(config: FeatureConfig) -> None:
    assert FeatureConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"hop_samples": 0}, "hop_samples"),
        ({"window_samples": 2048}, "fft_size"),
        ({"mel_max_hz": 9000.0}, "sample_rate / 2"),
        ({"mfcc": 65}, "mfcc"),
        ({"scale": "unit"}, "needs clip"),
        ({"scale": "standard"}, "needs mean"),
        ({"clip": (1.0, 1.0)}, "clip"),
        ({"window": "boxcar"}, "window must be"),
        ({"nmels": 3}, "unknown keys nmels"),
        ({"n_mels": "many"}, "FeatureConfig"),
        ({"kind": "sound"}, "kind must be mel or samples"),
        ({"kind": "samples"}, "frames without overlap"),
        ({"kind": "samples", "hop_samples": 1024, "mfcc": 13}, "neither centred nor changed"),
    ],
)
def test_an_invalid_feature_config_is_refused_with_the_rule(changes: dict[str, object], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        FeatureConfig.from_dict(changes)


def test_mel_filters_of_equal_area_equal_those_of_librosa() -> None:
    config = FeatureConfig(n_mels=40)
    theirs = librosa.filters.mel(sr=16_000, n_fft=1024, n_mels=40, fmin=80.0, fmax=7600.0)
    np.testing.assert_allclose(mel_matrix(config).T, theirs, atol=1e-7)


def test_from_log_mel_gives_the_same_input_as_the_whole_front_end() -> None:
    config = CONFIGS["mfcc in nepers"]
    level = extract(babble(1.0), replace(config, mfcc=0))
    np.testing.assert_allclose(from_log_mel(level, config), extract(babble(1.0), config), atol=1e-5)


@pytest.mark.parametrize("around_s", [0.0, 0.5, 2.0])
def test_silence_around_speech_is_trimmed_to_a_fifth_of_a_second_per_side(around_s: float) -> None:
    speech, quiet = babble(1.5, seed=3), noise(around_s, level=0.0005)
    config = FeatureConfig(trim_db=25.0)
    received = trimmed(np.concatenate([quiet, speech, quiet]), config)
    kept = (len(received) - len(trimmed(speech, config))) / SAMPLE_RATE
    assert 0 <= kept <= 0.4
    assert len(trimmed(np.concatenate([quiet, speech]), FeatureConfig())) == len(quiet) + len(speech)


def test_hum_is_trimmed_like_silence_and_a_recording_without_speech_is_not_trimmed() -> None:
    time = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    hum = (0.03 * np.sin(2 * np.pi * 50 * time)).astype(np.float32)
    audio = hum.copy()
    audio[SAMPLE_RATE // 2 : SAMPLE_RATE] += babble(0.5, seed=4)
    assert len(trimmed(audio, FeatureConfig(trim_db=25.0))) < 1.1 * SAMPLE_RATE
    for nothing in (silence(1.0), noise(1.0), np.zeros(5, np.float32), np.zeros(0, np.float32)):
        assert len(trimmed(nothing, FeatureConfig(trim_db=25.0))) == len(nothing)
