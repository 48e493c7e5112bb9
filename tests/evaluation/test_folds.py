"""Folds are saved and loaded unchanged, and pooled only if their test clips, labels and protocols allow it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score

from streamser.errors import ProtocolError
from streamser.evaluation.folds import FoldResult, by_seed, fold_folders, folder_name, load_folds, pool, save_fold
from streamser.evaluation.foldsummary import summarize


def make_fold(fold: str = "a", seed: int = 0, clips: int = 6, **changes: object) -> FoldResult:
    rng = np.random.default_rng(sum(map(ord, fold)) + seed)
    values: dict[str, object] = {
        "name": "small",
        "protocol": "leave-one-corpus-out",
        "fold": fold,
        "seed": seed,
        "labels": ("angry", "sad"),
        "targets": rng.integers(0, 2, clips),
        "logits": rng.standard_normal((clips, 2)).astype(np.float32),
        "speakers": tuple(f"{fold}/{i % 2}" for i in range(clips)),
        "clips": tuple(f"{fold}/clip{i}" for i in range(clips)),
        "train_speakers": ("z/1",),
        "test_corpora": (fold,),
        "temperature": 1.5,
        "best_epoch": 7,
        "epochs": 9,
    }
    return FoldResult(**{**values, **changes})  # type: ignore[arg-type]


def test_a_saved_fold_is_loaded_with_the_same_values(tmp_path: Path) -> None:
    fold = make_fold()
    save_fold(tmp_path / "deep" / "a-seed0.json", fold)
    (back,) = load_folds(tmp_path)
    for name in ("name", "protocol", "fold", "seed", "labels", "speakers", "clips", "train_speakers", "temperature"):
        assert getattr(back, name) == getattr(fold, name)
    assert (back.best_epoch, back.epochs) == (7, 9)
    assert (back.logits == fold.logits).all() and (back.targets == fold.targets).all()


def test_the_folders_of_a_fold_do_not_include_those_of_a_fold_with_a_longer_name(tmp_path: Path) -> None:
    for fold, seed in (("paper/a[1]", 0), ("paper/a[1]", 12), ("paper/a[1]-small", 0), ("paper/a", 0)):
        (tmp_path / folder_name(fold, seed)).mkdir()
    (tmp_path / "recipe.json").write_text("{}")
    assert fold_folders(tmp_path, "paper/a[1]") == {
        0: tmp_path / folder_name("paper/a[1]", 0),
        12: tmp_path / folder_name("paper/a[1]", 12),
    }
    assert fold_folders(tmp_path, "paper/b") == {}


def test_a_fold_of_an_earlier_version_has_no_number_of_epochs(tmp_path: Path) -> None:
    save_fold(tmp_path / "a.json", make_fold())
    values = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    del values["epochs"]
    (tmp_path / "a.json").write_text(json.dumps(values), encoding="utf-8")
    assert load_folds(tmp_path)[0].epochs == 0


def test_other_json_files_in_a_run_are_ignored(tmp_path: Path) -> None:
    save_fold(tmp_path / "a.json", make_fold())
    (tmp_path / "recipe.json").write_text("{}")
    (tmp_path / "torn.json").write_text('{"kind": "stre')
    assert len(load_folds(tmp_path)) == 1


def test_a_fold_whose_array_file_is_missing_is_refused_by_name(tmp_path: Path) -> None:
    save_fold(tmp_path / "a.json", make_fold())
    (tmp_path / "a.npz").unlink()
    with pytest.raises(ProtocolError, match=r"a\.json: not a whole fold result"):
        load_folds(tmp_path)


def test_a_folder_without_folds_is_an_error_that_names_the_command_that_writes_them(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="streamser train"):
        load_folds(tmp_path)


def test_logits_that_do_not_fit_the_clips_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(6, 2\), not \(6, 3\)"):
        make_fold(logits=np.zeros((6, 3), np.float32))


def test_the_folds_of_each_seed_are_pooled_separately(tmp_path: Path) -> None:
    for seed in (0, 1):
        for name in ("b", "a"):
            save_fold(tmp_path / f"{name}{seed}.json", make_fold(name, seed))
    groups = by_seed(load_folds(tmp_path))
    assert {seed: [fold.fold for fold in folds] for seed, folds in groups.items()} == {0: ["a", "b"], 1: ["a", "b"]}
    pooled = pool(groups[1])
    assert len(pooled.clips) == 12
    assert set(pooled.corpora) == {"a", "b"}


def test_folds_that_test_a_clip_twice_are_not_pooled() -> None:
    with pytest.raises(ProtocolError, match="more than one fold"):
        pool([make_fold("a"), make_fold("a")])


def test_the_summary_of_runs_that_share_their_test_clips_is_the_mean() -> None:
    """For example, the nine runs of Zhong et al. have the same test part."""
    right = make_fold("a")
    good = replace(right, logits=np.eye(2, dtype=np.float32)[right.targets], figures={"training_wa": 90.0})
    bad = replace(good, fold="b", logits=1 - good.logits, figures={"training_wa": 80.0})
    summary = summarize([good, bad, replace(good, fold="c")])
    assert summary["over"] == "each run" and summary["folds"] == 3
    assert summary["wa"] == pytest.approx(200 / 3, abs=0.01) and summary["ua_spread"] > 40
    assert summary["training_wa"] == pytest.approx(260 / 3, abs=0.01)


def test_folds_with_different_test_clips_are_scored_together() -> None:
    summary = summarize([make_fold("a"), make_fold("b")])
    pooled = pool([make_fold("a"), make_fold("b")])
    predicted = pooled.logits.argmax(axis=1)
    assert summary["over"] == "all test clips"
    assert summary["weighted_f1"] == pytest.approx(
        100 * f1_score(pooled.targets, predicted, average="weighted", zero_division=0), abs=0.01
    )


def test_folds_of_different_protocols_are_not_pooled() -> None:
    with pytest.raises(ProtocolError, match="labels, seed or protocol"):
        pool([make_fold("a"), replace(make_fold("b"), protocol="honest")])


def test_a_speaker_in_training_and_test_is_found() -> None:
    assert make_fold(train_speakers=("a/0", "z/1")).shared_speakers == ("a/0",)
    assert make_fold().shared_speakers == ()


def test_a_fold_can_be_reduced_to_some_of_its_clips() -> None:
    fold = make_fold()
    few = fold.where(np.array([True, False, True, False, False, False]))
    assert few.clips == ("a/clip0", "a/clip2")
    assert (few.logits == fold.logits[[0, 2]]).all()
