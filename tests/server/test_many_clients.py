"""32 clients at once in real time: each gets the finals of its own audio; the latency of partials is printed."""

from __future__ import annotations

import asyncio
from statistics import quantiles

import pytest
from talking import BLOCK_BYTES, Message, Talker, finals, pcm, plain, serving, talking, truth, two_utterances

from streamser.recognizer import Recognizer
from streamser.server.app import Server

CLIENTS = 32
BLOCK_S = 0.02


async def speak(talker: Talker, data: bytes) -> list[Message]:
    """Send blocks in real time, as a microphone does, and read meanwhile; returns the messages."""
    receiving = asyncio.create_task(talker.receive())
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number, first in enumerate(range(0, len(data), BLOCK_BYTES), 1):
        await asyncio.sleep(began + number * BLOCK_S - loop.time())  # for the pace, not to wait for a condition
        await talker.ws.send_bytes(data[first : first + BLOCK_BYTES])
    await talker.ws.send_json({"type": "end"})
    return await receiving


async def client(server: Server, seed: int, data: bytes) -> list[Message]:
    async with talking(server, sample_rate=16000, stream=f"mic-{seed}", status_ms=500) as talker:
        return await speak(talker, data)


@pytest.mark.slow
async def test_32_clients_at_once_each_get_all_finals_of_their_own_audio(recognizer: Recognizer) -> None:
    recordings = [pcm(two_utterances(seed)) for seed in range(CLIENTS)]
    expected = [plain(finals(truth(recognizer, data))) for data in recordings]
    assert len({str(one) for one in expected}) == CLIENTS, (
        "the finals of all clients must differ, else confused clients would not be detected"
    )
    async with serving(recognizer) as server:
        received = await asyncio.gather(*(client(server, seed, data) for seed, data in enumerate(recordings)))
    for seed, (messages, own) in enumerate(zip(received, expected, strict=True)):
        assert plain(finals(messages)) == own
        assert {message["stream"] for message in messages} == {f"mic-{seed}"}
    partials = [m["latency_ms"] for messages in received for m in messages if m["type"] == "emotion" and not m["final"]]
    p50, p95 = (quantiles(partials, n=20)[at] for at in (9, 18))
    skipped = sum(max(m["skipped"] for m in messages if m["type"] == "status") for messages in received)
    print(f"\n{CLIENTS} clients, {len(partials)} partials: p50 {p50:.1f} ms, p95 {p95:.1f} ms, {skipped} skipped")
    assert len(partials) + skipped >= 4 * CLIENTS
