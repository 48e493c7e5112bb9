"""The noise gate adapts to background noise within seconds, and passes louder audio."""

from __future__ import annotations

import numpy as np
import pytest
from makers import babble, noise, silence, tone
from plain_gate import PlainGate

from streamser.audio import SAMPLE_RATE, Samples
from streamser.stream.noise import NoiseGate

FRAME = 320


def opened(samples: Samples, gate: NoiseGate | None = None, frame: int = FRAME) -> list[bool]:
    gate = gate or NoiseGate(frame)
    return [gate.open(samples[at : at + frame]) for at in range(0, len(samples) - frame + 1, frame)]


def share(flags: list[bool], start_s: float = 0.0, end_s: float = 1e9, frame: int = FRAME) -> float:
    """The share of frames between two times for which the gate is open."""
    rate = SAMPLE_RATE / frame
    part = flags[int(start_s * rate) : int(min(end_s, 1e6) * rate)]
    return sum(part) / len(part)


def fan(duration_s: float, seed: int = 0) -> Samples:
    """The hum of a motor, and noise that falls by 6 dB per octave."""
    n = round(duration_s * SAMPLE_RATE)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(n))
    rush = np.fft.irfft(spectrum / np.maximum(np.fft.rfftfreq(n, 1 / SAMPLE_RATE), 50.0), n)
    hum = sum(tone(hz, duration_s, 1 / k) for k, hz in enumerate((100, 150, 233, 300), 1))
    return (0.05 * rush / rush.std() + 0.05 * hum).astype(np.float32)


@pytest.mark.parametrize("frame", [160, 320, 480])
@pytest.mark.parametrize("gain_db", [0, -40])
def test_steady_noise_never_opens_the_gate(frame: int, gain_db: int) -> None:
    for room in (noise(10, 0.1), fan(10)):
        assert share(opened(room * np.float32(10 ** (gain_db / 20)), frame=frame)) < 0.02


@pytest.mark.parametrize("gain_db", [0, -20, -40])
@pytest.mark.parametrize("room", [noise(9, 0.06), fan(9)], ids=["white", "fan"])
def test_a_voice_a_few_decibels_above_the_noise_opens_the_gate_at_any_level(room: Samples, gain_db: int) -> None:
    voice = np.concatenate([silence(3), babble(2), silence(4)])
    flags = opened((room + voice) * np.float32(10 ** (gain_db / 20)))
    assert share(flags, 3.1, 5.0) > 0.9
    assert share(flags, 0, 3) < 0.02
    assert share(flags, 5.3) < 0.02


def test_speech_at_the_start_of_a_stream_is_detected_within_a_syllable() -> None:
    flags = opened(babble(3) + noise(3, 0.003))
    assert any(flags[:15])  # the gate opens within 300 ms; the pre-roll includes these in the utterance
    assert share(flags, 0.3, 3) > 0.6


def test_speech_after_digital_silence_is_detected_at_once_and_ends_at_once() -> None:
    flags = opened(np.concatenate([silence(1), babble(1.4), silence(1)]))
    assert share(flags, 1.04, 2.38) == 1
    assert share(flags, 0, 1) == 0
    assert share(flags, 2.6) == 0


def test_a_fan_that_is_switched_on_closes_the_gate_again_within_two_seconds() -> None:
    flags = opened(np.concatenate([noise(5, 0.001), noise(10, 0.1)]))
    assert share(flags, 5.1, 6) > 0.5  # the control: at first the fan opens the gate
    assert share(flags, 7) < 0.01


def test_after_a_fan_is_switched_off_the_gate_passes_a_quiet_voice_again() -> None:
    quiet = np.concatenate([noise(5, 0.1), noise(1, 0.001), babble(1, level=0.01) + noise(1, 0.001)])
    assert share(opened(quiet), 6.1, 7) > 0.8


def test_noise_that_fades_in_closes_the_gate_within_two_seconds() -> None:
    room = noise(10, 0.05) * np.clip(np.linspace(-0.3, 29.7, 10 * SAMPLE_RATE), 0, 1).astype(np.float32)
    assert share(opened(room), 2) < 0.01


def test_audio_below_the_minimum_level_never_opens_the_gate() -> None:
    faint = np.concatenate([noise(3, 1e-5), babble(1, level=1e-4)])  # about -90 dBFS
    assert share(opened(faint, NoiseGate(FRAME, min_level_dbfs=-60.0))) == 0
    assert share(opened(faint, NoiseGate(FRAME, min_level_dbfs=-110.0)), 3.1) > 0.8


def test_a_near_voice_opens_the_gate_and_distant_chatter_does_not() -> None:
    chatter = sum(babble(5, seed=seed, level=0.01) for seed in range(6))
    far = np.concatenate([chatter, chatter, chatter, chatter])
    near = np.concatenate([silence(11), babble(2, seed=9), silence(3), babble(2, seed=8), silence(2)])
    flags = opened((far + near).astype(np.float32))
    assert share(flags, 11.1, 13) > 0.9
    assert share(flags, 16.1, 18) > 0.9
    assert share(flags, 13.4, 16) < 0.2


def test_the_gate_gives_the_same_flags_after_minutes_as_after_seconds() -> None:
    gate = NoiseGate(FRAME)
    scene = noise(10, 0.02)
    scene[3 * SAMPLE_RATE : 5 * SAMPLE_RATE] += babble(2)
    first, second = opened(scene, gate), opened(scene, gate)
    for _ in range(12):
        last = opened(scene, gate)
    assert share([a == b for a, b in zip(second, last, strict=True)]) == 1
    assert share([a == b for a, b in zip(first, last, strict=True)]) > 0.95


@pytest.mark.parametrize("frame", [160, 320, 480])
def test_frames_in_any_batches_give_the_same_flags_and_floors(frame: int) -> None:
    audio = fan(6) * np.float32(0.1) + np.concatenate([silence(2), babble(2), silence(2)])
    frames = audio[: len(audio) // frame * frame].reshape(-1, frame)
    alone, several = NoiseGate(frame), NoiseGate(frame)
    expected = [(alone.open(one), alone.floor_power) for one in frames]
    given: list[tuple[bool, float]] = []
    rng = np.random.default_rng(0)
    while len(given) < len(frames):
        given += zip(*several.open_all(frames[len(given) :][: rng.integers(1, 12)]), strict=True)
    assert given == expected
    assert 0.1 < sum(flag for flag, _ in given) / len(given) < 0.9


@pytest.mark.parametrize("seed", range(6))
def test_batches_of_any_size_equal_the_plain_gate_bit_by_bit(seed: int) -> None:
    """Random sequences of voices, silence, noise and fans at random levels, in batches of 1 to 20 frames."""
    rng = np.random.default_rng(seed)
    frame = int(rng.choice([160, 320, 480]))
    makers = (
        lambda s: babble(s, seed=seed),
        silence,
        lambda s: noise(s, 10 ** rng.uniform(-4, -1)),
        lambda s: fan(s, seed) * np.float32(rng.uniform(0.001, 0.3)),
    )
    parts = [makers[int(rng.integers(4))](float(rng.uniform(0.2, 2.5))) for _ in range(8)]
    audio = np.concatenate(parts) * np.float32(10 ** rng.uniform(-2, 0))
    frames = (audio + noise(len(audio) / SAMPLE_RATE, 1e-4 * (seed % 2))[: len(audio)]).astype(np.float32)
    frames = frames[: len(frames) // frame * frame].reshape(-1, frame)
    plain, batched = PlainGate(frame), NoiseGate(frame)
    expected = [plain.open(one) for one in frames]
    given: list[tuple[bool, float]] = []
    while len(given) < len(frames):
        given += zip(*batched.open_all(frames[len(given) :][: rng.integers(1, 21)]), strict=True)
    assert given == expected
    assert 0 < sum(flag for flag, _ in given) < len(given)
