"""Track a room's noise level, and detect audio that rises above it, in decibels and on the sample clock."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamser.audio import SAMPLE_RATE, Samples, energies

__all__ = ["NoiseGate"]

_Power = NDArray[np.float64]
"""Power in each band, (bands,): the mean square of white noise that has the same power in this band."""

_BLOCK_MS = 100  # floor and background are updated this often
_SMOOTH_MS = 70.0  # about the length of a phone: averages noise, but keeps syllables
_HOLD_MS = 100  # a gate stays open through a dip of this length
_LEAVE = 0.8  # an open gate closes below this share of `rise_db`
_WINDOW_SAMPLES = 512  # 32 ms, for every frame length: two periods of mains hum
_BANDS, _LOWEST_HZ, _HIGHEST_HZ = 16, 150.0, 5500.0  # the range of speech; a fan's rumble lies below it
_DROP = 4.0  # smoothed power is at most 4 times (6 dB) the frame's own, so that the end of a word is not delayed
_DIGITAL_SILENCE = 1e-11  # mean square (-110 dBFS); quieter frames come from a muted device or an edited file
_QUIET_ROOM = 10**-6.0  # -60 dBFS, the power assumed for such frames, so that later audio is not compared with zero
_SILENCE = np.full(_BANDS, _QUIET_ROOM)
_NO_FLOOR = np.full(_BANDS, np.inf)


def _band_edges() -> tuple[NDArray[np.intp], int]:
    """First FFT bin of each of 16 bands of equal width in mel, and the bin after the last band. No band is empty."""
    ends = 2595.0 * np.log10(1.0 + np.array([_LOWEST_HZ, _HIGHEST_HZ]) / 700.0)
    corners = 700.0 * (10.0 ** (np.linspace(ends[0], ends[1], _BANDS + 1) / 2595.0) - 1.0)
    edges = np.searchsorted(np.fft.rfftfreq(_WINDOW_SAMPLES, 1.0 / SAMPLE_RATE), corners)
    return edges[:-1], int(edges[-1])


_FIRST_BINS, _LAST_BIN = _band_edges()
_BINS = np.diff([*_FIRST_BINS, _LAST_BIN]).astype(np.float64)
_WINDOW = np.hanning(_WINDOW_SAMPLES) / np.sqrt(np.sum(np.square(np.hanning(_WINDOW_SAMPLES))))


class NoiseGate:
    """A gate that is open while audio stands out from the room's noise, in quiet and in loud rooms.

    Each frame is tested twice. Does it rise `rise_db` above the floor, the least power of each band
    in the last four seconds? This separates speech from steady noise down to 0 dB. And is it louder than the
    background of the last ten seconds usually gets? This separates a near voice from chatter and music.
    """

    def __init__(self, frame_samples: int, rise_db: float = 4.0, min_level_dbfs: float = -85.0) -> None:
        self._rise_db = rise_db
        self._least = 10 ** (min_level_dbfs / 10)
        self._frames_per_block = max(1, round(_BLOCK_MS * SAMPLE_RATE / 1000 / frame_samples))
        self._hold_frames = max(1, round(_HOLD_MS * SAMPLE_RATE / 1000 / frame_samples))
        self._smooth = math.exp(-frame_samples * 1000 / SAMPLE_RATE / _SMOOTH_MS)
        self._smooth_bands = np.full(_BANDS, self._smooth)  # an array, since NumPy would convert a number each time
        self._change = np.empty(_BANDS)
        self._recent = np.zeros(_WINDOW_SAMPLES)
        self._missing = _WINDOW_SAMPLES
        self._floor = _Floor()
        self._background = _Background(frame_samples)
        self._power: _Power | None = None  # the last frame's smoothed power
        self._sum = 0.0  # the sum of `_power` over the bands
        self._frames = 0
        self._held = 0
        self.floor_power = self._least
        """Power of the room's steady noise: the mean square of white noise with the same power."""

    def open(self, frame: Samples) -> bool:
        """Whether this frame, the next one of the stream, stands out."""
        return self.open_all(frame[None])[0][0]

    def open_all(self, frames: Samples) -> tuple[list[bool], list[float]]:
        """For each frame (frames, samples): whether it stands out, and the floor's power.

        The results do not depend on how many frames one call gets.
        """
        size = frames.shape[1]
        audio = np.concatenate([self._recent, frames.ravel()])
        self._recent = audio[-_WINDOW_SAMPLES:]
        # A window that is not full would make the floor too low: these frames are not measured.
        early = min(len(frames), max(0, -(-self._missing // size) - 1))
        self._missing -= len(frames) * size
        flags, floors = [False] * early, [self.floor_power] * early
        if early < len(frames):
            step = audio.itemsize * size  # sliding_window_view would cost more than the transform
            windows = np.ndarray((len(frames), _WINDOW_SAMPLES), audio.dtype, audio, step, (step, audio.itemsize))
            some_flags, some_floors = self._measure(frames[early:], windows[early:])
            flags += some_flags
            floors += some_floors
        self.floor_power = floors[-1] if floors else self.floor_power
        return flags, floors

    def _measure(self, frames: Samples, windows: Samples) -> tuple[list[bool], list[float]]:
        """`open_all` for frames whose windows are full; as much as possible is computed for all frames together."""
        power, levels_db = self._smoothed(frames, windows)
        size = self._frames_per_block
        ends = range(size - self._frames % size, len(frames) + 1, size)  # a block closes with the frame before each
        self._frames += len(frames)
        # A mean over the bands of power / floor, weighted by the root of the floor. Weighted by the floor itself, hum
        # would hide speech in other bands; with equal weights, the band with the least noise would dominate.
        floor = np.maximum(self._floor.follow(power, levels_db, ends), self._least)
        root = np.sqrt(floor)
        rises = (np.add.reduce(power / root, axis=1) / np.add.reduce(root, axis=1)).tolist()
        thresholds_db = self._background.follow(levels_db, ends)
        return self._decide(rises, levels_db, thresholds_db), (np.add.reduce(floor, axis=1) / _BANDS).tolist()

    def _decide(self, rises: list[float], levels_db: list[float], thresholds_db: list[float]) -> list[bool]:
        """Open when the level is far enough above floor and background; an open gate stays open through a dip."""
        held, flags = self._held, []
        for rise, level_db, threshold_db in zip(rises, levels_db, thresholds_db, strict=True):
            rise_db = 10.0 * math.log10(rise + 1e-12)
            if held:  # an open gate stays open at lower values
                enough = rise_db > self._rise_db * _LEAVE and level_db > threshold_db - 1.0
            else:
                enough = rise_db > self._rise_db and level_db > threshold_db
            held = self._hold_frames + 1 if enough else max(0, held - 1)
            flags.append(held > 0)
        self._held = held
        return flags

    def _smoothed(self, frames: Samples, windows: Samples) -> tuple[_Power, list[float]]:
        """Power in the bands, smoothed over time, (frames, bands); and each frame's level over all bands in dB."""
        power = _band_power(windows)
        sums = np.add.reduce(power, axis=1).tolist()
        silent = _DIGITAL_SILENCE * frames.shape[1]
        before, total, levels_db = self._power, self._sum, []
        for row, own, energy in zip(power, sums, energies(frames), strict=True):
            share = 1.0
            if energy < silent:
                row[:], total = _SILENCE, _BANDS * _QUIET_ROOM
            elif before is None:
                total = own
            else:
                np.subtract(before, row, self._change)  # row + smooth * (before - row), without new arrays
                np.multiply(self._change, self._smooth_bands, self._change)
                np.add(row, self._change, row)
                total = own + self._smooth * (total - own)
                share = _DROP * own / total
            if share < 1.0:
                np.multiply(row, share, row)
                total *= share
            before = row
            levels_db.append(10.0 * math.log10(total / _BANDS + 1e-12))
        self._power, self._sum = before, total
        return power, levels_db


def _band_power(windows: Samples) -> _Power:
    """Power in each band, (windows, bands): the mean square of white noise that has the same power in this band."""
    parts = np.fft.rfft(windows * _WINDOW).view(np.float64)[:, : 2 * _LAST_BIN]  # real, imaginary, real, ...
    squares = parts * parts
    squares = squares[:, 0::2] + squares[:, 1::2]
    # No matrix product: its order of summing would change with the number of frames.
    return np.add.reduceat(squares, _FIRST_BINS, axis=1) / _BINS


class _Floor:
    """The lowest recent power of each band: falls at once, rises when older blocks are forgotten."""

    _MEMORY_BLOCKS = 40  # four seconds: even in speech without pauses, each band is quiet once in this time
    _YOUNG_BLOCKS = 5  # the memory at first: shorter, because a microphone's level rises when it starts
    _STEADY_BLOCKS = 15  # a level that is steady for this long is not speech, but e.g. a fan that was switched on
    _STEADY_DB = 4.0

    def __init__(self) -> None:
        self.power: _Power = _NO_FLOOR
        self._block = _NO_FLOOR.copy()  # the least power in the present block
        self._minima = np.full((2 * self._MEMORY_BLOCKS, _BANDS), np.inf)
        self._blocks = 0
        self._least_db, self._most_db = math.inf, -math.inf  # levels in the present block
        self._leasts_db: deque[float] = deque(maxlen=self._STEADY_BLOCKS)  # lowest levels of the blocks before it
        self._mosts_db: deque[float] = deque(maxlen=self._STEADY_BLOCKS)  # highest levels of these blocks

    def follow(self, power: _Power, levels_db: list[float], ends: Sequence[int]) -> _Power:
        """Add frames (frames, bands); returns the floor at each. A block ends with the frame before each of `ends`."""
        floor = np.empty_like(power)
        first = 0
        for end in ends:
            self._add(power[first:end], levels_db[first:end], floor[first:end])
            self.power = floor[end - 1] = self._close_block()
            first = end
        if first < len(power):
            self._add(power[first:], levels_db[first:], floor[first:])
        return floor

    def _add(self, power: _Power, levels_db: list[float], floor: _Power) -> None:
        """Write the floor at frames (frames, bands) of one block."""
        least = np.minimum.accumulate(power, axis=0)
        np.minimum(least, self.power, out=floor)
        np.minimum(self._block, least[-1], out=self._block)
        self.power = floor[-1]
        self._least_db, self._most_db = min(self._least_db, *levels_db), max(self._most_db, *levels_db)

    def _close_block(self) -> _Power:
        """Store the present block in place of the oldest; returns the new floor."""
        at = self._blocks % self._MEMORY_BLOCKS  # each block is written twice, so that the newest blocks are adjacent
        self._minima[at] = self._minima[at + self._MEMORY_BLOCKS] = self._block
        self._block.fill(np.inf)
        self._leasts_db.append(self._least_db)
        self._mosts_db.append(self._most_db)
        self._least_db, self._most_db = math.inf, -math.inf
        self._blocks += 1
        memory = min(self._MEMORY_BLOCKS, self._YOUNG_BLOCKS + self._blocks // 2)
        if self._blocks >= self._STEADY_BLOCKS and max(self._mosts_db) - min(self._leasts_db) < self._STEADY_DB:
            memory = min(memory, self._STEADY_BLOCKS)
        end = at + self._MEMORY_BLOCKS + 1
        floor: _Power = np.minimum.reduce(self._minima[end - memory : end])
        return floor


class _Background:
    """Estimates the background's level and variation from a decaying histogram of levels.

    Otsu's threshold divides the levels of the last ten seconds into two parts. The lower part is the background. It has
    a median, and a deviation that is measured below the median, where weak speech has no influence. Audio stands out
    when it exceeds the median by two deviations: by 2 dB for a fan, by up to 7 dB for chatter and music.
    """

    _MEMORY_S = 10.0
    _DEVIATIONS = 2.0
    _LEAST_DB, _MOST_DB = 2.0, 7.0
    _LEVELS_DB = np.arange(-110.0, 11.0)
    _LOWEST_EDGE_DB = -109.5  # half a decibel above the lowest level

    def __init__(self, frame_samples: int) -> None:
        self.threshold_db = -math.inf
        self._growth = math.exp(frame_samples / SAMPLE_RATE / self._MEMORY_S)
        self._weight = 1.0  # grows with each frame, so that older frames count less
        self._histogram = np.zeros(len(self._LEVELS_DB))

    def follow(self, levels_db: list[float], ends: Sequence[int]) -> list[float]:
        """Count the levels of new frames; returns the threshold in dB at each.

        The threshold changes at the frame before each of `ends`.
        """
        histograms = np.empty((len(ends), len(self._histogram)))
        first = 0
        for number, end in enumerate(ends):
            self._count(levels_db[first:end])
            self._histogram /= self._weight
            self._weight = 1.0
            histograms[number] = self._histogram
            first = end
        self._count(levels_db[first:])
        thresholds_db, first = [], 0
        for end, threshold_db in zip(ends, self._thresholds(histograms), strict=True):
            thresholds_db += [self.threshold_db] * (end - first - 1) + [threshold_db]
            self.threshold_db, first = threshold_db, end
        return thresholds_db + [self.threshold_db] * (len(levels_db) - first)

    def _count(self, levels_db: list[float]) -> None:
        histogram, weight = self._histogram, self._weight
        for level_db in levels_db:
            histogram[min(max(round(level_db) + 110, 0), 120)] += weight
            weight *= self._growth
        self._weight = weight

    def _thresholds(self, histograms: NDArray[np.float64]) -> list[float]:
        """Split each histogram where the means of both parts are furthest from the overall mean."""
        if not len(histograms):
            return []
        share = histograms / np.add.reduce(histograms, axis=1)[:, None]
        below = np.add.accumulate(share, axis=1)
        moment = np.add.accumulate(share * self._LEVELS_DB, axis=1)
        inner = below * (1.0 - below)
        apart = np.square(moment[:, -1:] * below - moment) / np.maximum(inner, 1e-9)
        apart[inner <= 1e-3] = 0.0
        best = apart.argmax(axis=1).tolist()
        return [
            self._threshold(weights[: place + 1] if row[place] else weights)
            for weights, row, place in zip(below.tolist(), apart, best, strict=True)
        ]

    def _threshold(self, weights: list[float]) -> float:
        """The threshold in dB for a background whose levels, the lowest first, have these accumulated weights."""
        low_db, middle_db = self._level_at(0.16 * weights[-1], weights), self._level_at(0.5 * weights[-1], weights)
        return middle_db + min(max(self._DEVIATIONS * (middle_db - low_db), self._LEAST_DB), self._MOST_DB)

    def _level_at(self, weight: float, weights: list[float]) -> float:
        """The level in dB below which there is this weight, between two levels by linear interpolation."""
        place = bisect_right(weights, weight) - 1
        if place < 0:
            return self._LOWEST_EDGE_DB
        within = (weight - weights[place]) / (weights[place + 1] - weights[place])
        return within + (self._LOWEST_EDGE_DB + place)
