"""tools/compare_runs.py compares runs on the same folds, with intervals over speakers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from streamser.errors import StreamserError
from streamser.evaluation.folds import FoldResult, folder_name, save_fold

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import compare_runs

LABELS = ("angry", "neutral")
SPEAKERS = 12


def make_run(folder: Path, wrong: int, *, corpora: tuple[str, ...] = ("one", "two"), seeds: int = 2) -> Path:
    """A run in which the first `wrong` speakers of each corpus always get the other label."""
    targets = np.tile([0, 1, 0, 1], SPEAKERS)
    owner = np.repeat(np.arange(SPEAKERS), 4)
    predicted = np.where(owner < wrong, 1 - targets, targets)
    for seed in range(seeds):
        for corpus in corpora:
            fold = FoldResult(
                name=folder.name, protocol="leave-one-corpus-out", fold=f"without-{corpus}", seed=seed, labels=LABELS,
                targets=targets, logits=np.eye(2, dtype=np.float32)[predicted],
                speakers=tuple(f"{corpus}/{one}" for one in owner),
                clips=tuple(f"{corpus}/{clip}" for clip in range(len(targets))), test_corpora=(corpus,),
            )  # fmt: skip
            place = folder / folder_name(fold.fold, seed)
            place.mkdir(parents=True)
            save_fold(place / "fold.json", fold)
    return folder


def test_a_difference_has_an_interval_over_speakers(tmp_path: Path) -> None:
    worse, better = compare_runs.compare([make_run(tmp_path / "a", 6), make_run(tmp_path / "b", 3)])
    assert worse.of == {"one": 50.0, "two": 50.0} and better.mean == 75.0
    low, high = better.interval
    assert 50 < low < 75 < high < 100
    gain, low, high = better.gain(worse)
    assert gain == 25.0
    assert 0 <= low < 25 < high < 50


def test_equal_predictions_differ_by_nothing_for_every_set_of_speakers(tmp_path: Path) -> None:
    one, same = compare_runs.compare([make_run(tmp_path / "a", 4), make_run(tmp_path / "b", 4)])
    assert same.gain(one) == (0.0, 0.0, 0.0)


def test_only_folds_of_all_runs_count(tmp_path: Path) -> None:
    fewer = make_run(tmp_path / "b", 0, corpora=("two",), seeds=1)
    one, other = compare_runs.compare([make_run(tmp_path / "a", 6), fewer])
    assert set(one.of) == set(other.of) == {"two"}
    assert (one.seeds, other.seeds) == (1, 1)
    with pytest.raises(StreamserError, match="no fold is in all runs"):
        compare_runs.compare([fewer, make_run(tmp_path / "c", 0, corpora=("one",))])


def test_the_table_ends_with_the_difference_from_the_first_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make_run(tmp_path / "labels", 6), make_run(tmp_path / "teacher", 3)]
    monkeypatch.setattr(sys, "argv", ["compare_runs.py", *map(str, runs)])
    compare_runs.main()
    *_, first, second = capsys.readouterr().out.splitlines()
    assert first.split()[:4] == ["labels", "50.0", "50.0", "50.0"] and "+" not in first
    assert second.startswith("teacher") and "+25.0 [" in second
