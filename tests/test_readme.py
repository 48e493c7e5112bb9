"""Statements of the README and the installation page that can be checked."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
from makers import babble, silence

import streamser
from streamser.audio import resample
from streamser.cli import COMMANDS, build_parser
from streamser.recognizer import Recognizer

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """A file with one utterance, which begins after 0.8 s, or 0.5 s with pre-roll."""
    path = tmp_path / "talk.wav"
    soundfile.write(path, np.concatenate([silence(0.8), babble(1.5), silence(0.8)]), 16_000)
    return path


def commands() -> list[str]:
    return [line for block in re.findall(r"```\n(.*?)```", README, re.S) for line in block.splitlines() if line]


def test_ci_runs_the_test_command_of_the_readme() -> None:
    (command,) = [line for line in commands() if "tools/check.sh" in line]
    last = command.split("&&", 2)[2].strip()
    assert last in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_file_named_in_the_readme_exists() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r"(samples/\S+|models/\S+\.yaml)", README)
    missing = [target for target in targets if not (ROOT / target.rstrip(",.`")).exists()]
    assert targets and not missing


def test_every_command_is_in_the_readme_and_every_command_in_the_readme_exists() -> None:
    named = set(re.findall(r"streamser ([a-z]+)\b", README))
    assert named >= {"live", "replay", "label", "serve", "devices", "calibrate", "train", "evaluate", "models"}
    words = {"live", *COMMANDS}
    assert set(re.findall(r"`streamser ([a-z]+)", README)) <= words


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    from streamser import cli

    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 5


def python_blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)


def test_the_first_example_of_the_readme_prints_times_in_seconds(
    recognizer: Recognizer, talk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("streamser.listen", lambda: streamser.replay(talk, model=recognizer))
    exec(python_blocks()[0], {})
    (line,) = capsys.readouterr().out.splitlines()
    assert 0.3 < float(line.split()[0]) < 0.7


def test_the_push_example_of_the_readme_gives_the_final_of_the_open_utterance(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamser.load", lambda: recognizer)
    monkeypatch.setattr("streamser.read_audio", lambda name: babble(1.2))
    received: list[streamser.Event] = []
    microphone = np.array_split(resample(babble(1.2), 16_000, 48_000), 20)
    (block,) = [block for block in python_blocks() if "stream.push" in block]
    names = {"streamser": streamser, "microphone": microphone, "received": received}
    exec(block.replace("...", "received.append(event)"), names)
    assert [event.final for event in received if isinstance(event, streamser.EmotionEvent)][-1]
    assert isinstance(received[-1], streamser.StreamEnded)


def test_the_commands_and_extras_of_the_installation_page_are_valid() -> None:
    text = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    blocks = re.findall(r"```\n(.*?)```", text, re.S)
    lines = [line.partition("#")[0].partition(">")[0].strip() for block in blocks for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("streamser ")]
    assert len(commands) >= 6
    for command in commands:
        words = shlex.split(command)[1:]
        build_parser(words[0]).parse_args(words)
    section = re.search(r"^\[project.optional-dependencies\]\n(.*?)^\[", pyproject, re.M | re.S)
    assert section is not None
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", text, re.M)
    assert {name for row in rows for name in re.findall(r"\w+", row)} == set(re.findall(r"^(\w+) = ", section[1], re.M))
