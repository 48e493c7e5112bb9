"""POST /v1/label: return the events of a whole audio file, processed like a stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from aiohttp import web

from streamser.audio import Samples
from streamser.errors import AudioError
from streamser.events import EmotionEvent, Event, StreamEnded
from streamser.server.audiostream import AudioFile, AudioStream
from streamser.server.bodies import Bodies
from streamser.server.client import wait_for_room
from streamser.server.forms import FormError, file_of_form
from streamser.server.hub import Hub, going_away
from streamser.server.protocol import MAX_CHANNELS, MAX_STREAM_NAME, SAMPLE_RATES_HZ, Refusal, check_name
from streamser.server.refusals import HttpRefusal, check_query
from streamser.stream.wavfile import RecordingError
from streamser.stream.worker import InferenceWorker

_AT_ONCE = 2  # files scored at the same time; more would need more memory, and each would take longer
_ABSURD_S = 10 * 86_400  # a longer duration in a header is wrong; streaming encoders do not know the length
_SEGMENT_KEYS = ("utterance", "start_s", "end_s", "label", "confidence", "uncertain", "scores")


class Labeller:
    """Labels a few files at a time; others wait, and further ones are refused."""

    def __init__(self, hub: Hub, bodies: Bodies) -> None:
        self._hub = hub
        self._bodies = bodies
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def response(self, request: web.Request) -> web.Response:
        """Handle POST /v1/label."""
        name, partials, model = _wishes(request)
        worker = await self._hub.checkpoints.worker(model)
        receiving = self._bodies.receive(request)
        if self._hub.draining:
            raise going_away()
        if self._hub.files >= self._hub.config.max_clients:
            raise HttpRefusal(
                503, "busy", f"{self._hub.files} files are already waiting; try again later", Retry_After="10"
            )
        self._hub.files += 1
        try:
            async with receiving as body:
                if not body:
                    raise HttpRefusal(400, "empty", "the body has no file; try: curl --data-binary @talk.wav URL")
                file = await self._on_thread(_file_of, request, bytes(body))
                async with self._turn:
                    return web.json_response(await self._label(request, file, name, partials, worker))
        finally:
            self._hub.files -= 1

    async def _label(
        self, request: web.Request, body: bytes, name: str, partials: bool, worker: InferenceWorker
    ) -> dict[str, Any]:
        began_s = time.perf_counter()
        file = await self._on_thread(self._open, body)
        events: list[Event] = []
        over = asyncio.Event()

        def take(event: Event) -> None:
            events.append(event)
            room.set()
            if isinstance(event, StreamEnded):
                over.set()

        room = asyncio.Event()
        stream = self._hub.open_stream(
            take, name, sample_rate=file.sample_rate, lossless=True, partials=partials, worker=worker
        )
        error: str | None = "the request was cancelled"
        try:
            await self._feed(request, stream, file.pieces(), room)
            error = None
        except HttpRefusal as too_long:
            error = str(too_long)
            raise
        except RecordingError as problem:
            refusal = self._hub.refusal_of(problem, stream.name)
            error = str(refusal)
            raise refusal from problem
        except AudioError as problem:
            error = str(problem)
            raise HttpRefusal(422, "damaged", error) from problem
        finally:
            await self._on_thread(stream.end, error)
        await over.wait()
        if isinstance(ended := events[-1], StreamEnded) and ended.error is not None:
            raise HttpRefusal(500, "failed", ended.error)
        listed = [event.to_dict() for event in events if partials or not _is_partial(event)]
        finals = [event for event in listed if event["type"] == "emotion" and event["final"]]
        return {
            **self._hub.describe(worker),
            "stream": stream.name,
            "duration_s": listed[-1]["end_s"],
            "elapsed_s": round(time.perf_counter() - began_s, 3),
            "warnings": [missing] if (missing := file.cut_off()) is not None else [],
            "segments": [{key: final[key] for key in _SEGMENT_KEYS} for final in finals],
            "events": listed,
        }

    def _open(self, body: bytes) -> AudioFile:
        try:
            file = AudioFile(body)
        except AudioError as error:
            raise HttpRefusal(415, "not_sound", str(error).removeprefix("the file: ")) from error
        low, high = SAMPLE_RATES_HZ
        if not low <= file.sample_rate <= high:
            raise HttpRefusal(
                415, "sample_rate", f"a file's sample rate must be {low} to {high} Hz, not {file.sample_rate}"
            )
        if file.channels > MAX_CHANNELS:
            raise HttpRefusal(415, "channels", f"a file may have at most {MAX_CHANNELS} channels, not {file.channels}")
        if self._hub.config.max_audio_s < file.duration_s < _ABSURD_S:
            raise self._too_long()
        return file

    def _too_long(self) -> HttpRefusal:
        most_s = self._hub.config.max_audio_s
        return HttpRefusal(
            413, "too_long", f"a file may have at most {most_s:g} s of audio; use streamser replay for longer files"
        )

    async def _feed(
        self, request: web.Request, stream: AudioStream, pieces: Iterator[Samples], room: asyncio.Event
    ) -> None:
        """Process a file piece by piece, so that it occupies no thread for long and stops when the client leaves."""

        def turn() -> bool:
            piece = next(pieces, None)
            if piece is not None:
                stream.feed(piece)
            return piece is not None

        while await self._on_thread(turn):
            if request.transport is None or request.transport.is_closing():
                raise AudioError("the client disconnected")
            if stream.position_s > self._hub.config.max_audio_s:
                raise self._too_long()
            await wait_for_room(stream, room)

    async def _on_thread(self, work: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._hub.audio_threads, partial(work, *args))


def _wishes(request: web.Request) -> tuple[str, bool, str | None]:
    """The stream's name, whether partial results are wanted, and the checkpoint if one is named."""
    check_query(request, "stream", "partials", "model")
    name, partials = request.query.get("stream", "file"), request.query.get("partials", "false").lower()
    try:
        check_name(name)
        if (model := request.query.get("model")) is not None:
            check_name(model, "model")
    except Refusal as refusal:
        raise HttpRefusal(400, refusal.code, str(refusal)) from refusal
    if partials not in ("true", "false", "1", "0"):
        raise HttpRefusal(400, "bad_query", f"partials must be true or false, not {partials!r:.{MAX_STREAM_NAME}}")
    return name, partials in ("true", "1"), model


def _file_of(request: web.Request, body: bytes) -> bytes:
    """The file's bytes: the body itself, or the first file of a form."""
    if not request.content_type.startswith("multipart/"):
        return body
    try:
        file = file_of_form(body, request.headers["Content-Type"])
    except FormError as error:
        raise HttpRefusal(400, "bad_form", f"the form cannot be read: {error}") from error
    if not file:
        raise HttpRefusal(400, "empty", "the form has no file; try: curl -F file=@talk.wav URL")
    return file


def _is_partial(event: Event) -> bool:
    return isinstance(event, EmotionEvent) and not event.final
