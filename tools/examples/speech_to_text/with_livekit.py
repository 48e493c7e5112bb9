"""LiveKit agents with emotions: an Agent that attaches the voice's emotion to the user's turn.

pip install livekit-agents streamser

    session = AgentSession(stt=..., llm=..., tts=..., vad=...)
    await session.start(agent=EmotionAgent(streamser.load(), consent=True, instructions="..."), room=ctx.room)

The emotion is in `new_message.extra["emotion"]` of the turn's message; with `tell_llm` the language model reads it too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from typing import Any

from livekit import rtc
from livekit.agents import Agent, ModelSettings, llm, stt
from turn_emotion import TurnEmotion

import streamser

_WAIT_S = 0.5  # wait for the final of an utterance that is open at the turn's end; later, its newest partial is used


class EmotionAgent(Agent):
    """Scores the audio on its way to the speech-to-text, which gets every frame without delay."""

    def __init__(
        self, recognizer: streamser.Recognizer, *, consent: bool, tell_llm: bool = False, **settings: Any
    ) -> None:
        """`consent`: the participant has agreed; `voice.consent` changes this later. `settings` are those of Agent."""
        super().__init__(**settings)
        self.voice = TurnEmotion(recognizer, consent=consent)
        self._tell_llm = tell_llm

    async def stt_node(
        self, audio: AsyncIterable[rtc.AudioFrame], model_settings: ModelSettings
    ) -> AsyncIterable[stt.SpeechEvent | str]:
        async def scored() -> AsyncIterable[rtc.AudioFrame]:
            async for frame in audio:
                self.voice.push(bytes(frame.data), frame.sample_rate, frame.num_channels)
                yield frame

        async for event in Agent.default.stt_node(self, scored(), model_settings):
            yield event

    async def on_user_turn_completed(self, turn_ctx: llm.ChatContext, new_message: llm.ChatMessage) -> None:
        emotion = await asyncio.to_thread(self.voice.turn, _WAIT_S)
        if emotion is None:
            return
        new_message.extra["emotion"] = emotion
        if self._tell_llm and not emotion["uncertain"]:
            words = f"The user's voice sounds {emotion['emotion']} (words not considered)."
            turn_ctx.add_message(role="system", content=words)

    async def on_exit(self) -> None:
        await asyncio.to_thread(self.voice.close)
