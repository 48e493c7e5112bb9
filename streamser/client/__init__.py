"""A client of `streamser serve`: label files, stream audio, follow its microphone; blocking or with asyncio.

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

from streamser.errors import MissingExtraError
from streamser.events import EmotionEvent, Event, event_from_dict

try:
    import aiohttp
except ImportError as error:
    raise MissingExtraError("streamser.Client", "client") from error

if TYPE_CHECKING:
    from typing_extensions import Unpack

from streamser.client.streams import CONNECT_S, AsyncStream, Pcm, refused, unreachable

__all__ = ["AsyncClient", "AsyncStream", "Client", "ClientStream", "Labelled", "StreamOptions"]

RECONNECT_S = 30.0
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Labelled:
    """The server's results for one file."""

    labels: tuple[str, ...]
    """The checkpoint's classes."""
    duration_s: float
    events: tuple[Event, ...]
    """All events, in order."""

    @property
    def finals(self) -> tuple[EmotionEvent, ...]:
        """One result for each utterance."""
        return tuple(event for event in self.events if isinstance(event, EmotionEvent) and event.final)


class StreamOptions(TypedDict, total=False):
    """Options of a stream of pushed audio."""

    sample_rate: int
    """Hz; 16000 by default."""
    channels: int
    """Number of interleaved channels; 1 by default."""
    name: str | None
    """Name in the events; without it, the server chooses one."""
    partials: bool
    """False omits the partial results."""
    lossless: bool
    """True computes every partial result, for files; see docs/protocol.md."""
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
    """A server at an address; a connection is opened for each call, so that nothing needs to be closed.

    A stream of pushed audio whose connection is lost connects again, for up to `reconnect_s`, and continues.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:8765", *, token: str | None = None, reconnect_s: float = RECONNECT_S
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url: begins with http:// or https://, not {url!r}")
        if reconnect_s < 0:
            raise ValueError(f"reconnect_s: must be 0 or more, not {reconnect_s}")
        self.url = url.rstrip("/")
        self._reconnect_s = reconnect_s
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def health(self) -> dict[str, Any]:
        """The server's state: whether it is healthy, has a microphone, and records."""
        found: dict[str, Any] = json.loads(await self._ask("GET", "/healthz", accept=(503,)))
        return found

    async def models(self) -> dict[str, Any]:
        """The checkpoint in use (`current`), and all installed ones (`models`)."""
        found: dict[str, Any] = json.loads(await self._ask("GET", "/v1/models"))
        return found

    async def label(
        self, audio: str | PathLike[str] | bytes, *, partials: bool = False, model: str | None = None
    ) -> Labelled:
        """Recognize an audio file, given by its path or as its bytes."""
        if isinstance(audio, bytes):
            name, body = "file", audio
        else:
            path = Path(fspath(audio))
            name, body = path.name[:60] or "file", await asyncio.to_thread(path.read_bytes)
        query = {"stream": name, "partials": "true" if partials else "false", **({"model": model} if model else {})}
        response = json.loads(await self._ask("POST", "/v1/label", params=query, data=body))
        events = tuple(event_from_dict(event) for event in response["events"])
        return Labelled(tuple(response["labels"]), float(response["duration_s"]), events)

    async def export(self, events: Iterable[Event], form: str) -> bytes:
        """Convert events to the content of a file: `form` is csv, vtt, textgrid, txt, rttm, png, svg or pdf."""
        body = "".join(json.dumps(event.to_dict()) + "\n" for event in events).encode()
        return await self._ask("POST", "/v1/export", params={"format": form}, data=body)

    def stream(self, **options: Unpack[StreamOptions]) -> AsyncStream:
        """A stream of pushed audio, to be used in an `async with`."""
        url = self._socket_url("/ws/stream")
        return AsyncStream(url, self._headers, _hello(**options), reconnect_s=self._reconnect_s)

    async def microphone(self) -> AsyncIterator[Event]:
        """Events of the microphone of the computer that runs the server."""
        async with AsyncStream(self._socket_url("/ws/events"), self._headers, {"type": "hello"}) as stream:
            async for event in stream:
                yield event

    def _socket_url(self, path: str) -> str:
        return "ws" + self.url.removeprefix("http") + path

    async def _ask(self, method: str, path: str, *, accept: tuple[int, ...] = (), **options: Any) -> bytes:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
        try:
            async with (
                aiohttp.ClientSession(headers=self._headers, timeout=timeout) as session,
                session.request(method, self.url + path, **options) as response,
            ):
                body = await response.read()
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise unreachable(self.url, error) from error
        if response.status >= 400 and response.status not in accept:
            raise refused(body, response.status, path)
        return body


class Client:
    """`AsyncClient` with blocking methods: no thread is started, and a call returns when its response has arrived."""

    def __init__(
        self, url: str = "http://127.0.0.1:8765", *, token: str | None = None, reconnect_s: float = RECONNECT_S
    ) -> None:
        self._client = AsyncClient(url, token=token, reconnect_s=reconnect_s)
        self.url = self._client.url

    def health(self) -> dict[str, Any]:
        """The server's state: whether it is healthy, has a microphone, and records."""
        return asyncio.run(self._client.health())

    def models(self) -> dict[str, Any]:
        """The checkpoint in use (`current`), and all installed ones (`models`)."""
        return asyncio.run(self._client.models())

    def label(
        self, audio: str | PathLike[str] | bytes, *, partials: bool = False, model: str | None = None
    ) -> Labelled:
        """Recognize an audio file, given by its path or as its bytes."""
        return asyncio.run(self._client.label(audio, partials=partials, model=model))

    def export(self, events: Iterable[Event], form: str) -> bytes:
        """Convert events to the content of a file: `form` is csv, vtt, textgrid, txt, rttm, png, svg or pdf."""
        return asyncio.run(self._client.export(events, form))

    def stream(self, **options: Unpack[StreamOptions]) -> ClientStream:
        """A stream of pushed audio, to be used in a `with`."""
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
    """A stream of a `Client`; messages are read only while a call runs."""

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

    @property
    def reconnections(self) -> int:
        """How often the connection was lost and replaced."""
        return self._stream.reconnections

    def push(self, pcm: Pcm) -> list[Event]:
        """Send audio; returns the events that have come by now."""
        return self._run(self._stream.push(pcm))

    def lose(self, samples: int) -> None:
        """Report samples that were lost before they could be pushed."""
        self._run(self._stream.lose(samples))

    def new_speaker(self) -> None:
        """Report that another person speaks from here on: the stream's own baseline is reset."""
        self._run(self._stream.new_speaker())

    def finish(self) -> list[Event]:
        """End the stream; returns the remaining events, the last final and StreamEnded among them."""
        return self._run(self._stream.finish())

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self._loop.run_until_complete(work)


async def _next(events: AsyncIterator[Event]) -> Event | None:
    return await anext(events, None)
