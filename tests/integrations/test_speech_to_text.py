"""The examples for speech-to-text programs; a test that needs such a package is skipped if it is not installed."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from makers import babble, silence

from streamser.events import EmotionEvent
from streamser.recognizer import Recognizer

FOLDER = Path(__file__).parents[2] / "tools" / "examples" / "speech_to_text"
WHERE = f"{FOLDER.name}/check.sh installs and tests it"
sys.path.insert(0, str(FOLDER))

from turn_emotion import TurnEmotion, merge  # noqa: E402  # found only now

SPOKEN = np.concatenate([silence(0.4), babble(1.2), silence(0.9)])
PCM = np.round(SPOKEN * 32767).astype("<i2").tobytes()


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.01)


def chunks(pcm: bytes = PCM, size: int = 640) -> Iterator[bytes]:
    return (pcm[first : first + size] for first in range(0, len(pcm), size))


def result(start_s: float, end_s: float, happy: float, *, uncertain: bool = False) -> EmotionEvent:
    return EmotionEvent(
        utterance=0,
        seq=0,
        start=round(start_s * 16_000),
        end=round(end_s * 16_000),
        final=True,
        label="happy" if happy > 0.5 else "sad",
        scores={"happy": happy, "sad": 1 - happy},
        confidence=max(happy, 1 - happy),
        uncertain=uncertain,
    )


def test_merged_scores_are_the_mean_of_the_results_weighted_by_seconds() -> None:
    results = [result(0, 1, 0.9), result(1, 4, 0.2)]
    assert merge(results) == {"emotion": "sad", "confidence": 0.625, "uncertain": False}
    assert merge(results, 0.0, 1.0) == {"emotion": "happy", "confidence": 0.9, "uncertain": False}
    assert merge(results, 0.0, 1.5) == {"emotion": "happy", "confidence": 0.6667, "uncertain": False}
    assert merge(results, 5.0, 6.0) is None and merge([]) is None
    assert merge([result(0, 1, 0.9), result(1, 3, 0.6, uncertain=True)]) == {
        "emotion": "happy",
        "confidence": 0.7,
        "uncertain": True,
    }


def test_a_turn_has_the_emotion_of_the_audio_since_the_last_turn(recognizer: Recognizer) -> None:
    finals: list[EmotionEvent] = []
    voice = TurnEmotion(recognizer, consent=True, on_final=finals.append)
    for pcm in chunks():
        voice.push(pcm)
    until(lambda: finals)
    assert voice.turn() == merge(finals)
    assert voice.turn() is None
    voice.close()


def test_without_consent_nothing_is_scored(recognizer: Recognizer) -> None:
    finals: list[EmotionEvent] = []
    voice = TurnEmotion(recognizer, on_final=finals.append)
    for pcm in chunks():
        voice.push(pcm)
    voice.close()
    assert voice.turn() is None and not finals and voice._listener is None
    voice.consent = True
    for pcm in chunks():
        voice.push(pcm)
    until(lambda: finals)
    voice.consent = False  # consent is withdrawn before the turn ends
    assert voice.turn() is None
    voice.close()


def test_each_segment_of_faster_whisper_gets_the_emotion_of_its_time(recognizer: Recognizer, tmp_path: Path) -> None:
    transcribe = pytest.importorskip("faster_whisper.transcribe", reason=WHERE)
    from with_faster_whisper import transcribe as with_emotion

    import streamser

    path = tmp_path / "talk.wav"
    soundfile.write(path, np.concatenate([SPOKEN, SPOKEN]), 16_000)
    spans = [(0.4, 1.6), (2.9, 4.1), (20.0, 21.0)]

    def segment(number: int, start_s: float, end_s: float) -> Any:
        named = {"id": number, "start": start_s, "end": end_s, "text": f" Sentence {number}."}
        rest = {field: None for field in transcribe.Segment.__dataclass_fields__ if field not in named}
        return transcribe.Segment(**named, **rest)

    class StandInWhisper:
        """Replaces WhisperModel: returns fixed segments, without a model."""

        def transcribe(self, audio: str, **options: Any) -> tuple[Iterator[Any], None]:
            assert (audio, options) == (str(path), {"language": "en"})
            return (segment(number, *span) for number, span in enumerate(spans)), None

    segments = list(with_emotion(str(path), StandInWhisper(), recognizer, language="en"))  # type: ignore[arg-type]
    events = streamser.replay(path, model=recognizer)
    finals = [event for event in events if isinstance(event, EmotionEvent) and event.final]
    assert [one.text for one, _ in segments] == [" Sentence 0.", " Sentence 1.", " Sentence 2."]
    assert [emotion for _, emotion in segments] == [merge(finals, *span) for span in spans]
    assert segments[0][1] is not None and segments[2][1] is None


async def test_a_turn_in_livekit_carries_the_emotion_and_its_stt_gets_every_frame(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = pytest.importorskip("livekit.agents", reason=WHERE)
    from livekit import rtc
    from with_livekit import EmotionAgent

    taken: list[bytes] = []

    async def stand_in(agent: Any, audio: AsyncIterator[Any], settings: Any) -> AsyncIterator[Any]:
        taken.extend([bytes(frame.data) async for frame in audio])
        data = agents.stt.SpeechData(language="en", text="hello")
        yield agents.stt.SpeechEvent(type=agents.stt.SpeechEventType.FINAL_TRANSCRIPT, alternatives=[data])

    monkeypatch.setattr(agents.Agent.default, "stt_node", stand_in)

    async def room() -> AsyncIterator[Any]:
        for pcm in chunks():
            yield rtc.AudioFrame(pcm, 16_000, 1, len(pcm) // 2)

    agent = EmotionAgent(recognizer, consent=True, tell_llm=True, instructions="Be kind.")
    finals: list[EmotionEvent] = []
    agent.voice._on_final = finals.append
    events = [event async for event in agent.stt_node(room(), agents.ModelSettings())]
    assert b"".join(taken) == PCM and events[0].alternatives[0].text == "hello"
    await asyncio.to_thread(until, lambda: finals)
    context = agents.llm.ChatContext.empty()
    message = agents.llm.ChatMessage(role="user", content=["hello"])
    await agent.on_user_turn_completed(context, message)
    assert message.extra["emotion"] == merge(finals)
    assert len(context.items) == (not finals[0].uncertain)
    await agent.on_exit()


def test_realtimestt_passes_every_recorded_chunk_to_streamser(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uses the constructor and the recording callback of RealtimeSTT, without its models and its microphone."""
    stt = pytest.importorskip("RealtimeSTT.audio_recorder", reason=WHERE)
    from RealtimeSTT.core.state import run_callback
    from with_realtimestt import make_recorder

    def initialize(recorder: Any, kind: type[Any], settings: dict[str, Any], **helpers: Any) -> None:
        recorder.start_callback_in_new_thread = settings["start_callback_in_new_thread"]
        recorder.on_recorded_chunk = settings["on_recorded_chunk"]
        assert settings["use_microphone"] is False

    monkeypatch.setattr(stt, "initialize_recorder", initialize)
    finals: list[EmotionEvent] = []
    voice = TurnEmotion(recognizer, consent=True, on_final=finals.append)
    recorder = make_recorder(voice, use_microphone=False)
    for pcm in chunks(size=1024):  # like the chunks of its microphone
        run_callback(recorder, recorder.on_recorded_chunk, pcm)
    until(lambda: finals)
    assert voice.turn() == merge(finals)
    voice.close()
