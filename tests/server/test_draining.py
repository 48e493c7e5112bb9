"""A server that is stopped first finishes the work in progress."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from talking import Message, finals, pcm, plain, serving, talking, truth, two_utterances, wav

from streamser.recognizer import Recognizer
from streamser.server.app import Server

DATA = pcm(two_utterances())


def is_ready(message: Message) -> bool:
    return bool(message["type"] == "ready")


async def test_the_open_utterance_of_a_live_client_gets_its_final_before_the_connection_closes(
    recognizer: Recognizer,
) -> None:
    async with serving(recognizer) as server, talking(server, sample_rate=16000) as talker:
        await talker.receive(is_ready)
        sent = DATA[: 2 * 16_000 * 4]  # ends within the second utterance
        await talker.send(sent)
        await talker.receive(lambda message: message["type"] == "speech_ended")
        closing = asyncio.create_task(server.close())
        messages = await talker.receive()
        await closing
    expected = [event for event in truth(recognizer, sent) if event["type"] == "emotion" and event["final"]]
    assert plain(finals(messages)) == expected
    assert [message["type"] for message in messages[-2:]] == ["stream_ended", "error"]
    assert (messages[-1]["code"], talker.ws.close_code) == ("going_away", 1001)


async def test_an_upload_that_is_being_scored_gets_its_response(recognizer: Recognizer) -> None:
    async with serving(recognizer) as server:

        async def post() -> tuple[int, dict[str, Any]]:
            async with (
                aiohttp.ClientSession() as session,
                session.post(server.url + "v1/label", data=wav(two_utterances())) as response,
            ):
                return response.status, await response.json()

        posting = asyncio.create_task(post())
        while not server.is_busy:
            await asyncio.sleep(0)
        await server.close()
        status, response = await posting
    assert (status, len(response["segments"])) == (200, 2)


async def test_a_draining_server_is_live_but_not_ready_and_refuses_new_work(recognizer: Recognizer) -> None:
    async with (
        serving(recognizer) as server,
        aiohttp.ClientSession() as session,
        talking(server, sample_rate=16000) as old,
    ):
        await old.receive(is_ready)
        async with session.get(server.url + "healthz") as response:
            assert (response.status, (await response.json())["ready"]) == (200, True)
        server.drain()
        async with session.get(server.url + "healthz") as response:
            assert (response.status, (await response.json())["status"]) == (503, "draining")
        async with session.get(server.url + "livez") as response:
            assert response.status == 200
        async with session.post(server.url + "v1/label", data=wav(two_utterances())) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (503, "going_away")
        async with session.ws_connect(server.url + "ws/stream") as ws:
            error = await ws.receive_json()
            assert error["code"] == "going_away"


async def test_a_client_that_does_not_read_delays_the_end_by_the_drain_time_at_most(
    recognizer: Recognizer,
) -> None:
    async with serving(recognizer, drain_s=0.5) as server, talking(server, sample_rate=16000) as not_reading:
        await not_reading.receive(is_ready)
        await not_reading.send(DATA)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        await server.close()
        assert loop.time() - began_s < 5


def test_the_drain_time_is_a_setting(recognizer: Recognizer) -> None:
    assert Server(recognizer).config.drain_s == 5
