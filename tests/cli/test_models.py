"""`streamser models` lists the checkpoints, even if one of them is damaged."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from makers import make_bundle

from streamser.cli import main
from streamser.cli import models as command
from streamser.cli.tables import refill


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder with two checkpoints; no other folder is searched."""
    make_bundle(tmp_path / "alpha", scores={"ua": 0.6123, "ece": 0.03, "per corpus": {"x": 1}}, licence="CC-BY-NC-4.0")
    make_bundle(tmp_path / "beta", labels=("calm", "excited"))
    monkeypatch.setattr("streamser.bundle.model_folders", lambda: [tmp_path])
    monkeypatch.setattr(command, "model_folders", lambda: [tmp_path])
    return tmp_path


def test_the_list_shows_name_variant_size_figures_labels_and_licence(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models"]) == 0
    header, alpha, beta = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "variant", "size", "figures", "labels", "licence"]
    for cell in (
        "alpha",
        "tiny-linear",
        "0.0 MB",
        "UA 0.612, calibration error 0.030",
        "angry, happy, neutral, sad",
        "CC-BY-NC-4.0",
    ):
        assert cell in alpha
    assert "calm, excited" in beta


def test_models_with_a_name_prints_the_card(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "alpha"]) == 0
    assert capsys.readouterr().out == "# alpha\n\nRandom weights for tests.\n"
    assert main(["models", str(models / "beta")]) == 0
    assert capsys.readouterr().out.startswith("# beta")


def test_models_prints_all_fields_as_json(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    assert [model["name"] for model in listing["models"]] == ["alpha", "beta"]
    assert listing["errors"] == []
    assert main(["models", "alpha", "--json"]) == 0
    alpha = json.loads(capsys.readouterr().out)
    assert alpha == listing["models"][0]
    assert alpha["labels"] == ["angry", "happy", "neutral", "sad"]
    assert alpha["calibration"]["threshold"] == 0.3
    assert alpha["scores"]["per corpus"] == {"x": 1}


def test_a_damaged_checkpoint_is_named_and_does_not_hide_the_others(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (models / "alpha" / "model.onnx").write_bytes(b"")
    assert main(["models"]) == 1
    out = capsys.readouterr().out
    assert "beta" in out
    assert "damaged: " in out
    assert "model.onnx: SHA-256 is" in out
    assert main(["models", "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["errors"]) == 1
    assert main(["models", "alpha"]) == 1
    assert "truncated or altered" in capsys.readouterr().err


def test_an_empty_list_names_the_folder_that_was_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("streamser.bundle.model_folders", "streamser.cli.models.model_folders"):
        monkeypatch.setattr(place, lambda: [tmp_path / "nothing"])
    assert main(["models"]) == 0
    assert capsys.readouterr().out == f"no checkpoint in {tmp_path / 'nothing'}\n"


@pytest.mark.parametrize("columns", [40, 80, 120, 140])
def test_on_a_terminal_the_list_is_no_wider_than_the_terminal(
    columns: int, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    assert main(["models"]) == 0
    lines = terminal.getvalue().splitlines()
    assert max(map(len, lines)) <= columns
    assert "CC-BY-NC-4.0" in terminal.getvalue() and "calm, excited" in terminal.getvalue()
    assert (len(lines) == 3) is (columns >= 120)


def test_the_text_to_read_aloud_fits_the_terminal() -> None:
    from streamser.cli.calibrate import _TEXT

    for columns in (40, 80, 140):
        lines = refill(_TEXT, columns).splitlines()
        assert max(map(len, lines)) < min(columns, 100)
        assert " ".join(" ".join(lines).split()) == " ".join(_TEXT.split())
