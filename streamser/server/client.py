"""One client that sends audio: receive its messages, process them on a thread, and send its results."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math

from aiohttp import WSMsgType, web

from streamser.events import EmotionEvent, Event, StreamEnded
from streamser.server.audiostream import AudioStream
from streamser.server.hub import Hub, going_away
from streamser.server.protocol import (
    CLOSE_INTERNAL,
    CLOSE_TIMEOUT,
    CLOSE_TRY_LATER,
    Hello,
    Lost,
    Refusal,
    check_pcm,
    parse_word,
    status_message,
)
from streamser.server.ratelimit import RateLimit
from streamser.server.receivequeue import Message, ReceiveQueue
from streamser.server.sender import Sender
from streamser.stream.wavfile import RecordingError
from streamser.stream.worker import InferenceWorker

logger = logging.getLogger(__name__)

# If this many results of a stream wait for the worker, no more of its audio is taken. The limit of a file is lower: a
# file can wait, and must not delay live streams.
_WAITING_LIVE = 16
_WAITING_FILE = 4
_WAKE_S = 0.1
_TURN_S = 1.0  # audio processed in one turn on a thread, so that no client occupies a thread for long
_MAX_LOST_S = 3600


class StreamClient:
    """The receiving half of one client of /ws/stream; its sender is the other."""

    def __init__(
        self,
        ws: web.WebSocketResponse,
        sender: Sender,
        hello: Hello,
        hub: Hub,
        worker: InferenceWorker,
    ) -> None:
        self._ws = ws
        self._sender = sender
        self._hello = hello
        self._hub = hub
        self._config = hub.config
        self._loop = asyncio.get_running_loop()
        self._stream = hub.open_stream(
            self._send_event,
            hello.stream,
            sample_rate=hello.sample_rate,
            channels=hello.channels,
            lossless=hello.lossless,
            partials=hello.partials,
            worker=worker,
        )
        self._received = ReceiveQueue(hub.config.max_message_bytes)
        self._room = asyncio.Event()
        self._over = asyncio.Event()  # all results were sent, or the client is gone
        self._refusal: Refusal | None = None
        self._ending = False
        self._status_sent_s = 0.0
        self._state_sent = ""

    @property
    def name(self) -> str:
        """Name of its stream."""
        return self._stream.name

    async def run(self) -> None:
        """Serve the client until it ends its stream, disconnects or is refused; then close the stream and the sender.

        The sender is closed after the last results, unless the client has disconnected or does not read.
        """
        began_s = self._loop.time()
        logger.info("stream %s began", self.name, extra={"fields": {"stream": self.name}})
        feeder = asyncio.create_task(self._feed())
        self._reader = asyncio.create_task(self._read())
        self._sender.on_refuse = self._give_up
        self._hub.end_soon[self._sender] = self._end_soon
        has_left = discard = True
        try:
            await asyncio.wait({self._reader})
            has_left = not self._reader.cancelled() and self._reader.result()
            discard = has_left or (self._reader.cancelled() and not self._ending)
        except Refusal as refusal:  # valid messages before the refused one still get their results
            self._refusal, has_left, discard = refusal, False, False
        finally:
            self._reader.cancel()
            if has_left:
                self._sender.hang_up()
                self._over.set()
            await self._received.close(forget=discard)
            await feeder
        await self._over.wait()
        del self._hub.end_soon[self._sender]
        self._log_end(self._loop.time() - began_s)
        if self._refusal is not None:
            self._sender.refuse(self._refusal)
        else:
            self._sender.finish()
        # The stream's windows of audio take megabytes: free them now instead of waiting for the garbage collector.
        self._sender.on_refuse = lambda: None
        del self._stream

    def _log_end(self, connected_s: float) -> None:
        status = self._stream.status()
        fields = {
            "stream": self.name,
            "connected_s": round(connected_s, 1),
            "sound_s": status.position_s,
            "finals": status.finals,
            "partials": status.partials,
            "skipped": status.partials_dropped,
            "lost_ms": status.lost_ms,
            "refusal": self._refusal.code if self._refusal else None,
        }
        words = "stream %s ended: %.1f s of audio, %d finals"
        logger.info(words, self.name, status.position_s, status.finals, extra={"fields": fields})

    def _end_soon(self) -> None:
        """End the stream as if the client had, because the server is being stopped."""
        self._ending, self._refusal = True, going_away()
        self._reader.cancel()

    def _give_up(self) -> None:
        self._over.set()
        self._reader.cancel()

    async def _read(self) -> bool:
        """Take messages until the end; True when the client has left without one."""
        idle_s, most_s = self._config.idle_timeout_s, self._config.max_stream_s
        rate = RateLimit(self._config.max_messages_per_s, self._loop.time())
        end_s = math.inf if most_s is None else self._loop.time() + most_s
        while not self._ws.closed:
            if (left_s := end_s - self._loop.time()) <= 0:
                raise self._too_long()
            try:
                message = await self._ws.receive(min(idle_s, left_s))  # with 0 it would wait without a limit
            except asyncio.TimeoutError:
                if left_s <= idle_s:
                    raise self._too_long() from None
                raise Refusal(
                    "idle", f"no audio arrived for {idle_s:g} s; send silence, or end the stream", CLOSE_TIMEOUT
                ) from None
            if self._loop.time() >= end_s:  # pings extend the wait
                raise self._too_long()
            if pause_s := rate.pause_s(self._loop.time()):
                await asyncio.sleep(pause_s)
            if message.type is WSMsgType.BINARY:
                check_pcm(message.data, self._hello, self._config.max_message_bytes)
                await self._received.put(message.data)
            elif message.type is WSMsgType.TEXT:
                word = parse_word(message.data, _MAX_LOST_S * self._hello.sample_rate)
                if word == "end":
                    return False
                await self._received.put(word)
        return True

    def _too_long(self) -> Refusal:
        return Refusal(
            "too_long", f"a stream may last at most {self._config.max_stream_s:g} s on this server", CLOSE_TRY_LATER
        )

    async def _feed(self) -> None:
        """Segment incoming audio on a thread, no faster than the inference worker; close the stream at the end."""
        turn_bytes = round(_TURN_S * self._hello.sample_rate) * 2 * self._hello.channels
        error: str | None = None
        try:
            while (piece := await self._received.get(turn_bytes)) is not None:
                await wait_for_room(self._stream, self._room, _WAITING_FILE if self._hello.lossless else _WAITING_LIVE)
                if not self._hold(*piece):
                    await self._loop.run_in_executor(self._hub.audio_threads, self._push, *piece)
                self._send_status()
        except Exception as problem:
            self._refusal = self._hub.refusal_of(problem, self._stream.name)
            error = str(self._refusal)
            self._reader.cancel()
        try:
            await self._loop.run_in_executor(self._hub.audio_threads, self._stream.end, error)
        except RecordingError as problem:  # the last second of audio could not be stored
            self._refusal = self._refusal or self._hub.refusal_of(problem, self._stream.name)
        except RuntimeError:  # the threads are gone: the server was stopped
            self._over.set()

    def _hold(self, piece: Message, arrived_s: float) -> bool:
        """Keep audio that can cause no event yet: most messages then need no thread."""
        return isinstance(piece, bytes) and self._stream.hold(piece, arrived_s)

    def _push(self, piece: Message, arrived_s: float) -> None:
        if isinstance(piece, Lost):
            self._stream.skip(piece.samples)
        elif piece == "new_speaker":
            self._stream.new_speaker()
        else:
            self._stream.feed(piece, arrived_s)

    def _send_event(self, event: Event) -> None:
        self._room.set()
        partial = isinstance(event, EmotionEvent) and not event.final
        if not partial or self._hello.partials:
            self._sender.put(event.to_dict(), droppable=partial)
        if isinstance(event, StreamEnded):
            self._over.set()
            if event.error is not None and self._refusal is None:
                self._refusal = Refusal("failed", event.error, CLOSE_INTERNAL)
                self._reader.cancel()

    def _send_status(self) -> None:
        if not self._hello.status_ms or self._over.is_set():
            return
        now_s = self._loop.time()
        if now_s - self._status_sent_s >= self._hello.status_ms / 1000 or self._stream.vad_state != self._state_sent:
            status = self._stream.status()
            self._status_sent_s, self._state_sent = now_s, status.vad_state
            self._sender.put(status_message(status, self._sender.queue.dropped), droppable=True)


async def wait_for_room(stream: AudioStream, room: asyncio.Event, most: int = _WAITING_FILE) -> None:
    """Wait until fewer than `most` results of this stream wait for the worker; `room` is set when one is sent."""
    while stream.waiting >= most:
        room.clear()
        with contextlib.suppress(asyncio.TimeoutError):  # a result computed ahead is not sent
            await asyncio.wait_for(room.wait(), _WAKE_S)
