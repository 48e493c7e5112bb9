"""The Wyoming service with the client of the wyoming package, over real sockets."""

from __future__ import annotations

import asyncio
import io
import json
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from makers import babble, silence

from streamser.audio import Samples, resample
from streamser.bundle import Bundle
from streamser.cli import main
from streamser.errors import ConfigError, DeviceError
from streamser.events import EmotionEvent
from streamser.recognizer import Recognizer
from streamser.stream.channel import Stream

pytest.importorskip("wyoming", reason="the extra wyoming is not installed")
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.error import Error
from wyoming.event import Event, write_event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong

from streamser.integrations import wyoming as service
from streamser.integrations import wyomingmessages
from streamser.integrations.wyoming import WyomingAddress, WyomingServer

RESPONSE_S = 30.0
ANY_PORT = WyomingAddress("tcp", "127.0.0.1", 0)


@pytest.fixture
async def server(recognizer: Recognizer) -> AsyncIterator[WyomingServer]:
    async with WyomingServer(recognizer, address=ANY_PORT) as server:
        yield server


def talk(seed: int = 0) -> Samples:
    """Audio with two utterances."""
    return np.concatenate([silence(0.4), babble(1.2, seed), silence(0.8), babble(1.0, seed + 50), silence(0.6)])


def pcm(audio: Samples, rate: int = 16_000, channels: int = 1) -> bytes:
    values = np.round(resample(audio, 16_000, rate) * 32767).astype("<i2")
    return np.repeat(values[:, None], channels, axis=1).tobytes()


def chunks(data: bytes, rate: int, channels: int, ms: int = 60) -> list[AudioChunk]:
    size = rate * ms // 1000 * 2 * channels
    return [AudioChunk(rate, 2, channels, data[at : at + size]) for at in range(0, len(data), size)]


def client_of(server: WyomingServer) -> AsyncClient:
    return AsyncClient.from_uri(str(server.address), connect_timeout=RESPONSE_S, read_timeout=RESPONSE_S)


async def exchange(client: AsyncClient, data: bytes, rate: int = 16_000, channels: int = 1) -> list[dict[str, Any]]:
    """Send audio from audio-start to audio-stop; returns the results that come back."""
    await client.write_event(AudioStart(rate, 2, channels).event())
    for chunk in chunks(data, rate, channels):
        await client.write_event(chunk.event())
    await client.write_event(AudioStop().event())
    return await emotions(client)


async def emotions(client: AsyncClient) -> list[dict[str, Any]]:
    responses = []
    while (event := await client.read_event()) is not None and event.type != "emotion-end":
        assert event.type == "emotion", event
        responses.append(event.data)
    assert event is not None, "the server has closed the connection"
    return responses


def expected(recognizer: Recognizer, data: bytes, rate: int, channels: int, partials: bool = False) -> list[Any]:
    """The results of a Stream for the same PCM."""
    stream = Stream(recognizer)
    events = [event for chunk in chunks(data, rate, channels) for event in stream.push(chunk.audio, rate, channels)]
    events += stream.close()
    return [plain(e.to_dict()) for e in events if isinstance(e, EmotionEvent) and (e.final or partials)]


def plain(words: dict[str, Any]) -> dict[str, Any]:
    """The fields of a result without latency and stream name, which may differ."""
    return {key: value for key, value in words.items() if key not in ("latency_ms", "stream")}


async def test_describe_is_answered_with_an_info_that_the_wyoming_package_can_read(server: WyomingServer) -> None:
    async with client_of(server) as client:
        await client.write_event(Describe().event())
        event = await client.read_event()
        assert event is not None
        assert Info.is_type(event.type)
        assert Info.from_event(event).asr == []
        (program,) = event.data["emotion"]
        assert program["name"] == "streamser"
        assert program["models"][0]["labels"] == list(server.recognizer.labels)


async def test_the_client_in_the_docs_prints_the_emotions(
    server: WyomingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "assistants.md").read_text(encoding="utf-8")
    (block,) = [text for text in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S) if "AsyncClient" in text]
    block = block.replace("tcp://127.0.0.1:10400", str(server.address))
    audio = pcm(talk())
    names = {"your_audio": [chunk.audio for chunk in chunks(audio, 16_000, 1)]}
    exec("async def example():\n" + textwrap.indent(block, "    "), names)
    await names["example"]()  # type: ignore[operator]
    printed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == [event["label"] for event in expected(server.recognizer, audio, 16_000, 1)] and printed


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (48_000, 2), (44_100, 1)])
async def test_the_service_gives_the_same_results_as_a_stream_for_the_same_pcm(
    server: WyomingServer, rate: int, channels: int
) -> None:
    data = pcm(talk(), rate, channels)
    async with client_of(server) as client:
        responses = await exchange(client, data, rate, channels)
    assert [plain(words) for words in responses] == expected(server.recognizer, data, rate, channels)
    assert len(responses) == 2
    assert all(words["final"] for words in responses)


async def test_with_partials_the_service_also_sends_partial_results(recognizer: Recognizer) -> None:
    data = pcm(talk())
    async with WyomingServer(recognizer, address=ANY_PORT, partials=True) as server, client_of(server) as client:
        responses = await exchange(client, data)
    assert [plain(words) for words in responses] == expected(recognizer, data, 16_000, 1, partials=True)
    assert sum(not words["final"] for words in responses) > 2


async def test_the_result_of_an_utterance_is_sent_while_audio_still_arrives(server: WyomingServer) -> None:
    async with client_of(server) as client:
        for chunk in chunks(pcm(talk()), 16_000, 1):  # without audio-start, as some clients do
            await client.write_event(chunk.event())
        event = await client.read_event()  # arrives although audio-stop was not sent
        assert event is not None
        assert event.data["utterance"] == 0


async def test_a_second_audio_start_begins_a_new_stream(server: WyomingServer) -> None:
    data = pcm(talk())
    async with client_of(server) as client:
        first, second = await exchange(client, data), await exchange(client, data)
    assert [plain(words) for words in first] == [plain(words) for words in second]


async def test_the_baseline_of_a_connection_is_kept_from_one_audio_start_to_the_next(adaptive: Recognizer) -> None:
    async with WyomingServer(adaptive, address=ANY_PORT) as server:
        async with client_of(server) as client:
            first, again = await exchange(client, pcm(talk())), await exchange(client, pcm(talk()))
        async with client_of(server) as client:
            anew = await exchange(client, pcm(talk()))
    assert [responses["scores"] for responses in anew] == [responses["scores"] for responses in first]
    assert again[0]["scores"] != first[0]["scores"]
    assert [responses[0]["baseline_utterances"] for responses in (first, again, anew)] == [0, len(first), 0]


async def test_several_clients_at_once_each_get_the_results_of_their_own_audio(server: WyomingServer) -> None:
    voices = [pcm(talk(seed)) for seed in range(6)]

    async def one(data: bytes) -> list[dict[str, Any]]:
        async with client_of(server) as client:
            return await exchange(client, data)

    responses = await asyncio.gather(*map(one, voices))
    assert len({str([words["scores"] for words in each]) for each in responses}) == len(voices), (
        "different voices must give different scores, else the test proves nothing"
    )
    for data, each in zip(voices, responses, strict=True):
        assert [plain(words) for words in each] == expected(server.recognizer, data, 16_000, 1)


def chunk_event(**changes: Any) -> Event:
    event = AudioChunk(16_000, 2, 1, bytes(640)).event()
    event.data.update({key: value for key, value in changes.items() if key != "payload"})
    event.payload = changes.get("payload", event.payload)
    return event


@pytest.mark.parametrize(
    ("event", "rule"),
    [
        (chunk_event(payload=bytes(641)), "641 bytes are not a whole number of frames of 2 bytes"),
        (chunk_event(channels=2, payload=bytes(642)), "642 bytes are not a whole number of frames of 4 bytes"),
        (chunk_event(width=4), "width must be 2 (16-bit samples, little endian), not 4"),
        (chunk_event(rate=10), "rate must be 4000 to 192000, not 10"),
        (chunk_event(rate="16000"), "rate must be 4000 to 192000, not '16000'"),
        (chunk_event(channels=0), "channels must be 1 to 32, not 0"),
        (chunk_event(width=None), "width must be 2 (16-bit samples, little endian), not None"),
    ],
)
async def test_invalid_audio_is_refused_once_and_the_next_audio_start_is_accepted(
    server: WyomingServer, event: Event, rule: str
) -> None:
    data = pcm(talk())
    async with client_of(server) as other, client_of(server) as client:
        await other.write_event(chunks(data, 16_000, 1)[0].event())
        await client.write_event(event)
        await client.write_event(event)
        await client.write_event(Ping(text="still there?").event())
        error, pong = await client.read_event(), await client.read_event()
        assert error is not None
        assert pong is not None
        assert Error.is_type(error.type)
        assert (Error.from_event(error).code, Error.from_event(error).text) == ("bad-audio", f"audio-chunk: {rule}")
        assert Pong.from_event(pong).text == "still there?"
        assert len(await exchange(client, data)) == 2
        for chunk in chunks(data, 16_000, 1)[1:]:
            await other.write_event(chunk.event())
        await other.write_event(AudioStop().event())
        assert [plain(words) for words in await emotions(other)] == expected(server.recognizer, data, 16_000, 1)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\xff\x80 no text at all\n",
        b"[1, 2]\n",
        b'{"data": {}}\n',
        b'{"type": "audio-chunk", "data": [1]}\n',
        b'{"type": "audio-chunk", "payload_length": 99999999999}\n',
        b'{"type": "audio-chunk", "payload_length": -1}\n',
        b'{"type": "audio-chunk", "data_length": "x"}\n',
        b'{"type": "audio-chunk", "data_length": 5}\n12345',
        b"[" * 50_000 + b"\n",
        b"a" * 200_000,
    ],
)
async def test_an_invalid_message_is_reported_and_ends_only_that_connection(
    server: WyomingServer, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(server) as other:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.address.port)
        writer.write(garbage)
        header = json.loads(await asyncio.wait_for(reader.readline(), RESPONSE_S))
        data = json.loads(await reader.readexactly(header["data_length"]))
        assert (header["type"], data["code"]) == ("error", "bad-message")
        assert data["text"].startswith("not a Wyoming message: ")
        assert await asyncio.wait_for(reader.read(), RESPONSE_S) == b"", "the connection must be closed"
        writer.close()
        assert len(await exchange(other, pcm(talk()))) == 2
    assert caplog.text == ""


async def test_a_client_that_disconnects_within_a_message_does_not_affect_others(
    server: WyomingServer, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.address.port)
    writer.write(b'{"type": "audio-chunk", "payload_length": 640}\n' + bytes(100))
    writer.close()
    await writer.wait_closed()
    async with client_of(server) as client:
        assert len(await exchange(client, pcm(talk()))) == 2
    assert caplog.text == ""


async def test_a_client_above_the_limit_is_refused_as_busy(
    server: WyomingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAX_CLIENTS", 1)
    async with client_of(server) as first:
        await first.write_event(chunks(pcm(talk()), 16_000, 1)[0].event())
        await first.write_event(Ping().event())
        assert await first.read_event() is not None
        async with client_of(server) as second:
            event = await second.read_event()
            assert event is not None
            assert Error.from_event(event).code == "busy"


async def test_connections_without_audio_do_not_count_towards_the_limit_of_clients(
    server: WyomingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAX_CLIENTS", 4)
    async with client_of(server) as normal:
        silent = [await asyncio.open_connection("127.0.0.1", server.address.port) for _ in range(20)]
        async with client_of(server) as late:
            assert len(await exchange(late, pcm(talk()))) == 2
    for _, writer in silent:
        writer.close()
    assert normal is not None


def encoded(event: Event) -> bytes:
    file = io.BytesIO()
    write_event(event, file)
    return file.getvalue()


async def hung_up_after(server: WyomingServer, data: bytes) -> list[str]:
    """Send only `data`; returns the types (or error codes) of the messages until the server closes the connection."""
    async with client_of(server) as client:
        assert client._writer is not None
        client._writer.write(data)
        types = []
        while (event := await client.read_event()) is not None:
            types.append(event.type if event.type != "error" else str(event.data["code"]))
        return types


async def test_a_client_that_stops_within_a_message_is_disconnected(
    server: WyomingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wyomingmessages, "MESSAGE_S", 0.2)
    for data in (b'{"type": "pi', b'{"type": "audio-chunk", "payload_length": 640}\n' + bytes(100)):
        assert await hung_up_after(server, data) == ["bad-message"]


async def test_a_client_that_stops_sending_audio_gets_its_results_and_is_disconnected(
    server: WyomingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "AUDIO_S", 0.3)
    data = pcm(np.concatenate([silence(0.3), babble(1.0)]))  # ends within the speech
    assert await hung_up_after(server, encoded(AudioChunk(16_000, 2, 1, data).event())) == ["emotion", "idle"]


async def test_an_idle_client_is_disconnected(server: WyomingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "IDLE_S", 0.2)
    assert await hung_up_after(server, b"") == ["idle"]


async def test_a_service_that_stops_still_sends_the_results_of_the_received_audio(recognizer: Recognizer) -> None:
    data = pcm(np.concatenate([silence(0.3), babble(1.5)]))
    async with WyomingServer(recognizer, address=ANY_PORT) as server:
        client = client_of(server)
        await client.connect()
        await client.write_event(AudioChunk(16_000, 2, 1, data).event())
        await client.write_event(Ping().event())
        pong = await client.read_event()
        assert pong is not None and Pong.is_type(pong.type)
    event = await client.read_event()
    await client.disconnect()
    assert event is not None
    assert [plain(event.data)] == expected(recognizer, data, 16_000, 1)


async def test_huge_chunks_of_one_client_do_not_stop_the_results_of_another(server: WyomingServer) -> None:
    huge = pcm(np.tile(talk(), 8))[: wyomingmessages.MAX_CHUNK_BYTES]
    async with client_of(server) as greedy, client_of(server) as normal:
        for _ in range(4):
            await greedy.write_event(AudioChunk(16_000, 2, 1, huge).event())
        responses = await exchange(normal, pcm(talk()))
        assert len(responses) == 2
        await greedy.write_event(AudioStop().event())
        assert len(await emotions(greedy)) > 8


@pytest.mark.skipif(sys.platform == "win32", reason="no Unix sockets")
async def test_the_service_can_use_a_unix_socket_and_deletes_it_at_the_end(
    recognizer: Recognizer, tmp_path: Path
) -> None:
    address = WyomingAddress.parse(f"unix://{tmp_path / 'emotion.sock'}")
    async with WyomingServer(recognizer, address=address) as server, client_of(server) as client:
        assert len(await exchange(client, pcm(talk()))) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "local"),
    [
        ("tcp://127.0.0.1:10400", True),
        ("tcp://localhost:1", True),
        ("tcp://[::1]:10400", True),
        ("tcp://127.0.0.1.example.org:10400", False),
        ("tcp://0.0.0.0:10400", False),
        ("tcp://[::]:10400", False),
        ("tcp://192.168.1.2:10400", False),
    ],
)
def test_an_address_that_other_machines_can_reach_needs_public(uri: str, local: bool) -> None:
    assert str(WyomingAddress.parse(uri, public=True)) == uri
    if not local:
        with pytest.raises(ConfigError, match="neither passwords nor encryption; add --public"):
            WyomingAddress.parse(uri)


@pytest.mark.parametrize(
    "uri",
    ["10400", "http://127.0.0.1:1", "tcp://127.0.0.1", "tcp://:10400", "tcp://a:b", "tcp://a:99999", "unix://", ""],
)
def test_an_invalid_uri_is_refused_before_the_model_is_loaded(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wyoming", "--uri", uri, "--model", "there-is-none"]) == 1
    assert capsys.readouterr().err.endswith(": must be like tcp://127.0.0.1:10400 or unix:///run/emotion.sock\n")


async def test_a_port_that_is_taken_is_reported_in_one_line(recognizer: Recognizer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = WyomingAddress("tcp", "127.0.0.1", taken.getsockname()[1])
        with pytest.raises(DeviceError, match=r"cannot listen on tcp://127.0.0.1:\d+ \(.+\); is another service there"):
            await WyomingServer(recognizer, address=address).__aenter__()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for a child")
async def test_ctrl_c_ends_the_wyoming_command_without_an_error_while_a_client_is_connected(bundle: Bundle) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "streamser", "wyoming", "--model", str(bundle.path), "--uri", "tcp://127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        greeting = await asyncio.to_thread(process.stderr.readline)
        assert greeting.startswith("streamser: serving tiny at tcp://127.0.0.1:")
        uri = greeting.split(" at ")[1].split(";")[0]
        async with AsyncClient.from_uri(uri, connect_timeout=RESPONSE_S, read_timeout=RESPONSE_S) as client:
            assert len(await exchange(client, pcm(talk()))) == 2
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            out, err = await asyncio.to_thread(process.communicate, timeout=RESPONSE_S)
            assert time.monotonic() - began < 5, "a stop must not take long"
        assert (process.returncode, out, err) == (0, "", "")
    finally:
        process.kill()
        process.communicate()
