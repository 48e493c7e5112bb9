"""Tests without Ray: the help of its options, and the errors that are found before Ray is used."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from streamser.bundle import Bundle
from streamser.cli import main
from streamser.cluster import start
from streamser.errors import ConfigError, MissingExtraError


@pytest.mark.parametrize("command", ["label", "serve", "train"])
def test_the_help_describes_ray(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    printed = capsys.readouterr().out
    assert "--ray [ADDRESS]" in printed and "extra 'ray'" in printed


def test_without_ray_the_error_names_what_to_install(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(start, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'streamser\[ray\]'"):
        start.require_ray("streamser label --ray")
    out = tmp_path / "labels.jsonl"
    assert main(["label", str(tmp_path), "--model", str(bundle.path), "--out", str(out), "--ray"]) == 1
    printed = capsys.readouterr().err
    assert printed == "streamser: streamser label --ray needs the extra 'ray': pip install 'streamser[ray]'\n"
    assert not out.exists()
    for words in (["serve", "--ray"], ["train", "--paper", "sepconv", "--corpora", "IEMOCAP", "--ray"]):
        assert main(words) == 1
        assert "pip install 'streamser[ray]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["serve", "--ray", "--mic"], "--mic: cannot be used with --ray"),
        (["serve", "--ray", "--record", "audio"], "--record: cannot be used with --ray"),
        (["serve", "--ray", "--replicas", "3-2"], "--replicas: must be N, or FEWEST-MOST with at least 1, not 3-2"),
        (["serve", "--ray", "--replicas", "many"], "--replicas: must be N, or FEWEST-MOST, not 'many'"),
        (["serve", "--ray", "--streams-each", "0"], "--streams-each: must be at least 1, not 0"),
        (["serve", "--ray", "--host", "0.0.0.0"], "needs a token"),
        (["serve", "--replicas", "2"], "--replicas, --streams-each: need --ray"),
        (["train", "recipe.yaml", "--ray"], "--ray: trains the folds of a paper's table; add --paper NAME"),
        (
            ["train", "--paper", "sepconv", "--ray", "--compute", "cuda:1"],
            "--compute cuda:1: with --ray, which assigns",
        ),
        (["train", "--paper", "sepconv", "--ray", "--jobs", "0"], "--jobs: must be at least 1, not 0"),
    ],
)
def test_options_that_cannot_be_used_are_reported_in_one_line(
    words: list[str], error: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(start, "find_spec", lambda _: True)
    assert main(words) == 1
    printed = capsys.readouterr().err
    assert error in printed and printed.count("\n") == 1


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:port"])
def test_an_unreachable_address_is_named_at_once(address: str) -> None:
    with pytest.raises(ConfigError, match=f"--ray {address}: no Ray cluster answers there"), start.connected(address):
        pass


def test_a_cluster_that_needs_a_token_is_not_reported_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        cause = RuntimeError("ray.exceptions.AuthenticationError: RPC error: InvalidAuthToken")
        raise ConnectionError("Failed to connect to Ray cluster") from cause

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    with pytest.raises(ConfigError, match="--ray head:6379: the cluster needs a token; set RAY_AUTH_MODE=token"):
        start._join("head:6379")
