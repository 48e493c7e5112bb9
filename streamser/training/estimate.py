"""Estimate how long folds take to train, from a few batches timed on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from streamser.nets import zoo
from streamser.nets.export import probe_frames
from streamser.training.material import Material, features_of, splits_of, with_labels
from streamser.training.recipe import Recipe

_CLIPS = {"cpu": 4, "cuda": 32}
"""Batch sizes to time: on a CPU the time grows with the batch, on a GPU it hardly does."""
_FOLD_S = 15.0
"""Time for a fold's export, checks, scoring and curves."""
_RAGGED = 0.8
"""Approximate length of a padded batch, as a share of the full window, if short clips stay short."""
_timed: dict[tuple[object, ...], tuple[float, float]] = {}


@dataclass(frozen=True, slots=True)
class Estimate:
    """A duration in seconds; `str` rounds it for people.

    >>> str(Estimate(40.0)), str(Estimate(600.0)), str(Estimate(9000.0)), str(Estimate(400_000.0))
    ('1 minute', '10 minutes', '2.5 hours', '4.6 days')
    """

    seconds: float

    def __str__(self) -> str:
        minutes = max(1, round(self.seconds / 60))
        if minutes < 90:
            return f"{minutes} minute{'s' if minutes > 1 else ''}"
        hours = self.seconds / 3600
        return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"


def estimate(recipe: Recipe, material: Material, folds: int, device: str) -> Estimate:
    """Estimate the time to train this many folds of a recipe, one after the other; the estimate tends to be long."""
    if not folds:
        return Estimate(0.0)
    settled = with_labels(recipe, material)
    split = splits_of(settled, material, settled.seeds[0])[0]
    learn_s, score_s = _clip_seconds(settled, device)
    if zoo.get(settled.variant).features.short == "keep":
        learn_s, score_s = learn_s * _RAGGED, score_s * _RAGGED
    scored = len(split.parts.get(split.choose_on, split.test)) + min(settled.norm_clips, len(split.train))
    epoch_s = learn_s * len(split.train) + score_s * scored / settled.validate_every
    return Estimate(folds * (settled.epochs * epoch_s + _FOLD_S))


def _clip_seconds(recipe: Recipe, device: str) -> tuple[float, float]:
    """Seconds to train on one full window, and to classify one; each kind of network is timed once."""
    variant = zoo.get(recipe.variant)
    build = variant.build
    net_key = (build.func, tuple(build.keywords.items())) if isinstance(build, partial) else (build,)
    key = (*net_key, variant.features, device, len(recipe.labels))
    if key not in _timed:
        _timed[key] = _time(recipe, device)
    return _timed[key]


def _time(recipe: Recipe, device: str) -> tuple[float, float]:
    variant = zoo.get(recipe.variant)
    features = features_of(variant, recipe)
    clips = _CLIPS["cuda" if device.startswith("cuda") else "cpu"]
    net = variant.build(len(recipe.labels)).to(device)
    loss = variant.loss.build(len(recipe.labels), net.embedding_dim, [1] * len(recipe.labels)).to(device)
    frames = torch.from_numpy(probe_frames(features, clips, features.window_frames)).to(device)
    targets = torch.arange(clips, device=device) % len(recipe.labels)
    shares = torch.nn.functional.one_hot(targets, len(recipe.labels)).float()

    def learn() -> None:
        value = loss(net(frames), targets, frames=frames, difficulty=torch.zeros_like(targets), shares=shares)
        value.backward()

    def score() -> None:
        with torch.no_grad():
            net(frames)

    return _seconds(learn, device) / clips, _seconds(score, device) / clips


def _seconds(work: object, device: str) -> float:
    """Seconds of the faster of two runs, after a warm-up run."""
    assert callable(work)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return float(np.min(times[1:]))


__all__ = ["Estimate", "estimate"]
