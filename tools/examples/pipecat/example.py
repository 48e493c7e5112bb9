"""A complete pipecat assistant on an audio file: real turns and context, simple replacements for STT and LLM.

    python example.py talk.wav

It needs no network and no keys. For your own assistant, replace `play` by a transport, and StandInSTT and StandInLLM by
real services; EmotionProcessor stays unchanged.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

import numpy as np
from emotion_processor import EmotionFrame, EmotionProcessor
from loguru import logger
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import (
    EndFrame,
    Frame,
    InputAudioRawFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TranscriptionFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.turns.user_stop import SpeechTimeoutUserTurnStopStrategy
from pipecat.turns.user_turn_strategies import UserTurnStrategies
from pipecat.utils.time import time_now_iso8601
from pipecat.workers.runner import WorkerRunner

import streamser

RATE = streamser.SAMPLE_RATE
FRAME_S = 0.02
TAIL_S = 3.0  # silence after the file, so that the last turn ends


class StandInSTT(FrameProcessor):
    """Replaces a speech-to-text service: pushes a numbered placeholder instead of the words of each sentence."""

    def __init__(self) -> None:
        super().__init__()
        self._sentences = 0

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)
        if isinstance(frame, VADUserStoppedSpeakingFrame):
            self._sentences += 1
            words = f"(the user's sentence {self._sentences})"
            await self.push_frame(TranscriptionFrame(words, "user", time_now_iso8601(), finalized=True))


class StandInLLM(FrameProcessor):
    """Replaces a language model: prints the last two messages of each context and gives a fixed response."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if not isinstance(frame, LLMContextFrame):
            await self.push_frame(frame, direction)
            return
        for message in frame.context.get_messages()[-2:]:
            print(f"  context    {message['role']}: {message['content']}")
        await self.push_frame(LLMFullResponseStartFrame())
        await self.push_frame(LLMTextFrame("I hear you."))
        await self.push_frame(LLMFullResponseEndFrame())


class Printer(FrameProcessor):
    """Prints the emotions that EmotionProcessor attached to words or pushed as frames."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame):
            print(f"  words      {frame.text} {json.dumps(frame.metadata.get('emotion'))}")
        elif isinstance(frame, EmotionFrame):
            shown = "uncertain" if frame.uncertain else frame.emotion
            start_s, end_s = frame.event.start / streamser.SAMPLE_RATE, frame.event.end / streamser.SAMPLE_RATE
            print(f"  utterance  {shown} {frame.confidence:.2f}, {start_s:.2f} to {end_s:.2f} s")
        await self.push_frame(frame, direction)


async def play(path: str, worker: PipelineWorker) -> None:
    """Send the file in real time, as a microphone would; pipecat detects turns by real time."""
    size = round(RATE * FRAME_S)
    samples = np.round(streamser.read_audio(path) * 32767).astype("<i2")
    silence = bytes(2 * size)
    blocks = [samples[first : first + size].tobytes() for first in range(0, len(samples), size)]
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number, block in enumerate([*blocks, *[silence] * round(TAIL_S / FRAME_S)]):
        await worker.queue_frame(InputAudioRawFrame(block, RATE, 1))
        await asyncio.sleep(began + number * FRAME_S - loop.time())
    await worker.queue_frame(EndFrame())


async def run(path: str, model: str | None) -> None:
    recognizer = streamser.load(*[model] if model else [])
    aggregators = LLMContextAggregatorPair(
        LLMContext(),
        user_params=LLMUserAggregatorParams(
            vad_analyzer=SileroVADAnalyzer(sample_rate=16_000),
            user_turn_strategies=UserTurnStrategies(stop=[SpeechTimeoutUserTurnStopStrategy()]),
        ),
    )
    pipeline = Pipeline(
        [
            StandInSTT(),
            EmotionProcessor(recognizer, tell_llm=True),
            Printer(),
            aggregators.user(),
            StandInLLM(),
            aggregators.assistant(),
        ]
    )
    worker = PipelineWorker(pipeline, params=PipelineParams(audio_in_sample_rate=RATE), cancel_on_idle_timeout=False)
    runner = WorkerRunner()
    await runner.add_workers(worker)
    print(f"{path} with {recognizer.bundle.name}:")
    await asyncio.gather(runner.run(), play(path, worker))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("audio", help="an audio file")
    parser.add_argument("--model", help="a streamser checkpoint: its name or its folder")
    arguments = parser.parse_args()
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    asyncio.run(run(arguments.audio, arguments.model))
