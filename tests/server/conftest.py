"""Fixtures for the tests of this folder: servers, and a recording for the browser's microphone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from browsing import coloured
from makers import make_bundle, silence
from running import Running, running
from talking import serving

from streamser.audio import SAMPLE_RATE, resample
from streamser.bundle import Bundle
from streamser.calibration import Calibration
from streamser.recognizer import Recognizer, load
from streamser.server.app import Server
from streamser.stream.pipeline import replay


@pytest.fixture
async def server(recognizer: Recognizer) -> AsyncIterator[Server]:
    """A server with the tiny checkpoint, on a free loopback port."""
    async with serving(recognizer) as running:
        yield running


@pytest.fixture(scope="module")
def sure(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A checkpoint with confident scores, so that rounding differences in the audio change no label."""
    folder = tmp_path_factory.mktemp("models") / "sure"
    return make_bundle(folder, calibration=Calibration(temperature=0.2, threshold=0.6))


@pytest.fixture(scope="module")
def sure_recognizer(sure: Bundle) -> Recognizer:
    return load(sure.path, "cpu")


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 48 kHz stereo file for the browser's microphone, with two utterances that get different labels."""
    parts = [silence(1.2), coloured(bright=True), silence(1.2), coloured(bright=False), silence(1.5)]
    audio = resample(np.concatenate(parts), SAMPLE_RATE, 48_000)
    path = tmp_path_factory.mktemp("audio") / "talk.wav"
    soundfile.write(path, np.stack([audio, audio], axis=1), 48_000, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def serve(sure: Bundle) -> Iterator[Running]:
    with running(sure.path) as server:
        yield server


@pytest.fixture(scope="module")
def truth(sure_recognizer: Recognizer, talk: Path) -> list[dict[str, Any]]:
    """The events of `streamser replay` for the same file."""
    return [event.to_dict() for event in replay(talk, model=sure_recognizer)]
