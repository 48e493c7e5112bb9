"""Read, filter and label a recipe's corpora; make the recipe of a published variant."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamser.corpora.benchmarks import ALL_LABELS, Benchmark
from streamser.corpora.clips import PLAIN, UNLABELLED, Clip
from streamser.corpora.protocols import Split, check_split, make_splits
from streamser.corpora.reader import AudioCheck, CorpusReport, map_labels, read_corpora
from streamser.errors import ConfigError
from streamser.features import FeatureConfig
from streamser.nets.variant import Variant
from streamser.training.recipe import Recipe
from streamser.training.schedules import Schedule

ROW_QUIET_DBFS = -80.0
"""For published variants, only silent clips are left out, because the papers' counts include quiet turns."""


def recipe_of(variant: Variant, benchmark: Benchmark, corpora: Sequence[str] = ()) -> Recipe:
    """Make a Recipe from a published variant's own settings and a benchmark.

    `corpora` are the folders to read; by default, the benchmark's.
    """
    own = variant.recipe
    schedule = Schedule(
        kind=own.schedule, start_epoch=own.start_epoch, every_epochs=own.every_epochs, factor=own.factor
    )
    return Recipe(
        name=variant.name,
        variant=variant.name,
        corpora=tuple(corpora) or (benchmark.folder,),
        labels=benchmark.labels,
        label_map=dict(benchmark.label_map),
        styles=benchmark.styles,
        sessions=benchmark.sessions,
        quiet_dbfs=ROW_QUIET_DBFS,
        protocol=own.protocol,
        epochs=own.epochs,
        batch=own.batch,
        optimizer=own.optimizer,
        lr=own.lr,
        weight_decay=own.weight_decay,
        schedule=schedule,
        patience=own.patience,
        choose_by=own.choose_by,
        norm_clips=own.norm_clips,
        mask_absent_labels=False,
        description=f"{variant.paper}, {variant.table}",
    )


@dataclass(frozen=True, slots=True)
class Material:
    """The clips of a run, and the problems found when they were read."""

    clips: tuple[Clip, ...]
    reports: tuple[CorpusReport, ...]
    dropped: dict[str, int]
    """Number of clips of each label that the recipe does not train."""
    labels: tuple[str, ...] = ()
    """All labels of the clips if the recipe has `labels: [all]`, else empty."""
    root: Path | None = None
    """Folder in which corpora are looked up by name, including those of noise and rooms."""
    unlabelled: tuple[Clip, ...] = ()
    """Clips without a label that are trained on; teachers predict them."""

    @property
    def stored(self) -> tuple[Clip, ...]:
        """Labelled clips, then unlabelled ones: the order of a run's store."""
        return (*self.clips, *self.unlabelled)


def gather(recipe: Recipe, root: Path, cache: Path) -> Material:
    """Read the clips of the recipe's corpora and map their labels to the recipe's.

    Raises CorpusError if a corpus has no clips, ConfigError if a label has none.
    """
    if not recipe.corpora:
        raise ConfigError(f"{recipe.name}: corpora is empty; name at least one corpus folder")
    clips, reports = read_corpora(
        [root / name for name in recipe.corpora], check=AudioCheck(cache / "heard.json", recipe.quiet_dbfs)
    )
    clips = _only(recipe, clips, "style", "styles", recipe.styles)
    clips = _only(recipe, clips, "session", "sessions", recipe.sessions)
    wanted = recipe.labels
    if wanted == ALL_LABELS:
        wanted = tuple(sorted({dict(recipe.label_map).get(clip.label, clip.label) for clip in clips}))
    mapping = {label: label for label in wanted} | dict(recipe.label_map)
    kept, dropped = map_labels(clips, mapping)
    missing = set(wanted) - {clip.label for clip in kept}
    if missing:
        counts = sum((Counter(report.counts) for report in reports), Counter[str]())
        unusable = ", ".join(f"{kind} {count}" for kind, count in counts.most_common())
        raise ConfigError(
            f"{recipe.name}: no clip is labelled {', '.join(sorted(missing))}; see labels and label_map"
            + (f" (files left out: {unusable})" if unusable else "")
        )
    plain, plain_reports = _plain_speech(recipe, root, cache)
    labels = wanted if recipe.labels == ALL_LABELS else ()
    unlabelled, more_reports = _unlabelled(recipe, (*kept, *plain), root, cache)
    return Material(
        (*kept, *plain), (*reports, *plain_reports, *more_reports), dropped, labels, root, tuple(unlabelled)
    )


def _unlabelled(
    recipe: Recipe, labelled: Sequence[Clip], root: Path, cache: Path
) -> tuple[list[Clip], list[CorpusReport]]:
    """The clips to train on a teacher's predictions only: those of `distil.unlabelled` that are not in `labelled`."""
    clips, reports = read_corpora(
        [root / name for name in recipe.distil.unlabelled],
        labelled=False, check=AudioCheck(cache / "heard.json", recipe.quiet_dbfs),
    )  # fmt: skip
    ids, digests = {clip.id for clip in labelled}, {clip.digest for clip in labelled}
    return [
        replace(clip, label="", style=UNLABELLED, votes=(), difficulty=None)
        for clip in clips
        if clip.id not in ids and clip.digest not in digests
    ], [report for report in reports if report.corpus not in {clip.corpus for clip in labelled}]


def _plain_speech(recipe: Recipe, root: Path, cache: Path) -> tuple[list[Clip], list[CorpusReport]]:
    """The recipe's plain speech, labelled neutral."""
    folders = [root / name for name in recipe.plain.corpora]
    if folders and "neutral" not in recipe.labels:
        raise ConfigError(
            f"{recipe.name}: plain speech is labelled neutral, which is not among labels; add it or leave plain out"
        )
    clips, reports = read_corpora(folders, labelled=False, check=AudioCheck(cache / "heard.json"))
    return [replace(clip, label="neutral", style=PLAIN) for clip in clips], reports


def _only(recipe: Recipe, clips: list[Clip], of: str, key: str, wanted: Sequence[str]) -> list[Clip]:
    """The clips of the wanted styles or sessions; ConfigError if there are none."""
    if not wanted:
        return clips
    kept = [clip for clip in clips if getattr(clip, of) in wanted]
    if not kept:
        there = sorted({getattr(clip, of) or "none" for clip in clips})
        raise ConfigError(f"{recipe.name}: no clip is of {key} {', '.join(wanted)}; there are {', '.join(there)}")
    return kept


def with_labels(recipe: Recipe, material: Material) -> Recipe:
    """The recipe with `labels: [all]` replaced by the labels of its clips."""
    return replace(recipe, labels=material.labels) if material.labels else recipe


def splits_of(recipe: Recipe, material: Material, seed: int) -> list[Split]:
    """The splits of the recipe's protocol for one seed, each checked for leaks."""
    splits = make_splits(
        recipe.protocol,
        material.clips,
        seed=seed,
        folds=recipe.folds,
        validation_speakers=recipe.validation_speakers,
        test_corpora=recipe.test_corpora,
    )
    splits = [_with_unlabelled(_without(split, recipe.judge_only), recipe, material.unlabelled) for split in splits]
    return [replace(split, choose_on="nothing") for split in splits] if recipe.choose_by == "last" else splits


def _without(split: Split, corpora: Sequence[str]) -> Split:
    """The split without these corpora in its training and validation parts; its test part stays."""
    train, validation = (
        tuple(clip for clip in clips if clip.corpus not in corpora) for clips in (split.train, split.validation)
    )
    return replace(split, train=train, validation=validation)


def _with_unlabelled(split: Split, recipe: Recipe, clips: Sequence[Clip]) -> Split:
    """Add the unlabelled clips to the split's training part, except those of speakers in its other parts.

    Clips of a corpus that is left out entirely, or is in `judge_only`, are not added either.
    """
    if not clips:
        return split
    out = {clip.corpus for clip in split.test} - {clip.corpus for clip in split.train} | {*recipe.judge_only}
    held = {clip.speaker for clip in (*split.validation, *split.test)}
    more = tuple(clip for clip in clips if clip.corpus not in out and clip.speaker not in held)
    return check_split(replace(split, train=(*split.train, *more)))


def write_recipe(recipe: Recipe, folder: Path) -> None:
    """Write `recipe.json` into a run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    values = json.loads(json.dumps(asdict(recipe), default=dict))
    (folder / "recipe.json").write_text(json.dumps(values, indent=1), encoding="utf-8")


def write_left_out(material: Material, folder: Path) -> int:
    """List every unusable clip in `left-out.csv`; returns their number."""
    rows = [(one.kind, one.where, one.detail) for report in material.reports for one in report.problems]
    with (folder / "left-out.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("why", "clip", "detail"), *rows])
    return len(rows)


def features_of(variant: Variant, recipe: Recipe) -> FeatureConfig:
    """The variant's front end with the recipe's changes; ConfigError if it is impossible.

    `standard` scaling has placeholders for the constants, which each split replaces by its own.
    """
    values = {**variant.features.to_dict(), **recipe.features}
    if values["scale"] == "standard" and not values["mean"]:
        bins = values["mfcc"] or values["n_mels"]
        values |= {"mean": [0.0] * bins, "std": [1.0] * bins}
    try:
        return FeatureConfig.from_dict(values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{recipe.name}: {error}") from error


def label_shares(clips: Sequence[Clip], labels: Sequence[str], label_map: Mapping[str, str]) -> NDArray[np.float32]:
    """Each label's share of a clip's annotations, (clips, labels).

    Annotations of labels that are not trained do not count. A clip without annotations gets 1 for its own label.
    """
    shares = np.zeros((len(clips), len(labels)), np.float32)
    for row, clip in zip(shares, clips, strict=True):
        for vote in clip.votes:
            for label in filter(None, vote.split("+")):
                label = label_map.get(label, label)
                if label in labels:
                    row[labels.index(label)] += 1
        if not row.any() and clip.label:
            row[labels.index(clip.label)] = 1
    return np.asarray(shares / shares.sum(axis=1, keepdims=True).clip(min=1), np.float32)
