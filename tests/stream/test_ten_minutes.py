"""The default checkpoint gives the same logits for ten minutes of speech in small pieces and in whole utterances."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from streamser.audio import read_audio
from streamser.engines.steps import ChunkSteps
from streamser.features import FrontEnd, extract
from streamser.recognizer import Recognizer, load
from streamser.samples import find_samples

MINUTES = 10
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return load("whisper", "cpu")


def utterances(seed: int = 0) -> list[NDArray[np.float32]]:
    """Ten minutes of recorded voices in utterances of 0.4 to 18 s at random levels."""
    rng = np.random.default_rng(seed)
    voices = np.concatenate([read_audio(sample.path) for sample in find_samples()])
    found, left = [], MINUTES * 60 * 16_000
    while left > 0:
        size = int(rng.uniform(0.4, 18.0) * 16_000)
        first = int(rng.integers(0, len(voices)))
        gain = np.float32(10 ** rng.uniform(-1.5, 0.0))
        found.append(np.roll(voices, -first)[np.arange(size) % len(voices)] * gain)
        left -= size
    return found


def fed_in_crumbs(
    recognizer: Recognizer, audio: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    assert recognizer.steps is not None
    track, front_end, at = recognizer.steps.track(), FrontEnd(recognizer.features), 0
    while at < len(audio):
        size = int(rng.integers(1, 8_000))
        track.feed(front_end.feed(audio[at : at + size]))
        at += size
    scores = track.final(slice(0, track.fed))
    return scores.logits, scores.embedding


@pytest.mark.slow
def test_ten_minutes_of_speech_in_small_pieces_give_the_logits_of_whole_utterances(recognizer: Recognizer) -> None:
    rng = np.random.default_rng(1)
    worst, spread = 0.0, []
    for audio in utterances():
        frames = extract(audio, recognizer.features)
        logits, embedding = recognizer.engine.run(frames[None])
        crumbs, crumbs_embedding = fed_in_crumbs(recognizer, audio, rng)
        worst = max(worst, float(np.abs(crumbs - logits).max()), float(np.abs(crumbs_embedding - embedding).max()))
        spread.append(logits[0])
    assert np.std(spread, axis=0).max() > 0.3, "constant logits would make this test pass"
    assert worst <= TOLERANCE


def test_the_comparison_detects_chunks_that_begin_at_other_frames(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: with a wrong length of the first chunk, the logits differ."""
    assert isinstance(recognizer.steps, ChunkSteps)
    audio = utterances()[0]
    logits, _ = recognizer.engine.run(extract(audio, recognizer.features)[None])
    monkeypatch.setattr(recognizer.steps, "first", 50)
    crumbs, _ = fed_in_crumbs(recognizer, audio, np.random.default_rng(1))
    assert np.abs(crumbs - logits).max() > 10 * TOLERANCE
