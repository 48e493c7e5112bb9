"""docs/protocol.md agrees with the server: its messages are valid, its codes are complete, its examples run."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path

import pytest
from talking import VALIDATOR, finals, pcm, truth, two_utterances, wav

from streamser.recognizer import Recognizer
from streamser.server import protocol
from streamser.server.app import Server

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"
TEXT = DOCUMENT.read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("block", blocks("json"))
def test_every_message_in_the_protocol_document_is_valid(block: str) -> None:
    message = json.loads(block)
    sent_by_clients = ("hello", "end", "new_speaker") if "lost_ms" not in message else ()
    if message["type"] in sent_by_clients or (message["type"] == "gap" and "samples" in message):
        schema = VALIDATOR.schema["$defs"][message["type"]]
        VALIDATOR.evolve(schema=schema).validate(message)
    else:
        VALIDATOR.validate(message)


def test_the_documented_keys_of_hello_are_exactly_those_that_exist() -> None:
    table = TEXT.partition("| key | default | |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == {*protocol.Hello.__dataclass_fields__, "format", "v"}


def test_every_refusal_code_of_the_server_is_documented() -> None:
    sources = [path.read_text() for path in sorted(Path(protocol.__file__).parent.glob("*.py"))]
    given = {code for source in sources for code in re.findall(r'\bRefusal\(\s*"(\w+)"', source)}
    assert len(given) > 15
    assert given <= set(re.findall(r"`(\w+)`", TEXT))


def test_every_route_is_documented() -> None:
    pages = ("/ws/stream", "/ws/events", "/v1/label", "/v1/export", "/v1/models", "/v1/sample", "/healthz", "/metrics")
    for path in pages:
        assert f"{path}`" in TEXT


async def test_the_python_example_in_the_protocol_document_prints_the_finals(
    server: Server, recognizer: Recognizer, tmp_path: Path
) -> None:
    (tmp_path / "client.py").write_text(blocks("python")[1])
    (tmp_path / "talk.wav").write_bytes(wav(two_utterances()))
    url = server.url.replace("http", "ws") + "ws/stream"
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(tmp_path / "client.py"), str(tmp_path / "talk.wav"), url, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await asyncio.wait_for(process.communicate(), 60)
    expected = finals(truth(recognizer, pcm(two_utterances())))
    assert process.returncode == 0
    assert [line.split(": ")[1].split(" (")[0] for line in printed.decode().splitlines()] == [
        "uncertain" if final["uncertain"] else final["label"] for final in expected
    ]
