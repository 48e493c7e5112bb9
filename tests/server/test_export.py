"""POST /v1/export returns the same files that `replay --out` and `--plot` write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from talking import pcm, two_utterances

from streamser.outputs import open_writer
from streamser.recognizer import Recognizer
from streamser.server.app import Server
from streamser.stream.channel import Stream


async def export(server: Server, body: str | bytes, wanted: str) -> tuple[int, bytes]:
    url = f"{server.url}v1/export?format={wanted}"
    async with aiohttp.ClientSession() as session, session.post(url, data=body) as response:
        return response.status, await response.read()


def lines(events: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(event) + "\n" for event in events)


@pytest.mark.parametrize("wanted", ["csv", "vtt", "TextGrid", "eaf", "txt", "rttm", "jsonl"])
async def test_an_export_equals_the_file_that_the_writer_makes(
    server: Server, recognizer: Recognizer, tmp_path: Path, wanted: str
) -> None:
    stream = Stream(recognizer)
    events = [*stream.push(pcm(two_utterances())), *stream.close()]
    path = tmp_path / f"session.{wanted}"
    with open_writer(path) as writer:
        for event in events:
            writer.write(event)
    status, content = await export(server, lines([event.to_dict() for event in events]), wanted.lower())
    assert status == 200
    assert content == path.read_bytes()
    assert content.strip()


async def test_an_export_as_png_is_a_picture(server: Server, recognizer: Recognizer) -> None:
    pytest.importorskip("matplotlib")
    stream = Stream(recognizer)
    events = [event.to_dict() for event in [*stream.push(pcm(two_utterances())), *stream.close()]]
    status, content = await export(server, lines(events), "png")
    assert (status, content[:8]) == (200, b"\x89PNG\r\n\x1a\n")


GAP = {"v": 1, "type": "gap", "stream": "a", "start_s": 0.0, "end_s": 1.0, "reason": "client"}


@pytest.mark.parametrize(
    ("body", "wanted", "status", "code"),
    [
        ("", "csv", 400, "empty"),
        (lines([GAP]), "docx", 400, "bad_query"),
        (lines([GAP]), "csv&formt=vtt", 400, "bad_query"),
        ("no json\n", "csv", 400, "bad_events"),
        ("[1]\n", "csv", 400, "bad_events"),
        ("[" * 100_000 + "\n", "csv", 400, "bad_events"),
        (lines([{**GAP, "type": "other"}]), "csv", 400, "bad_events"),
        (lines([{**GAP, "start_s": float("nan")}]), "csv", 400, "bad_events"),
        (lines([{"type": "speech_started", "start_s": 0.0, "utterance": "1"}]), "csv", 400, "bad_events"),
        (b"\xff\xfe{}\n", "csv", 400, "bad_events"),
    ],
)
async def test_an_invalid_export_is_refused_with_a_code(
    server: Server, body: str | bytes, wanted: str, status: int, code: str
) -> None:
    got, content = await export(server, body, wanted)
    assert (got, json.loads(content)["error"]["code"]) == (status, code)


async def test_two_streams_are_refused_in_a_format_with_one_timeline(server: Server, recognizer: Recognizer) -> None:
    stream = Stream(recognizer, name="a")
    events = [event.to_dict() for event in [*stream.push(pcm(two_utterances())), *stream.close()]]
    both = events + [{**event, "stream": "b"} for event in events]
    status, content = await export(server, lines(both), "textgrid")
    assert status == 422
    assert "/tmp" not in json.loads(content)["error"]["message"]
    assert (await export(server, lines(both), "rttm"))[0] == 200
