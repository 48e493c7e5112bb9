"""`streamser serve --ray` with two replicas has the protocol of one server, even if a replica is killed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from clusters import command, family, lives, until

sys.path.append(str(Path(__file__).parents[1] / "server"))

from talking import pcm, plain, truth, two_utterances

import streamser
from streamser.bundle import Bundle
from streamser.events import Event
from streamser.recognizer import Recognizer

pytest.importorskip("ray", reason="Ray is not installed (extra 'ray')")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

TOKEN = "a-token-of-enough-letters"


def replicas_of(pid: int) -> list[int]:
    """The process IDs of the replicas in the command's cluster."""
    return [one for one, name in family(pid).items() if name.startswith("ray::ServeReplica")]


def url_of(process: subprocess.Popen[str], log: Path) -> str:
    """Wait until the server serves, and return its URL from the log."""
    until(lambda: "serving" in log.read_text() or process.poll() is not None, "the server", 180)
    found = re.search(r"serving .* at (http://\S+/)", log.read_text())
    assert found, log.read_text()
    return found[1]


async def speak(url: str, audio: bytes, seconds_each: float) -> tuple[list[Event], int]:
    """Send the audio in pieces of 200 ms with pauses; returns the events and the number of reconnections."""
    client = streamser.AsyncClient(url, token=TOKEN, reconnect_s=60)
    async with client.stream(lossless=True) as stream:
        events: list[Event] = []
        for first in range(0, len(audio), 6400):
            events += await stream.push(audio[first : first + 6400])
            await asyncio.sleep(seconds_each)
        events += await stream.finish()
        return events, stream.reconnections


async def speak_without_the_client(url: str, audio: bytes) -> tuple[list[str], int | None]:
    """Send the audio without reconnecting; returns the types (or error codes) of the messages, and the close code."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.ws_connect(f"{url}ws/stream?sample_rate=16000") as socket,
    ):

        async def send() -> None:
            for first in range(0, len(audio), 6400):
                await socket.send_bytes(audio[first : first + 6400])
                await asyncio.sleep(0.1)
            await socket.send_json({"type": "end"})

        sending = asyncio.create_task(send())
        messages = [json.loads(message.data) async for message in socket]
        sending.cancel()
    return [str(message.get("code", message["type"])) for message in messages], socket.close_code


async def talk_while_one_dies(url: str, pid: int, audio: bytes) -> tuple[list[tuple[list[Event], int]], list[object]]:
    """Kill one of two replicas while clients with and without reconnection speak; returns the results of both kinds."""
    talking, others = [], []
    for _ in range(6):  # alternately, so that both replicas get clients of each kind
        talking.append(asyncio.create_task(speak(url, audio, 0.1)))
        await asyncio.sleep(0.1)
        others.append(asyncio.create_task(speak_without_the_client(url, audio)))
        await asyncio.sleep(0.1)
    await asyncio.sleep(1.0)
    victim = replicas_of(pid)[0]
    os.kill(victim, signal.SIGKILL)
    return await asyncio.gather(*talking), await asyncio.gather(*others)


def test_if_a_replica_is_killed_each_client_gets_all_finals_or_a_close_with_a_reason(
    bundle: Bundle, recognizer: Recognizer, tmp_path: Path
) -> None:
    audio = pcm(np.concatenate([two_utterances(), two_utterances(5)]))
    expected = truth(recognizer, audio)
    finals = [event for event in expected if event.get("final")]
    words = ["serve", "--model", bundle.path, "--port", 0, "--ray", "--replicas", 2, "--token", TOKEN]
    log = tmp_path / "log"
    with log.open("w") as stderr, command(*words, stderr=stderr) as process:
        url = url_of(process, log)
        assert len(replicas_of(process.pid)) == 2
        events, _ = asyncio.run(speak(url, audio, 0.0))
        assert plain([event.to_dict() for event in events]) == expected
        talked, others = asyncio.run(talk_while_one_dies(url, process.pid, audio))
        assert sum(reconnections for _, reconnections in talked) >= 1
        for events, _ in talked:
            found = [event for event in events if event.type == "emotion" and event.final]
            assert [event.utterance for event in found] == [0, 1, 2, 3]
            assert [event.start_s for event in found] == pytest.approx([one["start_s"] for one in finals], abs=0.3)
            assert events[-1].type == "stream_ended"
        assert {code for _, code in others} == {1000, 1012}  # type: ignore[misc]
        for kinds, code in others:  # type: ignore[misc]
            assert kinds[-1] == ("stream_ended" if code == 1000 else "replica_lost")
        until(lambda: len(replicas_of(process.pid)) == 2, "the replica that replaces the killed one", 90)
        started = list(family(process.pid))
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(timeout=60) == 0, log.read_text()
    until(lambda: not any(map(lives, started)), "the end of the cluster", 90)
    assert "Traceback" not in log.read_text()


def test_a_server_that_is_stopped_gives_each_stream_its_last_final(bundle: Bundle, tmp_path: Path) -> None:
    words = ["serve", "--model", bundle.path, "--port", 0, "--ray", "--replicas", 1, "--token", TOKEN]
    log = tmp_path / "log"

    async def talk(url: str, pid: int) -> tuple[list[str], int | None]:
        talking = asyncio.create_task(speak_without_the_client(url, pcm(two_utterances())))
        await asyncio.sleep(1.5)  # until the first utterance has begun
        os.killpg(pid, signal.SIGINT)
        return await talking

    with log.open("w") as stderr, command(*words, stderr=stderr) as process:
        url = url_of(process, log)
        kinds, code = asyncio.run(talk(url, process.pid))
        assert kinds[-2:] == ["stream_ended", "going_away"] and code == 1001
        assert "emotion" in kinds and "speech_ended" in kinds
        assert process.wait(timeout=60) == 0, log.read_text()
