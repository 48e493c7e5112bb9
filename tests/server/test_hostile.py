"""Small, slow and malformed input of one client does not affect other clients."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import numpy as np
import pytest
import soundfile
from makers import babble, silence
from talking import DEADLINE_S, finals, pcm, refused, serving, talking, two_utterances, wav

from streamser.recognizer import Recognizer
from streamser.server.app import Server

DATA = pcm(two_utterances())
TOKEN = "a-token-for-these-tests"


async def raw(server: Server, *pieces: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection and send these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    return reader, writer


async def response_to(server: Server, request: bytes) -> bytes:
    """Send bytes; returns everything that the server sends until it closes, or nothing if it resets the connection."""
    reader, writer = await raw(server, request)
    try:
        return await asyncio.wait_for(reader.read(), DEADLINE_S)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def healthz(server: Server) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.get(server.url + "healthz") as response:
        return response.status, await response.json()


async def post(server: Server, body: Any, query: str = "", **options: Any) -> tuple[int, dict[str, Any]]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(server.url + "v1/label" + query, data=body, **options) as response,
    ):
        return response.status, await response.json()


@contextlib.asynccontextmanager
async def watched(server: Server) -> AsyncIterator[list[float]]:
    """Inside the `with`, another client requests /healthz repeatedly; yields the list of response times in seconds."""
    delays: list[float] = []
    loop = asyncio.get_running_loop()

    async def ask() -> None:
        while True:
            began_s = loop.time()
            assert (await healthz(server))[0] == 200
            delays.append(loop.time() - began_s)

    asking = asyncio.create_task(ask())
    try:
        yield delays
    finally:
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking


# --- names


async def test_a_client_named_like_an_unnamed_client_does_not_get_its_events(server: Server) -> None:
    async with (
        talking(server, sample_rate=16000, stream="client-1") as thief,
        talking(server, sample_rate=16000) as normal,
    ):
        await thief.receive(lambda message: message["type"] == "ready")
        await normal.send(DATA)
        assert len(finals(await normal.end())) == 2
        assert finals(await thief.end()) == []
    assert normal.messages[0]["stream"] != "client-1"


async def test_the_stream_name_of_a_damaged_upload_becomes_free_again(server: Server) -> None:
    audio = two_utterances()
    audio[20_000] = np.nan
    file = io.BytesIO()
    soundfile.write(file, audio, 16000, format="WAV", subtype="FLOAT")
    for _ in range(2):
        assert (await post(server, file.getvalue(), "?stream=broken"))[0] == 422
    _, response = await post(server, wav(two_utterances()), "?stream=broken")
    assert response["stream"] == "broken"


# --- connections


async def test_a_connection_without_a_complete_header_in_time_is_closed(recognizer: Recognizer) -> None:
    async with serving(recognizer, header_timeout_s=0.2) as server:
        for pieces in ((), (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",)):
            reader, writer = await raw(server, *pieces)
            assert await asyncio.wait_for(reader.read(), DEADLINE_S) == b""
            writer.close()


async def test_a_connection_whose_header_arrives_too_slowly_is_closed(recognizer: Recognizer) -> None:
    async with serving(recognizer, header_timeout_s=0.3) as server:
        reader, writer = await raw(server, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + DEADLINE_S
        while not reader.at_eof() and loop.time() < deadline_s:
            with contextlib.suppress(ConnectionError):
                writer.write(b"X-Drip: 1\r\n")
                await writer.drain()
            with contextlib.suppress(asyncio.TimeoutError, ConnectionError):
                await asyncio.wait_for(reader.read(1), 0.02)
        assert reader.at_eof()
        writer.close()


async def test_idle_connections_above_the_limit_are_closed_in_favour_of_new_requests(recognizer: Recognizer) -> None:
    async with serving(recognizer, max_connections=16, header_timeout_s=60) as server:
        silent = [await raw(server) for _ in range(40)]
        assert (await healthz(server))[0] == 200
        async with talking(server, sample_rate=16000) as talker:
            more = [await raw(server) for _ in range(40)]
            await talker.send(DATA)
            assert len(finals(await talker.end())) == 2
        for _, writer in silent + more:
            writer.close()


async def test_if_all_connections_are_busy_the_next_one_gets_503_with_retry_after(recognizer: Recognizer) -> None:
    async with serving(recognizer, max_connections=2) as server, talking(server, sample_rate=16000) as one:
        await one.receive(lambda message: message["type"] == "ready")
        async with talking(server, sample_rate=16000) as two:
            await two.receive(lambda message: message["type"] == "ready")
            reply = await response_to(server, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert reply.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After" in reply
            await two.end()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x00\xff\xfe rubbish\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/label HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"POST /v1/label HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: y\r\n" * 400 + b"\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://[\r\nConnection: close\r\n\r\n",
        b"GET /%ff%00 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    ],
)
async def test_a_malformed_request_is_refused_without_a_traceback(
    server: Server, request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        reply = await response_to(server, request_bytes)
    assert reply.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), reply[:200]
    assert [record for record in caplog.records if record.exc_info or record.levelno >= logging.WARNING] == []


async def test_an_invalid_host_header_is_refused_like_a_foreign_host(server: Server) -> None:
    reply = await response_to(server, b"GET / HTTP/1.1\r\nHost: [\r\nConnection: close\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 403 ")


async def test_a_token_of_arbitrary_bytes_is_refused_as_wrong(
    recognizer: Recognizer, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(recognizer, token=TOKEN) as server:
        head = b"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\nConnection: close\r\n\r\n"
        assert (await response_to(server, head)).startswith(b"HTTP/1.1 401 ")
        hello = json.dumps({"type": "hello", "sample_rate": 16000, "token": "\ud800"})
        close_code, error = await refused(server, [hello])
        assert (close_code, error["code"]) == (4401, "token")
    assert [record for record in caplog.records if record.exc_info] == []


# --- streams


async def test_a_client_that_sends_too_many_messages_is_slowed_down_without_losing_audio(
    recognizer: Recognizer,
) -> None:
    async with serving(recognizer, max_messages_per_s=200) as server:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        async with talking(server, sample_rate=16000, partials=False) as talker:
            await talker.send(bytes(2 * 1000), block=2)
            messages = await talker.end()
        assert messages[-1]["end_s"] == 1000 / 16000
        assert loop.time() - began_s > 0.9  # of 1000 messages, 800 may arrive at once and 200 take a second


async def test_a_stream_of_the_maximum_duration_gets_its_results_and_is_ended(recognizer: Recognizer) -> None:
    async with serving(recognizer, max_stream_s=1.0) as server, talking(server, sample_rate=16000) as talker:
        await talker.send(DATA, block=6400)
        messages = await talker.receive()
    assert len(finals(messages)) == 2
    assert [message["type"] for message in messages[-2:]] == ["stream_ended", "error"]
    assert (messages[-1]["code"], talker.ws.close_code) == ("too_long", 1013)


async def test_a_stream_that_reaches_the_maximum_duration_while_it_is_slowed_down_is_ended(
    recognizer: Recognizer,
) -> None:
    """40 messages may come at once, then each waits for 0.1 s: the duration ends while the last one waits."""
    async with (
        serving(recognizer, max_stream_s=0.25, max_messages_per_s=10) as server,
        talking(server, sample_rate=16000) as talker,
    ):
        await talker.send(bytes(43 * 640), block=640)
        messages = await talker.receive()
    assert [message["type"] for message in messages[-2:]] == ["stream_ended", "error"]
    assert (messages[-1]["code"], talker.ws.close_code) == ("too_long", 1013)


# --- uploads


def form_of(parts: int) -> tuple[bytes, dict[str, str]]:
    """A form with this many empty parts, and its headers."""
    part = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n\r\n'
    return part * parts + b"--b--\r\n", {"Content-Type": "multipart/form-data; boundary=b"}


async def test_a_form_with_a_hundred_thousand_empty_parts_does_not_delay_other_clients(server: Server) -> None:
    body, headers = form_of(100_000)
    loop = asyncio.get_running_loop()
    async with watched(server) as delays:
        began_s = loop.time()
        status, response = await post(server, io.BytesIO(body), headers=headers)
        took_s = loop.time() - began_s
    assert (status, response["error"]["code"]) == (400, "bad_form")
    assert took_s < 5
    assert max(delays, default=0) < 2


async def test_form_fields_that_are_no_file_count_towards_the_size_limit(recognizer: Recognizer) -> None:
    async def endless() -> Any:
        yield b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n'
        for _ in range(200):
            yield b"\0" * 4096

    async with serving(recognizer, max_body_mb=0.1) as server:
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        status, response = await post(server, endless(), headers=headers)
        assert (status, response["error"]["code"]) == (413, "too_large")


async def test_slow_uploads_do_not_prevent_others_from_labelling(server: Server) -> None:
    head = b"POST /v1/label HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\nRIFF"
    dripping = [await raw(server, head) for _ in range(8)]
    status, response = await asyncio.wait_for(post(server, wav(two_utterances())), DEADLINE_S)
    assert (status, len(response["segments"])) == (200, 2)
    for _, writer in dripping:
        writer.close()


async def test_an_aborted_upload_causes_no_traceback(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        head = b"POST /v1/label HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\nRIFF"
        _, writer = await raw(server, head)
        writer.transport.abort()
        assert (await post(server, wav(babble(1.0))))[0] == 200
    assert [record for record in caplog.records if record.exc_info or record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("file_format", ["WAV", "OGG"])
async def test_a_file_with_too_many_channels_is_refused(server: Server, file_format: str) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros((400, 255), np.float32), 48_000, format=file_format)
    status, response = await post(server, file.getvalue())
    assert (status, response["error"]["code"]) == (415, "channels")


async def test_a_file_with_the_maximum_number_of_channels_is_labelled(server: Server) -> None:
    audio = np.repeat(np.concatenate([silence(0.3), babble(1.0), silence(0.6)])[:, None], 32, axis=1)
    status, response = await post(server, io.BytesIO(wav(audio)))
    assert (status, len(response["segments"])) == (200, 1)
