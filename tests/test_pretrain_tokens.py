"""`tools/pretrain_tokens.py` writes weights that a recipe can start from, and says what is wrong."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from corpus_maker import make_corpus
from safetensors.torch import load_file

from streamser.errors import ConfigError
from streamser.training.options import RunOptions
from streamser.training.pretraining import Figures, PretrainConfig
from streamser.training.recipe import Recipe, load_recipe
from streamser.training.setup import set_up
from streamser.training.start import pretrained_on

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import pretrain_tokens
from pretrain_tokens import pretrain, show_stage, stored

CONFIG = PretrainConfig(passes=32, batch=4, piece_s=0.64, report_every=4, held_back=0.3)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of two corpora; one is found by a link with another name."""
    folder = tmp_path_factory.mktemp("speech")
    make_corpus(folder / "tiny", speakers=3, takes=2, duration_s=1.2)
    make_corpus(folder / "other", speakers=2, takes=2, duration_s=1.2, seed=3)
    (folder / "linked").symlink_to(folder / "tiny")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def recipe(root: Path, variant: str = "sepconv", **changes: object) -> Recipe:
    path = root / f"{variant}.yaml"
    path.write_text(f"variant: {variant}\ncorpora: [tiny]\nlabels: [angry, sad]\nfeatures: {{scale: standard}}\n")
    return load_recipe(path, changes)


def run(root: Path, out: Path, cache: Path, corpora: tuple[str, ...] = ("linked",), **changes: object) -> None:
    pretrain(recipe(root, **changes), "whisper-1", corpora, CONFIG, RunOptions(cache=cache), root, out)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("variant", "modules"),
    [("sepconv", {"entry", "first", "residuals", "gru"}), ("lightsernet-smaller", {"paths", "body"})],
)
def test_a_training_starts_from_the_pretrained_weights_which_name_their_corpora(
    root: Path, tmp_path: Path, cache: Path, variant: str, modules: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "start.safetensors"
    run(root, out, cache, variant=variant)
    printed = capsys.readouterr().out
    assert "step 4: loss" in printed and "step 8: loss" in printed and f"{out}: " in printed
    weights = load_file(out)
    assert {name.partition(".")[0] for name in weights} == modules
    assert not out.with_suffix(".state").exists()
    started = set_up(recipe(root, variant, start=str(out))).build().state_dict()
    for name, value in weights.items():
        assert torch.equal(started[name], value.to(started[name].dtype))
    assert pretrained_on(str(out)) == ("tiny",)  # the corpus's name, not that of the link
    again = tmp_path / "again.safetensors"
    run(root, again, cache, ("other",), variant=variant, start=str(out))
    assert pretrained_on(str(again)) == ("other", "tiny")


def test_copies_at_other_speeds_have_log_mel_and_tokens_of_the_same_audio(root: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, copies=2)
    options = RunOptions(cache=tmp_path)
    pretrain(recipe(root), "whisper-1", ["linked"], config, options, root, tmp_path / "start.safetensors")
    stores = [np.load(path) for path in tmp_path.glob("*/index.npz")]
    assert len(stores) == 3  # the network's log-mel, the encoder's, and its tokens
    seconds = sorted((store["lengths"] / store["lengths"][0] for store in stores), key=lambda one: one.mean())
    assert all(one.shape == (3, len(seconds[0][0])) for one in seconds)
    assert 0.04 < np.abs(seconds[0][1:] - 1).mean() < 0.26 and len(np.unique(seconds[0].round(2))) > 10
    for other in seconds[1:]:
        np.testing.assert_allclose(other, seconds[0], atol=0.05)


def test_an_interrupted_command_continues_only_with_the_same_corpora(
    root: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(figures: Figures) -> None:
        if figures.step == 8:
            raise KeyboardInterrupt

    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    run(root, whole, cache)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(pretrain_tokens, "show", stop)
        run(root, parts, cache)
    with pytest.raises(ConfigError, match="other settings, speech, encoder or first weights"):
        run(root, parts, cache, ("other",))
    capsys.readouterr()
    run(root, parts, cache)
    assert "step 4" not in capsys.readouterr().out
    first, second = load_file(whole), load_file(parts)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("changes", "encoder", "name", "words"),
    [
        ({}, "lightsernet", "x.safetensors", "lightsernet has no encoder"),
        ({}, "whisper-1", "x.bin", "the name must end in .safetensors"),
        ({"variant": "cnn-blstm-softmax"}, "whisper-1", "x.safetensors", "has no columns"),
    ],
)
def test_what_cannot_be_pretrained_is_refused_before_any_audio_is_read(
    root: Path, tmp_path: Path, changes: dict[str, object], encoder: str, name: str, words: str
) -> None:
    options = RunOptions(cache=tmp_path)
    with pytest.raises(ConfigError, match=words):
        pretrain(recipe(root, **changes), encoder, ["nowhere"], CONFIG, options, root, tmp_path / name)  # type: ignore[arg-type]


def test_errors_and_ctrl_c_end_with_one_line(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe(root)
    words = ["pretrain_tokens.py", str(root / "sepconv.yaml"), str(tmp_path / "x.safetensors")]
    more = ["--corpora-root", str(root), "--corpora", "nowhere", "--cache", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*words, *more])
    with pytest.raises(SystemExit, match="nowhere"):
        pretrain_tokens.main()

    for option, reason in ((["--batch", "0"], "batch: must be at least 1"), (["--compute", "cuda"], "no CUDA device")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(sys, "argv", [*words, *more, *option])
        with pytest.raises(SystemExit, match=reason):
            pretrain_tokens.main()

    with monkeypatch.context() as patched:  # without options, the settings are the usual ones
        seen: list[object] = []
        patched.setattr(pretrain_tokens, "pretrain", lambda *given: seen.append(given[3]))
        patched.setattr(sys, "argv", [*words, "--corpora-root", str(root)])
        pretrain_tokens.main()
        assert seen == [PretrainConfig()]

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", [*words, *more])
    monkeypatch.setattr(pretrain_tokens, "pretrain", interrupted)
    with pytest.raises(SystemExit, match="the same command continues"):
        pretrain_tokens.main()


def test_progress_is_printed_about_ten_times(capsys: pytest.CaptureFixture[str]) -> None:
    for done in (*range(32, 6400, 32), 6400):
        show_stage("tokens", done, 6400)
    lines = capsys.readouterr().out.splitlines()
    assert 8 <= len(lines) <= 12 and lines[-1] == "tokens: 6400 of 6400"


def test_values_that_half_precision_cannot_hold_are_kept_as_they_are() -> None:
    assert stored(torch.tensor([1.5])).dtype == torch.float16
    assert stored(torch.tensor([1e5])).dtype == torch.float32
    assert stored(torch.tensor([3])).dtype == torch.int64
