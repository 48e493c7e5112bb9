"""Every Python block in the README and in docs/ passes mypy --strict, and runs."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from makers import babble, silence

import streamser
from streamser.audio import resample
from streamser.recognizer import Recognizer

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# Code in front of a block, by the names that the block uses without defining them.
BROUGHT = {
    "streamser": "import streamser",
    "microphone": "from collections.abc import Iterable\nmicrophone: Iterable[bytes] = []",
    "your_audio": "from collections.abc import Iterable\nyour_audio: Iterable[bytes] = []",
    "neutral_speech": "from streamser.audio import Samples\nneutral_speech: list[Samples] = []",
    "recognizer": "import streamser\nrecognizer: streamser.Recognizer = streamser.load()",
}
# Blocks that need a server run in the tests of this server.
RUN_ELSEWHERE = {
    "session.ws_connect": "tests/server/test_protocol_docs.py",
    "import AsyncClient": "tests/integrations/test_wyoming.py",
    "streamser.Client": "tests/server/test_python_client.py",
}


def blocks() -> dict[str, str]:
    """The Python blocks of all pages, by page and number."""
    found: dict[str, str] = {}
    for page in PAGES:
        texts = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
        found |= {f"{page.stem}_{number}": text for number, text in enumerate(texts, 1)}
    return found


def whole(block: str) -> str:
    """The block as a module: with the code of `BROUGHT` in front, and with `async with` inside a function."""
    body = block
    if re.search(r"^(async (with|for)|await) ", block, re.M):
        imports = re.findall(r"^(?:from|import) .*$", block, re.M)
        rest = "\n".join(line for line in block.splitlines() if line not in imports)
        body = "\n".join([*imports, "", "async def example() -> None:", textwrap.indent(rest, "    ")])
    brought = [
        text
        for name, text in BROUGHT.items()
        if re.search(rf"\b{name}\b", block) and not re.search(rf"^(import|from) {name}\b|^{name} =", block, re.M)
    ]
    return "\n".join([*brought, body])


def mypy(folder: Path) -> str:
    """Run mypy --strict on the files of a folder, as in a user's project; returns its output."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", str(folder / "cache"), "."],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.slow
def test_every_python_block_of_the_documentation_passes_mypy_strict(tmp_path: Path) -> None:
    for name, block in blocks().items():
        (tmp_path / f"{name.replace('-', '_')}.py").write_text(whole(block), encoding="utf-8")
    message = mypy(tmp_path)
    assert message.startswith("Success"), message


@pytest.mark.slow
def test_mypy_narrows_events_by_their_type_in_a_users_project(tmp_path: Path) -> None:
    (tmp_path / "right.py").write_text(
        "import streamser\n"
        "def text(event: streamser.Event) -> str:\n"
        "    if event.type == 'emotion':\n"
        "        return f'{event.label} {event.confidence:.2f} {event.start_s:.1f} {event.end_s:.1f}'\n"
        "    if event.type == 'gap':\n"
        "        return f'{event.length} {event.end_s}'\n"
        "    if event.type == 'source':\n"
        "        return event.state + str(event.at_s)\n"
        "    if event.type == 'stream_ended':\n"
        "        return event.error or ''\n"
        "    return str(event.utterance)\n",
        encoding="utf-8",
    )
    assert mypy(tmp_path).startswith("Success")
    (tmp_path / "wrong.py").write_text(
        "import streamser\ndef text(event: streamser.Event) -> float:\n    return event.confidence\n", encoding="utf-8"
    )
    assert 'has no attribute "confidence"' in mypy(tmp_path)


RUNNABLE = [name for name, block in blocks().items() if not any(mark in block for mark in RUN_ELSEWHERE)]


@pytest.mark.parametrize("name", RUNNABLE)
def test_every_python_block_of_the_documentation_runs(
    name: str, adaptive: Recognizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = np.concatenate([silence(0.8), babble(1.5), silence(0.8)])
    soundfile.write(tmp_path / "talk.wav", audio, 16_000)
    monkeypatch.chdir(tmp_path)
    replay: Callable[..., streamser.Listener] = streamser.replay
    monkeypatch.setattr("streamser.listen", lambda **options: replay("talk.wav", model=adaptive, **options))
    monkeypatch.setattr("streamser.replay", lambda path, **options: replay(path, model=adaptive, **options))
    monkeypatch.setattr("streamser.load", lambda *names: adaptive)
    data = (resample(audio, 16_000, 48_000) * 32767).astype("<i2").tobytes()
    pcm = [data[first : first + 19_200] for first in range(0, len(data), 19_200)]
    names = {"streamser": streamser, "microphone": pcm, "your_audio": pcm, "neutral_speech": [babble(16.0)]}
    exec(compile(blocks()[name], name, "exec"), names)


def test_the_blocks_that_do_not_run_here_run_in_other_tests() -> None:
    for mark, place in RUN_ELSEWHERE.items():
        assert any(mark in block for block in blocks().values()), f"no block has {mark}: remove it from RUN_ELSEWHERE"
        assert "docs" in (ROOT / place).read_text(encoding="utf-8")
