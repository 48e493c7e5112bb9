"""One stream over WebSockets: push audio, take events, and continue over a new connection when one is lost."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import random
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any

import aiohttp
import numpy as np
from numpy.typing import NDArray

from streamser.audio import to_pcm16
from streamser.client.continuity import Continuity, Lost, NewSpeaker, Piece
from streamser.errors import ServerError
from streamser.events import Event, StreamEnded, event_from_dict

__all__ = ["CONNECT_S", "AsyncStream", "Pcm", "refused", "unreachable"]

logger = logging.getLogger(__name__)

Pcm = bytes | bytearray | memoryview | NDArray[np.generic]
"""Bytes are 16-bit little-endian PCM as announced; arrays are int16 or float in [-1, 1]."""

CONNECT_S = 10.0
_MOST_BYTES = 32_000  # in one message: a third of a second at 48 kHz
_PAUSES_S = (0.1, 0.3, 1.0, 2.0)  # before each try to connect again; the last one repeats
_AGAIN_CODES = frozenset({"", "going_away", "replica_lost", "busy", "too_many_clients", "too_many_connections"})
"""Refusals after which another connection may work."""
_AGAIN_STATUS = frozenset({0, 429, 502, 503, 504, 1001, 1006, 1012, 1013})


class AsyncStream:
    """One stream: `push` audio and take the events that have come, `finish` for the rest, or iterate.

    When its connection is lost, because the network or the server failed or the server was stopped, it connects again
    and sends the audio again that has no final yet. Events continue in one timeline, and each utterance has one final;
    but the server's baseline of the voice is lost with the connection.
    """

    def __init__(self, url: str, headers: dict[str, str], hello: dict[str, Any], *, reconnect_s: float = 0.0) -> None:
        self._url = url
        self._headers = headers
        self._hello = hello
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._refusal: ServerError | None = None
        self._reconnect_s = reconnect_s
        self._continuity = (
            Continuity(sample_rate=hello["sample_rate"], channels=hello["channels"]) if reconnect_s else None
        )
        self._turn = asyncio.Lock()  # one sender at a time; held while audio is sent again
        self._connected = asyncio.Event()
        self._ending = False
        self._last: StreamEnded | None = None
        self.ready: dict[str, Any] = {}
        """The server's first message: labels, checkpoint, threshold, whether it records."""
        self.status: dict[str, Any] = {}
        """The latest level, voice activity and latency."""
        self.reconnections = 0
        """How often the connection was lost and replaced."""

    async def __aenter__(self) -> AsyncStream:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=timeout)
        try:
            await self._connect()
            self._connected.set()
        except BaseException as error:
            await self._session.close()
            raise _named(error, self._url) from error
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.cancel()
        await self._socket.close()
        await self._session.close()

    async def push(self, pcm: Pcm) -> list[Event]:
        """Send audio; returns the events that have come by now."""
        data = _to_bytes(pcm)
        for first in range(0, len(data), _MOST_BYTES):
            await self._send(data[first : first + _MOST_BYTES])
        await asyncio.sleep(0)
        return self._arrived()

    async def lose(self, samples: int) -> None:
        """Report samples that were lost before they could be pushed, so that later times stay correct."""
        await self._send(Lost(samples))

    async def new_speaker(self) -> None:
        """Report that another person speaks from here on: the stream's own baseline is reset."""
        await self._send(NewSpeaker())

    async def finish(self) -> list[Event]:
        """End the stream; returns the remaining events, the last final and StreamEnded among them."""
        if not self._ending:
            await self._connected.wait()
            async with self._turn:
                self._ending = True
                if self._connected.is_set() and not self._socket.closed:
                    try:
                        await self._socket.send_str(_END)
                    except (ConnectionError, aiohttp.ClientError):
                        logger.debug("the connection was lost before the end was sent")  # `_catch_up` sends it
        return [event async for event in self]

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Events as they come, until the stream is over."""
        while (event := await self._events.get()) is not None:
            yield event
        self._events.put_nowait(None)
        if self._refusal is not None:
            raise self._refusal

    # --- sending

    async def _send(self, piece: Piece) -> None:
        await self._connected.wait()
        async with self._turn:
            if self._reader.done() and self._refusal is not None:
                raise self._refusal
            if self._continuity is not None:
                self._continuity.send(piece)
            if self._connected.is_set():
                try:
                    await _put(self._socket, piece)
                    return
                except (ConnectionError, aiohttp.ClientError) as error:
                    if self._continuity is None:
                        await self._reader  # an error message sent before the close gives the better reason
                    if self._reader.done():
                        raise self._refusal or unreachable(self._url, error) from error
                    self._connected.clear()
        await self._connected.wait()  # until the reader has connected again and sent this piece too, or has given up
        if self._reader.done() and self._refusal is not None:
            raise self._refusal

    # --- receiving

    def _arrived(self) -> list[Event]:
        found: list[Event] = []
        while not self._events.empty():
            event = self._events.get_nowait()
            if event is None:  # the stream is over: later calls return the end again
                self._events.put_nowait(None)
                if self._refusal is not None and not found:
                    raise self._refusal
                break
            found.append(event)
        return found

    async def _read(self) -> None:
        """Take messages of one connection after the other, until the stream is over."""
        try:
            while True:
                await self._read_one()
                if not self._may_go_on():
                    break
                self._connected.clear()
                if not await self._connect_again():
                    break
                self._refusal, self._last = None, None
            if self._last is not None:
                self._events.put_nowait(self._last)
        finally:
            self._events.put_nowait(None)
            self._connected.set()  # waiting code gets the refusal

    async def _read_one(self) -> None:
        """Take messages until this connection is closed."""
        async for raw in self._socket:
            if raw.type is aiohttp.WSMsgType.TEXT:
                self._take(json.loads(raw.data))
        code = self._socket.close_code or 1006
        if code != 1000 and self._refusal is None:
            self._refusal = ServerError(f"{self._url}: the connection was lost (close code {code})", status=code)

    def _may_go_on(self) -> bool:
        """Whether to try a new connection."""
        if self._continuity is None or (self._ending and self._last is not None):
            return False
        return self._refusal is not None and _may_help(self._refusal)

    def _take(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind == "status":
            self.status = message
            if self._continuity is not None:
                self._continuity.status(message["position_s"], message["vad_state"] == "quiet")
        elif kind == "error":
            self._refusal = ServerError(message["message"], code=message["code"])
        else:
            event: Event | None = event_from_dict(message)
            if self._continuity is not None and event is not None:
                event = self._continuity.event(event)
            if isinstance(event, StreamEnded):
                self._last = event  # published only if no other connection follows
            elif event is not None:
                self._events.put_nowait(event)

    # --- connecting

    async def _connect(self) -> None:
        """Open a connection, and wait until the server is ready; raises the error of a failure."""
        socket = await self._session.ws_connect(self._url)
        try:
            await socket.send_str(json.dumps(self._hello))
            while True:
                raw = await socket.receive()
                if raw.type is not aiohttp.WSMsgType.TEXT:
                    code = socket.close_code or 1006
                    raise ServerError(f"{self._url}: closed before it was ready (close code {code})", status=code)
                message = json.loads(raw.data)
                if message.get("type") == "error":
                    raise ServerError(message["message"], code=message["code"])
                if message.get("type") == "ready":
                    break
        except BaseException:
            await socket.close()
            raise
        self.ready = self.ready or message
        self._socket = socket

    async def _connect_again(self) -> bool:
        """Try to connect for `reconnect_s`, then send the audio without a final; False if every try fails."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._reconnect_s
        for number in itertools.count():
            # random, so that not all clients reconnect at once
            pause_s = _PAUSES_S[min(number, len(_PAUSES_S) - 1)] * random.uniform(0.5, 1.5)
            await asyncio.sleep(min(pause_s, max(0.0, deadline_s - loop.time())))
            try:
                await self._connect()
                break
            except (ServerError, aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
                named = _named(error, self._url)
                if loop.time() >= deadline_s or not (isinstance(named, ServerError) and _may_help(named)):
                    logger.warning("%s: could not connect again: %s", self._url, named)
                    return False
        self.reconnections += 1
        logger.warning("%s: the connection was lost; connected again", self._url)
        self._catching_up = asyncio.create_task(self._catch_up(self._socket))
        return True

    async def _catch_up(self, socket: Any) -> None:
        """Send the audio without a final again; meanwhile the reader reads, and new audio waits."""
        assert self._continuity is not None
        async with self._turn:
            if socket is not self._socket:
                return  # the connection is lost already
            try:
                for piece in self._continuity.restart():
                    await _put(socket, piece)
                if self._ending:
                    await socket.send_str(_END)
            except (ConnectionError, aiohttp.ClientError):
                return  # lost again: the reader starts again
            if socket is self._socket:
                self._connected.set()


_END = json.dumps({"type": "end"})


async def _put(socket: Any, piece: Piece) -> None:
    if isinstance(piece, bytes):
        await socket.send_bytes(piece)
    elif isinstance(piece, Lost):
        await socket.send_str(json.dumps({"type": "gap", "samples": piece.frames}))
    else:
        await socket.send_str(json.dumps({"type": "new_speaker"}))


def _may_help(refusal: ServerError) -> bool:
    """Whether another connection may succeed after this one was refused or lost."""
    return refusal.code in _AGAIN_CODES and refusal.status in _AGAIN_STATUS


def _named(error: BaseException, url: str) -> BaseException:
    """The error as a ServerError if it is one of the connection, else unchanged."""
    if isinstance(error, aiohttp.WSServerHandshakeError):
        return ServerError(f"{url}: refused ({error.status})", status=error.status)
    if isinstance(error, aiohttp.ClientError | asyncio.TimeoutError | OSError):
        return unreachable(url, error)
    return error


def _to_bytes(pcm: Pcm) -> bytes:
    if not isinstance(pcm, np.ndarray):
        return bytes(pcm)
    samples: NDArray[Any] = pcm
    if np.issubdtype(samples.dtype, np.floating):
        samples = to_pcm16(samples)
    if samples.dtype != np.int16:
        raise ValueError(f"pcm: bytes, or an array of int16 or float, not {samples.dtype}")
    return samples.astype("<i2").tobytes()


def unreachable(url: str, error: BaseException) -> ServerError:
    """The error for a server that did not respond."""
    return ServerError(f"{url}: no response ({error}); start the server with: streamser serve")


def refused(body: bytes, status: int, path: str) -> ServerError:
    """The error that an HTTP response describes."""
    try:
        details = json.loads(body)["error"]
        return ServerError(str(details["message"]), code=str(details["code"]), status=status)
    except (ValueError, KeyError, TypeError):
        return ServerError(f"{path}: the server responded with {status}", status=status)
