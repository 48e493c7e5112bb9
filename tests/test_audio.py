"""Every file gives audio or one clear error; resampling in small pieces gives the samples of the whole."""

from __future__ import annotations

import math
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from makers import noise, silence, tone

from streamser.audio import (
    SAMPLE_RATE,
    AudioBlock,
    Resampler,
    Samples,
    Segment,
    check_finite,
    is_clipped,
    read_audio,
    resample,
    to_mono,
)
from streamser.errors import AudioError
from streamser.samples import find_samples
from streamser.stream.audiofiles import read_pieces

RATES = [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000]


def write(path: Path, samples: Samples, rate: int = SAMPLE_RATE, subtype: str | None = None) -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


# Files that can be read


@pytest.mark.parametrize(
    ("suffix", "subtype", "worst"),
    [
        (".wav", "PCM_U8", 1 / 100),
        (".wav", "PCM_16", 1 / 30_000),
        (".wav", "PCM_24", 1e-6),
        (".wav", "PCM_32", 1e-7),
        (".wav", "FLOAT", 0.0),
        (".wav", "DOUBLE", 1e-7),
        (".wav", "ULAW", 0.02),
        (".flac", "PCM_16", 1 / 30_000),
        (".flac", "PCM_24", 1e-6),
    ],
)
def test_a_tone_is_read_from_every_format_and_sample_type(
    tmp_path: Path, suffix: str, subtype: str | None, worst: float
) -> None:
    audio = tone(duration_s=1.0)
    read = read_audio(write(tmp_path / f"tone{suffix}", audio, subtype=subtype))
    assert read.dtype == np.float32
    assert len(read) == len(audio)
    assert np.abs(read - audio).max() <= worst


@pytest.mark.parametrize("suffix", [".ogg", ".mp3"])
def test_a_tone_keeps_its_pitch_and_level_through_a_lossy_format(tmp_path: Path, suffix: str) -> None:
    read = read_audio(write(tmp_path / f"tone{suffix}", tone(440.0)))
    assert len(read) == pytest.approx(SAMPLE_RATE, abs=2_000)  # a codec may add silence at both ends
    middle = read[4_000:12_000]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * SAMPLE_RATE / len(middle) == pytest.approx(440.0, abs=2.0)
    assert middle.std() == pytest.approx(0.3 / 2**0.5, rel=0.02)


def test_the_channels_of_a_file_are_averaged(tmp_path: Path) -> None:
    audio = tone()
    channels = np.stack([audio * gain for gain in (1.0, 0.0, 0.5, 0.0, 0.0, 0.0)], axis=1)
    read = read_audio(write(tmp_path / "surround.wav", channels, subtype="FLOAT"))
    np.testing.assert_allclose(read, audio * 0.25, atol=1e-6)


@pytest.mark.parametrize("rate", RATES)
def test_a_file_of_any_rate_is_resampled_to_16_khz(tmp_path: Path, rate: int) -> None:
    t = np.arange(rate) / rate
    audio = (0.5 * np.sin(2 * np.pi * 1_000 * t)).astype(np.float32)
    read = read_audio(write(tmp_path / "tone.wav", audio, rate, "FLOAT"))
    assert len(read) == SAMPLE_RATE
    expected = 0.5 * np.sin(2 * np.pi * 1_000 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
    assert np.abs(read - expected)[1_000:-1_000].max() < 2e-3


def test_read_audio_can_return_another_rate(tmp_path: Path) -> None:
    assert len(read_audio(write(tmp_path / "tone.wav", tone()), sample_rate=8_000)) == 8_000


def test_a_file_with_one_sample_can_be_read(tmp_path: Path) -> None:
    path = write(tmp_path / "one.wav", np.array([0.5], np.float32), subtype="FLOAT")
    assert read_audio(path).tolist() == [0.5]


def test_a_file_shorter_than_one_sample_at_16_khz_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "one.wav", np.array([0.5], np.float32), 192_000, "FLOAT")
    with pytest.raises(AudioError, match=r"one\.wav: .* shorter than one sample at 16000 Hz"):
        read_audio(path)


def test_read_audio_accepts_a_path_as_text_or_as_a_path(tmp_path: Path) -> None:
    path = write(tmp_path / "söund with spaces.wav", tone())
    np.testing.assert_array_equal(read_audio(str(path)), read_audio(path))


# Files that are refused


def test_an_empty_file_is_an_error_that_states_this(tmp_path: Path) -> None:
    path = tmp_path / "empty.wav"
    path.touch()
    with pytest.raises(AudioError, match=r"empty\.wav: the file is empty \(0 bytes\)"):
        read_audio(path)


def test_a_file_with_a_header_but_no_samples_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "header.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
    with pytest.raises(AudioError, match=r"header\.wav: the file has no samples"):
        read_audio(path)


def test_a_text_file_named_wav_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "letter.wav"
    path.write_text("Dear Sir or Madam, this is no sound.\n" * 50)
    with pytest.raises(AudioError, match=r"letter\.wav: not a readable audio file .*WAV, FLAC, Ogg or MP3"):
        read_audio(path)


def test_files_of_random_bytes_give_audio_or_an_audio_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i, suffix in enumerate((".wav", ".flac", ".ogg", ".mp3", ".raw", "") * 4):
        path = tmp_path / f"noise{i}{suffix}"
        path.write_bytes(rng.bytes(int(rng.integers(1, 4_000))))
        try:
            read = read_audio(path)
        except AudioError as error:
            assert path.name in str(error)
        else:
            assert np.isfinite(read).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinite_samples_of_a_file_are_an_error_with_their_count(tmp_path: Path, value: float) -> None:
    audio = tone()
    audio[[5, 77]] = value
    with pytest.raises(AudioError, match=r"bad\.wav: 2 of 16000 samples are NaN or infinite"):
        read_audio(write(tmp_path / "bad.wav", audio, subtype="FLOAT"))


@pytest.mark.parametrize("suffix", [".flac", ".ogg", ".mp3", ".wav"])
@pytest.mark.parametrize("kept", [0.001, 0.02, 0.5, 0.9])
def test_a_truncated_file_gives_its_beginning_or_an_error_and_never_noise(
    tmp_path: Path, suffix: str, kept: float
) -> None:
    audio = tone(duration_s=4.0)
    path = write(tmp_path / f"cut{suffix}", audio)
    content = path.read_bytes()
    path.write_bytes(content[: max(1, int(kept * len(content)))])
    try:
        read = read_audio(path)
    except AudioError as error:
        assert path.name in str(error)
    else:
        assert np.isfinite(read).all()
        assert 0 < len(read) <= len(audio) + 4_000
        assert np.abs(read).max() < 0.4


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.wav", {}),
        ("a.wav", {"subtype": "FLOAT"}),
        ("a.aiff", {}),
        ("a.au", {}),
        ("a.w64", {}),
        ("a.rf64", {}),
        ("a.ogg", {}),
        ("a.mp3", {}),
    ],
)
def test_a_truncated_file_is_read_to_its_end_with_a_warning(
    tmp_path: Path, name: str, options: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / name
    soundfile.write(path, noise(10.0, level=0.1), SAMPLE_RATE, **options)
    read_audio(path)
    assert sum(len(piece) for piece in read_pieces(path)) > 9 * SAMPLE_RATE
    assert not caplog.records
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    audio = read_audio(path)
    assert len(audio) < 7 * SAMPLE_RATE
    assert sum(len(piece) for piece in read_pieces(path)) == len(audio)
    first, second = (record.getMessage() for record in caplog.records)
    assert first == second and first.startswith(f"{path}: the file is truncated")
    assert f"{len(audio) / SAMPLE_RATE:.1f} s" in first and (name == "a.ogg" or "of the 10.0 s" in first)


def test_the_warning_of_a_truncated_file_states_the_length_in_its_header(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(43.2, level=0.1), SAMPLE_RATE)
    path.write_bytes(path.read_bytes()[:3000])
    read_audio(path)
    assert "it has 0.1 s of the 43.2 s that its header states" in caplog.text


def test_an_unknown_length_in_a_header_written_to_a_pipe_causes_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soundfile.write(tmp_path / "a.wav", tone(440, 1.0), SAMPLE_RATE)
    whole = bytearray((tmp_path / "a.wav").read_bytes())
    for claimed in (0xFFFFFFFF, 0x7FFFF024):
        whole[4:8] = whole[40:44] = claimed.to_bytes(4, "little")
        (tmp_path / "a.wav").write_bytes(whole)
        assert len(read_audio(tmp_path / "a.wav")) == SAMPLE_RATE
    assert not caplog.records


def test_a_folder_instead_of_a_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="is not a file"):
        read_audio(tmp_path)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"nowhere\.wav: no such file"):
        read_audio(tmp_path / "nowhere.wav")


# Resampling


def crumbs(audio: Samples, seed: int) -> list[Samples]:
    """The audio in pieces of 0 to 700 samples."""
    rng = np.random.default_rng(seed)
    cuts = np.cumsum(rng.integers(0, 700, size=len(audio) // 200))
    return np.split(audio, cuts[cuts < len(audio)])


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("seed", [1, 2])
def test_resampling_in_small_pieces_gives_exactly_the_samples_of_the_whole(rate: int, seed: int) -> None:
    audio = noise(duration_s=2.0 * rate / SAMPLE_RATE, seed=seed)
    whole = resample(audio, rate)
    resampler = Resampler(rate)
    pieces = [resampler.feed(crumb) for crumb in crumbs(audio, seed)]
    assert sum(len(piece) for piece in pieces) > 0.9 * len(whole)  # the delay is short: most samples come before flush
    np.testing.assert_array_equal(np.concatenate([*pieces, resampler.flush()]), whole)
    assert len(whole) == 2 * SAMPLE_RATE
    assert whole.std() > 0.01


def test_resampling_one_sample_at_a_time_gives_the_samples_of_the_whole() -> None:
    audio = noise(0.2)
    resampler = Resampler(48_000)
    pieces = [resampler.feed(audio[i : i + 1]) for i in range(len(audio))]
    np.testing.assert_array_equal(np.concatenate([*pieces, resampler.flush()]), resample(audio, 48_000))


def test_resampling_removes_frequencies_above_the_new_band() -> None:
    t = np.arange(48_000) / 48_000
    ultrasound = np.sin(2 * np.pi * 12_000 * t).astype(np.float32)
    assert np.abs(resample(ultrasound, 48_000)[500:-500]).max() < 1e-3


def test_a_resampler_for_the_same_rate_returns_the_samples_unchanged() -> None:
    audio = noise()
    resampler = Resampler(SAMPLE_RATE)
    assert resampler.feed(audio) is audio
    assert len(resampler.flush()) == 0


@pytest.mark.parametrize(
    "rate",
    [0, -8_000, 1, 999, 768_001, 16_000.5, 5e-324, 1e308, math.inf, -math.inf, math.nan, True, "16000", None],
    ids=str,
)
def test_an_invalid_rate_of_a_resampler_is_a_value_error(rate: Any) -> None:
    with pytest.raises(ValueError, match="sample_rate: a whole number"):
        Resampler(rate)


# Telephone files: their codecs cannot seek, and some of their containers have one rate only


@pytest.mark.parametrize(
    ("suffix", "subtype", "rate"),
    [
        ("wav", "GSM610", 8_000),
        ("aiff", "GSM610", 8_000),
        ("w64", "GSM610", 8_000),
        ("wav", "G721_32", 8_000),
        ("au", "G721_32", 8_000),
        ("au", "G723_24", 8_000),
        ("au", "G723_40", 8_000),
        ("wav", "NMS_ADPCM_16", 8_000),
        ("wav", "NMS_ADPCM_24", 8_000),
        ("wav", "NMS_ADPCM_32", 8_000),
        ("aiff", "DWVW_16", 16_000),
        ("xi", "DPCM_16", 44_100),
        ("xi", "DPCM_8", 44_100),
    ],
)
def test_a_telephone_or_sampler_file_is_read_like_any_other(
    tmp_path: Path, suffix: str, subtype: str, rate: int
) -> None:
    path = tmp_path / f"call.{suffix}"
    soundfile.write(path, resample(tone(), SAMPLE_RATE, rate), rate, subtype=subtype)
    whole = read_audio(path)
    assert len(whole) == pytest.approx(SAMPLE_RATE, rel=0.05)
    assert np.abs(whole[2_000:14_000]).max() == pytest.approx(
        0.3, rel=0.3
    )  # codecs with two bits per sample are coarse
    np.testing.assert_array_equal(np.concatenate(list(read_pieces(path))), whole)


# Files with a wrong header


def lying_flac(path: Path, samples: int) -> Path:
    """Write one second of audio whose header states another length."""
    soundfile.write(path, tone(), SAMPLE_RATE)
    content = bytearray(path.read_bytes())
    streaminfo = int.from_bytes(content[18:26], "big")  # its last 36 bits count the samples
    content[18:26] = (streaminfo & ~((1 << 36) - 1) | samples).to_bytes(8, "big")
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("claimed", [0, (1 << 36) - 1], ids=["streamed", "terabytes"])
def test_a_flac_file_with_a_wrong_length_in_its_header_is_read_to_its_end(tmp_path: Path, claimed: int) -> None:
    path = lying_flac(tmp_path / "lie.flac", claimed)
    assert len(read_audio(path)) == len(np.concatenate(list(read_pieces(path)))) == SAMPLE_RATE


def test_a_file_that_is_longer_than_the_limit_is_refused_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamser.audio.LONGEST_S", 2.0)
    path = tmp_path / "long.flac"
    soundfile.write(path, np.zeros(2 * SAMPLE_RATE, np.float32), SAMPLE_RATE)
    assert len(read_audio(path)) == 2 * SAMPLE_RATE
    soundfile.write(path, np.zeros(2 * SAMPLE_RATE + 1, np.float32), SAMPLE_RATE)
    with pytest.raises(AudioError, match=r"long\.flac: has more than .* hours of audio, .*; split it"):
        read_audio(path)


@pytest.mark.parametrize("rate", [1, 500, 2_000_000_000])
def test_a_file_with_an_invalid_rate_is_refused(tmp_path: Path, rate: int) -> None:
    path = write(tmp_path / "odd.wav", tone())
    content = bytearray(path.read_bytes())
    content[24:28] = rate.to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(AudioError, match=r"odd\.wav: sample_rate: a whole number from 1000 to 768000 Hz, not"):
        read_audio(path)


# Arrays


@pytest.mark.parametrize(
    ("pcm", "expected"),
    [
        (np.array([0, 128, 255], np.uint8), [-1.0, 0.0, 127 / 128]),
        (np.array([-128, 0, 64], np.int8), [-1.0, 0.0, 0.5]),
        (np.array([-32_768, 0, 16_384], np.int16), [-1.0, 0.0, 0.5]),
        (np.array([-(2**31), 0, 2**30], np.int32), [-1.0, 0.0, 0.5]),
        (np.array([-1.0, 0.0, 0.5], np.float64), [-1.0, 0.0, 0.5]),
    ],
)
def test_integers_are_scaled_by_their_type(pcm: np.ndarray, expected: list[float]) -> None:
    mono = to_mono(pcm)
    assert mono.dtype == np.float32
    np.testing.assert_allclose(mono, expected)


def test_interleaved_channels_are_averaged_and_must_divide_the_samples() -> None:
    assert to_mono(np.array([1.0, 0.0, 0.0, -1.0], np.float32), channels=2).tolist() == [0.5, -0.5]
    with pytest.raises(ValueError, match="3 interleaved samples do not divide into 2 channels"):
        to_mono(np.zeros(3, np.float32), channels=2)


@pytest.mark.parametrize("pcm", [np.zeros((2, 2, 2)), np.zeros(4, np.complex64), np.zeros(4, np.uint16)])
def test_an_array_of_another_shape_or_type_than_audio_is_a_value_error(pcm: np.ndarray) -> None:
    with pytest.raises(ValueError, match="audio"):
        to_mono(pcm)


def test_check_finite_returns_finite_samples_and_counts_the_others_in_its_error() -> None:
    audio = tone()
    assert check_finite(audio, "tone") is audio
    with pytest.raises(AudioError, match="tone: 1 of 2 samples"):
        check_finite(np.array([0.0, np.nan], np.float32), "tone")


# Clipping


def clipped_speech(gain_db: float, rate: int = SAMPLE_RATE) -> Samples:
    """A recorded sentence with a peak of 1, amplified and clipped at full scale at `rate`; 16 kHz."""
    speech = read_audio(find_samples()[0].path)
    speech /= np.abs(speech).max()
    clipped = np.clip(10 ** (gain_db / 20) * resample(speech, SAMPLE_RATE, rate), -1.0, 1.0)
    return resample(clipped.astype(np.float32), rate)


@pytest.mark.parametrize("rate", [SAMPLE_RATE, 48_000])
@pytest.mark.parametrize(("gain_db", "expected"), [(0.0, False), (20.0, False), (30.0, True), (40.0, True)])
def test_speech_is_clipped_if_the_gain_was_far_too_high(gain_db: float, expected: bool, rate: int) -> None:
    assert is_clipped(clipped_speech(gain_db, rate)) == expected


def test_speech_that_was_clipped_and_then_made_quieter_is_clipped() -> None:
    assert is_clipped(0.01 * clipped_speech(40.0))


def test_loud_speech_beyond_full_scale_that_was_not_clipped_is_not_clipped() -> None:
    assert not is_clipped(np.float32(1.9) * clipped_speech(0.0))
    assert not is_clipped(np.float32(99.0) * clipped_speech(0.0))


@pytest.mark.parametrize(
    ("audio", "expected"),
    [
        (tone(), False),
        (np.sign(tone()) * np.float32(0.1), True),
        (noise(), False),
        (silence(), False),
        (noise()[:0], False),
        (np.sign(tone()) / np.float32(32_768), False),  # one 16-bit level: too quiet to judge
    ],
    ids=["sine", "square wave", "noise", "silence", "no samples", "lowest level"],
)
def test_a_square_wave_is_clipped_but_no_sine_noise_or_silence(audio: Samples, expected: bool) -> None:
    assert is_clipped(audio) == expected


def test_blocks_and_segments_have_an_end_and_a_duration() -> None:
    block = AudioBlock(np.zeros(800, np.float32), start=1_600)
    assert (block.end, block.duration_s) == (2_400, 0.05)
    segment = Segment(utterance=0, start=1_600, samples=block.samples, final=True)
    assert (segment.end, segment.duration_s) == (2_400, 0.05)


@pytest.mark.parametrize("name", ["letter.wav", "letter.mp3", "letter.flac"])
def test_an_audio_error_names_the_file_once_and_no_python_object(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("Dear Sir or Madam, this is no sound.\n" * 50)
    with pytest.raises(AudioError) as caught:
        read_audio(path)
    message = str(caught.value)
    assert message == f"{path}: not a readable audio file (format not recognised); use WAV, FLAC, Ogg or MP3"
