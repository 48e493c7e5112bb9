"""Audio for the soak: composed pieces, and the finals that each piece must give."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile

import streamser
from streamser.audio import Samples, resample

Message = dict[str, Any]

_RATES_HZ = (8_000, 16_000, 22_050, 44_100, 48_000)
_KEYS = ("utterance", "start_s", "end_s", "label", "uncertain")


@dataclass(frozen=True)
class TestAudio:
    """A piece of audio and the finals that it must give."""

    pcm: bytes
    rate: int
    channels: int
    finals: list[Message]

    @property
    def duration_s(self) -> float:
        return len(self.pcm) / (2 * self.channels * self.rate)

    def wav(self) -> bytes:
        file = io.BytesIO()
        values = np.frombuffer(self.pcm, "<i2").reshape(-1, self.channels)
        soundfile.write(file, values, self.rate, format="WAV")
        return file.getvalue()


def compose(rng: random.Random, clips: Sequence[Samples]) -> Samples:
    """Compose speech at random levels, with silence, noise, clipping and level jumps."""
    noise = np.random.default_rng(rng.getrandbits(32))
    parts: list[Samples] = [np.zeros(8000, np.float32)]
    for _ in range(rng.randint(1, 3)):
        clip = rng.choice(clips) * np.float32(10 ** rng.uniform(-1.0, 0.2))
        kind = rng.choice(["plain", "clipped", "jump", "noise before"])
        if kind == "clipped":
            clip = np.clip(clip * 12, -1, 1)
        elif kind == "jump":
            clip = np.concatenate([clip[: len(clip) // 2] * np.float32(0.2), clip[len(clip) // 2 :]])
        elif kind == "noise before":
            parts.append(0.02 * noise.standard_normal(rng.randint(8_000, 24_000)).astype(np.float32))
        parts += [clip, np.zeros(rng.randint(11_000, 24_000), np.float32)]
    audio = np.concatenate(parts)
    return audio + 0.0003 * noise.standard_normal(len(audio)).astype(np.float32)


def make_test_audio(rng: random.Random, clips: Sequence[Samples], recognizer: streamser.Recognizer) -> TestAudio:
    """Compose a piece at a random rate; its finals come from `streamser.Stream`, without a server."""
    rate, channels = rng.choice(_RATES_HZ), rng.choice([1, 1, 2])
    audio = resample(compose(rng, clips), 16_000, rate)
    values = (np.clip(audio, -1, 32767 / 32768) * 32768).round().astype("<i2")
    pcm = np.repeat(values[:, None], channels, axis=1).tobytes()
    stream = streamser.Stream(recognizer)
    events = [event.to_dict() for event in [*stream.push(pcm, rate, channels), *stream.close()]]
    return TestAudio(pcm, rate, channels, [plain(event) for event in events if is_final(event)])


def is_final(message: Message) -> bool:
    return bool(message["type"] == "emotion" and message["final"])


def plain(message: Message) -> Message:
    return {key: message[key] for key in _KEYS}
