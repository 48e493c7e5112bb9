"""Each paper's command trains an epoch on a corpus in its official layout, and is above chance after a few epochs.

One case of each test runs with all tests. The others take minutes and run with `python -m pytest -m papers`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from _pytest.mark import ParameterSet
from corpus_maker import make_asvp, make_iemocap

from streamser import cli
from streamser.corpora.benchmarks import BENCHMARKS
from streamser.nets.zoo import VARIANTS
from streamser.training.material import gather, recipe_of
from streamser.training.options import RunOptions
from streamser.training.trainer import Trainer


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpora")
    make_iemocap(root / "IEMOCAP")
    make_asvp(root / "ASVP-ESD")
    return root


COMMANDS = {
    "focal-resnet": ("focal-resnet-mfcc-focal", "IEMOCAP", 5),
    "parallel-cnn": ("parallel-cnn-mfcc-sac", "IEMOCAP", 5),
    "cnn-blstm": ("cnn-blstm-ams-s10-m0.4", "IEMOCAP", 5),
    "sepconv": ("sepconv-hop768-n1-focal", "IEMOCAP", 9),
    "sepconv, soft labels": ("sepconv-hop768-soft", "IEMOCAP", 9),
    "lightsernet": ("lightsernet-3s-ce", "IEMOCAP", 10),
    "lightsernet, improvised": ("lightsernet-3s-focal --benchmark iemocap-improvised", "IEMOCAP", 10),
    "the report": ("lightsernet-report-iemocap", "IEMOCAP", 1),
    "the report, ASVP-ESD": ("lightsernet-report-asvp", "ASVP-ESD", 1),
}


def _marked(names: Iterable[str], always: str) -> list[ParameterSet]:
    return [pytest.param(name, marks=pytest.mark.slow if name == always else pytest.mark.papers) for name in names]


@pytest.mark.parametrize("name", _marked(COMMANDS, always="sepconv"))
def test_a_paper_s_command_trains_to_the_end(
    corpora: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    row, corpus, folds = COMMANDS[name]
    out = tmp_path / "run"
    words = ["train", *row.split(), "--corpora", corpus, "--corpora-root", str(corpora), "--out", str(out)]
    more = ["--cache", str(corpora / "cache"), "--workers", "1", "--threads", "1", "--compute", "cpu"]
    short = ["--set", "epochs=1", "--set", "features.length_s=1.2"]  # clips of 1 s need no window of 7 s
    assert cli.main([*words, *more, *short, "--folds", "0"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["folds"] == 1 and 0 <= summary["ua"] <= 100
    assert ("reconstruction_mse_e4" in summary) == ("-sac" in row)
    assert cli.main([*words, *more, "--dry-run"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == folds
    left_out = (out / "left-out.csv").read_text(encoding="utf-8").splitlines()
    assert left_out == ["why,clip,detail"]  # the quietest turns of a corpus are kept


QUICK = {
    # the row and its number of epochs; all other settings are as published
    "focal-resnet-mfcc-focal": 3,
    "parallel-cnn-mfcc-s": 3,
    "cnn-blstm-focal-g2-a2": 12,
    "sepconv-hop768-n1-wce": 8,
    "lightsernet-3s-ce": 3,
    "lightsernet-report-iemocap-parent": 3,
}


@pytest.mark.parametrize("row", _marked(QUICK, always="parallel-cnn-mfcc-s"))
def test_a_few_epochs_as_published_are_better_than_chance(corpora: Path, tmp_path: Path, row: str) -> None:
    recipe = recipe_of(VARIANTS[row], BENCHMARKS["iemocap"])
    recipe = replace(recipe, protocol="honest", folds=2, epochs=QUICK[row], features={"length_s": 1.2}, batch=8)
    material = gather(recipe, corpora, corpora / "cache")
    trainer = Trainer(recipe, material, tmp_path / "run", RunOptions(cache=corpora / "cache"))
    fitted, *_ = trainer.fit(trainer.splits(0)[0], 0)
    found = np.max([line["val_ua"] for line in fitted.history])
    assert found > 0.5  # chance is 0.25
