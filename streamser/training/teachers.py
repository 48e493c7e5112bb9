"""Choose each fold's teachers, refuse teachers that were trained on its test part, and keep their predictions.

A teacher predicts each clip once, from the clean audio. The predictions are kept in the cache folder. Teachers with the
same frozen encoder, such as the folds of a run, share its output; only their heads are computed separately.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from streamser.audio import read_audio
from streamser.bundle import Bundle, load_bundle
from streamser.corpora.clips import Clip
from streamser.corpora.protocols import Split
from streamser.errors import ConfigError, ProtocolError
from streamser.evaluation.folds import fold_folders
from streamser.features import Frames
from streamser.manifest import MANIFEST
from streamser.nets import zoo
from streamser.nets.layers import SerNet
from streamser.recognizer import Recognizer, load
from streamser.training.options import RunOptions
from streamser.training.recipe import DistilConfig
from streamser.training.store import keep
from streamser.training.workers import begin_worker

__all__ = ["Predictions", "Teachers", "check_teacher", "speakers_of", "tested_among"]

_CLIPS = 16  # clips in one job


@dataclass(frozen=True, slots=True)
class Predictions:
    """The teachers' predictions for the clips of a store."""

    probabilities: NDArray[np.float32]
    """(clips, classes), softened by the recipe's temperature; the mean over the teachers."""
    embeddings: NDArray[np.float32]
    """(clips, D), the embeddings of all teachers side by side."""

    def only(self, rows: NDArray[np.int64]) -> Predictions:
        """The predictions for these clips; NaN for all others, so that using them by mistake is noticed."""

        def kept(values: NDArray[np.float32]) -> NDArray[np.float32]:
            masked = np.full_like(values, np.nan)
            masked[rows] = values[rows]
            return masked

        return Predictions(kept(self.probabilities), kept(self.embeddings))


def speakers_of(bundle: Bundle) -> set[str]:
    """All speakers in the checkpoint's training and validation parts, and in those of its own teachers."""
    names = ("train_speakers", "validation_speakers", "teacher_speakers")
    return {str(speaker) for name in names for speaker in bundle.provenance.get(name) or ()}


def tested_among(split: Split, speakers: set[str], corpora: Iterable[str] = ()) -> list[str]:
    """What a split tests on, of these speakers and whole corpora: the corpora that it leaves out, else the speakers."""
    left_out = {clip.corpus for clip in split.test} - {clip.corpus for clip in split.train}
    known = {speaker.partition("/")[0] for speaker in speakers}.union(corpora)
    return sorted(left_out & known or {clip.speaker for clip in split.test} & speakers)


def check_teacher(bundle: Bundle, split: Split) -> Bundle:
    """Return the checkpoint; ProtocolError if it was trained on speakers of the split's test part. If a corpus is left
    out entirely, the teacher must have left it out entirely too.
    """
    known = speakers_of(bundle)
    where = f"{split.name}: the teacher {bundle.path}"
    if not known:
        raise ProtocolError(f"{where} does not record the speakers it was trained on; use a teacher that does")
    shared = tested_among(split, known, bundle.pretrained_on)
    if shared:
        more = f" and {len(shared) - 3} more" if len(shared) > 3 else ""
        raise ProtocolError(
            f"{where} was trained on {', '.join(shared[:3])}{more}, which this fold tests on; under distil.teachers, "
            "name the folder of a run of the teacher's recipe with the same protocol"
        )
    return bundle


@dataclass(frozen=True, slots=True)
class Teachers:
    """The teachers that a recipe names, and their predictions for the clips of a run's store."""

    config: DistilConfig
    labels: tuple[str, ...]
    clips: tuple[Clip, ...]
    """In the order of the store."""
    options: RunOptions
    _kept: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def of(self, split: Split, seed: int) -> list[Bundle]:
        """The checkpoints that teach a split, each checked for leaks."""
        return [check_teacher(self._checkpoint(name, split, seed), split) for name in self.config.teachers]

    def predictions(self, split: Split, seed: int) -> Predictions:
        """The predictions of a split's teachers for all clips of the store."""
        probabilities, embeddings = [], []
        for bundle in self.of(split, seed):
            logits, embedding = self._outputs(bundle)
            missing = [label for label in self.labels if label not in bundle.labels]
            if missing:
                raise ConfigError(f"distil.teachers: {bundle.path} has no label {', '.join(missing)}")
            scaled = logits[:, [bundle.labels.index(label) for label in self.labels]] / self.config.temperature
            weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
            probabilities.append(weights / weights.sum(axis=1, keepdims=True))
            embeddings.append(embedding)
        return Predictions(np.mean(probabilities, axis=0, dtype=np.float32), np.concatenate(embeddings, axis=1))

    def _checkpoint(self, name: str, split: Split, seed: int) -> Bundle:
        """Load a checkpoint by name or folder; from a run's folder, load the split's fold, with the same seed if there
        is one."""
        run = Path(name)
        if not run.is_dir() or (run / MANIFEST).exists():
            return load_bundle(name)
        places = {seed: folder / "bundle" for seed, folder in fold_folders(run, split.name).items()}
        found = {seed: bundle for seed, bundle in places.items() if (bundle / MANIFEST).exists()}
        if not found:
            raise ConfigError(
                f"distil.teachers: {run} has no checkpoint of the fold {split.name}; train that fold there, "
                "or name a checkpoint"
            )
        return load_bundle(found.get(seed, found[min(found)]))

    def _outputs(self, bundle: Bundle) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits (clips, classes) and embeddings (clips, D) of one teacher, from the cache if they are there."""
        net = _net_of(bundle)
        key = _key(bundle, net, self.clips)
        if key not in self._kept:
            self._kept.clear()  # the next fold's teacher has the same encoder, or is entirely different
            jobs = _predictions(bundle, [clip.path for clip in self.clips], self.options.workers)
            store = keep(
                self.options.cache / key, ([row[None]] for row in jobs), len(self.clips), np.float32,
                self.options.stage("teacher"),
            )  # fmt: skip
            self._kept[key] = np.asarray(store.levels)
        logits, embeddings = np.split(self._kept[key], [len(bundle.labels)], axis=1)
        if net.needs_start:
            with torch.inference_mode():
                logits = net.trained().eval()(torch.from_numpy(embeddings.copy())[:, None]).logits.numpy()
        return logits, embeddings


def _net_of(bundle: Bundle) -> SerNet:
    net = zoo.get(bundle.variant).build(len(bundle.labels))
    net.load_state_dict({name: torch.from_numpy(value).float() for name, value in bundle.weights().items()})
    return net


def _key(bundle: Bundle, net: SerNet, clips: Sequence[Clip]) -> str:
    """Cache key of a teacher's predictions: without the head if the encoder is frozen."""
    digest = hashlib.sha256(f"v1 {bundle.variant} {len(bundle.labels)}".encode())
    digest.update(json.dumps(bundle.features.to_dict(), sort_keys=True).encode())
    head = set(net.trained().state_dict()) if net.needs_start else set()
    for name, value in sorted(net.state_dict().items()):
        if name not in head:
            digest.update(value.numpy().tobytes())
    for clip in clips:
        digest.update(f"{clip.path}:{clip.path.stat().st_size}\n".encode())
    return f"teacher-{digest.hexdigest()[:16]}"


def _predictions(bundle: Bundle, paths: Sequence[Path], workers: int) -> Iterator[Frames]:
    """Logits and embedding of each file in one vector, computed with `Recognizer`, as users compute them."""
    jobs = [paths[i : i + _CLIPS] for i in range(0, len(paths), _CLIPS)]
    if workers < 2:
        recognizer = load(bundle.path, compute="cpu")
        for job in jobs:
            yield from _predict(recognizer, job)
        return
    # spawn: the same on every system, and no fork of a process that already runs torch's threads
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (bundle.path,)) as pool:
        waiting: deque[Future[Frames]] = deque()
        for job in jobs:
            waiting.append(pool.submit(_predict_in_worker, job))
            if len(waiting) > 2 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


_recognizer: Recognizer  # the recognizer of a worker process


def _begin(path: Path) -> None:
    global _recognizer
    begin_worker()
    _recognizer = load(path, compute="cpu")


def _predict_in_worker(paths: Sequence[Path]) -> Frames:
    return _predict(_recognizer, paths)


def _predict(recognizer: Recognizer, paths: Sequence[Path]) -> Frames:
    logits, embeddings = recognizer.logits_and_embeddings([read_audio(path) for path in paths])
    return np.concatenate([logits, embeddings], axis=1).astype(np.float32)
