"""A server whose process may open only few files still serves clients, and logs few lines."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import aiohttp
import pytest
from running import running
from talking import DEADLINE_S, finals, pcm, two_utterances

from streamser.bundle import Bundle

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="Windows has no RLIMIT_NOFILE")]

DATA = pcm(two_utterances())


async def speak(url: str) -> list[dict[str, object]]:
    """Send audio as a normal client does; returns the messages that it receives."""
    async with aiohttp.ClientSession() as session, session.ws_connect(url + "ws/stream?sample_rate=16000") as ws:
        for first in range(0, len(DATA), 6400):
            await ws.send_bytes(DATA[first : first + 6400])
        await ws.send_json({"type": "end"})
        return [json.loads(message.data) async for message in ws]


async def healthy(url: str) -> bool:
    async with aiohttp.ClientSession() as session, session.get(url + "healthz") as response:
        return response.status == 200


@pytest.mark.parametrize("records", [False, True])
async def test_with_64_file_handles_and_200_idle_connections_a_client_still_gets_its_finals(
    bundle: Bundle, tmp_path: Path, records: bool
) -> None:
    options = ("--record", str(tmp_path)) if records else ()
    with running(bundle.path, *options, handles=64) as server:
        url = await asyncio.to_thread(lambda: server.url)
        port = int(url.rstrip("/").rpartition(":")[2])
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]
        for _ in range(3):
            assert await asyncio.wait_for(healthy(url), DEADLINE_S)
            assert len(finals(await asyncio.wait_for(speak(url), DEADLINE_S))) == 2
        for _, writer in silent:
            writer.close()
        assert len(server.lines) < 10, server.lines[:20]
