"""The memory of a stream is freed when it ends."""

from __future__ import annotations

import asyncio
import gc

from talking import pcm, talking, two_utterances

from streamser.server.app import Server
from streamser.stream.channel import WorkerStream

FREED_S = 5.0


def live_streams() -> set[int]:
    # type() instead of isinstance(), which causes warnings for deprecated objects of torch
    return {id(thing) for thing in gc.get_objects() if issubclass(type(thing), WorkerStream)}


async def _freed(before: set[int]) -> None:
    while live_streams() - before:  # the server ends the last connection slightly later than the client
        await asyncio.sleep(0.01)


async def test_an_ended_stream_is_freed_without_the_garbage_collector(server: Server) -> None:
    gc.collect()
    gc.disable()
    try:
        before = live_streams()
        for _ in range(3):
            async with talking(server, sample_rate=48000) as talker:
                await talker.send(pcm(two_utterances()), block=6400)
                await talker.end()
        await asyncio.wait_for(_freed(before), FREED_S)
    finally:
        gc.enable()
