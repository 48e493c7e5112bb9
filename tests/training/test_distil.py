"""A network is trained on teachers' predictions for clean clips; no teacher was trained on the test part."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from corpus_maker import make_corpus
from safetensors.torch import save_file

from streamser.audio import read_audio
from streamser.bundle import Bundle, load_bundle
from streamser.corpora.clips import UNLABELLED
from streamser.errors import ConfigError, ProtocolError
from streamser.evaluation.folds import load_folds
from streamser.evaluation.independence import unseen_clips
from streamser.nets.whisper import Whisper
from streamser.recognizer import load
from streamser.training import teachers as module
from streamser.training.distil import Distiller
from streamser.training.material import Material, gather, splits_of
from streamser.training.options import RunOptions
from streamser.training.recipe import DistilConfig, Recipe, recipe_from
from streamser.training.store import JoinedStore
from streamser.training.teachers import Predictions, Teachers, check_teacher, speakers_of
from streamser.training.trainer import Trainer

LABELS = ("angry", "sad")
FOLDS = {"tiny": "without-tiny", "other": "without-other"}


def make_recipe(**changes: object) -> Recipe:
    return recipe_from(
        {
            "name": "taught",
            "variant": "lightsernet",
            "corpora": ["tiny", "other"],
            "labels": list(LABELS),
            "protocol": "leave-one-corpus-out",
            "validation_speakers": 0.34,
            "features": {"scale": "standard", "n_mels": 40, "length_s": 0.8},
            "loss": {"weighted": False},
            "epochs": 2,
            "passes_per_epoch": 48,
            "batch": 8,
            "choose_by": "last",
            **changes,
        }
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpora")
    make_corpus(root / "tiny", takes=2)
    make_corpus(root / "other", speakers=4, takes=2, seed=8)
    make_corpus(root / "wild", speakers=3, takes=1, seed=9)
    return root


@pytest.fixture(scope="module")
def material(root: Path, cache: Path) -> Material:
    return gather(make_recipe(), root, cache)


@pytest.fixture(scope="module")
def run(material: Material, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished leave-one-corpus-out run, whose folds can be teachers."""
    folder = tmp_path_factory.mktemp("run")
    trainer = Trainer(make_recipe(epochs=3), material, folder, RunOptions(cache=cache))
    for split in trainer.splits(0):
        trainer.run_split(split, 0)
    return folder


def bundle_of(run: Path, corpus: str) -> Bundle:
    return load_bundle(run / f"{FOLDS[corpus]}-s0" / "bundle")


def student(material: Material, folder: Path, cache: Path, distil: dict[str, object], **changes: object) -> Trainer:
    return Trainer(make_recipe(distil=distil, **changes), material, folder, RunOptions(cache=cache))


# ---- leaks


def test_a_fold_takes_the_teacher_that_left_out_the_same_corpus_and_refuses_another(
    material: Material, run: Path, tmp_path: Path, cache: Path
) -> None:
    fair = student(material, tmp_path / "fair", cache, {"teachers": [str(run)]})
    splits = {split.name: split for split in fair.splits(0)}
    for corpus, name in FOLDS.items():
        assert fair.teachers is not None
        (teacher,) = fair.teachers.of(splits[name], 0)
        assert not {speaker for speaker in speakers_of(teacher) if speaker.startswith(f"{corpus}/")}
        assert fair.teachers.of(splits[name], 7)[0].path == teacher.path  # seed 7 was not trained, so seed 0 is used
    leaky = student(material, tmp_path / "leaky", cache, {"teachers": [str(bundle_of(run, "tiny").path)]})
    leaky.check_origin(splits["without-tiny"], 0)
    with pytest.raises(ProtocolError, match=r"was trained on other, which this fold tests on"):
        leaky.check_origin(splits["without-other"], 0)
    with pytest.raises(ProtocolError, match="which this fold tests on"):  # also without calling check_origin first
        leaky.run_split(splits["without-other"], 0)
    assert not (tmp_path / "leaky" / "without-other-s0").exists()


def test_a_teacher_is_refused_if_its_own_teacher_saw_the_test_corpus_or_its_speakers_are_unknown(
    material: Material, run: Path, tmp_path: Path, cache: Path
) -> None:
    split = next(one for one in student(material, tmp_path, cache, {}).splits(0) if one.name == "without-other")
    teacher = bundle_of(run, "other")
    check_teacher(teacher, split)
    second = replace(teacher, provenance={**teacher.provenance, "teacher_speakers": ["other/s1"]})
    with pytest.raises(ProtocolError, match="was trained on other"):
        check_teacher(second, split)
    pretrained = replace(teacher, provenance={**teacher.provenance, "pretrained_on": ["other"]})
    with pytest.raises(ProtocolError, match="was trained on other"):
        check_teacher(pretrained, split)
    with pytest.raises(ProtocolError, match="does not record the speakers"):
        check_teacher(replace(teacher, provenance={}), split)


def test_an_evaluation_leaves_out_the_speakers_that_trained_a_teacher(material: Material, run: Path) -> None:
    taught = bundle_of(run, "other")
    clips = [clip for clip in material.clips if clip.corpus == "other"]
    unseen, finding = unseen_clips(taught, clips)
    assert (len(unseen), finding.kind) == (len(clips), "independent")
    taught = replace(taught, provenance={**taught.provenance, "teacher_speakers": [clips[0].speaker]})
    unseen, finding = unseen_clips(taught, clips)
    assert clips[0].speaker not in {clip.speaker for clip in unseen}
    assert finding.excluded == {"teacher": len(clips) - len(unseen)}
    both = [*clips, *(clip for clip in material.clips if clip.corpus == "tiny")]
    pretrained = replace(bundle_of(run, "other"), provenance={"train_speakers": ["a/b"], "pretrained_on": ["other"]})
    unseen, finding = unseen_clips(pretrained, both)
    assert {clip.corpus for clip in unseen} == {"tiny"} and finding.excluded == {"pretraining": len(clips)}
    kept, finding = unseen_clips(pretrained, clips)
    assert len(kept) == len(clips) and finding.kind == "seen" and "without labels" in finding.text


def test_if_no_corpus_is_left_out_a_teacher_may_know_other_speakers_than_the_test_speakers(
    material: Material, run: Path, tmp_path: Path, cache: Path
) -> None:
    trainer = student(material, tmp_path, cache, {}, protocol="honest", folds=2)
    split = trainer.splits(0)[0]
    teacher = bundle_of(run, "other")
    others = [clip.speaker for clip in split.train]
    check_teacher(replace(teacher, provenance={"train_speakers": others}), split)
    with pytest.raises(ProtocolError, match=split.test[0].speaker):
        check_teacher(replace(teacher, provenance={"train_speakers": [split.test[0].speaker]}), split)


def test_the_loss_is_nan_for_a_clip_outside_the_training_part() -> None:
    predictions = Predictions(np.full((4, 2), 0.5, np.float32), np.ones((4, 3), np.float32))
    distiller = Distiller(DistilConfig(teachers=("x",)), predictions, np.array([0, 2]), 5)
    logits, embedding = torch.zeros(2, 2), torch.zeros(2, 5)
    assert distiller(logits, embedding, torch.tensor([0, 2])) == 0
    assert torch.isnan(distiller(logits, embedding, torch.tensor([0, 1])))


# ---- predictions


def test_a_teacher_predicts_each_clean_clip_only_once(
    material: Material, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = bundle_of(run, "other")
    config = DistilConfig(teachers=(str(teacher.path),), temperature=2.0)
    split = next(s for s in Trainer(make_recipe(), material, tmp_path, RunOptions(cache=tmp_path)).splits(0)
                 if s.name == "without-other")  # fmt: skip

    def predictions(workers: int = 1) -> Predictions:
        return Teachers(config, LABELS, material.stored, RunOptions(cache=tmp_path, workers=workers)).predictions(
            split, 0
        )

    first = predictions()
    logits = load(teacher.path, "cpu").logits([read_audio(clip.path) for clip in material.clips[:5]])
    expected = np.exp(logits / 2) / np.exp(logits / 2).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(first.probabilities[:5], expected, atol=1e-4)
    monkeypatch.setattr(module, "load", lambda *_, **__: pytest.fail("the predictions are in the cache"))
    np.testing.assert_array_equal(predictions().probabilities, first.probabilities)
    swapped = Teachers(config, LABELS[::-1], material.stored, RunOptions(cache=tmp_path)).predictions(split, 0)
    np.testing.assert_allclose(swapped.probabilities, first.probabilities[:, ::-1], atol=1e-6)
    with pytest.raises(ConfigError, match="has no label neutral"):
        Teachers(config, ("angry", "neutral"), material.stored, RunOptions(cache=tmp_path)).predictions(split, 0)


@pytest.mark.slow
def test_folds_on_one_frozen_encoder_share_its_output(
    material: Material, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "encoder.safetensors"
    save_file({name: value for name, value in Whisper(2).state_dict().items() if "encoder" in name}, weights)
    recipe = make_recipe(variant="whisper", start=str(weights), features={"length_s": 0.96}, epochs=1)
    trainer = Trainer(recipe, material, tmp_path / "run", RunOptions(cache=cache))
    splits = trainer.splits(0)
    for split in splits:
        trainer.run_split(split, 0)
    config = DistilConfig(teachers=(str(tmp_path / "run"),), temperature=1.0)
    teachers = Teachers(config, LABELS, material.stored, RunOptions(cache=tmp_path))
    first = teachers.predictions(splits[0], 0)
    monkeypatch.setattr(module, "load", lambda *_, **__: pytest.fail("the encoder's output is in the cache"))
    second = teachers.predictions(splits[1], 0)
    np.testing.assert_array_equal(first.embeddings, second.embeddings)
    assert np.abs(first.probabilities - second.probabilities).max() > 1e-4
    fold = next(one for one in load_folds(tmp_path / "run") if one.fold == splits[1].name)
    rows = [[clip.id for clip in material.clips].index(name) for name in fold.clips]
    expected = torch.from_numpy(fold.logits).softmax(dim=1).numpy()
    np.testing.assert_allclose(second.probabilities[rows], expected, atol=2e-3)


# ---- training


def test_with_all_weight_on_the_teacher_the_network_learns_its_predictions_and_not_the_labels(
    material: Material, run: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Teachers.predictions

    def swapped(self: Teachers, *args: object) -> Predictions:
        truth = np.array([LABELS.index(clip.label) for clip in self.clips])
        predictions = wrong(self, *args)  # type: ignore[arg-type]
        return replace(predictions, probabilities=np.eye(2, dtype=np.float32)[1 - truth] * 0.9 + 0.05)

    monkeypatch.setattr(Teachers, "predictions", swapped)
    for weight, least, most in ((1.0, 0, 20), (0.01, 80, 100)):
        distil = {"teachers": [str(run)], "weight": weight, "temperature": 1.0}
        trainer = student(material, tmp_path / str(weight), cache, distil, epochs=4)
        split = trainer.splits(0)[0]
        fold = trainer.run_split(split, 0)
        assert least <= 100 * float((fold.logits.argmax(axis=1) == fold.targets).mean()) <= most


def test_clips_without_labels_are_learned_only_from_the_teacher(root: Path, run: Path, tmp_path: Path) -> None:
    distil = {"teachers": [str(run)], "unlabelled": ["wild", "tiny"], "embedding": 0.5, "unlabelled_share": 0.4}
    recipe = make_recipe(distil=distil, corpora=["tiny", "other"], copies=1, augment={"gain_probability": 1.0})
    material = gather(recipe, root, tmp_path)
    assert {clip.corpus for clip in material.unlabelled} == {"wild"}  # the clips of tiny have labels already
    assert all(clip.label == "" and clip.style == UNLABELLED for clip in material.unlabelled)
    trainer = Trainer(recipe, material, tmp_path / "run", RunOptions(cache=tmp_path))
    split = next(one for one in trainer.splits(0) if one.name == "without-other")
    assert {clip.corpus for clip in split.train} == {"tiny", "wild"}
    assert {clip.corpus for clip in (*split.validation, *split.test)} == {"tiny", "other"}
    assert isinstance(trainer.stores.clips, JoinedStore) and trainer.stores.clips.copies == 1
    fold = trainer.run_split(split, 0)
    assert np.isfinite(fold.logits).all()
    assert {speaker.partition("/")[0] for speaker in fold.train_speakers} == {"tiny", "wild"}
    provenance = load_bundle(tmp_path / "run" / "without-other-s0" / "bundle").provenance
    assert [one["protocol"] for one in provenance["teachers"]] == ["honest"]
    assert set(provenance["teacher_speakers"]) == speakers_of(bundle_of(run, "other"))


def test_two_joined_stores_give_the_frames_of_each(root: Path, run: Path, tmp_path: Path) -> None:
    recipe = make_recipe(distil={"teachers": [str(run)], "unlabelled": ["wild"]})
    material = gather(recipe, root, tmp_path)
    trainer = Trainer(recipe, material, tmp_path / "run", RunOptions(cache=tmp_path))
    both = trainer.stores.clips
    assert both.starts.shape[1] == len(material.stored)
    first, last = material.clips[3], material.unlabelled[2]
    for clip in (first, last):
        alone = Trainer(make_recipe(), Material((clip,), (), {}), tmp_path / "x", RunOptions(cache=tmp_path))
        np.testing.assert_array_equal(both.frames(trainer.stores.row[clip.id]), alone.stores.clips.frames(0))


def test_an_unlabelled_corpus_that_is_left_out_stays_out(root: Path, run: Path, tmp_path: Path) -> None:
    """Its clips with a label that the recipe does not train stay out too."""
    recipe = make_recipe(
        labels=["angry", "neutral"], label_map={"sad": "neutral"}, distil={"teachers": ["x"], "unlabelled": ["wild"]}
    )
    material = gather(recipe, root, tmp_path)
    one = replace(material.unlabelled[0], corpus="other", name="audio/none")
    extended = replace(material, unlabelled=(*material.unlabelled, one))
    trained = {
        split.name: {clip.corpus for clip in split.train if clip.style == UNLABELLED}
        for split in splits_of(recipe, extended, 0)
    }
    assert trained == {"without-tiny": {"wild", "other"}, "without-other": {"wild"}}
    excluded = replace(recipe, judge_only=("wild",))
    assert not [clip for split in splits_of(excluded, material, 0) for clip in split.train if clip.corpus == "wild"]


def test_a_resumed_run_with_a_teacher_ends_with_the_same_weights(
    material: Material, run: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamser.training.fit.SAVE_EVERY_S", 0.0)
    distil = {"teachers": [str(run)], "embedding": 1.0}
    whole = student(material, tmp_path / "whole", cache, distil, epochs=3)
    split = whole.splits(0)[0]
    straight, *_ = whole.fit(split, 0)

    class StoppedError(Exception):
        pass

    def stop(_: str, row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise StoppedError

    recipe = make_recipe(distil=distil, epochs=3)
    with pytest.raises(StoppedError):
        Trainer(recipe, material, tmp_path / "cut", RunOptions(cache=cache, on_epoch=stop)).fit(split, 0)
    resumed, *_ = Trainer(recipe, material, tmp_path / "cut", RunOptions(cache=cache)).fit(split, 0)
    for name, value in straight.net.state_dict().items():
        assert torch.equal(value, resumed.net.state_dict()[name]), name


@pytest.mark.parametrize(
    ("distil", "words"),
    [
        ({"teachers": ["x"], "weight": 0}, "weight: 0"),
        ({"teachers": ["x"], "temperature": 0}, "temperature: 0"),
        ({"teachers": ["x"], "embedding": -1}, "embedding: -1"),
        ({"teachers": ["x"], "unlabelled_share": 1}, "unlabelled_share: 1"),
        ({"unlabelled": ["tess"]}, "clips without labels need teachers"),
    ],
)
def test_invalid_distillation_settings_are_refused(distil: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_recipe(distil=distil)


def test_a_teacher_is_not_taken_from_a_fold_with_a_longer_name(
    material: Material, run: Path, tmp_path: Path, cache: Path
) -> None:
    both = tmp_path / "both"
    for corpus, name in FOLDS.items():
        shutil.copytree(run / f"{name}-s0", both / f"{name}-s0")
        shutil.copytree(run / f"{FOLDS[other_than(corpus)]}-s0", both / f"{name}-small-s0")
    trainer = student(material, tmp_path / "run", cache, {"teachers": [str(both)]})
    assert trainer.teachers is not None
    for split in trainer.splits(0):
        assert [one.path for one in trainer.teachers.of(split, 0)] == [both / f"{split.name}-s0" / "bundle"]


def other_than(corpus: str) -> str:
    return next(one for one in FOLDS if one != corpus)


def test_a_teacher_run_without_the_fold_is_refused_with_the_name_of_the_fold(
    material: Material, tmp_path: Path, cache: Path
) -> None:
    trainer = student(material, tmp_path / "run", cache, {"teachers": [str(tmp_path)]})
    with pytest.raises(ConfigError, match="has no checkpoint of the fold without-other"):
        trainer.check_origin(trainer.splits(0)[0], 0)
