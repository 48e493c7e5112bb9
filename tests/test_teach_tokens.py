"""`tools/teach_tokens.py` writes weights that a recipe can begin with, and says what is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from corpus_maker import make_corpus
from safetensors import safe_open

from streamser.errors import ConfigError
from streamser.training.options import RunOptions
from streamser.training.recipe import load_recipe
from streamser.training.setup import set_up, taught_on
from streamser.training.tokens import Figures, TeachConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import teach_tokens
from teach_tokens import show, teach

CONFIG = TeachConfig(passes=32, batch=4, piece_s=0.64, report_every=4, held_back=0.3)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe's file, and its corpus beside it."""
    folder = tmp_path_factory.mktemp("speech")
    make_corpus(folder / "tiny", speakers=3, takes=2, duration_s=1.2)
    file = folder / "small.yaml"
    file.write_text("variant: sepconv\ncorpora: [tiny]\nlabels: [angry, sad]\nfeatures: {scale: standard}\n")
    return file


def test_the_taught_weights_begin_a_training_and_name_their_corpora(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "taught.safetensors"
    options = RunOptions(cache=tmp_path / "cache")
    teach(load_recipe(path), "whisper-1", ["tiny"], CONFIG, options, path.parent, out)
    printed = capsys.readouterr().out
    assert "step 4: loss" in printed and "step 8: loss" in printed and f"{out}: " in printed
    with safe_open(out, "pt") as file:
        assert {name.partition(".")[0] for name in file.keys()} == {"entry", "first", "residuals", "gru"}  # noqa: SIM118
    setup = set_up(load_recipe(path, {"start": str(out)}))
    assert taught_on(setup.recipe.start) == ("tiny",)
    setup.build()


def test_an_encoder_without_tokens_is_refused(path: Path, tmp_path: Path) -> None:
    options = RunOptions(cache=tmp_path)
    with pytest.raises(ConfigError, match="lightsernet has no encoder"):
        teach(load_recipe(path), "lightsernet", ["tiny"], CONFIG, options, path.parent, tmp_path / "x.safetensors")


def test_errors_and_ctrl_c_end_with_one_line(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["teach_tokens.py", str(path), str(tmp_path / "x.safetensors"), "--corpora-root", str(path.parent)]
    monkeypatch.setattr(sys, "argv", [*words, "--corpora", "nowhere", "--cache", str(tmp_path)])
    with pytest.raises(SystemExit, match="nowhere"):
        teach_tokens.main()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(teach_tokens, "teach", interrupted)
    with pytest.raises(SystemExit, match="the same command continues"):
        teach_tokens.main()


def test_a_line_of_progress_names_the_clips_that_are_held_back(capsys: pytest.CaptureFixture[str]) -> None:
    show(Figures(100, 0.25, 0.3, 0.5))
    assert capsys.readouterr().out == (
        "step 100: loss 0.250; of the clips that are held back, 30.0% of the tokens' variance predicted, "
        "50.0% of the pieces'\n"
    )
