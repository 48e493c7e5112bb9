"""The gateway, without Ray: a connection stays on one server, and ends with a reason if this server dies."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "server"))

from talking import pcm, plain, serving, truth, two_utterances, wav

import streamser
from streamser.cluster.frames import Follower, closing_frames
from streamser.cluster.gate import Address, Gate
from streamser.errors import ConfigError, ServerError
from streamser.recognizer import Recognizer
from streamser.server.app import Server
from streamser.server.options import ServerConfig

TOKEN = "a-token-of-enough-letters"


class Choice:
    """Picks the servers in turn; setting one of `deaths` reports a picked server as dead."""

    def __init__(self, *servers: Server) -> None:
        self.servers = list(servers)
        self.held = 0
        self.deaths: list[asyncio.Event] = []

    async def pick(self) -> AsyncGenerator[Address, None]:
        if not self.servers:
            raise RuntimeError("no replica")
        server = self.servers[self.held % len(self.servers)]
        self.held += 1
        self.deaths.append(died := asyncio.Event())
        yield ("127.0.0.1", server.port)
        await died.wait()

    async def drain(self) -> None:
        for server in self.servers:
            server.drain()


@asynccontextmanager
async def gate(choice: Choice, **settings: object) -> AsyncIterator[Gate]:
    async with Gate(ServerConfig(port=0, **settings), choice.pick, choice.drain) as opened:  # type: ignore[arg-type]
        yield opened


async def test_the_gateway_passes_requests_streams_and_pages_on_unchanged(recognizer: Recognizer) -> None:
    async with serving(recognizer) as one, serving(recognizer) as two:
        choice = Choice(one, two)
        async with gate(choice) as opened:
            client = streamser.AsyncClient(opened.url)
            audio = pcm(two_utterances())
            assert (await client.health())["status"] == "ok"
            labelled = await client.label(wav(two_utterances()))
            assert len(labelled.finals) == 2
            async with client.stream(lossless=True) as stream:
                events = [
                    event
                    for first in range(0, len(audio), 6400)
                    for event in await stream.push(audio[first : first + 6400])
                ]
                events += await stream.finish()
            assert plain([event.to_dict() for event in events]) == truth(recognizer, audio)
            async with aiohttp.ClientSession() as session, session.get(opened.url) as page:
                assert page.status == 200 and "streamser" in await page.text()
        assert choice.held >= 4


async def test_the_gateway_needs_the_servers_token_and_a_token_for_a_public_address(recognizer: Recognizer) -> None:
    async with serving(recognizer, token=TOKEN) as server, gate(Choice(server), token=TOKEN) as opened:
        with pytest.raises(ServerError, match="needs a token"):
            await streamser.AsyncClient(opened.url).models()
        async with streamser.AsyncClient(opened.url, token=TOKEN).stream() as stream:
            assert stream.ready["type"] == "ready"
    with pytest.raises(ConfigError, match="needs a token"):
        Gate(ServerConfig(host="0.0.0.0"), Choice().pick, Choice().drain)


async def test_a_connection_whose_server_dies_ends_with_a_reason(recognizer: Recognizer) -> None:
    async with serving(recognizer) as server:
        choice = Choice(server)
        async with gate(choice) as opened, aiohttp.ClientSession() as session:
            async with session.ws_connect(f"{opened.url}ws/stream") as socket:
                await socket.send_json({"type": "hello", "sample_rate": 16_000, "status_ms": 0})
                assert (await socket.receive_json())["type"] == "ready"
                choice.deaths[-1].set()
                error, closed = await socket.receive(), await socket.receive()
            assert json.loads(error.data)["code"] == "replica_lost"
            assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1012)
            assert "connect again" in closed.extra


async def test_a_client_whose_servers_die_continues_with_others_and_gets_each_final_once(
    recognizer: Recognizer,
) -> None:
    audio = pcm(np.concatenate([two_utterances(), two_utterances(5)]))
    async with serving(recognizer) as one, serving(recognizer) as two:
        choice = Choice(one, two)
        async with gate(choice) as opened:
            async with streamser.AsyncClient(opened.url).stream(lossless=True, name="kitchen") as stream:
                events = []
                for number, first in enumerate(range(0, len(audio), 6400)):
                    events += await stream.push(audio[first : first + 6400])
                    if number in (8, 25):
                        choice.deaths[-1].set()
                        await asyncio.sleep(0)
                choice.deaths[-1].set()  # the server dies once more before the end
                events += await stream.finish()
            assert stream.reconnections >= 2
    finals = [event for event in events if event.type == "emotion" and event.final]
    assert [event.utterance for event in finals] == [0, 1, 2, 3]
    expected = [event for event in truth(recognizer, audio) if event.get("final")]
    assert [event.start_s for event in finals] == pytest.approx([event["start_s"] for event in expected], abs=0.3)
    assert {event.stream for event in events} == {"kitchen"}
    assert [event.type for event in events].count("stream_ended") == 1
    assert events[-1].type == "stream_ended" and events[-1].end_s == pytest.approx(len(audio) / 32_000)


async def test_a_client_that_cannot_connect_again_gets_the_reason(recognizer: Recognizer) -> None:
    async with serving(recognizer) as server:
        choice = Choice(server)
        async with gate(choice) as opened, streamser.AsyncClient(opened.url, reconnect_s=0.3).stream() as stream:
            await stream.push(pcm(two_utterances()))
            choice.servers.clear()
            choice.deaths[-1].set()
            with pytest.raises(ServerError, match="connect again to continue") as lost:
                await stream.finish()
    assert lost.value.code == "replica_lost"


async def test_without_a_free_server_or_connection_a_request_is_refused_with_the_reason(recognizer: Recognizer) -> None:
    async with gate(Choice()) as opened:
        with pytest.raises(ServerError, match="no server has room") as refused:
            await streamser.AsyncClient(opened.url).models()
        assert (refused.value.status, refused.value.code) == (503, "busy")
    async with serving(recognizer) as server:
        choice = Choice(server)
        async with (
            Gate(ServerConfig(port=0), choice.pick, choice.drain, most=1) as opened,
            streamser.AsyncClient(opened.url).stream(),
        ):
            with pytest.raises(ServerError, match="all connections are in use"):
                await streamser.AsyncClient(opened.url).models()


async def test_a_gateway_that_closes_gives_each_stream_its_last_final(recognizer: Recognizer) -> None:
    async with serving(recognizer) as server:
        choice = Choice(server)
        async with gate(choice) as opened, aiohttp.ClientSession() as session:
            socket = await session.ws_connect(f"{opened.url}ws/stream")
            await socket.send_json({"type": "hello", "sample_rate": 16_000, "status_ms": 0, "partials": False})
            await socket.receive_json()
            await socket.send_bytes(pcm(two_utterances()))
            while (await socket.receive_json())["type"] != "speech_started":
                pass
            closing = asyncio.create_task(opened.close())
            received = [message async for message in socket]
            await closing
        kinds = [json.loads(message.data)["type"] for message in received]
        assert kinds[-2:] == ["stream_ended", "error"] and "emotion" in kinds
        assert socket.close_code == 1001
        assert not opened.connections


def test_the_follower_recognizes_the_ends_of_frames_in_any_pieces() -> None:
    response = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
    frames = [
        b"\x81\x02hi",
        b"\x81\x7e\x01\x00" + b"x" * 256,
        b"\x82\x7f" + (70_000).to_bytes(8, "big") + b"y" * 70_000,
    ]
    stream = response + b"".join(frames)
    ends = {len(response)}
    for frame in frames:
        ends.add(max(ends) + len(frame))
    for step in (1, 7, 1000):
        follower = Follower()
        for first in range(0, len(stream), step):
            follower.feed(stream[first : first + step])
            assert follower.between_frames is (min(first + step, len(stream)) in ends)
        assert follower.upgraded and not follower.closed
        follower.feed(closing_frames("x", "y" * 200))
        assert follower.closed and follower.between_frames
    plain_http = Follower()
    plain_http.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
    assert not plain_http.upgraded and not plain_http.between_frames
