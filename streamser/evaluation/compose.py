"""Compose streams from clips, pauses, noise and music, so that the content of every sample is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from streamser.audio import SAMPLE_RATE, Samples, read_audio
from streamser.corpora.clips import Clip
from streamser.evaluation.degrade import level_db, pink_noise, speech_level_db
from streamser.evaluation.evaluate import sample_clips

Kind = Literal["speech", "quiet", "noise", "music"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPlan:
    """Settings of the composed streams."""

    minutes: float = 20.0
    """Total length of the streams."""
    stream_minutes: float = 5.0
    """Approximate length of one stream. Each stream has its own room noise."""
    pause_s: tuple[float, float] = (0.8, 4.0)
    filler_probability: float = 0.25
    """Share of pauses that hold music or loud noise, equally often."""
    filler_s: tuple[float, float] = (2.0, 6.0)
    speech_dbfs: tuple[float, float] = (-36.0, -16.0)
    """Range from which each clip's speech level is drawn: in live streams, too, the level varies."""
    snr_db: tuple[float, float] = (12.0, 35.0)
    """Range from which each stream's room noise is drawn, in dB below the middle of `speech_dbfs`."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.minutes > 0 and self.stream_minutes > 0):
            raise ValueError(
                f"minutes and stream_minutes must be positive, not {self.minutes} and {self.stream_minutes}"
            )
        if not 0 <= self.filler_probability <= 1:
            raise ValueError(f"filler_probability must be 0 to 1, not {self.filler_probability}")


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a stream, from sample `start` to just before `end`, and its content."""

    start: int
    end: int
    kind: Kind
    clip: Clip | None = None

    def overlap(self, start: int, end: int) -> int:
        return max(0, min(self.end, end) - max(self.start, start))


@dataclass(frozen=True, slots=True, eq=False)
class Composed:
    """A composed stream and its true content."""

    samples: Samples
    spans: tuple[Span, ...]
    """In order; together they cover the whole stream."""

    @property
    def spoken(self) -> list[Span]:
        return [span for span in self.spans if span.kind == "speech"]


def speech_extent(samples: Samples) -> tuple[int, int]:
    """Samples at which a clean clip's speech begins and ends: its first and last 10 ms within 35 dB of the loudest."""
    frame = SAMPLE_RATE // 100
    power = np.square(samples[: len(samples) // frame * frame].reshape(-1, frame), dtype=np.float64).mean(axis=1)
    loud = np.flatnonzero(power >= power.max() * 10**-3.5) if len(power) else np.zeros(0, np.int64)
    if not len(loud):
        return 0, len(samples)
    return int(loud[0]) * frame, int(loud[-1] + 1) * frame


def music(n: int, rng: np.random.Generator) -> Samples:
    """A plain tune: chords that change twice a second, with overtones and decay, over a beat; RMS about 0.1."""
    t = np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
    beats = []
    root = 110.0 * 2 ** (rng.integers(0, 12) / 12)
    for _ in range(n // len(t) + 1):
        chord = root * 2 ** (rng.choice([0, 5, 7, 9]) / 12) * 2 ** (np.array([0, 4, 7, 12]) / 12)
        tones = sum(np.sin(2 * np.pi * k * hz * t) / k for hz in chord for k in (1, 2, 3, 4))
        drum = rng.standard_normal(len(t)) * np.exp(-t / 0.02)
        beats.append(tones * np.exp(-t / 0.35) + 2 * drum)
    tune = np.concatenate(beats)[:n]
    return np.asarray(0.1 * tune / np.sqrt(np.mean(tune**2)), np.float32)


def _at_level(samples: Samples, now_db: float, wanted_db: float) -> Samples:
    loud = samples * np.float32(10 ** ((wanted_db - now_db) / 20))
    peak = float(np.abs(loud).max(initial=0.0))
    return np.asarray(loud / max(1.0, peak / 0.99), np.float32)


def compose(clips: Sequence[Clip], plan: StreamPlan, rng: np.random.Generator) -> Composed:
    """Compose one stream from the clips, in their order, until it is long enough or the clips are used up."""
    parts: list[Samples] = []
    spans: list[Span] = []
    at = 0
    middle_db = sum(plan.speech_dbfs) / 2

    def add(samples: Samples, kind: Kind, clip: Clip | None = None) -> None:
        nonlocal at
        spans.append(Span(at, at + len(samples), kind, clip))
        parts.append(samples)
        at += len(samples)

    for clip in clips:
        if at >= plan.stream_minutes * 60 * SAMPLE_RATE:
            break
        add(np.zeros(_draw(plan.pause_s, rng), np.float32), "quiet")
        if rng.random() < plan.filler_probability:
            kind: Kind = "music" if rng.random() < 0.5 else "noise"
            length = _draw(plan.filler_s, rng)
            filler = music(length, rng) if kind == "music" else pink_noise(length, rng)
            add(_at_level(filler, level_db(filler), middle_db - rng.uniform(0, 10)), kind)
            add(np.zeros(_draw(plan.pause_s, rng), np.float32), "quiet")
        audio = read_audio(clip.path)
        start, end = speech_extent(audio)
        add(_at_level(audio, speech_level_db(audio), rng.uniform(*plan.speech_dbfs))[start:end], "speech", clip)
    add(np.zeros(_draw(plan.pause_s, rng), np.float32), "quiet")
    room = pink_noise(at, rng)
    samples = np.concatenate(parts) + _at_level(room, level_db(room), middle_db - rng.uniform(*plan.snr_db))
    return Composed(np.clip(samples, -1, 1).astype(np.float32), tuple(spans))


def _draw(seconds: tuple[float, float], rng: np.random.Generator) -> int:
    return round(rng.uniform(*seconds) * SAMPLE_RATE)


def compose_all(clips: Sequence[Clip], plan: StreamPlan) -> Iterator[Composed]:
    """Compose streams, with corpora, labels and speakers evenly mixed, for the plan's minutes or until all clips
    are used.
    """
    rng = np.random.default_rng(plan.seed)
    left = plan.minutes * 60 * SAMPLE_RATE
    # A clip lasts at least half a second, and the pause before it even longer: one clip per second is enough.
    corpora = len({clip.corpus for clip in clips})
    even = sample_clips(clips, round(plan.minutes * 60 / corpora), plan.seed)
    order = [even[i] for i in rng.permutation(len(even))]
    while left > 0 and order:
        stream = compose(order, replace(plan, stream_minutes=min(plan.stream_minutes, left / 60 / SAMPLE_RATE)), rng)
        order = order[len(stream.spoken) :]
        left -= len(stream.samples)
        yield stream


__all__ = ["Composed", "Kind", "Span", "StreamPlan", "compose", "compose_all", "music", "speech_extent"]
