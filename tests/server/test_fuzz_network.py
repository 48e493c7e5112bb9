"""Any bytes that a client sends are accepted or refused, without an error, and other clients are still served."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from talking import DEADLINE_S, finals, pcm, serving, talking, two_utterances

from streamser.recognizer import Recognizer
from streamser.server.app import Server
from streamser.server.options import ServerConfig
from streamser.server.protocol import Hello, Refusal, check_pcm, hello_of_query, parse_hello, parse_word, without_paths
from streamser.server.security import refuse_host, refuse_origin, shown_token, token_matches


def examples(count: int, **more: Any) -> settings:
    """Settings of hypothesis for this number of examples, without limits that depend on the machine's speed."""
    return settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), **more)


# Letters and unusual characters: control characters, separators, characters of other protocols, surrogates.
TEXT = st.text(
    st.sampled_from("az09 -_.:;,/\\'\"[]{}()<>=%&?#@\0\n\r\t\x1b\x7f\u2028é\ud800\udcff\U0001f600"), max_size=40
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
KEYS = ["type", "v", "sample_rate", "channels", "format", "stream", "partials", "lossless", "status_ms", "token"]
HELLO = st.dictionaries(st.sampled_from(KEYS) | TEXT, JSON | st.sampled_from(["hello", 16000, "s16le", 1, True]))
CONFIGS = [
    ServerConfig(),
    ServerConfig(token="0123456789abcdef"),
    ServerConfig(allowed_origins=("https://home.example",)),
]


@examples(200)
@given(TEXT | HELLO.map(json.dumps) | HELLO.map(lambda words: json.dumps({"type": "hello", **words})), st.booleans())
def test_a_first_message_is_a_hello_or_is_refused(text: str, audio: bool) -> None:
    try:
        hello = parse_hello(text, audio=audio)
    except Refusal as refusal:
        assert refusal.code and 1000 <= refusal.close_code < 5000
        json.dumps(refusal.to_dict()).encode()
    else:
        assert 4000 <= hello.sample_rate <= 192_000 and 1 <= hello.channels <= 32


@examples(200)
@given(st.dictionaries(st.sampled_from(KEYS) | TEXT, TEXT))
def test_a_query_is_a_hello_or_is_refused(query: dict[str, str]) -> None:
    text = hello_of_query(query)
    if text is not None:
        with contextlib.suppress(Refusal):
            parse_hello(text)


@examples(200)
@given(TEXT | JSON.map(json.dumps), st.binary(max_size=70), st.integers(1, 32))
def test_a_later_message_is_a_command_or_pcm_or_is_refused(text: str, data: bytes, channels: int) -> None:
    with contextlib.suppress(Refusal):
        parse_word(text, 1000)
    hello = Hello(channels=channels)
    try:
        check_pcm(data, hello, 64)
    except Refusal:
        assert len(data) > 64 or len(data) % (2 * channels)
    else:
        assert len(data) <= 64 and len(data) % (2 * channels) == 0


@examples(200)
@given(st.none() | TEXT, st.none() | TEXT, st.dictionaries(st.just("Authorization"), TEXT), st.sampled_from(CONFIGS))
def test_any_host_origin_or_token_is_accepted_or_refused_without_an_error(
    host: str | None, origin: str | None, headers: dict[str, str], config: ServerConfig
) -> None:
    assert isinstance(refuse_host(host, config), str | None)
    assert isinstance(refuse_origin(origin, host, config), str | None)
    shown = shown_token(headers, {})
    assert token_matches(shown, config) == (config.token is None or shown == config.token)


@examples(100)
@given(st.lists(st.sampled_from(["/", "home", "a b", "'", ":", "C:", "\\", "x.wav", " "]), max_size=12).map("".join))
def test_messages_to_clients_contain_no_absolute_path(text: str) -> None:
    assert "/home/" not in without_paths(f"[Errno 2] No such file: '/home/ada/{text.replace('/', '')}/x.wav'")


# --- a running server


PARTS = r"""GET |POST |OPTIONS |/v1/label |/healthz |/ws/stream |HTTP/1.1\r\n|HTTP/1.0\r\n|Host: 127.0.0.1\r\n|
Host: [\r\n|Origin: http://[\r\n|Content-Length: 5\r\n|Content-Length: -1\r\n|Transfer-Encoding: chunked\r\n|
5\r\nhello\r\n|0\r\n\r\n|ffffffffffffffff\r\n|Expect: 100-continue\r\n|Content-Encoding: gzip\r\n|
Content-Type: multipart/form-data; boundary=b\r\n|--b\r\n|--b--\r\n|Upgrade: websocket\r\nConnection: Upgrade\r\n|
Sec-WebSocket-Version: 13\r\n|Sec-WebSocket-Key: x\r\n|Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n|\r\n|\r\n\r\n|
\x00\xff|\x81\x7f\xff\xff|\x88\x80|\x82\xfe\x00"""
REQUEST_PARTS = st.sampled_from(
    [part.encode().decode("unicode_escape").encode("latin-1") for part in PARTS.replace("\n", "").split("|")]
)


async def send_raw(port: int, data: bytes) -> bytes:
    """Send bytes to the server, and return its response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), DEADLINE_S)
    except OSError:
        return b""
    finally:
        writer.close()


@pytest.fixture
def requests() -> list[bytes]:
    """Requests that are composed of random parts; the same in each run."""
    found: list[bytes] = []

    @examples(160, database=None, derandomize=True)
    @given(st.lists(REQUEST_PARTS, max_size=14).map(b"".join) | st.binary(max_size=200))
    def draw(data: bytes) -> None:
        found.append(data)

    draw()
    return found


@pytest.mark.slow
async def test_malformed_requests_cause_no_traceback_and_the_server_continues(
    recognizer: Recognizer, requests: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(recognizer, header_timeout_s=1.0, idle_timeout_s=1.0) as server:
        with caplog.at_level(logging.INFO):
            for first in range(0, len(requests), 40):
                await asyncio.gather(*(send_raw(server.port, data) for data in requests[first : first + 40]))
        assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.WARNING]
        async with aiohttp.ClientSession() as session, session.get(server.url + "healthz") as response:
            assert response.status == 200


@pytest.mark.slow
async def test_random_websocket_messages_are_refused_and_do_not_affect_other_clients(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    found: list[list[Any]] = []

    @examples(80, database=None, derandomize=True)
    @given(st.lists(st.binary(max_size=50) | TEXT.filter(_is_text) | HELLO.map(json.dumps), min_size=1, max_size=5))
    def draw(messages: list[Any]) -> None:
        found.append(messages)

    draw()
    good = json.dumps({"type": "hello", "sample_rate": 16000})
    async with aiohttp.ClientSession() as session:
        with caplog.at_level(logging.INFO, logger="streamser"):
            for number, messages in enumerate(found):
                async with session.ws_connect(server.url + "ws/stream") as ws:
                    for message in [good, *messages] if number % 2 else messages:
                        with contextlib.suppress(ConnectionError):
                            await (ws.send_bytes(message) if isinstance(message, bytes) else ws.send_str(message))
                    with contextlib.suppress(ConnectionError):
                        await ws.send_json({"type": "end"})
                    async for _ in ws:
                        pass
                    assert ws.close_code is not None
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.WARNING]
    async with talking(server, sample_rate=16000) as talker:
        await talker.send(pcm(two_utterances()))
        assert len(finals(await talker.end())) == 2


def _is_text(text: str) -> bool:
    return text.encode(errors="ignore").decode() == text
