"""Simulate rooms, telephone lines and microphones: deterministic functions of samples."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import soxr

from streamser.audio import SAMPLE_RATE, Samples

Colour = Literal["white", "pink", "brown"]

COLOURS: dict[Colour, float] = {"white": 0.0, "pink": 1.0, "brown": 2.0}
"""Exponent a of each colour's power spectrum, 1 / f**a."""


def active_power(samples: Samples) -> float:
    """Mean power of the 20 ms frames within 30 dB of the loudest: the level of the voice, not of its pauses."""
    size = SAMPLE_RATE // 50
    count = len(samples) // size
    if not count:
        return float(np.mean(np.square(samples))) if len(samples) else 0.0
    powers = np.square(samples[: count * size]).reshape(count, size).mean(axis=1)
    return float(powers[powers >= powers.max() * 1e-3].mean())


def limit(samples: Samples) -> Samples:
    """Make samples quieter, all by the same factor, if their peak would clip."""
    peak = float(np.abs(samples).max(initial=0.0))
    return samples if peak <= 1.0 else np.asarray(samples / np.float32(peak))


def add_noise(samples: Samples, noise: Samples, snr_db: float) -> Samples:
    """Add noise of the same length, `snr_db` below the voice's active level; silence stays unchanged."""
    wanted = active_power(samples) * 10.0 ** (-snr_db / 10.0)
    power = float(np.mean(np.square(noise))) if len(noise) else 0.0
    if not wanted or not power:  # silent speech or silent noise
        return samples
    return np.asarray(samples + noise * np.float32(math.sqrt(wanted / power)))


def coloured_noise(length: int, colour: Colour, seed: int) -> Samples:
    """Gaussian noise whose power falls with frequency by the colour's exponent (flat below 20 Hz)."""
    noise = np.random.default_rng(seed).standard_normal(length, np.float32)
    if colour == "white":
        return noise
    size = _fast_size(length)
    hz = np.fft.rfftfreq(size, 1.0 / SAMPLE_RATE)
    shape = np.maximum(hz, 20.0) ** (-COLOURS[colour] / 2.0)
    return np.fft.irfft(np.fft.rfft(noise, size) * shape.astype(np.float32), size)[:length].astype(np.float32)


def reverberate(samples: Samples, response: Samples) -> Samples:
    """Convolve the audio with a room's response; the direct path is not delayed and the active level is kept."""
    if not len(samples) or not np.any(response):
        return samples
    direct = int(np.argmax(np.abs(response)))
    size = _fast_size(len(samples) + len(response) - 1)
    whole = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)
    wet = whole[direct : direct + len(samples)].astype(np.float32)
    power = active_power(wet)
    return np.asarray(wet * np.float32(math.sqrt(active_power(samples) / power))) if power else samples


def room_response(rt60_s: float, direct_db: float, seed: int) -> Samples:
    """Impulse response of a simple room: the direct path, then noise that decays by 60 dB in `rt60_s`.

    The energy of the noise is `direct_db` below that of the direct path.
    """
    rng = np.random.default_rng(seed)
    time = np.arange(1, round(rt60_s * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(len(time)) * 10.0 ** (-3.0 * time / rt60_s)
    # Reflections arrive at least 2.5 ms after the direct sound: their paths are at least 85 cm longer.
    tail[: SAMPLE_RATE // 400] = 0.0
    power = np.sum(np.square(tail))
    tail *= math.sqrt(10.0 ** (-direct_db / 10.0) / power) if power else 0.0
    return np.concatenate([[1.0], tail]).astype(np.float32)


def band_limit(samples: Samples, low_hz: float, high_hz: float) -> Samples:
    """Band-pass the audio between two frequencies; the slopes are a sixth of an octave wide."""
    size = _fast_size(len(samples) + SAMPLE_RATE // 10)  # padding for the filter's ringing
    hz = np.maximum(np.fft.rfftfreq(size, 1.0 / SAMPLE_RATE), 1e-3)
    slope = 1.0 / 6.0
    rising = np.clip(np.log2(hz / low_hz) / slope + 1.0, 0.0, 1.0) if low_hz > 0 else np.ones_like(hz)
    falling = np.clip(np.log2(high_hz / hz) / slope + 1.0, 0.0, 1.0)
    keep = np.sin(0.5 * np.pi * rising * falling).astype(np.float32) ** 2
    return np.fft.irfft(np.fft.rfft(samples, size) * keep, size)[: len(samples)].astype(np.float32)


def mu_law(samples: Samples) -> Samples:
    """Encode samples in 8 bits with mu-law companding (as in G.711), and decode them."""
    mu = 255.0
    squeezed = np.sign(samples) * np.log1p(mu * np.minimum(np.abs(samples), 1.0)) / math.log1p(mu)
    steps = np.round(squeezed * 127.0) / 127.0
    return (np.sign(steps) * np.expm1(np.abs(steps) * math.log1p(mu)) / mu).astype(np.float32)


def telephone(samples: Samples, peak_db: float = -6.0) -> Samples:
    """Simulate a telephone line: 300 to 3400 Hz, 8000 samples per second, mu-law at a peak of `peak_db`.

    The original level is restored.
    """
    peak = float(np.abs(samples).max(initial=0.0))
    if not peak:
        return samples
    level = np.float32(10.0 ** (peak_db / 20.0) / peak)
    line = soxr.resample(band_limit(samples, 300.0, 3400.0) * level, SAMPLE_RATE, 8000)
    back = soxr.resample(mu_law(line), 8000, SAMPLE_RATE).astype(np.float32)
    return np.asarray(_fit(back, len(samples)) / level)


def change_speed(samples: Samples, factor: float) -> Samples:
    """Play the audio faster (factor above 1) or slower: tempo, pitch and timbre change together."""
    if factor == 1.0 or not len(samples):
        return samples
    return np.asarray(soxr.resample(samples, SAMPLE_RATE * factor, SAMPLE_RATE), np.float32)


# 32 ms are two periods of the deepest voice; a piece may be taken from up to 10 ms beside its ideal position.
_STRETCH_FRAME = 512
_STRETCH_HOP = _STRETCH_FRAME // 2
_STRETCH_SEARCH = 160


def stretch(samples: Samples, factor: float) -> Samples:
    """Lengthen (factor above 1) or shorten at the same pitch: pieces overlap where their waveforms fit best (WSOLA)."""
    length = round(len(samples) * factor)
    if factor == 1.0 or len(samples) < 2 * _STRETCH_FRAME:
        return samples
    padded = np.pad(samples, (_STRETCH_SEARCH, 2 * _STRETCH_FRAME + 2 * _STRETCH_SEARCH))
    out = np.zeros(length + 2 * _STRETCH_FRAME, np.float32)
    window = np.hanning(_STRETCH_FRAME + 1)[:-1].astype(np.float32)
    window_at = 0  # where the last piece was taken from, in `padded`
    for start in range(0, length + _STRETCH_HOP, _STRETCH_HOP):
        first = min(round(start / factor), len(samples))  # ideal position in `padded`, minus _STRETCH_SEARCH
        region = padded[first : first + _STRETCH_FRAME + 2 * _STRETCH_SEARCH]
        wanted = padded[window_at + _STRETCH_HOP : window_at + _STRETCH_HOP + _STRETCH_FRAME]
        window_at = first + (_best_fit(region, wanted) if start else _STRETCH_SEARCH)
        out[start : start + _STRETCH_FRAME] += padded[window_at : window_at + _STRETCH_FRAME] * window
    out[:_STRETCH_HOP] = samples[:_STRETCH_HOP]  # the first hop has no second piece to overlap with
    return out[:length]


def _best_fit(region: Samples, wanted: Samples) -> int:
    """The offset at which the region is most similar to the wanted piece."""
    products = np.correlate(region, wanted[: len(region)], "valid")
    energies = np.concatenate([[0.0], np.cumsum(np.square(region, dtype=np.float64))])
    energy = energies[len(wanted) :] - energies[: len(energies) - len(wanted)]
    return int(np.argmax(products / np.sqrt(np.maximum(energy, 1e-12))))


def shift_pitch(samples: Samples, semitones: float) -> Samples:
    """Raise or lower the pitch at the same tempo; the formants shift by the same factor."""
    factor = 2.0 ** (semitones / 12.0)
    return _fit(change_speed(stretch(samples, factor), factor), len(samples))


def _fit(samples: Samples, length: int) -> Samples:
    return samples[:length] if len(samples) >= length else np.pad(samples, (0, length - len(samples)))


@lru_cache(maxsize=4096)
def _fast_size(length: int) -> int:
    """The smallest size from `length` on with no prime factor above 5: other FFTs can be several times slower."""
    best = 1 << max(0, length - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            size = three << max(0, -(-length // three) - 1).bit_length()
            best = min(best, size)
            three *= 3
        five *= 5
    return best
