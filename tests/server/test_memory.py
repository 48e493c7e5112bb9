"""A stream that has ended leaves no memory behind, whatever other tests of the same process hold."""

from __future__ import annotations

import asyncio
import gc

from talking import pcm, talking, two_utterances

from streamser.server.app import Server
from streamser.stream.channel import WorkerStream

FREED_S = 5.0


def live_streams() -> set[int]:
    # type() asks nothing of the object; isinstance() makes torch's deprecated objects warn
    return {id(thing) for thing in gc.get_objects() if issubclass(type(thing), WorkerStream)}


async def _freed(before: set[int]) -> None:
    while live_streams() - before:  # the server's side of the last connection ends a moment after ours
        await asyncio.sleep(0.01)


async def test_a_stream_that_has_ended_is_freed_without_the_collector_of_cycles(server: Server) -> None:
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
