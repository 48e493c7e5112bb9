"""The table of the papers' rows has all results that belong in it, and each of its commands trains its own row."""

from __future__ import annotations

import json
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streamser.corpora.benchmarks import BENCHMARKS
from streamser.evaluation.folds import FoldResult, folder_name, load_folds, save_fold
from streamser.nets.zoo import VARIANTS
from streamser.training.material import recipe_of, write_recipe
from streamser.training.recipe import Recipe

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import reproduction
from reproduction import Measurement


def make_run(
    folder: Path, recipe: Recipe, right: list[float], *, corpus: str, shared: bool = False, labels: int = 4
) -> Path:
    """Make a run folder whose folds have these shares of right predictions, each for twenty clips."""
    write_recipe(recipe, folder)
    names = tuple("abcdefghijklmnop"[:labels]) if recipe.labels == ("all",) else recipe.labels
    for number, share in enumerate(right):
        targets = np.arange(20) % len(names)
        predictions = np.where(np.arange(20) < round(20 * share), targets, (targets + 1) % len(names))
        tag = 0 if shared else number
        fold = FoldResult(
            name=recipe.name, protocol=recipe.protocol, fold=f"fold-{number}", seed=0, labels=names, targets=targets,
            logits=np.eye(len(names), dtype=np.float32)[predictions], speakers=(f"{corpus}/1",) * 20,
            clips=tuple(f"{corpus}/{tag}-{i}" for i in range(20)), test_corpora=(corpus,),
            figures={"training_wa": 99.0},
        )  # fmt: skip
        save_fold(folder / f"fold-{number}-s0" / "fold.json", fold)
    return folder


def row(name: str, benchmark: str, **changes: object) -> Recipe:
    return replace(recipe_of(VARIANTS[name], BENCHMARKS[benchmark]), **changes)  # type: ignore[arg-type]


def measurement(name: str, column: str, wa: float, **changes: object) -> Measurement:
    values: dict[str, object] = {
        "row": name, "benchmark": "emodb", "column": column, "classes": 7, "folds": 5, "of_folds": 5, "seeds": 1,
        "figures": {"ua": wa, "wa": wa},
    }  # fmt: skip
    return Measurement(**{**values, **changes})  # type: ignore[arg-type]


def test_nine_runs_on_one_test_part_are_one_result_with_their_mean(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "r", row("sepconv-n5-focal", "iemocap"), [0.5] * 8 + [0.95], corpus="iemocap", shared=True
    )
    (found,) = reproduction.of_run(run)
    assert (found.row, found.benchmark, found.column, found.folds, found.whole) == (
        "sepconv-n5-focal", "iemocap", "paper", 9, True,
    )  # fmt: skip
    assert found.figures["wa"] == pytest.approx(55.0)
    assert found.text().startswith("UA 55.0, WA 55.0, F1 ") and "(9 folds)" in found.text()


@pytest.mark.parametrize(
    ("name", "benchmark"),
    [
        ("lightsernet-report-asvp", "asvp-esd"),
        ("lightsernet-7s-ce", "iemocap"),
        ("lightsernet-7s-ce", "iemocap-improvised"),
        ("parallel-cnn-mel-sac", "iemocap-improvised-happy"),
        ("lightsernet-report-iemocap", "iemocap-session1"),
        ("lightsernet-3s-ce", "emodb"),
    ],
)
def test_the_benchmark_of_a_run_is_found_from_its_training_clips(tmp_path: Path, name: str, benchmark: str) -> None:
    corpus = BENCHMARKS[benchmark].corpus
    (found,) = reproduction.of_run(make_run(tmp_path / "r", row(name, benchmark), [0.7], corpus=corpus))
    assert found.key == (name, benchmark, "paper")
    text = reproduction.write_table([found])
    (line,) = [line for line in text.splitlines() if f"| {name} |" in line and BENCHMARKS[benchmark].title in line]
    assert found.text() in line


def test_a_run_on_a_corpus_that_its_paper_did_not_use_is_not_in_the_table(tmp_path: Path) -> None:
    nemo = row("lightsernet-3s-ce", "emodb", labels=("happy", "sad"))
    assert reproduction.of_run(make_run(tmp_path / "r", nemo, [0.7], corpus="nemo")) == []


def test_a_partial_run_is_marked_and_never_replaces_a_whole_run(tmp_path: Path) -> None:
    short = row("lightsernet-3s-ce", "emodb", epochs=60, train_window_s=2.0)
    (part,) = reproduction.of_run(make_run(tmp_path / "r", short, [0.5], corpus="emodb"))
    assert "1 of 10 folds, 60 of 300 epochs, learnt from pieces of 2 s" in part.text()
    whole = measurement("lightsernet-3s-ce", "paper", 94.0, folds=10, of_folds=10)
    assert reproduction.merged([whole], [part]) == [whole]
    assert reproduction.merged([part], [whole]) == [whole]
    assert reproduction.merged([replace(whole, measured=reproduction.OLD)], [part]) == [part]


def test_the_cost_of_unknown_speakers_is_computed_from_whole_rows() -> None:
    found = [
        measurement(name, column, wa)
        for name, paper, honest in (
            ("lightsernet-3s-ce", 94.0, 72.0),
            ("lightsernet-3s-focal", 93.0, 69.0),
            ("sepconv-n4-wce", 90.0, 60.0),
            ("lightsernet-report-emodb", 20.0, 14.0),  # does not learn with its printed schedule
        )
        for column, wa in (("paper", paper), ("honest", honest))
    ]
    text = reproduction.cost_of_unknown_speakers(found)
    assert "over the 3 variants" in text and "25.3 \npoints less" in text.replace(" points", " \npoints")
    low, _, high = text.partition("interval over variants: ")[2].partition(").")[0].partition(" to ")
    assert 22.0 <= float(low) < 25.3 < float(high) <= 30.0
    parts = [replace(one, folds=1) if one.row == "sepconv-n4-wce" else one for one in found]
    assert "over the 2 variants" in reproduction.cost_of_unknown_speakers(parts)
    assert reproduction.cost_of_unknown_speakers(found[:2]) == ""


def test_a_network_that_only_reconstructs_has_an_error_and_no_accuracy(tmp_path: Path) -> None:
    recipe = row("parallel-cnn-mel-a", "iemocap-improvised-happy")
    (found,) = reproduction.of_run(make_run(tmp_path / "r", recipe, [0.25], corpus="iemocap"))
    assert "UA" not in found.text()
    assert "MSE 18.31e-4" in reproduction.write_table([found])


def test_the_accuracies_of_the_report_by_part_are_beside_the_measured_ones(tmp_path: Path) -> None:
    (found,) = reproduction.of_run(
        make_run(tmp_path / "r", row("lightsernet-report-emodb", "emodb"), [0.5], corpus="emodb")
    )
    text = reproduction.write_table([found])
    assert "whole corpus 94.4, training part 96.39, validation part 86.44" in text
    assert "training part 99.0" in found.text()
    (other,) = reproduction.of_run(make_run(tmp_path / "o", row("sepconv-n4-wce", "emodb"), [0.5], corpus="emodb"))
    assert "training part" not in other.text()


def test_every_row_has_a_line_and_a_command_that_trains_it(tmp_path: Path) -> None:
    import argparse

    from streamser.cli import train

    text = reproduction.write_table([])
    for variant in VARIANTS.values():
        for name in variant.published:
            assert any(
                line.startswith(f"| {variant.name} |") and BENCHMARKS[name].title in line for line in text.splitlines()
            )
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    commands = [line[3:-1] for line in text.splitlines() if line.startswith("- `")]
    assert len(commands) == sum(len(variant.published) for variant in VARIANTS.values())
    expected = [(v.name, BENCHMARKS[b]) for v in VARIANTS.values() for b in v.published]
    for command, (name, benchmark) in zip(commands, expected, strict=True):
        recipe = train._published(parser.parse_args(shlex.split(command)[2:]), {"corpora": [benchmark.folder]})
        assert (recipe.name, recipe.labels, recipe.styles) == (name, benchmark.labels, benchmark.styles)
        assert (dict(recipe.label_map), recipe.sessions) == (dict(benchmark.label_map), benchmark.sessions)


def test_each_call_adds_its_run_to_the_table(tmp_path: Path) -> None:
    store, table = tmp_path / "reproduction.json", tmp_path / "REPRODUCTION.md"
    where = ["--store", str(store), "--table", str(table)]
    first = make_run(tmp_path / "a", row("lightsernet-3s-ce", "emodb"), [0.9] * 10, corpus="emodb")
    second = make_run(tmp_path / "b", row("sepconv-n4-wce", "emodb"), [0.8] * 9, corpus="emodb", shared=True)
    assert reproduction.main([str(first), *where]) == 0
    assert reproduction.main([str(second), *where]) == 0
    assert len(json.loads(store.read_text(encoding="utf-8"))) == 2
    text = table.read_text(encoding="utf-8")
    assert re.search(r"\| lightsernet-3s-ce \|.*WA 90\.0, F1 .*\(10 folds\)", text)
    assert re.search(r"\| sepconv-n4-wce \|.*WA 80\.0, F1 .*\(9 folds\)", text)


def test_the_shipped_table_is_the_output_of_the_tool() -> None:
    stored = [Measurement(**one) for one in json.loads(reproduction.STORE.read_text(encoding="utf-8"))]
    assert reproduction.TABLE.read_text(encoding="utf-8") == reproduction.write_table(stored)


@pytest.mark.parametrize(
    "name", ["lightsernet-emodb", "lightsernet-emodb-plain", "whisper-emodb", *reproduction.LOSSES]
)
def test_a_run_of_our_own_recipe_with_fewer_epochs_says_so(name: str) -> None:
    epochs = reproduction.own_epochs(name)
    assert epochs > 3
    recipe = {"name": name, "train_window_s": 0.0}
    assert reproduction.shortened(recipe, None, [3, 3]) == f"3 of {epochs} epochs"
    assert reproduction.shortened(recipe, None, [epochs, epochs]) == ""
    assert reproduction.shortened({**recipe, "name": "unknown"}, None, [3]) == ""


def test_the_number_of_epochs_is_that_of_each_fold_and_not_that_of_the_last_call(tmp_path: Path) -> None:
    whole = VARIANTS["lightsernet-3s-ce"].recipe.epochs
    run = make_run(tmp_path / "r", row("lightsernet-3s-ce", "emodb"), [0.9] * 10, corpus="emodb")
    assert reproduction.of_run(run)[0].spared == ""
    for fold in load_folds(run)[:4]:
        save_fold(run / folder_name(fold.fold, 0) / "fold.json", replace(fold, epochs=60))
    assert reproduction.of_run(run)[0].spared == f"60 to {whole} of {whole} epochs"
    for number in range(4, 10):  # folds of an earlier version have only their log
        (run / f"fold-{number}-s0" / "log.jsonl").write_text("{}\n" * 60, encoding="utf-8")
    assert reproduction.of_run(run)[0].spared == f"60 of {whole} epochs"


def test_a_fold_that_patience_ended_early_is_not_shortened(tmp_path: Path) -> None:
    recipe = row("cnn-blstm-softmax", "iemocap")
    assert recipe.patience
    run = make_run(tmp_path / "r", recipe, [0.9] * 5, corpus="iemocap")
    (run / "fold-0-s0" / "log.jsonl").write_text("{}\n" * 20, encoding="utf-8")
    assert reproduction.of_run(run)[0].spared == ""


def test_every_row_of_our_own_in_the_table_has_a_recipe() -> None:
    rows = {one.row for one in reproduction.load_store(reproduction.STORE)} - {*VARIANTS}
    assert rows > {*reproduction.LOSSES}
    assert [row for row in sorted(rows) if reproduction.own_recipe(row) is None] == []
