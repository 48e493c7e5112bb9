"""Log-mel of every clip, computed once and kept on disk.

The cache holds the log-mel *before* cepstra and scaling: one clean copy of each clip and as many waveform-augmented
copies as the recipe asks for. For a network that takes samples, it holds samples. `keep` writes such a store for any
other data that is computed once for every clip.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamser.audio import Samples, read_audio
from streamser.corpora.reader import Clip
from streamser.features import FeatureConfig, at_peak, dct_matrix, extract
from streamser.training.augment import AugmentConfig, Augmenter
from streamser.training.workers import begin_worker

Levels = NDArray[np.float16] | NDArray[np.float32]

# Half precision rounds to 0.06 dB at 100 dB, which is inaudible.
_STORED = np.float16

_CLIPS = 32  # clips in one job


def level_config(features: FeatureConfig) -> FeatureConfig:
    """The same front end up to the log-mel: no cepstra, clipping or scaling, and nothing trimmed.

    Training keeps the silence that the recognizer trims: trimmed training clips gave a worse network (EMO-DB left out,
    same recipe and seed: UA 50, against 66 untrimmed).
    """
    plain = replace(features, mfcc=0, clip=None, scale="none", mean=(), std=(), length_s=3.0, stride_s=1.0)
    return replace(plain, trim_db=0.0)


@dataclass(frozen=True, slots=True)
class LevelStore:
    """Log-mel of clips, all copies end to end; `starts[copy, clip]` and `lengths[copy, clip]` are in frames."""

    levels: Levels  # (all frames, n_mels or samples)
    starts: NDArray[np.int64]  # (1 + copies, clips)
    lengths: NDArray[np.int64]  # (1 + copies, clips)
    key: str = ""
    """Cache key: stores with the same key hold the same values."""

    def frames(self, clip: int, copy: int = 0) -> Levels:
        start = self.starts[copy, clip]
        return self.levels[start : start + self.lengths[copy, clip]]

    @property
    def copies(self) -> int:
        """Augmented copies beside the clean one."""
        return len(self.starts) - 1


@dataclass(frozen=True, slots=True)
class JoinedStore(LevelStore):
    """Two stores used as one; the clips of the second come after those of the first. Both have equally many copies."""

    second: LevelStore | None = None

    @classmethod
    def of(cls, first: LevelStore, second: LevelStore) -> JoinedStore:
        """`first`, then `second`; the values stay on disk where they are."""
        starts = np.concatenate([first.starts, second.starts], axis=1)
        lengths = np.concatenate([first.lengths, second.lengths], axis=1)
        return cls(first.levels, starts, lengths, f"{first.key}+{second.key}", second)

    def frames(self, clip: int, copy: int = 0) -> Levels:
        assert self.second is not None
        own = self.starts.shape[1] - self.second.starts.shape[1]
        if clip >= own:
            return self.second.frames(clip - own, copy)
        start = self.starts[copy, clip]
        return self.levels[start : start + self.lengths[copy, clip]]


def _cache_key(
    clips: Sequence[Clip],
    features: FeatureConfig,
    augment: AugmentConfig | None,
    copies: int,
    seed: int,
    by_speaker: bool,
) -> str:
    parts = [json.dumps(features.to_dict(), sort_keys=True), repr(augment), str(copies), str(seed), "v1"]
    parts += ["by speaker"] if by_speaker else []
    parts += [f"{clip.path}:{clip.path.stat().st_size}" for clip in clips]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _job(
    paths: Sequence[Path], features: FeatureConfig, augment: AugmentConfig | None, copies: int, seeds: Sequence[int]
) -> list[list[NDArray[np.float16]]]:
    """Log-mel of a few clips, clean copy first; one seed for each clip, so that the order of work changes nothing."""
    done = []
    for path, seed in zip(paths, seeds, strict=True):
        audio = read_audio(path)
        augmenter = Augmenter(augment, np.random.default_rng(seed)) if augment is not None and copies else None
        versions = [audio] + [augmenter(audio) for _ in range(copies) if augmenter is not None]
        done.append([_levels(version, features) for version in versions])
    return done


def _levels(audio: Samples, features: FeatureConfig) -> NDArray[np.float16]:
    short = features.samples_in(1) - len(audio)
    return extract(np.pad(at_peak(audio, features), (0, max(0, short))), features).astype(_STORED)


@dataclass(frozen=True, slots=True)
class Copies:
    """The augmented copies that are kept of each clip, beside the clean one."""

    augment: AugmentConfig | None = None
    count: int = 0
    by_speaker: bool = False
    """Augment a copy alike for all clips of a speaker."""
    root: Path | None = None
    """Where corpora of noise and rooms are looked up by name."""
    seed: int = 0


def build_store(
    clips: Sequence[Clip],
    features: FeatureConfig,
    copies: Copies | None = None,
    *,
    cache: Path,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LevelStore:
    """Read the store from the cache folder, or compute it over several processes and keep it there."""
    features = level_config(features)
    kept = copies or Copies()
    by_speaker, seed = kept.by_speaker, kept.seed
    folder = cache / _cache_key(clips, features, kept.augment, kept.count, seed, by_speaker)
    augment = None if kept.augment is None else kept.augment.located(kept.root)
    groups = sorted({clip.speaker for clip in clips}) if by_speaker else [clip.id for clip in clips]
    drawn = np.random.default_rng(seed).integers(0, 2**63, len(groups)).tolist()
    seed_of = dict(zip(groups, drawn, strict=True))
    seeds = [seed_of[clip.speaker if by_speaker else clip.id] for clip in clips]
    versions = _compute(clips, features, augment, kept.count, seeds, workers or os.cpu_count() or 1)
    return keep(folder, versions, len(clips), _STORED, progress)


def _compute(
    clips: Sequence[Clip],
    features: FeatureConfig,
    augment: AugmentConfig | None,
    copies: int,
    seeds: Sequence[int],
    workers: int,
) -> Iterator[list[NDArray[np.float16]]]:
    """The versions of each clip, clean copy first."""
    jobs = [slice(i, i + _CLIPS) for i in range(0, len(clips), _CLIPS)]
    if workers == 1:
        for job in jobs:
            yield from _job([clip.path for clip in clips[job]], features, augment, copies, seeds[job])
        return
    # spawn: the same on every system, and no fork of a process that already runs torch's threads
    with ProcessPoolExecutor(workers, get_context("spawn"), begin_worker) as pool:
        results = pool.map(
            _job,
            [[clip.path for clip in clips[job]] for job in jobs],
            [features] * len(jobs),
            [augment] * len(jobs),
            [copies] * len(jobs),
            [seeds[job] for job in jobs],
        )
        for versions in results:
            yield from versions


def keep(
    folder: Path,
    versions: Iterable[Sequence[Levels]],
    clips: int,
    kind: type[np.float16 | np.float32],
    progress: Callable[[int, int], None] | None = None,
) -> LevelStore:
    """The store in that folder; if there is none yet, `versions` are computed and written as they come.

    `versions` yields each clip's copies in turn, the clean one first, the same number for each clip.
    """
    index, values = folder / "index.npz", folder / f"levels.f{8 * np.dtype(kind).itemsize}"
    if not index.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # Several processes may need the same store at once: each writes its own, with the same values.
        own = f".{os.getpid()}.part"
        partial = values.with_suffix(values.suffix + own)
        lengths = []
        with partial.open("wb") as out:
            for clip, copies in enumerate(versions, 1):
                lengths.append([len(one) for one in copies])
                for one in copies:
                    out.write(np.ascontiguousarray(one, kind).tobytes())
                if progress and (clip % _CLIPS == 0 or clip == clips):
                    progress(clip, clips)
        ends = np.cumsum(lengths, dtype=np.int64).reshape(clips, -1)
        partial.replace(values)
        with index.with_suffix(own).open("wb") as out:
            np.savez(out, starts=(ends - lengths).T, lengths=np.array(lengths, np.int64).T)
        index.with_suffix(own).replace(index)  # written last: if it exists, the other files are complete
    arrays = np.load(index)
    starts, lengths_of = arrays["starts"], arrays["lengths"]
    levels = np.memmap(values, dtype=kind, mode="r").reshape(int(lengths_of.sum()), -1)
    return LevelStore(levels, starts, lengths_of, folder.name)


def standard_of(
    store: LevelStore, clips: Iterable[int], features: FeatureConfig
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each input bin over the clean copies of some clips."""
    total = square = np.zeros(features.bins)
    count = 0
    cepstra = dct_matrix(features) if features.mfcc else None
    for clip in clips:
        frames = store.frames(clip).astype(np.float32)
        values = frames @ cepstra if cepstra is not None else frames
        total = total + values.sum(axis=0, dtype=np.float64)
        square = square + np.square(values, dtype=np.float64).sum(axis=0)
        count += len(values)
    mean = total / max(count, 1)
    deviation = np.sqrt(np.maximum(square / max(count, 1) - mean**2, 1e-6))
    return tuple(np.round(mean, 5).tolist()), tuple(np.round(deviation, 5).tolist())
