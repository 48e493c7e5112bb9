"""The relative head of networks without a frozen encoder is trained, exported and used by a stream."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from corpus_maker import make_corpus
from makers import babble, silence

from streamser.audio import read_audio
from streamser.baseline import Baseline
from streamser.calibration import BaselineRule, Calibration
from streamser.errors import ConfigError
from streamser.evaluation.folds import load_folds
from streamser.events import EmotionEvent
from streamser.nets.relative import export_relative
from streamser.recognizer import Recognizer, load
from streamser.stream.channel import Stream, StreamConfig
from streamser.stream.vad import VadConfig
from streamser.stream.worker import PipelineConfig
from streamser.training.batches import BatchMaker
from streamser.training.fit import Fitted
from streamser.training.material import Material, gather
from streamser.training.options import RunOptions
from streamser.training.publish import Trained, publish
from streamser.training.recipe import Recipe, recipe_from
from streamser.training.relative import embedded
from streamser.training.trainer import Trainer

FRONT_ENDS = {
    "lightsernet": {"scale": "standard", "n_mels": 40, "length_s": 0.8},
    "sepconv": {"scale": "standard", "length_s": 0.8},
}


def make_recipe(variant: str, **changes: object) -> Recipe:
    return recipe_from(
        {
            "name": "tiny",
            "variant": variant,
            "corpora": ["tiny"],
            "labels": ["angry", "neutral"],
            "label_map": {"sad": "neutral"},
            "folds": 2,
            "validation_speakers": 0.34,
            "features": FRONT_ENDS[variant],
            "loss": {"weighted": False},
            "baseline": {"train": True},
            "epochs": 1,
            "passes_per_epoch": 32,
            "batch": 8,
            "copies": 1,
            "augment_by": "speaker",
            "augment": {"gain_probability": 1.0},
            **changes,
        }
    )


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    root = tmp_path_factory.mktemp("corpora")
    make_corpus(root / "tiny")
    return gather(make_recipe("lightsernet"), root, tmp_path_factory.mktemp("cache"))


class Finished(NamedTuple):
    trainer: Trainer
    folder: Path
    """The folder of the run, which has one finished fold."""
    fitted: Fitted
    batches: BatchMaker
    trained: Trained
    """The network of that fold, with its relative head."""


@pytest.fixture(scope="module", params=list(FRONT_ENDS))
def finished(request: pytest.FixtureRequest, material: Material, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp(request.param)
    trainer = Trainer(make_recipe(request.param), material, folder, RunOptions(cache=folder / "cache"))
    split = trainer.splits(0)[0]
    trainer.run_split(split, 0)
    fitted, features, batches = trainer.fit(split, 0)
    relative = trainer.fit_relative(split, 0, batches, fitted.net)
    assert relative is not None
    rule = BaselineRule(exponent=1.0, full_s=0.1, memory=60, half=0.5, calibration=Calibration())
    one = Trained(fitted.net, features, Calibration(), split, 0)
    return Finished(trainer, folder, fitted, batches, replace(one, relative=export_relative(relative), baseline=rule))


def test_a_fold_stores_its_relative_head_and_its_embeddings(finished: Finished) -> None:
    trainer, folder = finished.trainer, finished.folder
    (fold,) = load_folds(folder)
    assert fold.embeddings is not None
    assert fold.embeddings.shape == (len(fold.clips), trainer.setup.build().embedding_dim)
    assert np.ptp(fold.embeddings, axis=0).max() > 0.01
    assert (folder / f"{fold.fold}-s0" / "relative.onnx").is_file()


def test_embeddings_of_training_clips_equal_those_of_the_checkpoint(finished: Finished) -> None:
    trainer, folder = finished.trainer, finished.folder
    split = trainer.splits(0)[0]
    part = trainer.part(split.train[:4])
    made = embedded(finished.fitted.net, finished.batches, part.rows, torch.device("cpu"))
    assert made.store.copies == 1
    bundle = load(folder / f"{split.name}-s0" / "bundle", "cpu")
    served = bundle.embed([read_audio(clip.path) for clip in split.train[:4]])
    found = np.stack([made.store.frames(int(row))[0] for row in part.rows])
    np.testing.assert_allclose(found, served, atol=0.03 * np.abs(served).max())
    copies = np.stack([made.store.frames(int(row), 1)[0] for row in part.rows])
    assert np.abs(copies - found).max() > 1e-3


def test_the_checkpoint_has_the_relative_head_and_a_baseline_changes_its_scores(
    finished: Finished, tmp_path: Path
) -> None:
    trainer = finished.trainer
    recognizer = load(publish(tmp_path / "bundle", trainer.setup, finished.trained).path, "cpu")
    clips = trainer.material.clips[:6]
    recordings = [read_audio(clip.path) for clip in clips]
    alone = recognizer.predict(recordings)
    neutral = recognizer.embed(recordings)[[clip.label == "neutral" for clip in clips]]
    baseline = Baseline(neutral.sum(axis=0).astype(np.float64), float(len(neutral)), len(neutral))
    known = recognizer.predict(recordings, baseline)
    assert max(abs(a.scores["angry"] - b.scores["angry"]) for a, b in zip(alone, known, strict=True)) > 1e-3


def test_a_stream_builds_the_same_baseline_with_and_without_the_step_graph(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = finished.trainer
    fast = load(publish(tmp_path / "fast" / "bundle", trainer.setup, finished.trained).path, "cpu")
    assert (fast.steps is not None) == (trainer.recipe.variant == "lightsernet")
    monkeypatch.setattr("streamser.training.publish.export_step", lambda *_: None)
    slow = load(publish(tmp_path / "slow" / "bundle", trainer.setup, finished.trained).path, "cpu")
    assert slow.steps is None
    config = StreamConfig(vad=VadConfig(engine="energy"), pipeline=PipelineConfig(adapt=True))
    first, second = (finals(recognizer, config) for recognizer in (fast, slow))
    assert [event.baseline for event in first] == ["none", "own", "own", "own"]
    for one, other in zip(first, second, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=2e-3)
    still = finals(fast, replace(config, pipeline=PipelineConfig(adapt=False)))
    assert max(abs(one.scores["angry"] - other.scores["angry"]) for one, other in zip(first, still, strict=True)) > 1e-4


def finals(recognizer: Recognizer, config: StreamConfig) -> list[EmotionEvent]:
    spoken = [np.concatenate([babble(1.2, seed=seed), silence(0.8)]) for seed in range(1, 5)]
    stream = Stream(recognizer, config)
    events = [*stream.push(np.concatenate([silence(0.5), *spoken])), *stream.close()]
    return [event for event in events if isinstance(event, EmotionEvent) and event.final]


def test_a_baseline_without_a_neutral_label_is_refused(material: Material, tmp_path: Path) -> None:
    recipe = make_recipe("lightsernet", labels=["angry", "sad"], label_map={})
    with pytest.raises(ConfigError, match=r"baseline\.train needs the label neutral; add it"):
        Trainer(recipe, material, tmp_path, RunOptions(cache=tmp_path))


@pytest.mark.parametrize("idea", ["margin", "reconstruction"])
def test_a_relative_head_is_trained_beside_a_loss_that_needs_the_networks_own_layers(
    idea: str, material: Material, tmp_path: Path
) -> None:
    recipe = replace(make_recipe("lightsernet"), variant=f"lightsernet-{idea}", loss={})
    trainer = Trainer(recipe, material, tmp_path, RunOptions(cache=tmp_path / "cache"))
    trainer.run_split(trainer.splits(0)[0], 0)
    assert (tmp_path / "fold-1-of-2-s0" / "relative.onnx").exists()
