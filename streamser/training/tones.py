"""Generated tones, chords and melodies, as outliers for training: a held tone is neither speech nor noise.

Recordings of noise teach a network little about tones: it was certain that a sine is sad and that an organ chord is
happy. Recording i is the same on every machine, whatever the number of recordings.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from streamser.audio import SAMPLE_RATE, Samples

__all__ = ["tone_files", "tones"]

_PEAK = 0.7
_SHORTEST_S, _LONGEST_S = 1.0, 4.0
_LOWEST_HZ, _HIGHEST_HZ = 50.0, 3000.0
_HIGHEST_HARMONIC_HZ = 7000.0  # below half the sample rate, so that nothing is aliased
_CHORDS = (
    (0, 4, 7),
    (0, 3, 7),
    (0, 5, 7),
    (0, 7),
    (0, 12),
    (0, 4, 7, 10),
    (0, 3, 6, 9),
    (0, 1),
    (0, 2, 7, 14),
)  # semitones

Values = NDArray[np.float64]


def tone_files(folder: Path, count: int) -> list[Path]:
    """Write the first `count` recordings to `folder` as WAV files, except for those that are there, and name them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"tones-{i:04}.wav" for i in range(count)]
    for i, file in enumerate(files):
        if not file.exists():
            part = file.with_suffix(f".{os.getpid()}.part")  # so that an interrupted run leaves no half of a file
            soundfile.write(part, tones(i), SAMPLE_RATE, format="WAV", subtype="PCM_16")
            part.replace(file)
    return files


def tones(number: int) -> Samples:
    """One recording: a held tone, a chord, a glide or a melody, with random harmonics, vibrato, tremolo and fades."""
    rng = np.random.default_rng((number, 1877))
    time = np.arange(round(rng.uniform(_SHORTEST_S, _LONGEST_S) * SAMPLE_RATE)) / SAMPLE_RATE
    base = float(np.exp(rng.uniform(np.log(_LOWEST_HZ), np.log(_HIGHEST_HZ))))
    kind = ("tone", "chord", "glide", "melody")[number % 4]
    if kind == "melody":
        notes = [
            _note(time[: round(rng.uniform(0.1, 0.6) * SAMPLE_RATE)], base * 2 ** (int(rng.integers(-7, 8)) / 12), rng)
            for _ in range(40)  # at least 4 s
        ]
        audio = np.concatenate(notes)[: len(time)]
    elif kind == "chord":
        steps = _CHORDS[int(rng.integers(len(_CHORDS)))]
        loudness = rng.uniform(0.3, 1.0, len(steps))
        audio = np.sum(
            [gain * _note(time, base * 2 ** (step / 12), rng) for step, gain in zip(steps, loudness, strict=True)],
            axis=0,
        )
    elif kind == "glide":
        octaves = rng.uniform(-2.0, 2.0)
        audio = _voice(base * 2 ** (octaves * time / time[-1]), rng)
    else:
        audio = _note(time, base, rng)
    audio = audio * _envelope(time, rng)
    return np.asarray(_PEAK * audio / np.abs(audio).max(), np.float32)


def _note(time: Values, hz: float, rng: np.random.Generator) -> Values:
    """One note: slightly out of tune, half of them with vibrato."""
    depth = rng.uniform(0.0, 0.5) / 12 if rng.random() < 0.5 else 0.0  # octaves
    vibrato = depth * np.sin(2 * np.pi * rng.uniform(3.0, 8.0) * time)
    return _voice(hz * 2 ** (rng.uniform(-0.1, 0.1) / 12 + vibrato), rng)


def _voice(hz: Values, rng: np.random.Generator) -> Values:
    """A tone whose frequency is given for each sample: a sine, or harmonics that become weaker."""
    phase = 2 * np.pi * np.cumsum(hz) / SAMPLE_RATE
    count = 1 if rng.random() < 0.3 else int(rng.integers(2, 16))
    slope, odd = rng.uniform(0.3, 2.0), rng.random() < 0.25  # odd harmonics only: a clarinet, a square wave
    audio = np.zeros_like(phase)
    for harmonic in range(1, count + 1, 2 if odd else 1):
        heard = harmonic * hz < _HIGHEST_HARMONIC_HZ
        audio += heard * np.sin(harmonic * phase + rng.uniform(0, 2 * np.pi)) / harmonic**slope
    return audio


def _envelope(time: Values, rng: np.random.Generator) -> Values:
    """The level over time: fades at both ends, half of the time a decay, and sometimes tremolo."""
    end = time[-1]
    fade_in, fade_out = rng.uniform(0.005, 0.3, 2)
    level: Values = np.minimum(np.minimum(time / fade_in, (end - time) / fade_out), 1.0)
    if rng.random() < 0.5:
        level = level * np.exp(-time * rng.uniform(0.0, 3.0))
    if rng.random() < 0.3:
        level = level * (1 - rng.uniform(0.0, 0.8) * (0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(2.0, 9.0) * time)))
    return level
