"""Run a convolutional network with pooling on a sliding window, and compute each column of each layer only once.

A column is a layer's output at one time. It depends on a few columns of the layer below, and so on a few frames. If the
window moves by a hop, grows, or repeats a short utterance, most of its columns were computed for an earlier window.
`plan` finds the columns that two windows share; the step graph computes the others, and the logits from the last
layer's columns.

The graph takes `frames` (1, time, bins): the frames under the new columns of layer 1, one stretch of adjacent columns
after another. For each layer L, `cL` (n, channels, bins) are columns of earlier windows, and `xL` all columns that the
graph computes; those between two stretches are meaningless. `rL` holds indices into `cL` followed by `xL`, the input
of the next layer; `window` does the same for the last layer. Metadata `streamser.levels` has (before, after, stride,
extra) of each layer: column c needs the columns from c * stride - before to c * stride + stride - 1 + after of the
layer below, and n columns there give (n + extra) // stride.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from streamser.bundle import Bundle
from streamser.engines import Counters, WindowScores, audible_frames
from streamser.engines.steps import Track, check_features
from streamser.errors import EngineError
from streamser.features import Frames, silent_frame, window_starts

__all__ = ["Level", "Plan", "Window", "WindowSteps", "plan"]

Index = NDArray[np.int64]

_PADDING = -1  # stands for a column of zeros, outside the window
_PLANS = 512  # size of the cache: one plan for each hop of a growing utterance, one for all later hops, and for finals


class Level(NamedTuple):
    """The columns of the layer below that a column depends on (see the module's docstring)."""

    before: int
    after: int
    stride: int
    extra: int

    def columns(self, inputs: int) -> int:
        """Number of columns computed from this many columns of the layer below."""
        return (inputs + self.extra) // self.stride

    @property
    def reach(self) -> int:
        """Number of columns of the layer below that one column needs."""
        return self.before + self.stride + self.after


class Window(NamedTuple):
    """The frames from `start` to `start + frames`, repeated until they fill the network's window."""

    start: int
    frames: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How to compute a window after another one."""

    frames: Index
    """Indices, from the window's start, of the frames under the new columns; `_PADDING` stands for zeros."""
    known: tuple[Index, ...]
    """For each layer, which of the earlier window's columns the graph needs."""
    runs: tuple[Index, ...]
    """For each layer, the input of the next one: first the known columns, then the computed ones."""
    kept: tuple[tuple[Index, Index], ...]
    """For each layer, the columns that both windows have: their places in the new window and in the earlier one."""
    fresh: tuple[tuple[Index, Index, Index], ...]
    """For each layer, the places of new columns in the window, the number of the new column at each place, and where
    each new column is in the graph's output."""

    @property
    def computed(self) -> tuple[int, ...]:
        """Number of new columns of each layer."""
        return tuple(len(columns) for _, _, columns in self.fresh)


@lru_cache(maxsize=_PLANS)
def plan(levels: tuple[Level, ...], size: int, moved: int, before: int, now: int) -> Plan:
    """Plan a window of `now` frames that begins `moved` frames after a window of `before` frames (0: no such window).

    `size` is the length of the network's window in frames.
    """
    old = _keys(levels, size, -moved, before) if before else [np.zeros(0, np.int64)] * (len(levels) + 1)
    new = _keys(levels, size, 0, now)
    known: list[Index] = []
    runs: list[Index] = []
    kept, fresh = [], []
    frames: Index = np.zeros(0, np.int64)
    computed: dict[int, int] = {}  # for each new column of the layer below, its place in the graph's output
    for number, level in enumerate(levels):
        keys, below = new[number + 1].tolist(), new[number].tolist()
        places = {key: place for place, key in enumerate(old[number + 1].tolist())}
        stretches = _stretches([c for c, key in enumerate(keys) if key not in places and keys.index(key) == c])
        wanted = _wanted(level, stretches or [(0, 1)])
        if number == 0:
            frames = np.array([c % now if 0 <= c < size else _PADDING for c in wanted], np.int64)
        else:
            earlier = {key: place for place, key in enumerate(old[number].tolist())}
            _append_run([below[c] if 0 <= c < len(below) else None for c in wanted], computed, earlier, known, runs)
        computed = _computed(level, stretches, keys)
        shown = [(place, places[key]) for place, key in enumerate(keys) if key in places]
        kept.append((_index([place for place, _ in shown]), _index([source for _, source in shown])))
        order = {key: n for n, key in enumerate(computed)}
        late = [(place, order[key]) for place, key in enumerate(keys) if key not in places]
        fresh.append((_index([p for p, _ in late]), _index([n for _, n in late]), _index(list(computed.values()))))
    last = {key: place for place, key in enumerate(old[-1].tolist())}
    _append_run(list(new[-1].tolist()), computed, last, known, runs)
    return Plan(frames, tuple(known), tuple(runs), tuple(kept), tuple(fresh))


def _append_run(
    wanted: Sequence[int | None],
    computed: dict[int, int],
    earlier: dict[int, int],
    known: list[Index],
    runs: list[Index],
) -> None:
    """Append the next layer's input: columns just computed, columns of the earlier window, and zeros for None."""
    context: list[int] = []
    order: list[int] = []
    for key in wanted:
        if key in computed:
            order.append(-1 - computed[key])
        else:
            order.append(len(context))
            context.append(_PADDING if key is None else earlier[key])
    context = context or [_PADDING]  # no empty tensor goes into the graph
    known.append(_index(context))
    runs.append(_index([place if place >= 0 else len(context) - 1 - place for place in order]))


def _stretches(columns: Sequence[int]) -> list[tuple[int, int]]:
    """Sorted columns as half-open ranges of adjacent columns."""
    ranges: list[tuple[int, int]] = []
    for column in columns:
        if ranges and ranges[-1][1] == column:
            ranges[-1] = (ranges[-1][0], column + 1)
        else:
            ranges.append((column, column + 1))
    return ranges


def _wanted(level: Level, stretches: Sequence[tuple[int, int]]) -> list[int]:
    """Columns of the layer below that the stretches need, one stretch after the other."""
    return [
        column
        for first, end in stretches
        for column in range(first * level.stride - level.before, end * level.stride + level.after)
    ]


def _computed(level: Level, stretches: Sequence[tuple[int, int]], keys: Sequence[int]) -> dict[int, int]:
    """Place of each new column in the graph's output: one stretch after the other, with unused columns between them."""
    between = (level.before + level.after) // level.stride
    places: dict[int, int] = {}
    offset = 0
    for first, end in stretches:
        places.update({keys[column]: offset + column - first for column in range(first, end)})
        offset += end - first + between
    return places


def _keys(levels: Sequence[Level], size: int, start: int, frames: int) -> list[Index]:
    """Hash keys: an array for the frames, then one for each layer's columns; 0 is padding.

    Two columns have the same key when they depend on the same frame indices.
    """
    keys = [start + np.arange(size) % frames + (1 << 32)]  # 0 stands for everything outside the window
    for number, level in enumerate(levels):
        padded = np.pad(keys[-1], (level.before, level.after + level.stride))
        needed = sliding_window_view(padded, level.reach)[:: level.stride][: level.columns(len(keys[-1]))]
        keys.append((needed * _factors(number, level.reach)).sum(axis=1))
    return keys


@lru_cache(maxsize=64)
def _factors(number: int, count: int) -> Index:
    """Odd 64-bit factors: different columns get the same key with a probability of about 2^-50."""
    return np.random.default_rng(number).integers(-(1 << 62), 1 << 62, count, np.int64) | 1


def _index(values: Sequence[int]) -> Index:
    return np.array(values, np.int64)


class WindowSteps:
    """A step graph of the kind `window`."""

    def __init__(self, bundle: Bundle, session: Any, counters: Counters, metadata: dict[str, str]) -> None:
        check_features(bundle.features)
        features = bundle.features
        if features.short != "tile" or (features.trim_db and 256 % features.hop_samples):
            raise ValueError(
                "a window step graph needs `short: tile` and, with `trim_db`, a hop that divides 256 samples"
            )
        self.features = bundle.features
        self.levels = tuple(Level(*values) for values in json.loads(metadata["streamser.levels"]))
        self.size = bundle.features.window_frames
        shapes = {value.name: value.shape for value in session.get_outputs()}
        numbers = range(1, len(self.levels) + 1)
        self.shapes = [tuple(shapes[f"x{number}"][1:]) for number in numbers]
        self.columns = [self.size]
        for level in self.levels:
            self.columns.append(level.columns(self.columns[-1]))
        self._runs = [*(f"r{number}" for number in numbers[:-1]), "window"]
        self._outputs = ["logits", "embedding", *(f"x{number}" for number in numbers)]
        self._session = session
        self._counters = counters
        self._path = bundle.step_path

    def track(self, after: Track | None = None) -> WindowTrack:
        """A track for a new utterance, without columns yet."""
        return WindowTrack(self)

    def run(self, frames: Frames, known: Sequence[Frames], runs: Sequence[Index]) -> list[Frames]:
        """Run the graph; returns logits (1, classes), embedding (1, D), and each layer's computed columns."""
        started = time.perf_counter()
        feeds = {"frames": frames[None], **dict(zip(self._runs, runs, strict=True))}
        feeds.update({f"c{number}": columns for number, columns in enumerate(known, 1)})
        try:
            outputs: list[Frames] = self._session.run(self._outputs, feeds)
        except Exception as error:
            raise EngineError(f"{self._path}: onnxruntime failed on a step ({error})") from error
        self._counters.add(1, started)
        return outputs


class WindowTrack:
    """An utterance in a `WindowSteps`: all its frames, and the columns of its newest window."""

    def __init__(self, steps: WindowSteps) -> None:
        self.fed = 0
        self._steps = steps
        self._frames: Frames = np.zeros((2 * steps.size, steps.features.bins), np.float32)
        self._audible = np.zeros(len(self._frames), np.bool_)
        self._columns = _Columns(steps)
        self._newest: tuple[Window, Frames, Frames] | None = None

    def feed(self, frames: Frames) -> None:
        """Add frames; nothing is computed before `scores` or `final` is called."""
        end = self.fed + len(frames)
        if end > len(self._frames):
            room = max(end, 2 * len(self._frames))
            self._frames = np.concatenate(
                [self._frames, np.zeros((room - len(self._frames), frames.shape[1]), np.float32)]
            )
            self._audible = np.concatenate([self._audible, np.zeros(room - len(self._audible), np.bool_)])
        self._frames[self.fed : end] = frames
        self._audible[self.fed : end] = audible_frames(frames, self._steps.features)
        self.fed = end

    def scores(self) -> WindowScores:
        """Logits and embedding of the newest window."""
        count = min(self.fed, self._steps.size)
        if not count:
            return self._of_silence()
        window = Window(self.fed - count, count)
        if self._newest is None or self._newest[0] != window:
            self._newest = (window, *self._columns.score(window, self._frames))
        _, logits, embedding = self._newest
        return WindowScores(logits, embedding, bool(self._audible[window.start : self.fed].any()))

    def final(self, kept: slice) -> WindowScores:
        """Scores of all windows of the kept frames, as `engines.run_frames` cuts them."""
        first, end, _ = kept.indices(self.fed)
        if end <= first:
            return self._of_silence()
        count = min(end - first, self._steps.size)
        columns = self._columns.copy()
        windows = [Window(first + start, count) for start in window_starts(end - first, self._steps.features)]
        results = [columns.score(window, self._frames) for window in windows]
        audible = any(self._audible[window.start : window.start + count].any() for window in windows)
        logits, embeddings = zip(*results, strict=True)
        return WindowScores(np.concatenate(logits), np.concatenate(embeddings), audible)

    def close(self) -> None:
        """Nothing to give back."""

    def _of_silence(self) -> WindowScores:
        """Logits and embedding of a window of silence, for an utterance without frames."""
        silence = silent_frame(self._steps.features)
        return WindowScores(*_Columns(self._steps).score(Window(0, 1), silence), False)


class _Columns:
    """The columns of one window, layer by layer, in rows that the next window reuses or overwrites."""

    def __init__(self, steps: WindowSteps) -> None:
        self._steps = steps
        self._window = Window(0, 0)
        counts = steps.columns[1:]
        self._store = [
            np.zeros((2 * count + 1, *shape), np.float32) for count, shape in zip(counts, steps.shapes, strict=True)
        ]
        # Row of each column; the last entry is the row of zeros, which the index `_PADDING` selects.
        self._rows = [np.full(count + 1, 2 * count) for count in counts]

    def copy(self) -> _Columns:
        """A copy of the columns, to continue separately."""
        twin = object.__new__(_Columns)
        twin._steps, twin._window = self._steps, self._window
        twin._store, twin._rows = [store.copy() for store in self._store], [rows.copy() for rows in self._rows]
        return twin

    def score(self, window: Window, frames: Frames) -> tuple[Frames, Frames]:
        """Logits (1, classes) and embedding (1, D) of a window of these frames; keeps its columns for the next one."""
        steps, before = self._steps, self._window
        moved = window.start - before.start if before.frames else 0
        way = plan(steps.levels, steps.size, moved, before.frames, window.frames)
        shown = np.concatenate(
            [frames[window.start : window.start + window.frames], np.zeros((1, frames.shape[1]), np.float32)]
        )
        known = [store[rows[places]] for store, rows, places in zip(self._store, self._rows, way.known, strict=True)]
        logits, embedding, *columns = steps.run(shown[way.frames], known, way.runs)
        for number, computed in enumerate(columns):
            self._take(number, way, computed)
        self._window = window
        return logits, embedding

    def _take(self, number: int, way: Plan, computed: Frames) -> None:
        """Store the window's columns of one layer; columns of the earlier window stay in their rows."""
        store, rows = self._store[number], self._rows[number]
        (places, sources), (late, which, columns) = way.kept[number], way.fresh[number]
        following = rows.copy()
        following[places] = rows[sources]
        free = np.ones(len(store) - 1, np.bool_)
        free[following[places]] = False
        chosen = np.flatnonzero(free)[: len(columns)]
        store[chosen] = computed[columns]
        following[late] = chosen[which]
        self._rows[number] = following
