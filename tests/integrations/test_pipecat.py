"""The pipecat processor in pipecat's own pipelines; skipped if pipecat is not installed."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from makers import babble, silence

from streamser.audio import resample
from streamser.events import EmotionEvent
from streamser.recognizer import Recognizer
from streamser.stream.channel import Stream

if importlib.util.find_spec("pipecat") is None:
    pytest.skip(
        "pipecat is not installed; tools/examples/pipecat/check.sh installs and tests it", allow_module_level=True
    )

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "examples" / "pipecat"))
from emotion_processor import EmotionFrame, EmotionProcessor
from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    CancelFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    LLMMessagesAppendFrame,
    TextFrame,
    TranscriptionFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.tests.utils import SleepFrame, run_test
from pipecat.workers.runner import WorkerRunner

# pipecat and its dependencies emit warnings that do not concern streamser.
pytestmark = pytest.mark.filterwarnings("default")

START_S = 30.0  # a busy machine starts pipelines slowly


def audio_frames(audio: Any, rate: int = 16_000, channels: int = 1) -> list[Frame]:
    """The audio as frames of 20 ms, like those of a transport."""
    values = np.round(resample(audio, 16_000, rate) * 32767).astype("<i2")
    size = rate // 50
    return [
        InputAudioRawFrame(np.repeat(values[at : at + size, None], channels, axis=1).tobytes(), rate, channels)
        for at in range(0, len(values), size)
    ]


def words(text: str = "hello") -> TranscriptionFrame:
    return TranscriptionFrame(text, "user", "2026-01-01T00:00:00Z", finalized=True)


def expected(recognizer: Recognizer, frames: list[Any]) -> list[EmotionEvent]:
    """The finals that a stream gives for the same audio."""
    stream = Stream(recognizer)
    events = [event for frame in frames for event in stream.push(frame.audio, frame.sample_rate, frame.num_channels)]
    return [event for event in events + stream.close() if isinstance(event, EmotionEvent) and event.final]


async def through(processor: FrameProcessor, frames: list[Frame], **options: Any) -> tuple[list[Frame], list[Frame]]:
    down, up = await run_test(processor, frames_to_send=frames, start_timeout=START_S, **options)
    return list(down), list(up)


def of(kind: type[Any], frames: list[Frame]) -> list[Any]:
    return [frame for frame in frames if isinstance(frame, kind)]


SPOKEN = np.concatenate([silence(0.4), babble(1.2), silence(0.8)])


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (48_000, 2)])
async def test_a_transcription_and_a_frame_carry_the_emotion_of_the_utterance(
    recognizer: Recognizer, rate: int, channels: int
) -> None:
    audio = audio_frames(SPOKEN, rate, channels)
    down, _ = await through(EmotionProcessor(recognizer, wait_s=10.0), [*audio, words()])
    (event,) = expected(recognizer, audio)
    (frame,) = of(TranscriptionFrame, down)
    wanted = {"emotion": event.label, "confidence": round(event.confidence, 4), "uncertain": event.uncertain}
    assert frame.metadata["emotion"] == wanted
    (frame,) = of(EmotionFrame, down)
    assert (frame.emotion, frame.confidence, frame.uncertain) == (event.label, event.confidence, event.uncertain)


async def test_a_transcription_during_speech_carries_the_partial_result(recognizer: Recognizer) -> None:
    audio = audio_frames(SPOKEN)
    down, _ = await through(
        EmotionProcessor(recognizer, wait_s=10.0), [*audio[:70], words(), SleepFrame(), *audio[70:]]
    )
    (frame,) = of(TranscriptionFrame, down)
    assert set(frame.metadata["emotion"]) == {"emotion", "confidence", "uncertain"}
    assert down.index(frame) < down.index(of(EmotionFrame, down)[0])


async def test_a_transcription_after_silence_carries_no_emotion(recognizer: Recognizer) -> None:
    down, _ = await through(EmotionProcessor(recognizer), [*audio_frames(silence(1.0)), words()])
    assert "emotion" not in of(TranscriptionFrame, down)[0].metadata


async def test_a_transcription_long_after_an_utterance_carries_no_emotion(recognizer: Recognizer) -> None:
    audio = audio_frames(np.concatenate([SPOKEN, silence(4.0)]))
    down, _ = await through(EmotionProcessor(recognizer, wait_s=10.0, max_age_s=2.0), [*audio, words()])
    assert len(of(EmotionFrame, down)) == 1
    assert "emotion" not in of(TranscriptionFrame, down)[0].metadata


async def test_every_frame_passes_in_both_directions(recognizer: Recognizer) -> None:
    frames: list[Frame] = [
        *audio_frames(SPOKEN),
        UserStartedSpeakingFrame(),
        TextFrame("text"),
        words(),
        SleepFrame(),
        InterruptionFrame(),
        UserStoppedSpeakingFrame(),
        BotStartedSpeakingFrame(),
    ]
    sent = [frame for frame in frames if not isinstance(frame, SleepFrame)]
    down, up = await through(EmotionProcessor(recognizer), frames)
    assert {frame.id for frame in sent} == {frame.id for frame in down if not isinstance(frame, EmotionFrame)}
    assert up == []

    sent = [UserStartedSpeakingFrame(), *audio_frames(SPOKEN), words("from behind"), UserStoppedSpeakingFrame()]
    down, up = await through(EmotionProcessor(recognizer), sent, frames_to_send_direction=FrameDirection.UPSTREAM)
    assert {frame.id for frame in sent} == {frame.id for frame in up}
    assert down == [], "audio that goes upstream is not the user's and must not be scored"


async def test_the_end_frame_waits_for_the_final_of_the_open_utterance(
    recognizer: Recognizer,
) -> None:
    audio = audio_frames(SPOKEN[: round(1.5 * 16_000)])  # ends within the speech
    down, _ = await through(EmotionProcessor(recognizer), audio, send_end_frame=True)
    (event,) = expected(recognizer, audio)
    assert [frame.event.scores for frame in of(EmotionFrame, down)] == [event.scores]


async def test_a_cancelled_pipeline_ends_at_once_and_leaves_no_task(recognizer: Recognizer) -> None:
    processor = EmotionProcessor(recognizer)
    down, _ = await through(processor, [*audio_frames(SPOKEN), CancelFrame()], send_end_frame=False)
    assert isinstance(down[-1], CancelFrame)
    assert processor._task is None


@pytest.mark.parametrize("tell_llm", [False, True])
async def test_with_tell_llm_one_message_precedes_the_first_transcription_of_an_utterance(
    recognizer: Recognizer, tell_llm: bool
) -> None:
    processor = EmotionProcessor(recognizer, tell_llm=tell_llm, wait_s=10.0)
    down, _ = await through(processor, [*audio_frames(SPOKEN), words("one"), words("two")])
    (event,) = expected(recognizer, audio_frames(SPOKEN))
    assert not event.uncertain
    appended = of(LLMMessagesAppendFrame, down)
    assert len(appended) == (1 if tell_llm else 0)
    for frame in appended:
        assert frame.messages[0]["role"] == "developer"
        assert f"sounds {event.label} (confidence {event.confidence:.2f}" in frame.messages[0]["content"]
        assert not frame.run_llm
        assert down.index(frame) < down.index(of(TranscriptionFrame, down)[0])


class SlowRecognizer:
    """A recognizer whose predictions wait until `let` is set; `asked` is set at the first prediction."""

    def __init__(self, recognizer: Recognizer) -> None:
        self._recognizer = recognizer
        self.let = threading.Event()
        self.asked = threading.Event()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._recognizer, name)
        if not name.startswith("predict"):
            return value

        def slow(*args: Any, **kwargs: Any) -> Any:
            self.asked.set()
            assert self.let.wait(START_S)
            return value(*args, **kwargs)

        return slow


async def test_slow_inference_delays_neither_the_event_loop_nor_the_frames(recognizer: Recognizer) -> None:
    slow: Any = SlowRecognizer(recognizer)
    arrived: dict[str, float] = {}

    class Sink(FrameProcessor):
        async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            await super().process_frame(frame, direction)
            arrived[type(frame).__name__] = time.monotonic()
            if isinstance(frame, TranscriptionFrame):
                slow.let.set()  # the prediction ends only now, so no frame before waited for it
            await self.push_frame(frame, direction)

    worker = PipelineWorker(
        Pipeline([EmotionProcessor(slow, wait_s=0.2), Sink()]), cancel_on_idle_timeout=False, enable_rtvi=False
    )

    async def send() -> None:
        for frame in audio_frames(SPOKEN):
            await worker.queue_frame(frame)
        assert await asyncio.to_thread(slow.asked.wait, START_S)
        await worker.queue_frame(BotStartedSpeakingFrame())
        await worker.queue_frame(words())
        await worker.stop_when_done()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), send())
    assert arrived["BotStartedSpeakingFrame"] <= arrived["TranscriptionFrame"] <= arrived["EmotionFrame"]


async def test_a_failing_recognizer_is_reported_and_the_conversation_continues(recognizer: Recognizer) -> None:
    class Failing(SlowRecognizer):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("predict"):
                raise RuntimeError("the engine is broken")
            return getattr(self._recognizer, name)

    failing: Any = Failing(recognizer)
    down, up = await through(EmotionProcessor(failing, wait_s=0.2), [*audio_frames(SPOKEN), SleepFrame(), words()])
    assert "the engine is broken" in of(ErrorFrame, up)[0].error
    assert len(of(InputAudioRawFrame, down)) == len(audio_frames(SPOKEN))
    assert "emotion" not in of(TranscriptionFrame, down)[0].metadata


async def test_audio_beyond_the_queue_is_counted_as_lost_and_the_time_stays_right(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import emotion_processor

    monkeypatch.setattr(emotion_processor, "_WAITING_FRAMES", 150)
    slow: Any = SlowRecognizer(recognizer)
    processor = EmotionProcessor(slow)
    audio = audio_frames(np.concatenate([SPOKEN, silence(8.0)]))

    async def let() -> None:
        assert await asyncio.to_thread(slow.asked.wait, START_S)
        deadline = time.monotonic() + START_S
        while processor._lost == 0 and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        slow.let.set()

    await asyncio.gather(through(processor, audio), let())
    assert processor._stream.tally.lost_ms > 0
    assert processor._stream.position == sum(frame.num_frames for frame in of(InputAudioRawFrame, audio))
