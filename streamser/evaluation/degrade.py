"""Degrade clean speech in fixed, named ways, to measure robustness to noise, rooms, level and telephone lines.

The code is separate from the trainer's augmentation, so that a checkpoint is not tested on what it was trained on.
Except for `recorded_noise`, no degradation needs files, so a clip is degraded in the same way on every machine.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from streamser.audio import SAMPLE_RATE, Samples, resample

Change = Callable[[Samples, np.random.Generator], Samples]


@dataclass(frozen=True, slots=True)
class Degradation:
    """One way to degrade a clip."""

    name: str
    """Name for --degrade."""
    title: str
    """Title in the report."""
    apply: Change


def generator_of(clip: str, degradation: str) -> np.random.Generator:
    """A random generator whose seed depends only on the clip and the degradation."""
    return np.random.default_rng([zlib.crc32(clip.encode()), zlib.crc32(degradation.encode())])


def level_db(samples: Samples) -> float:
    """RMS in dB of full scale; -120 for silence."""
    return float(10 * np.log10(max(float(np.mean(np.square(samples, dtype=np.float64))), 1e-12)))


def speech_level_db(samples: Samples) -> float:
    """RMS, in dB of full scale, of the 30 ms frames within 20 dB of the loudest, so that pauses do not count."""
    frame = 480
    whole = samples[: len(samples) // frame * frame].reshape(-1, frame)
    if not len(whole):
        return level_db(samples)
    power = np.square(whole, dtype=np.float64).mean(axis=1)
    return float(10 * np.log10(max(power[power >= power.max() / 100].mean(), 1e-12)))


def add_noise(samples: Samples, noise: Samples, snr_db: float) -> Samples:
    """Add noise `snr_db` below the speech's own level; noise that is too short is repeated."""
    fitted = np.resize(noise, len(samples))
    gain_db = speech_level_db(samples) - snr_db - level_db(fitted)
    return np.asarray(samples + fitted * np.float32(10 ** (gain_db / 20)), np.float32)


def pink_noise(n: int, rng: np.random.Generator) -> Samples:
    """Noise whose power falls by 3 dB an octave above 50 Hz, as that of rooms and streets does; RMS about 0.1."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    hz = np.fft.rfftfreq(n, 1 / SAMPLE_RATE)
    shaped = np.fft.irfft(spectrum / np.sqrt(np.maximum(hz, 50.0)), n)
    return np.asarray(0.1 * shaped / max(float(np.sqrt(np.mean(shaped**2))), 1e-12), np.float32)


def room_response(rng: np.random.Generator, rt60_s: float = 0.6, direct_db: float = 0.0) -> Samples:
    """A room's impulse response: the direct sound, then noise with `direct_db` less energy that decays by 60 dB
    in `rt60_s`.
    """
    t = np.arange(round(rt60_s * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(len(t)) * 10 ** (-3 * t / rt60_s)
    tail[: SAMPLE_RATE // 250] = 0  # the first reflection travels 1.4 m further
    tail *= 10 ** (-direct_db / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    return tail.astype(np.float32)


def convolve(samples: Samples, response: Samples) -> Samples:
    """Convolve audio with a room's impulse response; its length and level stay the same."""
    n = len(samples) + len(response) - 1
    size = 1 << (n - 1).bit_length()
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)[: len(samples)]
    gain_db = level_db(samples) - level_db(wet.astype(np.float32))
    return np.asarray(wet * 10 ** (gain_db / 20), np.float32)


def narrow(samples: Samples) -> Samples:
    """Resample to 8 kHz and back, which removes everything above 4 kHz."""
    narrowed = resample(resample(samples, SAMPLE_RATE, 8000), 8000, SAMPLE_RATE)
    return np.resize(narrowed, len(samples)) if len(narrowed) < len(samples) else narrowed[: len(samples)]


def mu_law(samples: Samples) -> Samples:
    """A telephone line: 8 kHz, 8 bits by the mu-law of G.711, its level set so that nothing is clipped."""
    peak = max(float(np.abs(samples).max()), 1e-9)
    low = np.clip(resample(samples, SAMPLE_RATE, 8000) / peak, -1, 1)
    code = np.round(np.sign(low) * np.log1p(255 * np.abs(low)) / np.log(256) * 127) / 127
    line = np.sign(code) * (np.power(256.0, np.abs(code)) - 1) / 255
    wide = resample((line * peak).astype(np.float32), 8000, SAMPLE_RATE)
    return np.pad(wide, (0, max(0, len(samples) - len(wide))))[: len(samples)]


def _noise_at(snr_db: float) -> Change:
    return lambda samples, rng: add_noise(samples, pink_noise(len(samples), rng), snr_db)


def _gain(db: float) -> Change:
    return lambda samples, rng: np.asarray(samples * np.float32(10 ** (db / 20)), np.float32)


DEGRADATIONS: dict[str, Degradation] = {
    one.name: one
    for one in (
        Degradation("noise-20", "pink noise, 20 dB SNR", _noise_at(20)),
        Degradation("noise-10", "pink noise, 10 dB SNR", _noise_at(10)),
        Degradation("noise-0", "pink noise, 0 dB SNR", _noise_at(0)),
        Degradation(
            "reverb",
            "reverberation, RT60 0.6 s, as loud as the direct sound",
            lambda samples, rng: convolve(samples, room_response(rng)),
        ),
        Degradation("gain+20", "gain +20 dB", _gain(20)),
        Degradation("gain-20", "gain -20 dB", _gain(-20)),
        Degradation(
            "clip+20",
            "gain +20 dB, clipped at full scale",
            lambda samples, rng: np.clip(_gain(20)(samples, rng), -1, 1),
        ),
        Degradation("band-8k", "sampled at 8 kHz", lambda samples, rng: narrow(samples)),
        Degradation("mu-law", "mu-law telephone line, 8 kHz", lambda samples, rng: mu_law(samples)),
    )
}
"""The degradations by name, in the order of the report."""


def recorded_noise(recordings: Sequence[Samples], snr_db: float) -> Degradation:
    """A degradation that adds noise from real places, which pink noise only approximates: one recording per clip."""

    def apply(samples: Samples, rng: np.random.Generator) -> Samples:
        return add_noise(samples, recordings[int(rng.integers(len(recordings)))], snr_db)

    return Degradation(f"recorded-{snr_db:g}", f"recorded noise, {snr_db:g} dB SNR", apply)


__all__ = ["DEGRADATIONS", "Degradation", "generator_of", "recorded_noise"]
