"""The frozen encoder's output for every window of every clip, computed once and kept on disk.

The output does not change while the head is trained, so an epoch takes about a second instead of minutes. It is kept
in a store like that of the log-mel, where each window is one frame, and batches are drawn from it in the same way.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch
from torch import Tensor

from streamser.errors import ConfigError
from streamser.features import FeatureConfig, Frames
from streamser.nets.layers import SerNet
from streamser.training.batches import BatchMaker
from streamser.training.featureaugment import FeatureAugment
from streamser.training.options import RunOptions
from streamser.training.recipe import Recipe
from streamser.training.store import LevelStore, keep
from streamser.training.workers import begin_worker

_CLIPS = 32  # clips in one job
_KEPT = ("mixup", "crop_probability", "crop_min_s")  # the feature augmentations that are possible with a frozen encoder

_net: SerNet  # the network of a worker process


def frozen_features(size: int, sample_rate: int) -> FeatureConfig:
    """A front end whose windows are single frames of `size` values: the encoder's output for one window of audio."""
    return FeatureConfig(
        kind="samples", sample_rate=sample_rate, window_samples=size, hop_samples=size, fft_size=size,
        length_s=size / sample_rate, stride_s=size / sample_rate, short="keep",
    )  # fmt: skip


def frozen_augment(augment: FeatureAugment) -> FeatureAugment:
    """The augmentations that remain for each batch; crops were drawn when the copies were encoded."""
    lost = augment.asked_beside(_KEPT)
    if lost:
        raise ConfigError(
            f"feature_augment: {', '.join(lost)} would be drawn for every batch, but a frozen encoder runs once for "
            "each clip; crop_probability and mixup work, and `augment` with `copies`"
        )
    return FeatureAugment(mixup=augment.mixup)


def build_frozen_store(
    net: SerNet,
    store: LevelStore,
    features: FeatureConfig,
    recipe: Recipe,
    options: RunOptions,
) -> LevelStore:
    """Encode every window of each clip and of its copies, as the recognizer cuts them; the output is kept in a store.

    With `crop_probability`, this share of the copies is cut to a shorter piece, drawn once, before encoding.
    """
    augment, precision = recipe.feature_augment, recipe.precision
    copies, clips = store.starts.shape
    batches = BatchMaker(store, features, FeatureAugment())
    pairs = [(clip, copy) for clip in range(clips) for copy in range(copies)]
    size = _CLIPS * copies
    jobs = (
        [_windows(batches, clip, copy, augment) for clip, copy in pairs[i : i + size]]
        for i in range(0, len(pairs), size)
    )
    versions = (
        encoded[i : i + copies]
        for encoded in _encode_all(net, jobs, precision, options.device, options.workers)
        for i in range(0, len(encoded), copies)
    )
    folder = options.cache / _key(net, store, features, augment, precision)
    return keep(folder, versions, clips, np.float32, options.stage("encoder"))


def _key(net: SerNet, store: LevelStore, features: FeatureConfig, augment: FeatureAugment, precision: str) -> str:
    trained = set(net.trained().state_dict())
    digest = hashlib.sha256(f"v2 {store.key} {precision} {augment.crop_probability} {augment.crop_min_s}".encode())
    digest.update(json.dumps(features.to_dict(), sort_keys=True).encode())
    for name, value in net.state_dict().items():
        if name not in trained:
            digest.update(value.cpu().numpy().tobytes())
    return f"heard-{digest.hexdigest()[:16]}"


def _windows(batches: BatchMaker, clip: int, copy: int, augment: FeatureAugment) -> Tensor:
    """The windows of one copy of a clip; for augmented copies, with `crop_probability`, a random piece of a window."""
    windows = batches.whole(clip, copy)
    rng = np.random.default_rng((clip, copy))
    if copy and augment.crop_probability and rng.random() < augment.crop_probability:
        frames = windows[int(rng.integers(len(windows)))]
        shortest = round(augment.crop_min_s / batches.features.hop_s)
        if len(frames) > shortest:
            size = int(rng.integers(shortest, len(frames)))
            first = int(rng.integers(0, len(frames) - size + 1))
            return frames[None, first : first + size]
    return windows


def _encode_all(
    net: SerNet, jobs: Iterator[list[Tensor]], precision: str, device: str, workers: int
) -> Iterator[list[Frames]]:
    if device != "cpu" or workers < 2:
        place = net.to(device)
        for job in jobs:
            yield _encode(place, job, precision)
        return
    # spawn: the same on every system, and no fork of a process that already runs torch's threads
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (net,)) as pool:
        waiting: deque[Future[list[Frames]]] = deque()
        for job in jobs:  # submit only a few jobs ahead: submitting all would load all audio into memory
            waiting.append(pool.submit(_encode_in_worker, [windows.numpy() for windows in job], precision))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _begin(net: SerNet) -> None:
    global _net
    begin_worker()
    _net = net


def _encode_in_worker(job: list[Frames], precision: str) -> list[Frames]:
    return _encode(_net, [torch.from_numpy(windows) for windows in job], precision)


def _encode(net: SerNet, job: Sequence[Tensor], precision: str) -> list[Frames]:
    device = next(net.parameters()).device
    net = net.eval()
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        return [net.encode(windows.to(device)).float().cpu().numpy() for windows in job]


__all__ = ["build_frozen_store", "frozen_augment", "frozen_features"]
