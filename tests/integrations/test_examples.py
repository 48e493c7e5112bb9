"""The examples of docs/assistants.md run as described; the commands and the Python code on that page are valid."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from makers import babble, silence

from streamser.bundle import Bundle
from streamser.cli import COMMANDS, build_parser
from streamser.events import EmotionEvent
from streamser.recognizer import Recognizer
from streamser.stream.channel import Stream

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "tools" / "examples"
RUN_S = 60.0


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with two utterances."""
    path = tmp_path_factory.mktemp("talk") / "talk.wav"
    soundfile.write(
        path, np.concatenate([silence(0.4), babble(1.0), silence(0.7), babble(0.8, 7), silence(0.6)]), 16_000
    )
    return path


def finals(recognizer: Recognizer, talk: Path) -> list[EmotionEvent]:
    stream = Stream(recognizer)
    events = [*stream.push(soundfile.read(talk, dtype="int16")[0]), *stream.close()]
    return [event for event in events if isinstance(event, EmotionEvent) and event.final]


def shown(event: EmotionEvent) -> str:
    return "uncertain" if event.uncertain else event.label


def test_the_assistant_loop_replies_to_each_utterance(recognizer: Recognizer, bundle: Bundle, talk: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "assistant_loop.py"), str(talk), "--model", str(bundle.path)],
        capture_output=True,
        text=True,
        timeout=RUN_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("(")] == ["(you speak)"] * 2
    received = [line.split(":")[0] for line in lines if line.startswith("recognized")]
    assert received == [f"recognized {shown(event)} ({event.confidence:.0%})" for event in finals(recognizer, talk)]


def test_pushed_audio_prints_one_line_for_each_utterance(recognizer: Recognizer, bundle: Bundle, talk: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "pushed_audio.py"), "--model", str(bundle.path)],
        input=soundfile.read(talk, dtype="int16")[0].tobytes(),
        capture_output=True,
        timeout=RUN_S,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    wanted = [f"{shown(event)} {event.confidence:.2f}" for event in finals(recognizer, talk)]
    assert done.stdout.decode().splitlines() == wanted


def commands() -> list[str]:
    text = (ROOT / "docs" / "assistants.md").read_text(encoding="utf-8")
    return sorted({match.strip() for match in re.findall(r"^streamser .+$|(?<=`)streamser [^`]+(?=`)", text, re.M)})


def test_the_page_about_assistants_has_at_least_four_commands() -> None:
    assert len(commands()) >= 4


@pytest.mark.parametrize("command", commands())
def test_the_commands_on_the_page_about_assistants_are_valid(command: str) -> None:
    words = shlex.split(command)[1:]
    assert words[0] in COMMANDS
    build_parser(words[0]).parse_args(words)


def test_the_python_code_on_the_page_about_assistants_compiles() -> None:
    text = (ROOT / "docs" / "assistants.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len(blocks) == 3
    for block in blocks:
        compile("async def example():\n" + re.sub("^", "    ", block, flags=re.M), "docs/assistants.md", "exec")
