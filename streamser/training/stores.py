"""Read the audio of a run once: log-mel of all clips and of the outliers, or a frozen encoder's output for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from streamser.corpora.clips import Clip
from streamser.corpora.layouts import audio_files
from streamser.corpora.protocols import Split
from streamser.corpora.reader import find_corpus
from streamser.errors import ConfigError
from streamser.features import FeatureConfig
from streamser.training.batches import BatchMaker
from streamser.training.frozen import build_frozen_store, frozen_augment, frozen_features
from streamser.training.material import Material
from streamser.training.options import RunOptions
from streamser.training.setup import RunSetup
from streamser.training.store import Copies, JoinedStore, LevelStore, build_store, level_config, standard_of
from streamser.training.tones import tone_files

__all__ = ["Stores", "read_stores"]


@dataclass(frozen=True, slots=True)
class Stores:
    """The data from which the batches of all splits are drawn."""

    clips: LevelStore
    outliers: LevelStore | None
    """Recordings that are not speech, if the recipe names some."""
    frozen: FeatureConfig | None
    """The front end of the frozen encoder's output; None if the whole network learns."""
    row: Mapping[str, int]
    """Index of each clip in the store, by its id."""

    def scaled(self, features: FeatureConfig, split: Split) -> FeatureConfig:
        """The front end; if it has `standard` scaling, with the constants of this split's training clips."""
        if features.scale != "standard":
            return features
        mean, std = standard_of(self.clips, [self.row[clip.id] for clip in split.train], features)
        return replace(features, scale="standard", mean=mean, std=std)

    def batches(self, setup: RunSetup, features: FeatureConfig) -> tuple[BatchMaker, BatchMaker | None]:
        """Makers of the batches of clips and of outliers for these features."""
        recipe = setup.recipe
        if self.frozen is None:
            pieces = features.frames_in(round(recipe.train_window_s * features.sample_rate)) or None
            clips = BatchMaker(self.clips, features, recipe.feature_augment, pieces)
        else:
            clips = BatchMaker(self.clips, self.frozen, frozen_augment(recipe.feature_augment))
        if self.outliers is None:
            return clips, None
        return clips, BatchMaker(self.outliers, clips.features, clips.augment, clips.train_frames)


def read_stores(setup: RunSetup, material: Material, options: RunOptions) -> Stores:
    """Compute the features of all audio of a run, or take them from the cache."""
    recipe, levels = setup.recipe, level_config(setup.features)
    copies = Copies(recipe.augment, recipe.copies, recipe.augment_by == "speaker", material.root)

    def store_of(clips: Sequence[Clip]) -> LevelStore:
        return build_store(
            clips, levels, copies, cache=options.cache, workers=options.workers, progress=options.stage("features")
        )

    clips = store_of(material.clips)
    if material.unlabelled:  # separate, so that runs with and without a teacher share the other clips
        clips = JoinedStore.of(clips, store_of(material.unlabelled))
    recordings = _outliers(setup, material.root, options.cache)
    outliers = None if not recordings else build_store(recordings, levels, cache=options.cache, workers=options.workers)
    row = {clip.id: i for i, clip in enumerate(material.stored)}
    net = setup.build()
    if not net.needs_start:
        return Stores(clips, outliers, None, row)
    clips = build_frozen_store(net, clips, setup.features, recipe, options)
    outliers = None if outliers is None else build_frozen_store(net, outliers, setup.features, recipe, options)
    return Stores(clips, outliers, frozen_features(clips.levels.shape[1], setup.features.sample_rate), row)


def _outliers(setup: RunSetup, root: Path | None, cache: Path) -> list[Clip]:
    """The recordings that are not speech: those that the recipe names, and generated ones."""
    wanted = setup.recipe.outliers
    kept: list[Path] = []
    if wanted.folder:
        files = audio_files(find_corpus(wanted.folder, root))
        kept = [path for path in files if any(fnmatch(path.name, name) for name in wanted.names)]
        if not kept:
            raise ConfigError(
                f"outliers: no file in {wanted.folder} ({len(files)} files) matches {' or '.join(wanted.names)}"
            )
    if wanted.tones:
        kept = kept + tone_files(cache / "tones", wanted.tones)
    return [Clip(path, "outliers", "", "") for path in kept]
