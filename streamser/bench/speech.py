"""Compose speech for measurements: utterances of one to three recorded sentences, and pauses of quiet noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from streamser.audio import SAMPLE_RATE, Samples, read_audio
from streamser.samples import find_samples

__all__ = ["compose"]

_NOISE = 3e-4  # -70 dBFS: a quiet room
_INSIDE_S = 0.15  # pause between the sentences of one utterance, too short to split it
_PAUSE_S = (0.6, 1.6)  # pause between utterances, long enough to end one


def compose(minutes: float, file: Path | None = None, seed: int = 0) -> Samples:
    """Speech of the given length, composed of the package's recorded sentences, or the file, repeated."""
    length = round(minutes * 60 * SAMPLE_RATE)
    if file is not None:
        return np.resize(read_audio(file), length)
    rng = np.random.default_rng(seed)
    sentences = [read_audio(sample.path) for sample in find_samples()]
    parts: list[Samples] = []
    while sum(map(len, parts)) < length:
        for place in range(int(rng.integers(1, 4))):
            if place:
                parts.append(np.zeros(round(_INSIDE_S * SAMPLE_RATE), np.float32))
            parts.append(sentences[int(rng.integers(len(sentences)))])
        parts.append(np.zeros(round(rng.uniform(*_PAUSE_S) * SAMPLE_RATE), np.float32))
    audio = np.concatenate(parts)[:length]
    return (audio + rng.normal(0.0, _NOISE, length)).astype(np.float32)
