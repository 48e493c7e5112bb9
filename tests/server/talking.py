"""Clients for the tests of the server, and the expected events that they compare with."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

import aiohttp
import jsonschema
import numpy as np
import soundfile
from makers import babble, silence
from numpy.typing import NDArray
from referencing import Registry, Resource

from streamser.audio import SAMPLE_RATE, Samples
from streamser.recognizer import Recognizer
from streamser.server import ServerConfig
from streamser.server.app import Server
from streamser.stream.channel import Stream, StreamConfig

BLOCK_BYTES = 640  # 20 ms
DEADLINE_S = 60.0  # long, since a busy machine is slow

Message = dict[str, Any]


def _validator() -> jsonschema.Draft202012Validator:
    package = files("streamser")
    event = json.loads(package.joinpath("event_schema.json").read_text())
    message = json.loads(package.joinpath("server", "message_schema.json").read_text())
    registry = Registry().with_resources([(event["$id"], Resource.from_contents(event))])
    return jsonschema.Draft202012Validator(message, registry=registry)


VALIDATOR = _validator()


def two_utterances(seed: int = 0) -> Samples:
    """Two utterances of different voices, with silence around them."""
    parts = [silence(0.5), babble(1.6, seed), silence(0.8), babble(1.2, seed + 100), silence(0.7)]
    return np.concatenate(parts)


def quantized(audio: Samples) -> NDArray[np.int16]:
    """The audio as 16-bit integers."""
    return (np.clip(audio, -1, 32767 / 32768) * 32768).round().astype("<i2")


def pcm(audio: Samples) -> bytes:
    """The audio as bytes of 16-bit little-endian PCM."""
    return quantized(audio).tobytes()


def wav(audio: Samples, rate: int = SAMPLE_RATE, file_format: str = "WAV") -> bytes:
    """The audio as the bytes of a file."""
    file = io.BytesIO()
    soundfile.write(file, quantized(audio), rate, format=file_format)
    return file.getvalue()


def truth(recognizer: Recognizer, data: bytes, config: StreamConfig | None = None) -> list[Message]:
    """The events of a recording, computed without a server, in the form of `plain`."""
    stream = Stream(recognizer, config)
    return plain([event.to_dict() for event in [*stream.push(data), *stream.close()]])


def plain(messages: Sequence[Message]) -> list[Message]:
    """The events among the messages, without latency and stream, which differ between two runs of the same audio."""
    skipped = ("ready", "status", "error")
    events = [message for message in messages if message["type"] not in skipped]
    return [{key: value for key, value in event.items() if key not in ("latency_ms", "stream")} for event in events]


def finals(messages: Sequence[Message]) -> list[Message]:
    """The final results among the messages."""
    return [message for message in messages if message["type"] == "emotion" and message["final"]]


@asynccontextmanager
async def serving(recognizer: Recognizer, **options: Any) -> AsyncIterator[Server]:
    """Run a server on a free loopback port."""
    async with Server(recognizer, ServerConfig(port=0, **options)) as server:
        yield server


class Talker:
    """A client of /ws/stream that checks every message against the schema."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws
        self.messages: list[Message] = []

    async def receive(self, until: Callable[[Message], bool] = lambda _: False) -> list[Message]:
        """Read up to a message for which `until` is true, or to the connection's end; returns all messages so far."""
        known = len(self.messages)
        await asyncio.wait_for(self._receive(until), DEADLINE_S)
        for message in self.messages[known:]:  # after reading, because validation is slower than the server
            VALIDATOR.validate(message)
        return self.messages

    async def _receive(self, until: Callable[[Message], bool]) -> None:
        async for raw in self.ws:
            message = json.loads(raw.data)
            self.messages.append(message)
            if until(message):
                return

    async def send(self, data: bytes, block: int = BLOCK_BYTES) -> None:
        """Send audio in messages of 20 ms."""
        for first in range(0, len(data), block):
            await self.ws.send_bytes(data[first : first + block])

    async def end(self) -> list[Message]:
        """Send the command `end`, and read all remaining messages."""
        await self.ws.send_json({"type": "end"})
        return await self.receive()


@asynccontextmanager
async def talking(server: Server, path: str = "ws/stream", **hello: Any) -> AsyncIterator[Talker]:
    """Connect a client, and send a hello with these fields if there are any."""
    async with aiohttp.ClientSession() as session, session.ws_connect(server.url + path) as ws:
        if hello:
            await ws.send_json({"type": "hello", **hello})
        yield Talker(ws)


async def refused(
    server: Server, messages: Sequence[str | bytes], path: str = "ws/stream"
) -> tuple[int | None, Message]:
    """Send these messages; returns the close code and the last message, which is the error."""
    async with talking(server, path) as talker:
        for message in messages:
            await (talker.ws.send_str(message) if isinstance(message, str) else talker.ws.send_bytes(message))
        received = await talker.receive()
        return talker.ws.close_code, received[-1]
