"""A Wyoming service: audio in over a socket, the emotion of each utterance back as an event.

    client -> describe                                  <- info (with a program under "emotion")
    client -> audio-start, audio-chunk ..., audio-stop  <- emotion (one for each utterance's final)
                                                        <- emotion-end (after audio-stop: that was all)
    client -> what cannot be sound, or no message       <- error (code bad-audio or bad-message)

An `emotion` event's data is streamser's own event: label, scores, confidence, uncertain, start_s, end_s.
Wyoming has no service type for emotion yet, so Home Assistant shows nothing of it by itself; see the MQTT publisher.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from dataclasses import dataclass
from importlib.metadata import version
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from streamser.errors import ConfigError, DeviceError, MissingExtraError, StreamserError
from streamser.events import EmotionEvent
from streamser.events import Event as StreamEvent
from streamser.recognizer import Recognizer
from streamser.settling import Settling
from streamser.stream.channel import Stream, StreamConfig

try:
    from wyoming.audio import AudioChunk, AudioStart, AudioStop
    from wyoming.error import Error
    from wyoming.event import Event, async_write_event
    from wyoming.info import Describe, Info
    from wyoming.ping import Ping, Pong
except ImportError as missing:
    raise MissingExtraError("streamser wyoming", "wyoming") from missing

__all__ = ["WyomingAddress", "WyomingServer"]

logger = logging.getLogger(__name__)

MAX_CHUNK_BYTES = 1 << 20
"""A chunk is some 20 to 100 ms; a megabyte of it is no voice satellite."""
MAX_HEADER_BYTES = 1 << 16
MAX_CLIENTS = 64

_LINGER_S = 1.0  # a refused client may still be sending; hung up on at once, it would lose the reason


class BadMessageError(ValueError):
    """What came is no Wyoming message, so that nobody can tell where the next one begins."""


@dataclass(frozen=True, slots=True)
class WyomingAddress:
    """Where to listen: tcp://HOST:PORT, or unix:///PATH."""

    scheme: Literal["tcp", "unix"]
    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, uri: str, *, public: bool = False) -> WyomingAddress:
        """ConfigError for a URI that is none, or that other machines can reach without `public`."""
        try:
            parts = urlsplit(uri)
            if parts.scheme == "unix" and parts.path and not parts.netloc and sys.platform != "win32":
                return cls("unix", path=parts.path)
            is_tcp = parts.scheme == "tcp" and parts.hostname and parts.port is not None and parts.path in ("", "/")
            address = cls("tcp", parts.hostname or "", parts.port or 0) if is_tcp else None
        except ValueError:  # a port that is none
            address = None
        if address is None:
            raise ConfigError(f"--uri {uri}: is like tcp://127.0.0.1:10400 or unix:///run/emotion.sock")
        if not (address.is_local or public):
            raise ConfigError(
                f"--uri {uri}: other machines could connect, and Wyoming knows neither passwords nor encryption; "
                "say --public where that is meant, or listen on 127.0.0.1"
            )
        return address

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.scheme == "unix":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}" if self.scheme == "tcp" else f"unix://{self.path}"


class WyomingServer:
    """The service, as an async context manager: within, clients can connect to `address`."""

    def __init__(
        self,
        recognizer: Recognizer,
        config: StreamConfig | None = None,
        *,
        address: WyomingAddress | None = None,
        partials: bool = False,
    ) -> None:
        self.address = address or WyomingAddress("tcp", "127.0.0.1", 10400)
        """Port 0 becomes the one that was free."""
        self.recognizer = recognizer
        self.config = config or StreamConfig()
        self.partials = partials
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._served = 0
        self.settling()  # a checkpoint that cannot is refused before anybody listens

    def settling(self) -> Settling | None:
        """A voice that nobody knows yet, where streams are to settle in."""
        return self.config.pipeline.settling(self.recognizer.bundle)

    async def __aenter__(self) -> WyomingServer:
        address = self.address
        try:
            if address.scheme == "unix":
                self._server = await asyncio.start_unix_server(self._serve, address.path, limit=MAX_HEADER_BYTES)
            else:
                self._server = await asyncio.start_server(
                    self._serve, address.host, address.port, limit=MAX_HEADER_BYTES
                )
                port = self._server.sockets[0].getsockname()[1]
                self.address = WyomingAddress("tcp", address.host, port)
        except OSError as error:
            why = error.strerror or error
            raise DeviceError(f"cannot listen on {address} ({why}); is another service there?") from error
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        if self.address.scheme == "unix":
            Path(self.address.path).unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            if len(self._clients) > MAX_CLIENTS:
                await _refuse(reader, writer, "busy", f"{MAX_CLIENTS} clients are connected; try later")
                return
            self._served += 1
            conversation = Conversation(self, f"wyoming-{self._served}", writer)
            while (event := await read_message(reader)) is not None:
                await conversation.answer(event)
        except BadMessageError as error:
            await _refuse(reader, writer, "bad-message", str(error))
        except (OSError, asyncio.IncompleteReadError):
            logger.debug("a client has left in the middle of a message")
        except asyncio.CancelledError:
            writer.transport.abort()  # we stop, and wait for no client; raised on, asyncio would report an error
        finally:
            self._clients.discard(task)
            writer.close()


class Conversation:
    """One connection: its own stream on the shared recognizer."""

    def __init__(self, server: WyomingServer, name: str, writer: asyncio.StreamWriter) -> None:
        self._server, self._name, self._writer = server, name, writer
        self._settling = server.settling()  # an assistant sends an utterance a stream: what they teach is kept
        self._stream: Stream | None = None
        self._refused = False  # until the next audio-start: more of what was refused is not told each time

    async def answer(self, event: Event) -> None:
        """Answer one message; a type that we do not know is ignored, as Wyoming wants it."""
        if Describe.is_type(event.type):
            await self._write(info(self._server.recognizer))
        elif Ping.is_type(event.type):
            await self._write(Pong(text=event.data.get("text")).event())
        elif AudioStart.is_type(event.type):
            await self._finish()
            self._refused = False
        elif AudioChunk.is_type(event.type) and not self._refused:
            await self._handle_audio(event)
        elif AudioStop.is_type(event.type):
            await self._finish()
            self._refused = False
            await self._write(Event("emotion-end"))

    async def _handle_audio(self, event: Event) -> None:
        if self._stream is None:  # some clients never say audio-start
            self._stream = Stream(self._server.recognizer, self._server.config, self._name, self._settling)
        try:
            chunk = checked_chunk(event)
            events = await asyncio.to_thread(self._stream.push, chunk.audio, chunk.rate, chunk.channels)
        except (ValueError, StreamserError) as error:
            self._refused, self._stream = True, None
            await self._write(Error(text=f"audio-chunk: {error}", code="bad-audio").event())
        else:
            await self._say(events)

    async def _finish(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await self._say(await asyncio.to_thread(stream.close))

    async def _say(self, events: list[StreamEvent]) -> None:
        for event in events:
            if isinstance(event, EmotionEvent) and (event.final or self._server.partials):
                await self._write(Event("emotion", data=event.to_dict()))

    async def _write(self, event: Event) -> None:
        await async_write_event(event, self._writer)


def info(recognizer: Recognizer) -> Event:
    """What we answer to `describe`: Wyoming's own Info, and our program beside it."""
    answer: Event = Info().event()
    bundle = recognizer.bundle
    ours = {"attribution": {"name": "streamser", "url": ""}, "installed": True}
    model = {
        **ours,
        "name": bundle.name,
        "description": bundle.variant,
        "version": bundle.files["model.onnx"][:12],
        "languages": [],
        "labels": list(bundle.labels),
    }
    program = {
        **ours,
        "name": "streamser",
        "description": "Speech emotion recognition",
        "version": version("streamser"),
    }
    answer.data["emotion"] = [{**program, "models": [model]}]
    return answer


async def read_message(reader: asyncio.StreamReader) -> Event | None:
    """The next message, None at the end; BadMessageError for what is none.

    The package's own reader takes messages of any size, and says nothing to a client whose message is none.
    """
    try:
        line = await reader.readline()
        if not line:
            return None
        header = _object(line)
        data = _object(json.dumps(header.get("data") or {}))
        if length := _length(header, "data_length", MAX_HEADER_BYTES):
            data |= _object(await reader.readexactly(length))
        length = _length(header, "payload_length", MAX_CHUNK_BYTES)
        payload = await reader.readexactly(length) if length else None
    except (ValueError, RecursionError) as error:
        raise BadMessageError(f"not a Wyoming message: {error}") from error
    if not isinstance(header.get("type"), str):
        raise BadMessageError("not a Wyoming message: it has no type")
    return Event(header["type"], data, payload)


def _object(text: str | bytes) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object is wanted, not {type(value).__name__}")
    return value


def _length(header: dict[str, Any], name: str, most: int) -> int:
    value = header.get(name)
    if value is None:
        return 0
    if not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"{name} is 0 to {most}, not {value!r:.40}")
    return value


def checked_chunk(event: Event) -> AudioChunk:
    """The chunk, whose numbers are a microphone's; ValueError for any other."""
    for name, low, high in (("rate", 4_000, 192_000), ("channels", 1, 32), ("width", 2, 2)):
        value = event.data.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            wanted = "2 (16-bit samples, little endian)" if name == "width" else f"{low} to {high}"
            raise ValueError(f"{name} is {wanted}, not {value!r:.40}")
    chunk: AudioChunk = AudioChunk.from_event(event)
    if len(chunk.audio) % (2 * chunk.channels):
        raise ValueError(f"{len(chunk.audio)} bytes are no whole number of frames of {2 * chunk.channels} bytes")
    return chunk


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, code: str, text: str) -> None:
    """Say why, and let the client read it: what it still sends is taken for a moment and thrown away."""
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        await async_write_event(Error(text=text, code=code).event(), writer)
        writer.write_eof()
        await asyncio.wait_for(_drain(reader), _LINGER_S)


async def _drain(reader: asyncio.StreamReader) -> None:
    while await reader.read(MAX_HEADER_BYTES):
        pass
