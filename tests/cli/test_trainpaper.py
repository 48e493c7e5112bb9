"""`streamser train --paper` trains the rows of a paper's table: the estimate, the run, and resuming."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpus_maker import make_iemocap

from streamser.cli import main


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpora")
    make_iemocap(root / "IEMOCAP")
    return root


def words(corpora: Path, *more: str) -> list[str]:
    return ["train", "--corpora", "IEMOCAP", "--corpora-root", str(corpora), "--compute", "cpu", *more]


def test_a_dry_run_prints_the_folds_and_the_estimated_time_of_each_row(
    corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words(corpora, "--paper", "lightsernet", "--rows", "lightsernet-3s-*", "--dry-run")]) == 0
    *rows, whole = capsys.readouterr().out.splitlines()
    assert [row.partition(":")[0] for row in rows] == [
        f"lightsernet-3s-{loss}-{benchmark}-paper-lightsernet"
        for loss in ("ce", "focal")
        for benchmark in ("iemocap", "iemocap-improvised")
    ]
    assert all("10 of 10 folds left, 300 epochs each, about " in row for row in rows)
    assert whole.startswith("In total at most ")
    assert not list(tmp_path.glob("runs/*/*-s0"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--paper", "sepcon"), "did you mean 'sepconv'"),
        (("--paper", "sepconv", "--rows", "lightsernet*"), "none of its rows lightsernet"),
        (("--paper", "sepconv", "--benchmark", "iemocap-session1"), "was published on IEMOCAP as iemocap-session1"),
        (("lightsernet-3s-ce", "--paper", "sepconv"), "leave out lightsernet-3s-ce"),
    ],
)
def test_impossible_choices_of_papers_and_rows_are_refused(
    corpora: Path, more: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(corpora, *more)) == 1
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_same_command_continues_until_all_folds_are_done(
    corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words(
        corpora, "--paper", "lightsernet-report", "--rows", "lightsernet-report-iemocap*", "--set", "epochs=1",
        "--set", "features.length_s=1.2", "--out", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache"),
    )  # fmt: skip
    assert main([*command, "--minutes", "0.00001"]) == 2
    assert "2 folds are left (0 failed); repeat the command" in capsys.readouterr().out
    assert main([*command, "--jobs", "2"]) == 0
    out = capsys.readouterr().out
    assert "lightsernet-report-iemocap-iemocap-session1-paper-lightsernet-report: UA " in out
    assert "published: accuracy 32.78, wa 49.75" in out and "all done; python tools/reproduction.py" in out
    assert main(command) == 0
    assert "0 of 1 folds left" in capsys.readouterr().out
