"""Batches for the relative head: an encoder's output for a clip, minus a baseline of the same speaker.

In a stream, the baseline is a weighted mean of the speaker's earlier utterances in the same room; utterances that are
predicted neutral have the largest weights. In training, the baseline is the mean of some neutral clips of the same
speaker, all from the same augmented copy. Sometimes clips of any label are added with small weights, as in a stream
after wrong predictions.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from streamser.corpora.clips import Clip
from streamser.features import Frames
from streamser.nets.frozenhead import FrozenHead, Standard
from streamser.nets.layers import SerNet, channels_last
from streamser.training.batches import BatchMaker
from streamser.training.featureaugment import FeatureAugment
from streamser.training.frozen import frozen_features
from streamser.training.recipe import AdversaryConfig, BaselineConfig, OutlierConfig, Recipe
from streamser.training.store import LevelStore

_HIDDEN, _DROPOUT = 128, 0.3  # as in the head of `whisper`
_WINDOWS = 64  # windows embedded at a time
_OTHERS_MOST = 0.4  # largest weight of an added clip of any label: about that of an utterance with p(neutral) = 0.5


class RelativeBatches(BatchMaker):
    """Batches of a store's vectors, each minus a baseline of the same speaker."""

    def __init__(self, batches: BatchMaker, config: BaselineConfig, clips: Sequence[Clip], rows: NDArray[np.int64]):
        super().__init__(batches.store, batches.features, batches.augment)
        self.config = config
        starts, lengths = batches.store.starts, batches.store.lengths
        # Vectors (N, D), and the row in them of each copy of each clip. If every clip has one window, as is usual, the
        # store's own values are used without copying them.
        self._values, self._places = batches.store.levels, starts
        if not (lengths == 1).all():
            self._values, self._places = _means(batches.store), np.arange(starts.size).reshape(starts.shape)
        self._neutral: dict[int, NDArray[np.int64]] = {}
        self._all: dict[int, NDArray[np.int64]] = {}
        of_speaker: dict[str, list[int]] = defaultdict(list)
        label = {int(row): clip.label for clip, row in zip(clips, rows, strict=True)}
        for clip, row in zip(clips, rows, strict=True):
            of_speaker[clip.speaker].append(int(row))
        for members in of_speaker.values():
            neutral = np.array([row for row in members if label[row] == "neutral"], np.int64)
            everything = np.array(members, np.int64)
            for row in members:
                self._neutral[row], self._all[row] = neutral[neutral != row], everything[everything != row]
        self.mean = _mean_neutral(self, clips, rows)
        """(D,), mean neutral vector; every corpus has equal weight."""

    def usable(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """True for each clip whose speaker has another neutral clip."""
        return np.array([len(self._neutral[int(row)]) > 0 for row in rows])

    def draw(self, clips: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        """The vector of each clip, or of one of its copies, minus a random baseline, (B, 1, D)."""
        return torch.from_numpy(np.stack([self._relative(int(clip), rng) for clip in clips])[:, None])

    def whole(self, clip: int, copy: int = 0) -> Tensor:
        """The clip, or a copy of it, minus the baseline of all other neutral clips of its speaker, (1, 1, D)."""
        others = self._neutral[clip]
        baseline = self._baseline(others, copy, np.ones(len(others)))
        return torch.from_numpy((self._vectors(clip, copy) - baseline)[None, None])

    def _vectors(self, rows: int | NDArray[np.int64], copy: int = 0) -> Frames:
        """(D,) of one clip, or (N, D) of several."""
        return np.asarray(self._values[self._places[copy, rows]], np.float32)

    def _relative(self, clip: int, rng: np.random.Generator) -> Frames:
        copy = int(rng.integers(0, self.store.copies + 1))
        neutral, others = self._neutral[clip], self._all[clip]
        count = min(len(neutral), int(rng.integers(1, self.config.most + 1)))
        chosen = rng.choice(neutral, count, replace=False)
        weights = np.ones(count)
        if rng.random() < self.config.mistakes:
            wrong = rng.choice(others, max(1, count // 2))
            chosen = np.concatenate([chosen, wrong])
            weights = np.concatenate([weights, np.full(len(wrong), rng.uniform(0, _OTHERS_MOST))])
        return np.asarray(self._vectors(clip, copy) - self._baseline(chosen, copy, weights), np.float32)

    def _baseline(self, rows: NDArray[np.int64], copy: int, weights: NDArray[np.float64]) -> Frames:
        k = self.config.shrinkage
        total = weights.astype(np.float32) @ self._vectors(rows, copy)
        return np.asarray((total + k * self.mean) / (weights.sum() + k), np.float32)


def _means(store: LevelStore) -> Frames:
    copies, clips = store.starts.shape
    return np.stack([store.frames(clip, copy).mean(axis=0) for copy in range(copies) for clip in range(clips)])


def _mean_neutral(batches: RelativeBatches, clips: Sequence[Clip], rows: NDArray[np.int64]) -> Frames:
    of_corpus: dict[str, list[Frames]] = defaultdict(list)
    for clip, row in zip(clips, rows, strict=True):
        if clip.label == "neutral":
            of_corpus[clip.corpus].append(batches._vectors(int(row)))
    return np.asarray(np.mean([np.mean(vectors, axis=0) for vectors in of_corpus.values()], axis=0), np.float32)


def relative_recipe(recipe: Recipe, *, frozen: bool) -> Recipe:
    """The recipe for the relative head: without outliers, and the last epoch is kept.

    Without a frozen encoder, it also has no adversary, because the network itself was trained with it, and of
    `feature_augment` only mixup.
    """
    recipe = replace(recipe, choose_by="last", outliers=OutlierConfig())
    return recipe if frozen else replace(recipe, adversary=AdversaryConfig(), feature_augment=_mixup_only(recipe))


def _mixup_only(recipe: Recipe) -> FeatureAugment:
    return FeatureAugment(mixup=recipe.feature_augment.mixup)


def embedding_head(classes: int, size: int) -> FrozenHead:
    """A new head on top of embeddings of this size, (B, 1, size) to logits."""
    return FrozenHead(
        classes, Standard(size), nn.Linear(size, _HIDDEN), nn.Linear(_HIDDEN, classes), nn.Dropout(_DROPOUT)
    )


def embedded(
    net: SerNet, batches: BatchMaker, rows: NDArray[np.int64], device: torch.device, precision: str = "fp32"
) -> BatchMaker:
    """Compute the embeddings of these clips and their copies, each the mean over the windows the recognizer uses.

    The returned maker of batches has zeros for all other clips of the store.
    """
    copies, clips = batches.store.starts.shape
    vectors = np.zeros((copies, clips, net.embedding_dim), np.float32)
    counts = np.zeros((copies, clips, 1), np.float32)
    waiting: list[Tensor] = []
    owners: list[tuple[int, int]] = []

    def flush() -> None:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            found = net.served(torch.stack(waiting).to(device))[1].float().cpu().numpy()
        for owner, vector in zip(owners, found, strict=True):
            vectors[owner] += vector
            counts[owner] += 1
        waiting.clear()
        owners.clear()

    net = channels_last(copy.deepcopy(net).to(device)).eval()
    pairs = [(copy, int(row)) for copy in range(copies) for row in rows]
    for pair in sorted(pairs, key=lambda one: int(batches.store.lengths[one])):  # windows of equal length in sequence
        for window in batches.whole(pair[1], pair[0]):
            if waiting and (len(waiting) == _WINDOWS or len(window) != len(waiting[0])):
                flush()
            waiting.append(window)
            owners.append(pair)
    if waiting:
        flush()
    size = net.embedding_dim
    starts = np.arange(copies * clips, dtype=np.int64).reshape(copies, clips)
    means = np.asarray(vectors / np.maximum(counts, 1), np.float32).reshape(-1, size)
    store = LevelStore(means, starts, np.ones_like(starts))
    return BatchMaker(store, frozen_features(size, batches.features.sample_rate), FeatureAugment())
