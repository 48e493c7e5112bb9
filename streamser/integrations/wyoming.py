"""A Wyoming service: audio in over a socket, the emotion of each utterance back as an event.

    client -> describe                                  <- info (with a program under "emotion")
    client -> audio-start, audio-chunk ..., audio-stop  <- emotion (one for each utterance's final)
                                                        <- emotion-end (after audio-stop: that was all)
    client -> invalid audio, or an invalid message      <- error (code bad-audio or bad-message)

An `emotion` event's data is streamser's own event: label, scores, confidence, uncertain, start_s, end_s.
Wyoming has no service type for emotion yet, so Home Assistant does not show these events; use `streamser mqtt` for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from ipaddress import ip_address
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from streamser.errors import ConfigError, DeviceError, MissingExtraError, StreamserError
from streamser.events import EmotionEvent, StreamEnded
from streamser.events import Event as StreamEvent
from streamser.handles import ACCEPTED_AT_ONCE, affordable_connections, widen_backlog
from streamser.recognizer import Recognizer
from streamser.stream.channel import Delivery, StreamConfig, WorkerStream
from streamser.stream.vad import one_for_each
from streamser.stream.worker import InferenceWorker

try:
    from wyoming.audio import AudioChunk, AudioStart, AudioStop
    from wyoming.error import Error
    from wyoming.event import Event, async_write_event
    from wyoming.info import Describe, Info
    from wyoming.ping import Ping, Pong
except ImportError as missing:
    raise MissingExtraError("streamser wyoming", "wyoming") from missing

from streamser.integrations.wyomingmessages import MAX_HEADER_BYTES, BadMessageError, checked_chunk, read_message

__all__ = ["WyomingAddress", "WyomingServer"]

logger = logging.getLogger(__name__)

MAX_CLIENTS = 64
"""Another client replaces the one that has been silent longest, or is refused if all are sending audio."""
AUDIO_S = 60.0
"""After this time without audio or audio-stop, a client gets its results and the connection is closed."""
IDLE_S = 600.0
"""Longest silence of a client between two streams."""
SEND_S = 10.0
"""A client that reads no result for this time is disconnected."""
DRAIN_S = 5.0
"""When the service stops, clients have this time to get the results of the audio they have sent."""

_LINGER_S = 1.0  # a refused client may still be sending; an immediate close would lose the reason
_MOST_LINGERING = 8
_TURN_S = 1.0  # audio processed in one turn on a thread, so that no client occupies a thread for long
_AUDIO_THREADS = 4
_WAITING_LIVE = 16  # if this many results of a stream wait for the worker, no more of its audio is taken
_WAITING_ALL = 4  # the same limit if every partial result is kept
_MOST_UNSENT = 1024  # results that may wait for a client that does not read
_WAKE_S = 0.1


@dataclass(frozen=True, slots=True)
class WyomingAddress:
    """Address to listen on: tcp://HOST:PORT, or unix:///PATH."""

    scheme: Literal["tcp", "unix"]
    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, uri: str, *, public: bool = False) -> WyomingAddress:
        """ConfigError for an invalid URI, or one that other machines can reach without `public`."""
        try:
            parts = urlsplit(uri)
            if parts.scheme == "unix" and parts.path and not parts.netloc and sys.platform != "win32":
                return cls("unix", path=parts.path)
            is_tcp = parts.scheme == "tcp" and parts.hostname and parts.port is not None and parts.path in ("", "/")
            address = cls("tcp", parts.hostname or "", parts.port or 0) if is_tcp else None
        except ValueError:  # not a port
            address = None
        if address is None:
            raise ConfigError(f"--uri {uri}: must be like tcp://127.0.0.1:10400 or unix:///run/emotion.sock")
        if not (address.is_local or public):
            raise ConfigError(
                f"--uri {uri}: other machines could connect, and Wyoming has neither passwords nor encryption; "
                "add --public to allow that, or listen on 127.0.0.1"
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
    """The service, as an async context manager: inside it, clients can connect to `address`.

    All clients share one inference worker, which serves them fairly.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        config: StreamConfig | None = None,
        *,
        address: WyomingAddress | None = None,
        partials: bool = False,
    ) -> None:
        self.address = address or WyomingAddress("tcp", "127.0.0.1", 10400)
        """Address to listen on; port 0 is replaced by the selected port at the start."""
        self.recognizer = recognizer
        self.config = config or StreamConfig()
        one_for_each(self.config.vad)
        self.partials = partials
        self.worker = InferenceWorker(recognizer, self.config.pipeline)
        self.threads = ThreadPoolExecutor(_AUDIO_THREADS, "streamser-audio")
        self._server: asyncio.Server | None = None
        self._clients: dict[asyncio.Task[None], Conversation] = {}
        self._lingering = 0
        self._served = 0

    async def __aenter__(self) -> WyomingServer:
        address = self.address
        self._stopping = asyncio.Event()
        self._affordable = affordable_connections(MAX_CLIENTS)
        try:
            if address.scheme == "unix":
                self._server = await asyncio.start_unix_server(
                    self._serve, address.path, limit=MAX_HEADER_BYTES, backlog=ACCEPTED_AT_ONCE
                )
            else:
                self._server = await asyncio.start_server(
                    self._serve, address.host, address.port, limit=MAX_HEADER_BYTES, backlog=ACCEPTED_AT_ONCE
                )
                port = self._server.sockets[0].getsockname()[1]
                self.address = WyomingAddress("tcp", address.host, port)
        except OSError as error:
            why = error.strerror or error
            raise DeviceError(f"cannot listen on {address} ({why}); is another service there?") from error
        widen_backlog(self._server)
        self.worker.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Accept no new client, send the remaining results, and close all connections."""
        assert self._server is not None
        self._server.close()
        self._stopping.set()
        if clients := list(self._clients):
            await asyncio.wait(clients, timeout=DRAIN_S)
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
        self.threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self.worker.close, 0.3)
        if self.address.scheme == "unix":
            Path(self.address.path).unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if not self._make_room():
            await self._refuse(reader, writer, "busy", f"{len(self._clients)} clients send audio; try again later")
            writer.close()
            return
        self._served += 1
        conversation = self._clients[task] = Conversation(self, f"wyoming-{self._served}", writer)
        sender = asyncio.create_task(conversation.send())
        try:
            while (event := await self._next(reader, conversation)) is not None:
                await conversation.response(event)
            await conversation.finish()
        except BadMessageError as error:
            await self._refuse(reader, writer, error.code, str(error))
        except (OSError, asyncio.IncompleteReadError):
            logger.debug("a client has left in the middle of a message")
        except asyncio.CancelledError:
            writer.transport.abort()  # asyncio would report a raised error
        finally:
            del self._clients[task]
            await conversation.leave()
            sender.cancel()
            writer.close()

    def _make_room(self) -> bool:
        """Whether one more client can be served; the client that has been silent longest may be closed for it."""
        if len(self._clients) < min(MAX_CLIENTS, self._affordable) or self._stopping.is_set():
            return not self._stopping.is_set()
        idle = [client for client in self._clients.values() if client.is_idle]
        if not idle:
            return False
        min(idle, key=lambda client: client.last_s).hang_up()
        return True

    async def _next(self, reader: asyncio.StreamReader, conversation: Conversation) -> Event | None:
        """The client's next message; None at its end, or when the service is being stopped."""
        read = asyncio.ensure_future(read_message(reader))
        stop = asyncio.ensure_future(self._stopping.wait())
        timeout_s = IDLE_S if conversation.is_idle else AUDIO_S
        try:
            await asyncio.wait({read, stop}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if read.done():
                return read.result()
            if stop.done():
                return None
            await conversation.finish()
            raise BadMessageError(f"no message came for {timeout_s:g} s", "idle")
        finally:
            stop.cancel()
            read.cancel()

    async def _refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, code: str, text: str) -> None:
        """Send the reason; then discard messages for a moment, so that the client can read the reason."""
        if self._lingering >= _MOST_LINGERING:  # each refused client occupies a file handle
            writer.transport.abort()
            return
        self._lingering += 1
        try:
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                await async_write_event(Error(text=text, code=code).event(), writer)
                writer.write_eof()
                await asyncio.wait_for(_drain(reader), _LINGER_S)
        finally:
            self._lingering -= 1


class Conversation:
    """One connection: its streams, one after another, on the shared worker."""

    def __init__(self, server: WyomingServer, name: str, writer: asyncio.StreamWriter) -> None:
        self.last_s = time.monotonic()
        """When its last message came."""
        self._server, self._name, self._writer = server, name, writer
        self._loop = asyncio.get_running_loop()
        # An assistant sends one stream for each utterance, so the baseline belongs to the connection.
        self._voice = server.config.pipeline.voice(server.recognizer)
        self._stream: WorkerStream | None = None
        self._over = asyncio.Event()  # the stream's last result has come
        self._room = asyncio.Event()
        self._unsent: asyncio.Queue[Event] = asyncio.Queue()
        self._refused = False  # True from a bad chunk to the next audio-start: further bad chunks are not reported

    @property
    def is_idle(self) -> bool:
        """Whether the client is between two streams."""
        return self._stream is None

    def hang_up(self) -> None:
        """Close the connection at once."""
        self._writer.transport.abort()

    async def response(self, event: Event) -> None:
        """Process one message; unknown types are ignored, as Wyoming requires."""
        self.last_s = time.monotonic()
        if Describe.is_type(event.type):
            self._write(info(self._server.recognizer))
        elif Ping.is_type(event.type):
            self._write(Pong(text=event.data.get("text")).event())
        elif AudioStart.is_type(event.type):
            await self.finish()
            self._refused = False
        elif AudioChunk.is_type(event.type) and not self._refused:
            await self._take(event)
        elif AudioStop.is_type(event.type):
            await self.finish()
            self._refused = False
            self._write(Event("emotion-end"))
        await self._sent()

    async def finish(self) -> None:
        """End the stream, if one is open, and wait for its last result."""
        stream = self._stream
        if stream is not None:
            await self._on_thread(stream.close)
            await self._over.wait()
            self._stream = None
            await self._sent()

    async def leave(self) -> None:
        """The client has disconnected: drop the results that are not yet computed."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.give_up()

    async def send(self) -> None:
        """The task that sends results; a client that does not read is disconnected."""
        try:
            while True:
                event = await self._unsent.get()
                await asyncio.wait_for(async_write_event(event, self._writer), SEND_S)
                self._unsent.task_done()
        except (OSError, asyncio.TimeoutError):
            self.hang_up()
            while True:  # nothing may wait for results that cannot be sent
                self._unsent.task_done()
                await self._unsent.get()

    async def _sent(self) -> None:
        await self._unsent.join()

    async def _take(self, event: Event) -> None:
        """Hand a chunk's audio to the stream, a second at a time, as fast as the worker keeps up."""
        try:
            chunk = checked_chunk(event)
        except ValueError as error:
            await self._refuse(str(error))
            return
        if self._stream is None:  # some clients send no audio-start
            self._over.clear()
            self._stream = WorkerStream(
                self._server.worker,
                Delivery(self._deliver, lossless=self._server.partials, partials=self._server.partials),
                self._server.config,
                self._name,
                voice=self._voice,
            )
        turn = round(_TURN_S * chunk.rate) * 2 * chunk.channels
        most = _WAITING_ALL if self._server.partials else _WAITING_LIVE
        for first in range(0, len(chunk.audio), turn):
            while self._stream.waiting >= most and not self._over.is_set():
                self._room.clear()
                with contextlib.suppress(asyncio.TimeoutError):  # a result computed ahead is not delivered
                    await asyncio.wait_for(self._room.wait(), _WAKE_S)
            try:
                await self._on_thread(self._stream.push, chunk.audio[first : first + turn], chunk.rate, chunk.channels)
            except (ValueError, StreamserError) as error:
                await self._refuse(str(error))
                return

    async def _refuse(self, why: str) -> None:
        await self.leave()
        self._refused = True
        self._write(Error(text=f"audio-chunk: {why}", code="bad-audio").event())

    def _deliver(self, event: StreamEvent) -> None:
        """Take a result, on the worker's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the service was stopped
            self._loop.call_soon_threadsafe(self._arrive, event)

    def _arrive(self, event: StreamEvent) -> None:
        self._room.set()
        if isinstance(event, EmotionEvent) and (event.final or self._server.partials):
            self._write(Event("emotion", data=event.to_dict()))
        elif isinstance(event, StreamEnded):
            if event.error is not None:
                logger.error("stream %s has failed: %s", self._name, event.error)
                self._write(
                    Error(text="the recognizer has failed; the service's log has the reason", code="failed").event()
                )
            self._over.set()

    def _write(self, event: Event) -> None:
        if self._unsent.qsize() >= _MOST_UNSENT:
            self.hang_up()
        else:
            self._unsent.put_nowait(event)

    async def _on_thread(self, work: Callable[..., object], *args: object) -> None:
        await self._loop.run_in_executor(self._server.threads, partial(work, *args))


def info(recognizer: Recognizer) -> Event:
    """The response to `describe`: Wyoming's own Info, with this program added."""
    response: Event = Info().event()
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
    response.data["emotion"] = [{**program, "models": [model]}]
    return response


async def _drain(reader: asyncio.StreamReader) -> None:
    while await reader.read(MAX_HEADER_BYTES):
        pass
