"""The Python client gives the same events as `Stream` without a server, or an error with the reason."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from running import Running, running
from talking import pcm, plain, quantized, serving, truth, two_utterances, wav

import streamser
from streamser.bundle import Bundle
from streamser.errors import ServerError
from streamser.events import EmotionEvent, StreamEnded
from streamser.recognizer import Recognizer
from streamser.server.app import Server


@pytest.fixture(scope="module")
def process(bundle: Bundle) -> Iterator[Running]:
    with running(bundle.path) as server_process:
        yield server_process


async def test_the_client_gets_the_same_events_for_a_file_as_without_a_server(
    server: Server, recognizer: Recognizer, tmp_path: Path
) -> None:
    path = tmp_path / "talk.wav"
    path.write_bytes(wav(two_utterances()))
    client = streamser.AsyncClient(server.url)
    for audio in (path, path.read_bytes()):
        labelled = await client.label(audio, partials=True)
        assert plain([event.to_dict() for event in labelled.events]) == truth(recognizer, pcm(two_utterances()))
        assert len(labelled.finals) == 2
        assert labelled.labels == recognizer.labels
    assert (await client.export(labelled.events, "csv")).startswith(b"stream,utterance,start_s")
    assert (await client.health())["status"] == "ok"
    assert (await client.models())["current"]["name"] == recognizer.bundle.name


@pytest.mark.parametrize("kind", ["bytes", "int16", "float32"])
async def test_pushed_audio_gives_the_same_events_and_the_last_final(
    server: Server, recognizer: Recognizer, kind: str
) -> None:
    audio = quantized(two_utterances())
    whole = {"bytes": audio, "int16": audio, "float32": (audio / 32768).astype(np.float32)}[kind]
    events = []
    async with streamser.AsyncClient(server.url).stream(name="kitchen", lossless=True) as stream:
        assert stream.ready["stream"] == "kitchen"
        for first in range(0, len(whole), 3200):
            piece = whole[first : first + 3200]
            events += await stream.push(piece.tobytes() if kind == "bytes" else piece)
        events += await stream.finish()
        assert await stream.finish() == []
    assert plain([event.to_dict() for event in events]) == truth(recognizer, pcm(two_utterances()))
    assert isinstance(events[-1], StreamEnded)


async def test_the_async_and_the_blocking_client_can_report_a_new_speaker(adaptive: Recognizer) -> None:
    audio = np.concatenate([two_utterances(), np.zeros(8_000, np.float32)])

    def blocking(url: str) -> list[streamser.Event]:
        with streamser.Client(url).stream(lossless=True) as stream:
            events = list(stream.push(audio))
            stream.new_speaker()
            return [*events, *stream.push(audio), *stream.finish()]

    async with serving(adaptive) as server:
        async with streamser.AsyncClient(server.url).stream(lossless=True) as stream:
            events = await stream.push(audio)
            await stream.new_speaker()
            events += [*await stream.push(audio), *await stream.finish()]
        again = await asyncio.to_thread(blocking, server.url)
    for message in (events, again):
        finals = [event for event in message if event.type == "emotion" and event.final]
        assert [event.baseline_utterances for event in finals] == [0, 1, 0, 1]


async def test_events_can_be_read_while_audio_is_sent(server: Server) -> None:
    async with streamser.AsyncClient(server.url).stream() as stream:

        async def send() -> None:
            await stream.lose(1600)
            await stream.push(pcm(two_utterances()))
            await stream._socket.send_str('{"type": "end"}')

        sending = asyncio.create_task(send())
        kinds = [event.type async for event in stream]
        await sending
    assert kinds[0] == "gap"
    assert kinds[-1] == "stream_ended"


async def test_a_refusal_is_a_server_error_with_its_reason(server: Server, recognizer: Recognizer) -> None:
    client = streamser.AsyncClient(server.url)
    with pytest.raises(ServerError, match="not a readable audio file") as refused:
        await client.label(b"no sound")
    assert (refused.value.code, refused.value.status) == ("not_sound", 415)
    with pytest.raises(ServerError, match="sample_rate must be a whole number"):
        async with client.stream(sample_rate=1):
            pass
    with pytest.raises(ServerError, match="does not use its microphone"):
        async for _ in client.microphone():
            pass
    async with client.stream() as stream:
        with pytest.raises(ServerError, match="not a whole number"):
            await stream.push(b"odd")
            await stream.finish()
    async with serving(recognizer, token="a-token-of-enough-letters") as guarded:
        with pytest.raises(ServerError, match="needs a token"):
            await streamser.AsyncClient(guarded.url).models()
        known = streamser.AsyncClient(guarded.url, token="a-token-of-enough-letters")
        assert (await known.models())["current"]["name"] == recognizer.bundle.name
        async with known.stream() as stream:
            assert stream.ready["type"] == "ready"


def test_the_blocking_client_gives_the_same_events_as_without_a_server(
    process: Running, recognizer: Recognizer
) -> None:
    client = streamser.Client(process.url)
    assert client.health()["status"] == "ok"
    assert len(client.label(wav(two_utterances())).finals) == 2
    events = []
    with client.stream(lossless=True) as stream:
        data = pcm(two_utterances())
        for first in range(0, len(data), 6400):
            events += stream.push(data[first : first + 6400])
        assert stream.status or stream.ready
        events += stream.finish()
    assert plain([event.to_dict() for event in events]) == truth(recognizer, data)
    assert sum(isinstance(event, EmotionEvent) and event.final for event in events) == 2
    with pytest.raises(ServerError, match="does not use its microphone"):
        list(client.microphone())


def test_the_client_example_in_the_protocol_document_runs(
    process: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    document = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
    example = document.partition("### Python\n")[2].partition("```python\n")[2].partition("```")[0]
    (tmp_path / "talk.wav").write_bytes(wav(two_utterances()))
    monkeypatch.chdir(tmp_path)
    exec(example.replace("http://127.0.0.1:8765", process.url), {"microphone": [pcm(two_utterances())]})
    printed = capsys.readouterr().out
    assert printed.count(" s: ") == 2
    assert printed.count("StreamEnded") == 1


def test_a_missing_server_is_an_error_that_names_its_address_and_a_solution() -> None:
    with pytest.raises(ServerError, match=r"127\.0\.0\.1:9: no response .*streamser serve"):
        streamser.Client("http://127.0.0.1:9").models()
    with pytest.raises(ServerError, match="no response"), streamser.Client("http://127.0.0.1:9").stream():
        pass
    with pytest.raises(ValueError, match="begins with http"):
        streamser.Client("127.0.0.1:9")
