"""The report about the folds of a run has the figures that follow from the folds' predictions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamser.cli import main
from streamser.evaluation import plots
from streamser.evaluation.folds import FoldResult, save_fold
from streamser.evaluation.foldtable import tabulate
from streamser.evaluation.report import fold_markdown, md_table, percent, write_fold_report

LABELS = ("angry", "happy", "neutral", "sad")


def make_fold(name: str, seed: int = 0, *, skill: float = 2.0, scale: float = 1.0, **changes: object) -> FoldResult:
    rng = np.random.default_rng([seed, sum(map(ord, name))])
    targets = rng.integers(0, 4, 800)
    logits = rng.standard_normal((800, 4)) + skill * np.eye(4)[targets]
    values: dict[str, object] = {
        "name": "small",
        "protocol": "leave-one-corpus-out",
        "fold": name,
        "seed": seed,
        "labels": LABELS,
        "targets": targets,
        "logits": (scale * logits).astype(np.float32),
        "speakers": tuple(f"{name}/{i % 5}" for i in range(800)),
        "clips": tuple(f"{name}/clip{i}" for i in range(800)),
        "train_speakers": ("z/1",),
        "test_corpora": (name,),
    }
    return FoldResult(**{**values, **changes})  # type: ignore[arg-type]


def test_each_fold_is_a_row_with_the_mean_over_its_seeds() -> None:
    folds = [make_fold(name, seed) for name in ("emodb", "nemo") for seed in (0, 1)]
    table = tabulate(folds)
    assert [row.name for row in table.rows] == ["emodb", "nemo"]
    (emodb, _) = table.rows
    assert len(emodb.measured) == 2
    assert emodb.mean("ua") == pytest.approx(np.mean([one.ua.value for one in emodb.measured]))
    assert emodb.spread("ua") > 0
    assert table.mean_ua == pytest.approx(np.mean([row.mean("ua") for row in table.rows]))
    assert table.whole is not None and table.whole.measured[0].clips == 1600
    text = fold_markdown(table)
    assert "seeds 0, 1" in text and "| left out |" in text and "| all folds | 1600 |" in text


def test_the_temperature_of_the_other_folds_corrects_the_calibration_of_a_fold() -> None:
    # All logits are four times too large, and the folds' own temperature (1) does not correct this.
    table = tabulate([make_fold(name, scale=8.0) for name in ("a", "b", "c")])
    for row in table.rows:
        assert row.mean("ece") > 0.1
        assert row.transferred_ece < 0.05


def test_a_folds_own_temperature_is_applied() -> None:
    (cold,) = tabulate([make_fold("a", scale=8.0)]).rows
    (warm,) = tabulate([make_fold("a", scale=8.0, temperature=4.0)]).rows
    assert warm.mean("ece") < cold.mean("ece")
    assert warm.mean("ua") == cold.mean("ua")


def test_folds_that_test_the_same_clips_are_not_pooled() -> None:
    """For example, `paper:sepconv` has one fixed test part."""
    folds = [make_fold("a", fold=f"fold-{i}", protocol="paper:sepconv") for i in range(3)]
    table = tabulate(folds)
    assert table.whole is None
    assert len(table.rows) == 3


def test_a_run_that_shares_speakers_is_not_called_independent() -> None:
    text = fold_markdown(tabulate([make_fold("a", train_speakers=("a/3", "z/1"))]))
    assert "**WARNING** not speaker-independent: 1 speakers" in text


@pytest.mark.parametrize("name", ["small", "focal-resnet-mfcc-focal"])
def test_the_confusion_matrix_of_a_run_is_drawn_beside_the_published_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The matrix is drawn even if the folds share speakers or test clips."""
    drawn: list[Any] = []
    draw = plots.plot_confusions
    monkeypatch.setattr(plots, "plot_confusions", lambda panels, path: (drawn.extend(panels), draw(panels, path)))
    folds = [replace(make_fold("a", fold=f"fold-{i}", train_speakers=("a/3",)), name=name) for i in range(2)]
    report = write_fold_report(tabulate(folds), tmp_path)
    assert "](confusion.png)" in report.read_text(encoding="utf-8")
    assert (tmp_path / "confusion.png").stat().st_size > 1000
    (_, labels, counts), *published = drawn
    assert counts.sum() == 1600
    truth, prediction = folds[0].targets, folds[0].logits.argmax(axis=1)
    first, second = (LABELS.index(label) for label in labels[:2])
    assert counts[0, 1] == 2 * ((truth == first) & (prediction == second)).sum()
    if name == "small":
        assert not published
    else:
        ((title, order, percents),) = published
        assert "table 3" in title and order == labels == ("neutral", "happy", "sad", "angry")
        assert percents[1][1] == 52.0


def test_evaluate_prints_a_table_of_the_folds_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("emodb", "nemo"):
        save_fold(tmp_path / name / "results.json", make_fold(name))
    assert main(["evaluate", "--leave-one-corpus-out", str(tmp_path)]) == 0
    assert "# small: leave-one-corpus-out" in capsys.readouterr().out
    values = json.loads((tmp_path / "folds.json").read_text(encoding="utf-8"))
    assert set(values["folds"]) == {"emodb", "nemo"} and values["speaker_independent"] is True
    assert (
        main(["evaluate", "--leave-one-corpus-out", str(tmp_path), "--json"]) == 0
    )  # folds.json of the first call is not read as a fold
    assert json.loads(capsys.readouterr().out) == values


def test_evaluate_refuses_a_folder_without_folds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--leave-one-corpus-out", str(tmp_path)]) == 1
    assert "has no fold results" in capsys.readouterr().err


def test_evaluate_prints_the_figures_of_another_run_for_the_same_folds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("emodb", "nemo"):
        save_fold(tmp_path / "net" / f"{name}.json", make_fold(name))
    weak = replace(make_fold("emodb", skill=0.5), name="egemaps")
    save_fold(tmp_path / "svm" / "emodb.json", weak)
    assert main(["evaluate", "--leave-one-corpus-out", str(tmp_path / "net"), "--beside", str(tmp_path / "svm")]) == 0
    printed = capsys.readouterr().out
    (row,) = tabulate([weak]).rows
    assert "| UA egemaps |" in printed
    assert (
        f"| emodb | 800 | {100 * tabulate([make_fold('emodb')]).mean_ua:.1f} | {100 * row.mean('ua'):.1f} |" in printed
    )
    assert any(line.startswith("| nemo | 800 |") and "| - |" in line for line in printed.splitlines())


def test_a_bar_in_a_cell_does_not_break_the_table() -> None:
    assert md_table(("a",), [("x|y",)]).splitlines()[-1] == "| x\\|y |"


def test_nan_is_printed_as_a_dash() -> None:
    assert (percent(float("nan")), percent(0.1234), percent(0.5, 0)) == ("-", "12.3", "50")
