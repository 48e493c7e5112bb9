from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import soundfile
from makers import silence
from talking import DEADLINE_S, Message, finals, pcm, plain, refused, serving, talking, truth, two_utterances

from streamser.audio import SAMPLE_RATE, resample
from streamser.errors import EngineError
from streamser.recognizer import Recognizer
from streamser.server import ServerConfig
from streamser.server.app import Server
from streamser.stream.pipeline import Listener
from streamser.stream.sources import PushSource

TOKEN = "a-token-for-these-tests"
HELLO = json.dumps({"type": "hello", "sample_rate": 16000})
DATA = pcm(two_utterances())


def is_ready(message: Message) -> bool:
    return bool(message["type"] == "ready")


async def test_a_client_gets_the_same_events_as_without_a_server(server: Server, recognizer: Recognizer) -> None:
    async with talking(server, sample_rate=16000, stream="kitchen", lossless=True) as talker:
        await talker.send(DATA)
        messages = await talker.end()
    assert plain(messages) == truth(recognizer, DATA)
    assert {message["stream"] for message in messages} == {"kitchen"}
    assert messages[-1]["type"] == "stream_ended"
    assert talker.ws.close_code == 1000


@pytest.mark.parametrize("block", [2, 38, 4410, 100_000])
async def test_the_events_do_not_depend_on_the_size_of_the_messages(
    server: Server, recognizer: Recognizer, block: int
) -> None:
    data = DATA[: 2000 * block] if block < 100 else DATA
    async with talking(server, sample_rate=16000, lossless=True) as talker:
        await talker.send(data, block)
        assert plain(await talker.end()) == truth(recognizer, data)


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44100, 2), (48000, 1), (96000, 6)])
async def test_any_sample_rate_and_number_of_channels_is_accepted(server: Server, rate: int, channels: int) -> None:
    audio = resample(two_utterances(), SAMPLE_RATE, rate)
    data = pcm(audio.repeat(channels))
    async with talking(server, sample_rate=rate, channels=channels, format="s16le") as talker:
        await talker.send(data, 20 * rate // 1000 * 2 * channels)
        assert len(finals(await talker.end())) == 2


async def test_finals_are_the_same_with_and_without_partials(server: Server, recognizer: Recognizer) -> None:
    async with talking(server, sample_rate=16000, partials=False, status_ms=0) as talker:
        await talker.send(DATA)
        messages = await talker.end()
    assert plain(messages) == [e for e in truth(recognizer, DATA) if e["type"] != "emotion" or e["final"]]


async def test_status_messages_report_speech_position_and_drops(server: Server) -> None:
    async with talking(server, sample_rate=16000, status_ms=50) as talker:
        await talker.send(DATA)
        statuses = [message for message in await talker.end() if message["type"] == "status"]
    assert {"quiet", "speaking"} <= {status["vad_state"] for status in statuses}
    assert statuses[-1]["position_s"] == pytest.approx(len(DATA) / 2 / SAMPLE_RATE, abs=0.05)
    assert all(status["dropped"] == 0 for status in statuses)


async def test_a_gap_that_the_client_reports_is_part_of_the_timeline(server: Server) -> None:
    async with talking(server, sample_rate=48000) as talker:
        await talker.ws.send_bytes(pcm(silence(1.0)) * 3)
        await talker.ws.send_json({"type": "gap", "samples": 24000})
        await talker.ws.send_bytes(pcm(silence(1.0)) * 3)
        messages = await talker.end()
    gap = next(message for message in messages if message["type"] == "gap")
    assert (gap["start_s"], gap["end_s"], gap["lost_ms"], gap["reason"]) == (1.0, 1.5, 500.0, "client")
    assert messages[-1]["end_s"] == 2.5


async def test_a_new_speaker_message_restarts_the_baseline_at_its_place_in_the_audio(adaptive: Recognizer) -> None:
    half = pcm(np.concatenate([two_utterances(), silence(0.5)]))
    async with serving(adaptive) as server, talking(server, sample_rate=16000, lossless=True) as talker:
        await talker.send(half)
        await talker.ws.send_json({"type": "new_speaker"})
        await talker.send(half)
        received = finals(await talker.end())
    assert [(event["baseline"], event["baseline_utterances"]) for event in received] == [
        ("none", 0), ("own", 1), ("none", 0), ("own", 1),
    ]  # fmt: skip
    for before, after in zip(received[:2], received[2:], strict=True):
        assert after["scores"] == pytest.approx(before["scores"], abs=0.01)


async def test_each_client_has_its_own_baseline(adaptive: Recognizer) -> None:
    async with (
        serving(adaptive) as server,
        talking(server, sample_rate=16000, lossless=True) as one,
        talking(server, sample_rate=16000, lossless=True) as other,
    ):
        for talker in (one, other):
            await talker.send(DATA)
        for talker in (one, other):
            assert plain(await talker.end()) == truth(adaptive, DATA)


async def test_the_query_of_the_address_can_replace_the_hello(server: Server, recognizer: Recognizer) -> None:
    async with talking(server, "ws/stream?sample_rate=16000&partials=false&lossless=true&stream=fifo") as talker:
        await talker.send(DATA)
        messages = await talker.end()
    assert plain(finals(messages)) == plain(finals(truth(recognizer, DATA)))
    assert messages[0]["stream"] == "fifo"
    for query, code in (("sample_rate=x", "sample_rate"), ("sample_rate=16000&partials=maybe", "bad_hello")):
        close_code, error = await refused(server, [], f"ws/stream?{query}")
        assert (close_code, error["code"]) == (4400, code)


async def test_two_clients_with_the_same_name_get_two_names_and_their_own_events(server: Server) -> None:
    async with talking(server, sample_rate=16000, stream="same") as one:
        await one.receive(is_ready)
        async with talking(server, sample_rate=16000, stream="same") as two:
            await two.receive(is_ready)
            assert (one.messages[0]["stream"], two.messages[0]["stream"]) == ("same", "same-2")
            await one.send(DATA)
            assert len(finals(await one.end())) == 2
            assert finals(await two.end()) == []
    async with talking(server, sample_rate=16000, stream="same") as three:
        await three.receive(is_ready)
        assert three.messages[0]["stream"] == "same"


async def test_an_unnamed_client_never_gets_the_name_of_a_named_client(server: Server) -> None:
    async with talking(server, sample_rate=16000, stream="client-1") as named:
        await named.receive(is_ready)
        async with talking(server, sample_rate=16000) as unnamed:
            ready = (await unnamed.receive(is_ready))[0]
            assert ready["stream"] not in ("client-1", "")
            await unnamed.send(DATA)
            assert len(finals(await unnamed.end())) == 2
        assert finals(await named.end()) == []


async def test_the_name_of_a_client_becomes_free_after_an_aborted_connection(server: Server) -> None:
    for _ in range(3):
        async with talking(server, sample_rate=16000, stream="wanderer") as talker:
            await talker.receive(is_ready)
            await talker.send(DATA[:40_000])
            talker.ws._response.connection.transport.abort()  # type: ignore[union-attr]

    async def names() -> str:
        async with talking(server, sample_rate=16000, stream="wanderer") as talker:
            return str((await talker.receive(is_ready))[0]["stream"])

    loop = asyncio.get_running_loop()
    deadline = loop.time() + DEADLINE_S
    while await names() != "wanderer":
        assert loop.time() < deadline


# --- refusals


@pytest.mark.parametrize(
    ("messages", "code", "close_code"),
    [
        (["rubbish"], "bad_json", 4400),
        ([b"\0\0"], "no_hello", 4400),
        (['{"type": "end"}'], "no_hello", 4400),
        (['{"type": "hello"}'], "sample_rate", 4400),
        (['{"type": "hello", "sample_rate": 1}'], "sample_rate", 4400),
        (['{"type": "hello", "sample_rate": 2000000000}'], "sample_rate", 4400),
        (['{"type": "hello", "sample_rate": 16000, "format": "f32le"}'], "format", 4400),
        (['{"type": "hello", "sample_rate": 16000, "channels": 0}'], "channels", 4400),
        ([HELLO, b"\0"], "odd_bytes", 4400),
        ([HELLO, b"\0" * 641], "odd_bytes", 4400),
        (['{"type": "hello", "sample_rate": 16000, "channels": 2}', b"\0" * 6], "odd_bytes", 4400),
        ([HELLO, HELLO], "bad_type", 4400),
        ([HELLO, "not json"], "bad_json", 4400),
        ([HELLO, '{"type": "gap", "samples": -5}'], "bad_gap", 4400),
        ([HELLO, '{"type": "gap", "samples": 100000000000}'], "bad_gap", 4400),
        ([HELLO, b"\0" * 300_000], "too_big", 1009),
        (["x" * 5000], "too_big", 1009),
    ],
)
async def test_invalid_messages_are_refused_with_a_code_and_a_sentence(
    server: Server, messages: list[str | bytes], code: str, close_code: int
) -> None:
    got, error = await refused(server, messages)
    assert (got, error["type"], error["code"]) == (close_code, "error", code)
    assert 15 < len(error["message"]) < 400


async def test_a_message_far_over_the_limit_closes_the_connection(server: Server) -> None:
    async with talking(server, sample_rate=16000) as talker:
        await talker.receive(is_ready)
        with contextlib.suppress(ConnectionError):
            await talker.ws.send_bytes(b"\0" * 20_000_000)
        await talker.receive()
        assert talker.ws.close_code in (1009, 1006)


async def test_audio_before_an_invalid_message_still_gets_its_results(server: Server, recognizer: Recognizer) -> None:
    async with talking(server, sample_rate=16000, lossless=True) as talker:
        await talker.send(DATA)
        await talker.ws.send_bytes(b"\0")
        messages = await talker.receive()
    assert plain(messages) == truth(recognizer, DATA)
    assert messages[-1]["code"] == "odd_bytes"


async def test_an_invalid_message_does_not_affect_other_clients(server: Server, recognizer: Recognizer) -> None:
    async with talking(server, sample_rate=16000, lossless=True) as neighbour:
        await neighbour.send(DATA[: len(DATA) // 2])
        for bad in ([HELLO, b"\0"], ["rubbish"], [HELLO, b"\0" * 300_000]):
            await refused(server, bad)
        await neighbour.send(DATA[len(DATA) // 2 :])
        assert plain(await neighbour.end()) == truth(recognizer, DATA)


async def test_a_client_above_the_maximum_is_refused_and_the_others_stay(recognizer: Recognizer) -> None:
    async with serving(recognizer, max_clients=2) as server:
        async with talking(server, sample_rate=16000) as one, talking(server, sample_rate=16000) as two:
            await one.receive(is_ready)
            await two.receive(is_ready)
            close_code, error = await refused(server, [])
            assert (close_code, error["code"]) == (1013, "too_many_clients")
            await one.send(DATA)
            assert len(finals(await one.end())) == 2
        async with talking(server, sample_rate=16000) as three:
            assert (await three.receive(is_ready))[0]["type"] == "ready"


async def test_a_client_that_stops_sending_gets_its_results_and_is_disconnected(recognizer: Recognizer) -> None:
    async with serving(recognizer, idle_timeout_s=0.3) as server:
        async with talking(server, sample_rate=16000) as talker:
            await talker.send(DATA)
            messages = await talker.receive()
            assert len(finals(messages)) == 2
            assert (messages[-1]["code"], talker.ws.close_code) == ("idle", 4408)
        close_code, error = await refused(server, [])
        assert (close_code, error["code"]) == (4408, "no_hello")


async def test_the_token_is_accepted_in_the_header_the_query_and_the_hello(recognizer: Recognizer) -> None:
    async with serving(recognizer, token=TOKEN) as server:
        for wrong in ({}, {"token": TOKEN[:-1]}):
            close_code, error = await refused(server, [json.dumps({**json.loads(HELLO), **wrong})])
            assert (close_code, error["code"]) == (4401, "token")
            assert TOKEN not in error["message"]
        async with talking(server, sample_rate=16000, token=TOKEN) as talker:
            assert (await talker.receive(is_ready))[0]["type"] == "ready"
        async with talking(server, f"ws/stream?token={TOKEN}", sample_rate=16000) as talker:
            assert (await talker.receive(is_ready))[0]["type"] == "ready"
        url, headers = server.url + "ws/stream", {"Authorization": f"Bearer {TOKEN}"}
        async with aiohttp.ClientSession() as session, session.ws_connect(url, headers=headers) as ws:
            await ws.send_str(HELLO)
            assert (await ws.receive_json())["type"] == "ready"


class NeverReads:
    """A client that sends messages and reads nothing before `read_all`."""

    def __init__(self, server: Server) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.connect(("127.0.0.1", server.port))
        self._socket.settimeout(DEADLINE_S)
        request = (
            f"GET /ws/stream HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        self._socket.sendall(request.encode())
        self._send(
            1, json.dumps({"type": "hello", "sample_rate": 16000, "lossless": True, "stream": "never-reads"}).encode()
        )

    def _send(self, opcode: int, payload: bytes) -> None:
        # A mask of zeros does not change the payload.
        self._socket.sendall(struct.pack("!BBH4x", 0x80 | opcode, 0x80 | 126, len(payload)) + payload)

    def report_gaps(self, times: int) -> None:
        """Report lost audio, for which the server sends an event each time, until the server stops reading."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            for _ in range(times):
                self._send(1, b'{"type": "gap", "samples": 160}')

    def read_all(self) -> bytes:
        """Read everything that the server has sent, and close the socket."""
        received = b""
        with contextlib.suppress(ConnectionError):
            while chunk := self._socket.recv(65536):
                received += chunk
        self._socket.close()
        return received


async def test_a_client_that_never_reads_is_disconnected_with_a_reason_and_does_not_affect_others(
    recognizer: Recognizer,
) -> None:
    async with serving(recognizer, client_queue=16, send_timeout_s=0.5) as server:
        not_reading = await asyncio.to_thread(NeverReads, server)
        reporting = asyncio.create_task(asyncio.to_thread(not_reading.report_gaps, 5000))
        async with talking(server, sample_rate=16000, lossless=True) as neighbour:
            await neighbour.send(DATA)
            assert plain(await neighbour.end()) == truth(recognizer, DATA)
        await asyncio.wait_for(reporting, DEADLINE_S)
        await _until(server, 'streamser_refusals_total{reason="slow_reader"} 1')
        await _until(server, "streamser_clients 0")
        received = await asyncio.to_thread(not_reading.read_all)
        assert b'"code": "slow_reader"' in received
        assert struct.pack("!H", 4429) in received


async def _until(server: Server, line: str) -> None:
    """Wait until the metrics contain this line."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DEADLINE_S
    async with aiohttp.ClientSession() as session:
        while line not in (await (await session.get(server.url + "metrics")).text()).splitlines():
            assert loop.time() < deadline, line


# --- faults of the server


class Failing(Recognizer):
    """A recognizer that fails while `fails` is true."""

    fails = False

    def predict(self, audio: Any) -> Any:
        if self.fails:
            raise EngineError("the engine caught fire")
        return super().predict(audio)


async def test_an_error_of_the_engine_is_reported_to_its_client_and_the_server_continues(
    recognizer: Recognizer,
) -> None:
    failing = Failing(recognizer.bundle, recognizer.engine)
    async with serving(failing) as server:
        failing.fails = True
        async with talking(server, sample_rate=16000, stream="kitchen") as talker:
            await talker.send(DATA)
            messages = await talker.end()
        assert (messages[-1]["code"], talker.ws.close_code) == ("failed", 1011)
        ended = next(message for message in messages if message["type"] == "stream_ended")
        assert ended["error"] == messages[-1]["message"] == "the engine caught fire"
        async with talking(
            server, sample_rate=16000
        ) as unaware:  # this client does not end its stream, and still gets the error
            await unaware.send(DATA)
            messages = await unaware.receive()
        assert [message["type"] for message in messages[-2:]] == ["stream_ended", "error"]
        failing.fails = False
        async with talking(server, sample_rate=16000, stream="kitchen", lossless=True) as talker:
            await talker.send(DATA)
            assert plain(await talker.end()) == truth(recognizer, DATA)


# --- the server's own microphone


def pushed_microphone(recognizer: Recognizer) -> tuple[PushSource, Listener]:
    """A listener whose microphone is replaced by a source into which the test pushes audio."""
    source = PushSource()
    return source, Listener(source, recognizer, name="room")


async def test_all_clients_of_the_servers_microphone_get_the_same_events(recognizer: Recognizer) -> None:
    source, listener = pushed_microphone(recognizer)
    async with Server(recognizer, ServerConfig(port=0), microphone=listener) as server:
        async with talking(server, "ws/events") as one, talking(server, "ws/events", token="ignored-here") as two:
            for talker in (one, two):
                ready = (await talker.receive(is_ready))[0]
                assert (ready["stream"], ready["position_s"], ready["recording"]) == ("room", 0, False)
            await asyncio.to_thread(source.push, np.frombuffer(DATA, np.int16))
            await asyncio.to_thread(source.close)
            for talker in (one, two):
                messages = await talker.receive()
                assert plain(messages) == truth(recognizer, DATA)
                assert (messages[-1]["code"], talker.ws.close_code) == ("microphone_ended", 1013)
        close_code, error = await refused(server, [], "ws/events")
        assert (close_code, error["code"]) == (1013, "microphone_ended")


async def test_a_later_client_gets_the_current_position_of_the_stream(recognizer: Recognizer) -> None:
    source, listener = pushed_microphone(recognizer)
    async with (
        Server(recognizer, ServerConfig(port=0), microphone=listener) as server,
        talking(server, "ws/events") as one,
    ):
        await asyncio.to_thread(source.push, np.frombuffer(DATA, np.int16))
        await one.receive(lambda message: message["type"] == "status" and message["position_s"] > 3)
        async with talking(server, "ws/events") as two:
            assert (await two.receive(is_ready))[0]["position_s"] > 3


async def test_the_socket_of_the_microphone_refuses_audio(recognizer: Recognizer) -> None:
    _, listener = pushed_microphone(recognizer)
    async with Server(recognizer, ServerConfig(port=0), microphone=listener) as server:
        close_code, error = await refused(server, [b"\0\0"], "ws/events")
        assert (close_code, error["code"]) == (4400, "bad_type")


async def test_without_a_microphone_its_socket_names_the_option_for_one(server: Server) -> None:
    close_code, error = await refused(server, [], "ws/events")
    assert (close_code, error["code"]) == (4404, "no_microphone")
    assert "--mic" in error["message"]


async def test_the_socket_of_the_microphone_needs_the_token(recognizer: Recognizer) -> None:
    _, listener = pushed_microphone(recognizer)
    config = ServerConfig(port=0, token=TOKEN)
    async with Server(recognizer, config, microphone=listener) as server:
        close_code, error = await refused(server, ['{"type": "hello"}'], "ws/events")
        assert (close_code, error["code"]) == (4401, "token")
        for path, hello in ((f"ws/events?token={TOKEN}", {}), ("ws/events", {"token": TOKEN})):
            async with talking(server, path, **hello) as talker:
                assert (await talker.receive(is_ready))[0]["type"] == "ready"


# --- recording


async def test_audio_is_recorded_into_the_given_folder_and_every_client_is_informed(
    recognizer: Recognizer, tmp_path: Path
) -> None:
    async with serving(recognizer, record=str(tmp_path / "audio")) as server:
        async with talking(server, sample_rate=16000, stream="kitchen") as talker:
            assert (await talker.receive(is_ready))[0]["recording"] is True
            await talker.send(DATA)
            await talker.end()
        async with aiohttp.ClientSession() as session:
            assert (await (await session.get(server.url + "healthz")).json())["recording"] is True
    (file,) = (tmp_path / "audio").glob("*kitchen*.wav")
    audio, rate = soundfile.read(file, dtype="int16")
    assert rate == SAMPLE_RATE
    assert audio.tobytes() == DATA
