"""A client of `streamser serve`: label files, stream sound, follow its microphone; blocking or with asyncio.

    client = streamser.Client("http://127.0.0.1:8765")
    print([event.label for event in client.label("talk.wav").finals])

    with client.stream(sample_rate=48_000) as stream:
        for pcm in microphone:
            for event in stream.push(pcm):
                ...

`AsyncClient` has the same methods as coroutines. Events are the classes of `streamser.events`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamser.errors import MissingExtraError, ServerError
from streamser.events import EmotionEvent, Event, event_from_dict

try:
    import aiohttp
except ImportError as error:
    raise MissingExtraError("streamser.Client", "client") from error

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["AsyncClient", "AsyncStream", "Client", "ClientStream", "Labelled", "StreamOptions"]

Pcm = bytes | bytearray | memoryview | NDArray[np.generic]
"""Bytes are 16-bit little-endian PCM as announced; arrays are int16 or float in [-1, 1]."""

_CONNECT_S = 10.0
_END_S = 60.0  # the last final of a busy server; without any message for this long it is given up
_MOST_BYTES = 32_000  # of one message: a third of a second at 48 kHz
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Labelled:
    """What the server recognized in one file."""

    labels: tuple[str, ...]
    """The checkpoint's classes."""
    duration_s: float
    events: tuple[Event, ...]
    """All of them, in the order of a stream."""

    @property
    def finals(self) -> tuple[EmotionEvent, ...]:
        """One result an utterance."""
        return tuple(event for event in self.events if isinstance(event, EmotionEvent) and event.final)


class StreamOptions(TypedDict, total=False):
    """What a stream of pushed sound may be opened with."""

    sample_rate: int
    """Hz; 16000 unless it is given."""
    channels: int
    """Interleaved; 1 unless it is given."""
    name: str | None
    """Name that the events carry; the server gives one unless it is given."""
    partials: bool
    """False leaves out the results of utterances that still go on."""
    lossless: bool
    """True is for files: every partial result is computed, see docs/protocol.md."""
    model: str | None
    """An installed checkpoint, instead of the server's own."""


def _hello(
    *,
    sample_rate: int = 16_000,
    channels: int = 1,
    name: str | None = None,
    partials: bool = True,
    lossless: bool = False,
    model: str | None = None,
) -> dict[str, Any]:
    """The first message of a stream."""
    chosen = {"stream": name, "model": model}
    return {
        "type": "hello",
        "sample_rate": sample_rate,
        "channels": channels,
        "partials": partials,
        "lossless": lossless,
        **{key: value for key, value in chosen.items() if value is not None},
    }


class AsyncClient:
    """A server at an address; a connection is opened for each call, so that nothing needs to be closed."""

    def __init__(self, url: str = "http://127.0.0.1:8765", *, token: str | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url: begins with http:// or https://, not {url!r}")
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def health(self) -> dict[str, Any]:
        """How the server is, whether it has a microphone, and whether it records."""
        found: dict[str, Any] = json.loads(await self._ask("GET", "/healthz", accept=(503,)))
        return found

    async def models(self) -> dict[str, Any]:
        """The checkpoint that answers (`current`), and all that are installed (`models`)."""
        found: dict[str, Any] = json.loads(await self._ask("GET", "/v1/models"))
        return found

    async def label(
        self, sound: str | PathLike[str] | bytes, *, partials: bool = False, model: str | None = None
    ) -> Labelled:
        """Recognize a sound file, given by its path or as its bytes."""
        if isinstance(sound, bytes):
            name, body = "file", sound
        else:
            path = Path(fspath(sound))
            name, body = path.name[:60] or "file", await asyncio.to_thread(path.read_bytes)
        query = {"stream": name, "partials": "true" if partials else "false", **({"model": model} if model else {})}
        answer = json.loads(await self._ask("POST", "/v1/label", params=query, data=body))
        events = tuple(event_from_dict(event) for event in answer["events"])
        return Labelled(tuple(answer["labels"]), float(answer["duration_s"]), events)

    async def export(self, events: Iterable[Event], form: str) -> bytes:
        """Events as a file for another program: `form` is csv, vtt, textgrid, txt, rttm, png, svg or pdf."""
        body = "".join(json.dumps(event.to_dict()) + "\n" for event in events).encode()
        return await self._ask("POST", "/v1/export", params={"format": form}, data=body)

    def stream(self, **options: Unpack[StreamOptions]) -> AsyncStream:
        """A stream of pushed sound, to be used in an `async with`."""
        return AsyncStream(self._socket_url("/ws/stream"), self._headers, _hello(**options))

    async def microphone(self) -> AsyncIterator[Event]:
        """Events of the microphone of the computer that runs the server."""
        async with AsyncStream(self._socket_url("/ws/events"), self._headers, {"type": "hello"}) as stream:
            async for event in stream:
                yield event

    def _socket_url(self, path: str) -> str:
        return "ws" + self.url.removeprefix("http") + path

    async def _ask(self, method: str, path: str, *, accept: tuple[int, ...] = (), **options: Any) -> bytes:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
        try:
            async with (
                aiohttp.ClientSession(headers=self._headers, timeout=timeout) as session,
                session.request(method, self.url + path, **options) as answer,
            ):
                body = await answer.read()
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise _unreachable(self.url, error) from error
        if answer.status >= 400 and answer.status not in accept:
            raise _refused(body, answer.status, path)
        return body


class AsyncStream:
    """One connection: `push` sound and take the events that have come, `finish` for the rest, or iterate."""

    def __init__(self, url: str, headers: dict[str, str], hello: dict[str, Any]) -> None:
        self._url = url
        self._headers = headers
        self._hello = hello
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._refusal: ServerError | None = None
        self.ready: dict[str, Any] = {}
        """The server's first message: labels, checkpoint, threshold, whether it records."""
        self.status: dict[str, Any] = {}
        """The latest level, voice activity and latency."""

    async def __aenter__(self) -> AsyncStream:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=timeout)
        try:
            self._socket = await self._session.ws_connect(self._url)
            await self._socket.send_str(json.dumps(self._hello))
            self._started = asyncio.get_running_loop().create_future()
            self._reader = asyncio.create_task(self._read())
            await self._started
        except BaseException as error:
            await self._session.close()
            if isinstance(error, aiohttp.WSServerHandshakeError):
                raise ServerError(f"{self._url}: refused ({error.status})", status=error.status) from error
            if isinstance(error, aiohttp.ClientError | asyncio.TimeoutError | OSError):
                raise _unreachable(self._url, error) from error
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.cancel()
        await self._socket.close()
        await self._session.close()

    async def push(self, pcm: Pcm) -> list[Event]:
        """Send sound; returns the events that have come by now."""
        data = _to_bytes(pcm)
        try:
            for first in range(0, len(data), _MOST_BYTES):
                await self._socket.send_bytes(data[first : first + _MOST_BYTES])
        except (ConnectionError, aiohttp.ClientError) as error:
            await self._reader  # an error message sent before the close gives the better reason
            raise self._refusal or _unreachable(self._url, error) from error
        await asyncio.sleep(0)
        return self._arrived()

    async def lose(self, samples: int) -> None:
        """Report samples that were lost before they could be pushed; the timeline counts them, and nothing shifts."""
        await self._socket.send_str(json.dumps({"type": "gap", "samples": samples}))

    async def new_speaker(self) -> None:
        """Another person speaks from here on: what was learned of the voice is forgotten."""
        await self._socket.send_str(json.dumps({"type": "new_speaker"}))

    async def finish(self) -> list[Event]:
        """End the stream; returns the remaining events, the last final and StreamEnded among them."""
        if not self._socket.closed:
            await self._socket.send_str(json.dumps({"type": "end"}))
        return [event async for event in self]

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Events as they come, until the stream is over."""
        while (event := await self._events.get()) is not None:
            yield event
        self._events.put_nowait(None)
        if self._refusal is not None:
            raise self._refusal

    def _arrived(self) -> list[Event]:
        found: list[Event] = []
        while not self._events.empty():
            event = self._events.get_nowait()
            if event is None:  # over: later calls get the end again
                self._events.put_nowait(None)
                if self._refusal is not None and not found:
                    raise self._refusal
                break
            found.append(event)
        return found

    async def _read(self) -> None:
        try:
            async for raw in self._socket:
                if raw.type is aiohttp.WSMsgType.TEXT:
                    self._take(json.loads(raw.data))
            code = self._socket.close_code or 1006
            if code != 1000 and self._refusal is None:
                self._refusal = ServerError(f"{self._url}: the connection was lost (close code {code})", status=code)
            if not self._started.done():
                self._started.set_exception(self._refusal or ServerError(f"{self._url}: closed before it was ready"))
        finally:
            self._events.put_nowait(None)

    def _take(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind == "ready":
            self.ready = message
            self._started.set_result(None)
        elif kind == "status":
            self.status = message
        elif kind == "error":
            self._refusal = ServerError(message["message"], code=message["code"])
        else:
            self._events.put_nowait(event_from_dict(message))


class Client:
    """The same, blocking: no thread is started; each call runs until its answer is there."""

    def __init__(self, url: str = "http://127.0.0.1:8765", *, token: str | None = None) -> None:
        self._client = AsyncClient(url, token=token)
        self.url = self._client.url

    def health(self) -> dict[str, Any]:
        """How the server is, whether it has a microphone, and whether it records."""
        return asyncio.run(self._client.health())

    def models(self) -> dict[str, Any]:
        """The checkpoint that answers (`current`), and all that are installed (`models`)."""
        return asyncio.run(self._client.models())

    def label(
        self, sound: str | PathLike[str] | bytes, *, partials: bool = False, model: str | None = None
    ) -> Labelled:
        """Recognize a sound file, given by its path or as its bytes."""
        return asyncio.run(self._client.label(sound, partials=partials, model=model))

    def export(self, events: Iterable[Event], form: str) -> bytes:
        """Events as a file for another program: `form` is csv, vtt, textgrid, txt, rttm, png, svg or pdf."""
        return asyncio.run(self._client.export(events, form))

    def stream(self, **options: Unpack[StreamOptions]) -> ClientStream:
        """A stream of pushed sound, to be used in a `with`."""
        return ClientStream(lambda: self._client.stream(**options))

    def microphone(self) -> Iterator[Event]:
        """Events of the microphone of the computer that runs the server."""
        loop = asyncio.new_event_loop()
        events = self._client.microphone()
        try:
            while (event := loop.run_until_complete(_next(events))) is not None:
                yield event
        finally:
            loop.run_until_complete(events.aclose())  # type: ignore[attr-defined]
            loop.close()


class ClientStream:
    """One connection of a `Client`; messages are read while a call runs."""

    def __init__(self, make: Callable[[], AsyncStream]) -> None:
        self._make = make

    def __enter__(self) -> ClientStream:
        self._loop = asyncio.new_event_loop()
        try:
            self._stream = self._make()
            self._run(self._stream.__aenter__())
        except BaseException:
            self._loop.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._run(self._stream.__aexit__(kind, error, trace))
        finally:
            self._loop.close()

    @property
    def ready(self) -> dict[str, Any]:
        """The server's first message."""
        return self._stream.ready

    @property
    def status(self) -> dict[str, Any]:
        """The latest level, voice activity and latency."""
        return self._stream.status

    def push(self, pcm: Pcm) -> list[Event]:
        """Send sound; returns the events that have come by now."""
        return self._run(self._stream.push(pcm))

    def lose(self, samples: int) -> None:
        """Report samples that were lost before they could be pushed."""
        self._run(self._stream.lose(samples))

    def new_speaker(self) -> None:
        """Another person speaks from here on: what was learned of the voice is forgotten."""
        self._run(self._stream.new_speaker())

    def finish(self) -> list[Event]:
        """End the stream; returns the remaining events, the last final and StreamEnded among them."""
        return self._run(self._stream.finish())

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self._loop.run_until_complete(work)


async def _next(events: AsyncIterator[Event]) -> Event | None:
    return await anext(events, None)


def _to_bytes(pcm: Pcm) -> bytes:
    if not isinstance(pcm, np.ndarray):
        return bytes(pcm)
    samples: NDArray[Any] = pcm
    if np.issubdtype(samples.dtype, np.floating):
        samples = (np.clip(samples, -1.0, 32767 / 32768) * 32768).round().astype(np.int16)
    if samples.dtype != np.int16:
        raise ValueError(f"pcm: bytes, or an array of int16 or float, not {samples.dtype}")
    return samples.astype("<i2").tobytes()


def _unreachable(url: str, error: BaseException) -> ServerError:
    return ServerError(f"{url}: no answer ({error}); start the server with: streamser serve")


def _refused(body: bytes, status: int, path: str) -> ServerError:
    try:
        details = json.loads(body)["error"]
        return ServerError(str(details["message"]), code=str(details["code"]), status=status)
    except (ValueError, KeyError, TypeError):
        return ServerError(f"{path}: the server answered {status}", status=status)
