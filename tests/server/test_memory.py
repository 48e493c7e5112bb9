from __future__ import annotations

import gc

from talking import pcm, talking, two_utterances

from streamser.server.app import Server
from streamser.stream.channel import WorkerStream


async def test_a_stream_that_has_ended_is_freed_without_the_collector_of_cycles(server: Server) -> None:
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            async with talking(server, sample_rate=48000) as talker:
                await talker.say(pcm(two_utterances()), block=6400)
                await talker.end()
        assert [thing for thing in gc.get_objects() if isinstance(thing, WorkerStream)] == []
    finally:
        gc.enable()
