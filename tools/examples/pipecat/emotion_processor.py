"""A pipecat processor that attaches the voice's emotion to the user's words; put it after the STT.

transport.input() -> stt -> EmotionProcessor -> user aggregator -> llm -> tts -> transport.output()
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    InputAudioRawFrame,
    LLMMessagesAppendFrame,
    StartFrame,
    StopFrame,
    SystemFrame,
    TranscriptionFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from streamser import EmotionEvent, Event, Recognizer, SpeechEnded, SpeechStarted, Stream
from streamser.audio import SAMPLE_RATE
from streamser.stream.channel import StreamConfig

__all__ = ["EmotionFrame", "EmotionProcessor"]

# Frames of audio that may wait to be scored: ten seconds with pipecat's usual 20 ms. Further frames are dropped and
# reported to the stream as lost, so that the times of later events stay correct.
_WAITING_FRAMES = 500
_FINISH_S = 5.0


@dataclass
class EmotionFrame(SystemFrame):
    """The emotion of one finished utterance; a system frame, because interruptions drop other frames."""

    emotion: str
    """The likeliest class, even if `uncertain`; do not act on an uncertain emotion."""
    confidence: float
    uncertain: bool
    event: EmotionEvent


class EmotionProcessor(FrameProcessor):
    """Passes every frame on, and attaches `{"emotion", "confidence", "uncertain"}` to each transcription's metadata.

    It pushes an EmotionFrame at the end of each utterance. The audio is scored in order on a thread, so the event loop
    never waits for scoring. Many pipelines may share a recognizer; each needs its own processor.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        config: StreamConfig | None = None,
        *,
        tell_llm: bool = False,
        wait_s: float = 0.5,
        max_age_s: float = 3.0,
        **kwargs: Any,
    ) -> None:
        """`tell_llm` adds a developer message to the context if the emotion is not uncertain.

        A transcription waits at most `wait_s` until the audio before it is scored and an open utterance has its first
        result. A result that ends more than `max_age_s` before the newest scored audio is not attached: it belongs to
        earlier words.
        """
        super().__init__(**kwargs)
        self._recognizer, self._config = recognizer, config
        self._tell_llm, self._wait_s, self._max_age_s = tell_llm, wait_s, max_age_s
        self._task: asyncio.Task[None] | None = None

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Handle a frame of either direction, and pass it on."""
        await super().process_frame(frame, direction)
        if isinstance(frame, StartFrame):
            await self._start()
        elif isinstance(frame, EndFrame | StopFrame):
            await self._finish()
        elif isinstance(frame, CancelFrame):
            await self._stop()
        elif self._task is not None and direction == FrameDirection.DOWNSTREAM:
            if isinstance(frame, InputAudioRawFrame):
                self._take(frame)
            elif isinstance(frame, TranscriptionFrame):
                await self._attach(frame)
        await self.push_frame(frame, direction)

    async def cleanup(self) -> None:
        """Cancel the task if no frame has ended it."""
        await self._stop()
        await super().cleanup()

    # --- attaching emotions to the user's words

    async def _attach(self, frame: TranscriptionFrame) -> None:
        """Attach the newest result to the words; waiting for the result delays neither audio nor system frames."""
        taken = self._taken
        await self._until(lambda: self._scored >= taken and self._open in (None, self._scored_utterance))
        event = self._newest
        if event is None or self._position - event.end > self._max_age_s * SAMPLE_RATE:
            return
        frame.metadata["emotion"] = {
            "emotion": event.label,
            "confidence": round(event.confidence, 4),
            "uncertain": event.uncertain,
        }
        if self._tell_llm and not event.uncertain and event.utterance != self._last_told:
            self._last_told = event.utterance
            words = f"The user's voice sounds {event.label} (confidence {event.confidence:.2f}, words not considered)."
            await self.push_frame(LLMMessagesAppendFrame([{"role": "developer", "content": words}], run_llm=False))

    async def _until(self, true: Callable[[], bool]) -> None:
        async def wait() -> None:
            async with self._progress:
                await self._progress.wait_for(true)

        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(wait(), self._wait_s)

    # --- scoring the user's voice

    async def _start(self) -> None:
        await self._stop()
        self._stream = await asyncio.to_thread(Stream, self._recognizer, self._config, self.name)
        self._waiting: asyncio.Queue[tuple[int, InputAudioRawFrame | None]] = asyncio.Queue(_WAITING_FRAMES)
        self._progress = asyncio.Condition()
        self._taken = self._scored = 0  # frames of audio
        self._lost = 0  # dropped samples that are not yet reported to the stream
        self._position = 0  # samples scored
        self._open: int | None = None  # the open utterance
        self._newest: EmotionEvent | None = None
        self._last_told = -1  # the last utterance that the LLM was informed of
        self._task = self.create_task(self._score())

    @property
    def _scored_utterance(self) -> int | None:
        return None if self._newest is None else self._newest.utterance

    def _take(self, frame: InputAudioRawFrame) -> None:
        try:
            self._waiting.put_nowait((self._lost, frame))
        except asyncio.QueueFull:
            self._lost += frame.num_frames * SAMPLE_RATE // frame.sample_rate
        else:
            self._lost = 0
            self._taken += 1

    async def _score(self) -> None:
        """The task's loop: score all waiting audio on a thread and handle the events, until None is in the queue."""
        ended = False
        while not ended:
            batch = [await self._waiting.get()]
            while not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            ended = batch[-1][1] is None
            try:
                await self._handle(await asyncio.to_thread(self._push, batch))
            except Exception as error:  # after any error here, the conversation continues without emotions
                await self.push_error(f"no emotion for this audio: {error}", exception=error)
            async with self._progress:
                self._scored += len(batch)
                self._progress.notify_all()

    def _push(self, batch: list[tuple[int, InputAudioRawFrame | None]]) -> list[Event]:
        """Push audio into the stream, on a thread; no other method uses the stream."""
        events: list[Event] = []
        for lost, frame in batch:
            if lost:
                events += self._stream.lose(lost, "overflow")
            if frame is None:
                return events + self._stream.close()
            events += self._stream.push(frame.audio, frame.sample_rate, frame.num_channels)
        self._position = self._stream.position
        return events

    async def _handle(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, SpeechStarted):
                self._open = event.utterance
            elif isinstance(event, SpeechEnded):
                self._open = None
            elif isinstance(event, EmotionEvent):
                self._newest = event
                if event.final:
                    await self.push_frame(EmotionFrame(event.label, event.confidence, event.uncertain, event))

    async def _finish(self) -> None:
        """Score the audio that still waits, and let the open utterance get its final."""
        if self._task is not None:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._end(self._task), _FINISH_S)
            await self._stop()

    async def _end(self, task: asyncio.Task[None]) -> None:
        await self._waiting.put((self._lost, None))
        await task

    async def _stop(self) -> None:
        task, self._task = self._task, None
        if task is not None and not task.done():
            await self.cancel_task(task)
