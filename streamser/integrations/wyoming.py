"""A Wyoming service: audio in over a socket, the emotion of each utterance back as an event.

    client -> describe                                  <- info (with a program under "emotion")
    client -> audio-start, audio-chunk ..., audio-stop  <- emotion (one for each utterance's final)
                                                        <- emotion-end (after audio-stop: that was all)

An `emotion` event's data is streamser's own event: label, scores, confidence, uncertain, start_s, end_s.
Wyoming has no service type for emotion yet, so Home Assistant shows nothing of it by itself; see the MQTT publisher.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from importlib.metadata import version
from typing import Any
from urllib.parse import urlparse

from streamser.errors import ConfigError, MissingExtraError
from streamser.events import EmotionEvent
from streamser.events import Event as StreamEvent
from streamser.recognizer import Recognizer
from streamser.stream.channel import Stream, StreamConfig

try:
    from wyoming.audio import AudioChunk, AudioStart, AudioStop
    from wyoming.error import Error
    from wyoming.event import Event
    from wyoming.info import Describe, Info
    from wyoming.ping import Ping, Pong
    from wyoming.server import AsyncEventHandler, AsyncServer
except ImportError as missing:
    raise MissingExtraError("streamser wyoming", "wyoming") from missing

logger = logging.getLogger(__name__)

MAX_CHUNK_BYTES = 1 << 20
"""A chunk is some 20 to 100 ms; a megabyte of it is no voice satellite."""


def info(recognizer: Recognizer) -> Event:
    """What we answer to `describe`: Wyoming's own Info, and our program beside it."""
    answer = Info().event()
    bundle = recognizer.bundle
    answer.data["emotion"] = [
        {
            "name": "streamser",
            "description": "Speech emotion recognition",
            "attribution": {"name": "streamser", "url": ""},
            "installed": True,
            "version": version("streamser"),
            "models": [
                {
                    "name": bundle.name,
                    "description": bundle.variant,
                    "attribution": {"name": "streamser", "url": ""},
                    "installed": True,
                    "version": bundle.files["model.onnx"][:12],
                    "languages": [],
                    "labels": list(bundle.labels),
                }
            ],
        }
    ]
    return answer


class EmotionHandler(AsyncEventHandler):
    """One connection: its own stream on the shared recognizer."""

    def __init__(
        self, recognizer: Recognizer, config: StreamConfig, partials: bool, name: str, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._recognizer, self._config, self._partials, self._name = recognizer, config, partials, name
        self._stream: Stream | None = None

    async def handle_event(self, event: Event) -> bool:
        """Answer one message; False ends the connection."""
        if Describe.is_type(event.type):
            await self.write_event(info(self._recognizer))
        elif Ping.is_type(event.type):
            await self.write_event(Pong(text=Ping.from_event(event).text).event())
        elif AudioStart.is_type(event.type):
            await self._finish()
            self._stream = Stream(self._recognizer, self._config, self._name)
        elif AudioChunk.is_type(event.type):
            return await self._hear(event)
        elif AudioStop.is_type(event.type):
            await self._finish()
            await self.write_event(Event("emotion-end"))
        return True

    async def disconnect(self) -> None:
        """The client has left: what it said last is of no use to anybody."""
        self._stream = None

    async def _hear(self, event: Event) -> bool:
        try:
            chunk = AudioChunk.from_event(event)
            pcm = _checked(chunk)
        except (KeyError, TypeError, ValueError, AssertionError) as error:
            await self.write_event(Error(text=f"audio-chunk: {error}", code="bad-audio").event())
            return False
        if self._stream is None:  # some clients never say audio-start
            self._stream = Stream(self._recognizer, self._config, self._name)
        await self._say(await asyncio.to_thread(self._stream.push, pcm, chunk.rate, chunk.channels))
        return True

    async def _finish(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await self._say(await asyncio.to_thread(stream.close))

    async def _say(self, events: list[StreamEvent]) -> None:
        for event in events:
            if isinstance(event, EmotionEvent) and (event.final or self._partials):
                await self.write_event(Event("emotion", data=event.to_dict()))


def _checked(chunk: AudioChunk) -> bytes:
    if chunk.width != 2:
        raise ValueError(f"samples are 16-bit little-endian (width 2), not width {chunk.width}")
    if not 4_000 <= chunk.rate <= 384_000 or not 1 <= chunk.channels <= 32:
        raise ValueError(f"{chunk.rate} Hz with {chunk.channels} channels is no microphone's")
    if len(chunk.audio) > MAX_CHUNK_BYTES or len(chunk.audio) % (2 * chunk.channels):
        raise ValueError(f"{len(chunk.audio)} bytes: whole samples, at most {MAX_CHUNK_BYTES} bytes")
    return chunk.audio


def is_local(uri: str) -> bool:
    """Whether only this machine can reach the service; ConfigError for a URI that is none."""
    parts = urlparse(uri)
    if parts.scheme in ("unix", "stdio"):
        return True
    try:
        good = parts.scheme == "tcp" and bool(parts.hostname) and parts.port is not None
    except ValueError:
        good = False
    if not good:
        raise ConfigError(f"--uri {uri}: write tcp://127.0.0.1:10400, unix:///path/to/socket or stdio://")
    return parts.hostname in ("localhost", "::1") or str(parts.hostname).startswith("127.")


async def serve(
    uri: str,
    recognizer: Recognizer,
    config: StreamConfig | None = None,
    *,
    partials: bool = False,
    ready: Callable[[], None] | None = None,
) -> None:
    """Serve until cancelled; `ready` is called once clients can connect."""
    is_local(uri)
    server = AsyncServer.from_uri(uri)
    count = 0

    def handler(*args: Any, **kwargs: Any) -> EmotionHandler:
        nonlocal count
        count += 1
        return EmotionHandler(recognizer, config or StreamConfig(), partials, f"wyoming-{count}", *args, **kwargs)

    try:
        await server.start(handler)
    except OSError as error:
        raise ConfigError(f"cannot listen on {uri} ({error.strerror or error}); is another service there?") from error
    if ready is not None:
        ready()
    try:
        await asyncio.Event().wait()
    finally:
        await server.stop()
