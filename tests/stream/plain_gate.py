"""A simple noise gate that processes one frame at a time; the batched `NoiseGate` must equal it bit by bit."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from streamser.audio import SAMPLE_RATE, Samples
from streamser.stream import noise

BANDS = 16
LEVELS_DB = np.arange(-110.0, 11.0)


class PlainGate:
    """Computes the flags and floors of a `NoiseGate` with default settings."""

    def __init__(self, frame_samples: int) -> None:
        self.per_block = max(1, round(SAMPLE_RATE / 10 / frame_samples))
        self.hold = max(1, round(SAMPLE_RATE / 10 / frame_samples))
        self.smooth = math.exp(-frame_samples * 1000 / SAMPLE_RATE / 70.0)
        self.growth = math.exp(frame_samples / SAMPLE_RATE / 10.0)
        self.least = 10 ** (-85.0 / 10)
        self.recent = np.zeros(512)
        self.missing = 512
        self.power: NDArray[np.float64] | None = None
        self.sum = 0.0
        self.floor = np.full(BANDS, np.inf)
        self.block = self.floor
        self.blocks: deque[NDArray[np.float64]] = deque(maxlen=40)
        self.closed = 0
        self.levels_db: deque[float] = deque(maxlen=15 * self.per_block)
        self.histogram = np.zeros(len(LEVELS_DB))
        self.weight = 1.0
        self.threshold_db = -math.inf
        self.frames = self.held = 0
        self.floor_power = self.least

    def open(self, frame: Samples) -> tuple[bool, float]:
        self.recent = np.concatenate([self.recent, frame])[-512:]
        self.missing -= len(frame)
        if self.missing > 0:
            return False, self.floor_power
        level_db = self.take(frame)
        assert self.power is not None
        floor = np.maximum(self.floor, self.least)
        root = np.sqrt(floor)
        rise_db = 10.0 * math.log10(float((self.power / root).sum() / root.sum()) + 1e-12)
        was_open = self.held > 0
        if rise_db > 4.0 * (0.8 if was_open else 1.0) and level_db > self.threshold_db - was_open:
            self.held = self.hold + 1
        elif was_open:
            self.held -= 1
        self.floor_power = float(floor.sum() / BANDS)
        return self.held > 0, self.floor_power

    def take(self, frame: Samples) -> float:
        spectrum = np.fft.rfft(self.recent * noise._WINDOW)[: noise._LAST_BIN]
        power = np.add.reduceat(np.square(spectrum.real) + np.square(spectrum.imag), noise._FIRST_BINS) / noise._BINS
        own = float(power.sum())
        if float(np.dot(frame, frame)) < 1e-11 * len(frame):
            power, own = np.full(BANDS, 1e-6), BANDS * 1e-6
        elif self.power is not None:
            mixed = own + self.smooth * (self.sum - own)
            share = min(1.0, 4.0 * own / mixed)
            power, own = (power + self.smooth * (self.power - power)) * share, mixed * share
        self.power, self.sum = power, own
        level_db = 10.0 * math.log10(own / BANDS + 1e-12)
        self.floor, self.block = np.minimum(self.floor, power), np.minimum(self.block, power)
        self.levels_db.append(level_db)
        self.histogram[min(max(round(level_db) + 110, 0), 120)] += self.weight
        self.weight *= self.growth
        self.frames += 1
        if self.frames % self.per_block == 0:
            self.close_block()
        return level_db

    def close_block(self) -> None:
        self.blocks.append(self.block)
        self.block = np.full(BANDS, np.inf)
        self.closed += 1
        memory = min(40, 5 + self.closed // 2)
        if len(self.levels_db) == self.levels_db.maxlen and max(self.levels_db) - min(self.levels_db) < 4.0:
            memory = min(memory, 15)
        self.floor = np.min(list(self.blocks)[-memory:], axis=0)
        self.histogram /= self.weight
        self.weight = 1.0
        share = self.histogram / self.histogram.sum()
        below, moment = np.cumsum(share), np.cumsum(share * LEVELS_DB)
        inner = below * (1.0 - below)
        apart = np.where(inner > 1e-3, np.square(moment[-1] * below - moment) / np.maximum(inner, 1e-9), 0.0)
        best = int(apart.argmax())
        weight = below[: best + 1] if apart[best] else below
        edges_db = (LEVELS_DB + 0.5)[: len(weight)]
        low_db, middle_db = np.interp([0.16 * weight[-1], 0.5 * weight[-1]], weight, edges_db).tolist()
        self.threshold_db = middle_db + min(max(2.0 * (middle_db - low_db), 2.0), 7.0)
