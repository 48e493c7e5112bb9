"""Measure the voice activity detectors in noise, and write the table of docs/vad.md.

    python tools/vad_table.py --out docs/vad.md

Real speech (LibriSpeech, RAVDESS, EMO-DB, nEMO) with pauses of known length, mixed with noise at known ratios. The truth
is the energy of the clean speech. Speakers are split in two halves by name: `--half tune` is where the
detectors' constants were chosen, `--half test` (the default) is what is published.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamser.audio import SAMPLE_RATE, AudioBlock, Samples, read_audio
from streamser.events import SpeechStarted
from streamser.features import FeatureConfig
from streamser.stream.segmenter import Segmenter, SegmenterConfig
from streamser.stream.vad import Vad, VadConfig, make_vad

TICK = SAMPLE_RATE // 100  # truth and decisions are compared every 10 ms
SNRS_DB = (20, 10, 5, 0)
SPEECH_DBFS = -26.0
SPEECH = ("librispeech_subset", "ravdess", "emodb", "librispeech_subset", "nemo")

Flags = NDArray[np.bool_]


def corpora_folder() -> Path:
    """Where the corpora are: STREAMSER_CORPORA, or beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "corpora"
    return Path(os.environ.get("STREAMSER_CORPORA", beside))


def clips(corpus: str, half: str) -> list[tuple[str, Path]]:
    """Speaker and path of every clip whose speaker belongs to the half."""
    folder = corpora_folder() / corpus
    with (folder / "manifest.csv").open(newline="") as manifest:
        rows = list(csv.DictReader(manifest))
    speakers = sorted({row["speaker"] for row in rows})
    wanted = set(speakers[:: 2 if half != "all" else 1] if half != "test" else speakers[1::2])
    return [(row["speaker"], folder / row["path"]) for row in rows if row["speaker"] in wanted]


def level(samples: Samples, dbfs: float) -> Samples:
    """The same sound at another RMS."""
    return samples * np.float32(10 ** (dbfs / 20) / max(1e-9, float(np.sqrt(np.mean(np.square(samples))))))


def tick_db(samples: Samples) -> NDArray[np.float64]:
    """Level every 10 ms, over 30 ms."""
    n = len(samples) // TICK
    power = np.mean(np.square(samples[: n * TICK].reshape(n, TICK), dtype=np.float64), axis=1)
    return 10 * np.log10(np.convolve(power, np.ones(3) / 3, mode="same") + 1e-12)


def is_clean(samples: Samples) -> bool:
    """Whether its background is quiet enough for its energy to tell where the speech is."""
    loud, quiet = np.percentile(tick_db(samples), (95, 3))
    return bool(loud > -50 and loud - quiet > 38)


def speech_ticks(samples: Samples) -> Flags:
    """Where clean speech is, every 10 ms: within 30 dB of its loud parts, pauses under 200 ms filled."""
    db = tick_db(samples)
    n = len(db)
    flags = db > np.percentile(db, 95) - 30
    edges = np.flatnonzero(np.diff(np.concatenate([[True], flags, [True]]).astype(int)))
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if 0 < start and end < n and end - start < 20:
            flags[start:end] = True
    return flags


@dataclass(frozen=True)
class Speech:
    """A stream of clean speech and pauses, and where the speech is."""

    samples: Samples
    truth: Flags
    speakers: frozenset[str]

    @property
    def rms(self) -> float:
        """Of the speech alone: ratios are taken against it."""
        mask = np.repeat(self.truth, TICK)
        return float(np.sqrt(np.mean(np.square(self.samples[: len(mask)][mask]))))


def compose(rng: np.random.Generator, half: str, seconds: float) -> Speech:
    """Clips of one voice after another at equal level, 1 to 2.5 s of silence between them."""
    sound: list[Samples] = [np.zeros(2 * SAMPLE_RATE, np.float32)]
    truth: list[Flags] = [np.zeros(200, bool)]
    speakers = set()
    pools = [clips(corpus, half) for corpus in SPEECH]
    while sum(map(len, sound)) < seconds * SAMPLE_RATE:
        pool = pools[len(sound) % len(pools)]
        speaker, path = pool[rng.integers(len(pool))]
        samples = read_audio(path)[: 8 * SAMPLE_RATE]
        samples = samples[: len(samples) // TICK * TICK]
        if not is_clean(samples):
            continue
        speakers.add(speaker)
        pause = TICK * int(rng.integers(100, 250))
        sound += [level(samples, SPEECH_DBFS), np.zeros(pause, np.float32)]
        truth += [speech_ticks(samples), np.zeros(pause // TICK, bool)]
    return Speech(np.concatenate(sound), np.concatenate(truth), frozenset(speakers))


def white(rng: np.random.Generator, length: int) -> Samples:
    return rng.standard_normal(length).astype(np.float32)


def pink(rng: np.random.Generator, length: int) -> Samples:
    spectrum = np.fft.rfft(rng.standard_normal(length))
    hz = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    return np.fft.irfft(spectrum / np.sqrt(np.maximum(hz, 20.0)), length).astype(np.float32)


def babble(rng: np.random.Generator, length: int, speech: Speech) -> Samples:
    """Six other voices at once, each without a pause."""
    pool = [path for speaker, path in clips("librispeech_subset", "all") if speaker not in speech.speakers]
    total = np.zeros(length, np.float32)
    for _ in range(6):
        voice: list[Samples] = []
        while sum(map(len, voice)) < length:
            samples = read_audio(pool[rng.integers(len(pool))])
            ticks = np.repeat(speech_ticks(samples), TICK)
            voice.append(level(samples[: len(ticks)][ticks], SPEECH_DBFS))
        total += np.concatenate(voice)[:length]
    return total


def music(rng: np.random.Generator, length: int) -> Samples:
    """Synthesised: four chords round and round, a bass, a pentatonic melody with vibrato, and a snare."""
    total = np.zeros(length + 4 * SAMPLE_RATE, np.float32)
    beat = int(0.5 * SAMPLE_RATE)
    chords = ((0, 4, 7), (7, 11, 14), (9, 12, 16), (5, 9, 12))

    def note(semitone: float, seconds: float, harmonics: int, vibrato: float = 0.0) -> Samples:
        t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        hz = 261.63 * 2 ** (semitone / 12)
        phase = 2 * np.pi * hz * t + vibrato * np.sin(2 * np.pi * 5.5 * t)
        tone = sum(np.sin(k * phase) / k**1.3 for k in range(1, harmonics + 1) if k * hz < 7500)
        return (tone * np.minimum(1, t / 0.02) * np.exp(-2 * t / seconds)).astype(np.float32)

    for i in range(length // beat + 1):
        at, chord = i * beat, chords[i // 4 % 4]
        voices = [(note(chord[0] - 24, 0.5, 8), 0.8)]
        if i % 4 == 0:
            voices += [(note(tone, 2.0, 6), 0.35) for tone in chord]
        if rng.random() < 0.8:
            voices.append((note(12 + float(rng.choice([0, 2, 4, 7, 9])), float(rng.choice([0.25, 0.5])), 10, 2.0), 0.5))
        if i % 2:
            decay = np.exp(-np.arange(3200) / 600)
            voices.append(((rng.standard_normal(3200) * decay).astype(np.float32), 0.25))
        for samples, gain in voices:
            total[at : at + len(samples)] += gain * samples
    return total[:length]


def esc10(rng: np.random.Generator, length: int) -> Samples:
    """Clips of the ten ESC-10 sounds one after another, at equal level, as recorded."""
    folder = corpora_folder() / "noise_esc10"
    paths = sorted((folder / "audio").iterdir())
    sound: list[Samples] = []
    while sum(map(len, sound)) < length:
        samples = read_audio(paths[rng.integers(len(paths))])
        if float(np.max(np.abs(samples))) > 1e-3:
            sound.append(level(samples, SPEECH_DBFS))
    return np.concatenate(sound)[:length]


def noises(rng: np.random.Generator, speech: Speech) -> Iterator[tuple[str, Samples]]:
    """Each kind of noise, as long as the speech."""
    n = len(speech.samples)
    yield "white", white(rng, n)
    yield "pink", pink(rng, n)
    yield "babble", babble(rng, n, speech)
    yield "music", music(rng, n)
    yield "ESC-10", esc10(rng, n)


def mix(speech: Speech, noise: Samples, snr_db: float) -> Samples:
    """Noise at a ratio to the speech; scaled down as a whole where it would clip."""
    sound = speech.samples + level(noise, 20 * np.log10(speech.rms) - snr_db)
    return (sound / max(1.0, float(np.max(np.abs(sound))))).astype(np.float32)


def decide(vad: Vad, samples: Samples) -> tuple[Flags, float]:
    """Decisions every 10 ms, and microseconds for 20 ms of sound."""
    size = vad.frame_samples
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    began = time.process_time()
    flags = [vad.speech(frame) for frame in frames]
    cost_us = (time.process_time() - began) / max(1, len(frames)) * 1e6 * (SAMPLE_RATE // 50) / size
    return np.repeat(flags, size)[TICK // 2 :: TICK], cost_us


@dataclass(frozen=True)
class Score:
    """Of one detector in one condition; shares of 1."""

    precision: float
    recall: float
    false_positive_rate: float
    cost_us: float

    @classmethod
    def of(cls, heard: Flags, truth: Flags, cost_us: float) -> Score:
        n = min(len(heard), len(truth))
        heard, truth = heard[:n], truth[:n]
        hits = float(np.sum(heard & truth))
        return cls(
            hits / max(1.0, float(np.sum(heard))),
            hits / max(1.0, float(np.sum(truth))),
            float(np.sum(heard & ~truth)) / max(1.0, float(np.sum(~truth))),
            cost_us,
        )

    def __str__(self) -> str:
        return "/".join(f"{100 * x:.0f}" for x in (self.precision, self.recall, self.false_positive_rate))
