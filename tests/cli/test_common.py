"""Options that commands share: a command refuses an option that it would ignore, and names a solution."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
from makers import tone

from streamser.bundle import Bundle
from streamser.cli import main


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            ["label", "{folder}", "--set", "vad.mode=3"],
            "--set vad.mode=3: label classifies whole files; add --utterances",
        ),
        (["label", "{folder}", "--set", "server.port=1"], "--set server.port=1: label does not use the section server"),
        (
            ["evaluate", "{model}", "{folder}", "--set", "segmenter.hop_ms=9"],
            "evaluate classifies whole clips; add --stream",
        ),
        (["replay", "{file}", "--set", "server.port=1"], "replay does not use the section server"),
        (["devices", "--set", "vad.mode=3"], "devices does not use the section vad"),
        (
            ["calibrate", "{file}", "--device", "USB", "--out", "{folder}/p.json"],
            "--device: cannot be used together with recordings",
        ),
        (["mqtt", "{file}", "--device", "USB"], "--device: cannot be used together with files"),
        (["serve", "--device", "USB"], "--device: needs --mic; add --mic"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(
    words: list[str], error: str, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "a.wav", tone(), 16_000)
    words = [word.format(model=bundle.path, folder=tmp_path, file=tmp_path / "a.wav") for word in words]
    assert main(words) == 1
    printed = capsys.readouterr().err
    assert error in printed and printed.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav"]


def test_label_with_utterances_accepts_stream_settings(bundle: Bundle, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(), 16_000)
    out = ["--out", str(tmp_path / "labels.csv"), "--model", str(bundle.path)]
    assert main(["label", str(tmp_path), *out, "--utterances", "--set", "vad.mode=3"]) == 0
