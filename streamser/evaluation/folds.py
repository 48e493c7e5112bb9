"""A fold's predictions on its test clips: the trainer writes them, and evaluation pools and measures them later.

A fold is two files: `<any name>.json` and, beside it, `<the same name>.npz` with the arrays. Once a fold is trained,
the trainer calls `save_fold(run / folder_name(fold, seed) / "fold.json", FoldResult(...))`, with the logits as the
recognizer combines them (mean over the windows of a clip, not calibrated).

    folds = load_folds(run)          # every fold below the folder, sorted by seed and name
    for seed, group in by_seed(folds).items():
        everything = pool(group)     # one FoldResult over all test clips of that seed
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamser.errors import ProtocolError

KIND = "streamser.fold"
FORMAT = 1


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FoldResult:
    """One fold of one seed: its test clips, their labels and the network's predictions."""

    name: str
    """Name of the recipe."""
    protocol: str
    fold: str
    """The corpus or speaker that was left out of training (`without-...`), or the number of the fold."""
    seed: int
    labels: tuple[str, ...]
    """In the order of the logits."""
    targets: NDArray[np.int64]
    logits: NDArray[np.float32]
    """(clips, classes), before calibration."""
    speakers: tuple[str, ...]
    """`corpus/speaker` of each clip."""
    clips: tuple[str, ...]
    """Id of each clip: `corpus/name`."""
    train_speakers: tuple[str, ...] = ()
    """All speakers used for training or for choosing the epoch, validation speakers included."""
    test_corpora: tuple[str, ...] = ()
    temperature: float = 1.0
    """Temperature fitted on the fold's own validation speakers."""
    best_epoch: int = 0
    epochs: int = 0
    """Number of epochs that the fold was trained for, even if the score ended it earlier; 0 if it was not recorded."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Further figures of the fold's network: `training_wa`, `reconstruction_mse`."""
    embeddings: NDArray[np.float32] | None = None
    """(clips, D), embeddings from which baselines are computed; only for networks with a relative head."""

    def __post_init__(self) -> None:
        clips, classes = len(self.clips), len(self.labels)
        if self.logits.shape != (clips, classes):
            raise ValueError(f"fold {self.fold}: logits must have shape ({clips}, {classes}), not {self.logits.shape}")
        if self.targets.shape != (clips,) or len(self.speakers) != clips:
            raise ValueError(f"fold {self.fold}: there must be as many targets and speakers as clips ({clips})")
        if clips and not (self.targets.min() >= 0 and self.targets.max() < classes):
            raise ValueError(f"fold {self.fold}: targets must be in 0..{classes - 1}")

    @property
    def corpora(self) -> tuple[str, ...]:
        """The corpus of each clip."""
        return tuple(speaker.partition("/")[0] for speaker in self.speakers)

    @property
    def train_corpora(self) -> set[str]:
        """The corpora that have a speaker in the training."""
        return {speaker.partition("/")[0] for speaker in self.train_speakers}

    @property
    def left_out(self) -> str:
        """The corpus that the fold leaves out, from its name; the whole name if it leaves out something else."""
        return self.fold.removeprefix("without-")

    @property
    def shared_speakers(self) -> tuple[str, ...]:
        """Test speakers that were also in the training; empty in a speaker-independent fold."""
        return tuple(sorted(set(self.speakers) & set(self.train_speakers)))

    def where(self, keep: NDArray[np.bool_]) -> FoldResult:
        """The same fold with only some of its clips."""
        at = np.flatnonzero(keep)
        return FoldResult(
            **{
                **_words(self),
                "targets": self.targets[at],
                "logits": self.logits[at],
                "embeddings": None if self.embeddings is None else self.embeddings[at],
                "speakers": tuple(self.speakers[i] for i in at),
                "clips": tuple(self.clips[i] for i in at),
            }
        )


def _words(fold: FoldResult) -> dict[str, Any]:
    """The values of a fold that its JSON file holds."""
    names = (
        "name",
        "protocol",
        "fold",
        "seed",
        "labels",
        "train_speakers",
        "test_corpora",
        "temperature",
        "best_epoch",
        "epochs",
        "figures",
    )
    return {name: getattr(fold, name) for name in names} | {"speakers": fold.speakers, "clips": fold.clips}


def save_fold(path: str | PathLike[str], fold: FoldResult) -> None:
    """Write a fold as `path` (.json) and its numbers beside it (.npz); the JSON is written last."""
    place = Path(path)
    if place.suffix != ".json":
        raise ValueError(f"a fold must be saved as NAME.json, not {place.name}")
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".npz").open("wb") as file:
        embeddings = np.zeros((len(fold.clips), 0)) if fold.embeddings is None else fold.embeddings
        np.savez_compressed(
            file,
            targets=fold.targets,
            logits=fold.logits.astype(np.float32),
            embeddings=embeddings.astype(np.float32),
        )
    part = place.with_suffix(".part")
    part.write_text(json.dumps({"kind": KIND, "format": FORMAT, **_words(fold)}), encoding="utf-8")
    part.replace(place)


def folder_name(fold: str, seed: int) -> str:
    """Name of a fold's folder in its run."""
    return f"{fold.replace('/', '-')}-s{seed}"


def fold_folders(run: Path, fold: str) -> dict[int, Path]:
    """The folders of a fold in its run, by seed."""
    seeds = {path: path.name.rpartition("-s")[2] for path in run.iterdir()}
    return {
        int(seed): path
        for path, seed in seeds.items()
        if seed.isdecimal() and path.name == folder_name(fold, int(seed))
    }


def load_folds(folder: str | PathLike[str]) -> list[FoldResult]:
    """Every fold below a folder, sorted by seed and name; other JSON files are ignored."""
    root = Path(folder)
    if not root.is_dir():
        raise ProtocolError(f"{root}: no such folder; give a run folder of `streamser train`")
    folds = [fold for path in sorted(root.rglob("*.json")) if (fold := _load(path)) is not None]
    if not folds:
        raise ProtocolError(f"{root}: has no fold results; `streamser train` writes one for each fold it finishes")
    return sorted(folds, key=lambda fold: (fold.seed, fold.fold))


def _load(path: Path) -> FoldResult | None:
    try:
        words = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    if not isinstance(words, dict) or words.pop("kind", None) != KIND:
        return None
    if words.pop("format", None) != FORMAT:
        raise ProtocolError(f"{path}: written by another version (its format is not {FORMAT}); train the fold again")
    try:
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
            numbers = {"targets": arrays["targets"], "logits": arrays["logits"]}
            if "embeddings" in arrays and arrays["embeddings"].shape[1]:
                numbers["embeddings"] = arrays["embeddings"]
        lists = {name: tuple(value) for name, value in words.items() if isinstance(value, list)}
        return FoldResult(**{**words, **lists, **numbers})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProtocolError(f"{path}: not a whole fold result ({error}); train the fold again") from error


def by_seed(folds: Iterable[FoldResult]) -> dict[int, list[FoldResult]]:
    """The folds of each seed."""
    groups: dict[int, list[FoldResult]] = defaultdict(list)
    for fold in folds:
        groups[fold.seed].append(fold)
    return dict(sorted(groups.items()))


def pool(folds: Sequence[FoldResult]) -> FoldResult:
    """All test clips of several folds as one; the folds must be of one run and one seed."""
    if not folds:
        raise ValueError("no folds to pool")
    first = folds[0]
    for fold in folds[1:]:
        if (fold.labels, fold.seed, fold.protocol) != (first.labels, first.seed, first.protocol):
            raise ProtocolError(
                f"folds {first.fold} and {fold.fold} differ in labels, seed or protocol; pool each seed of one run"
            )
    clips = tuple(clip for fold in folds for clip in fold.clips)
    if len(set(clips)) != len(clips):
        raise ProtocolError("a clip is tested in more than one fold; these are not the folds of one run")
    return FoldResult(
        name=first.name,
        protocol=first.protocol,
        fold="+".join(fold.fold for fold in folds),
        seed=first.seed,
        labels=first.labels,
        targets=np.concatenate([fold.targets for fold in folds]),
        logits=np.concatenate([fold.logits for fold in folds]),
        speakers=tuple(speaker for fold in folds for speaker in fold.speakers),
        clips=clips,
        # A test speaker of one fold is a training speaker of the others, so the pool has no training speakers.
        train_speakers=(),
        test_corpora=tuple(sorted({corpus for fold in folds for corpus in fold.test_corpora})),
    )


__all__ = ["FoldResult", "by_seed", "fold_folders", "folder_name", "load_folds", "pool", "save_fold"]
