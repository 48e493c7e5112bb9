"""Sound for the tests on Ray, and a slow way to read it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from makers import babble, noise, silence

from streamser.audio import SAMPLE_RATE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty sound files and one that is none."""
    path = tmp_path / "talks"
    path.mkdir()
    for seed in range(40):
        sound = np.concatenate([silence(0.5), babble(1.0 + seed % 5 / 5, seed=seed), silence(0.5)])
        soundfile.write(path / f"{seed:02}.wav", sound + noise(len(sound) / SAMPLE_RATE, level=0.001), SAMPLE_RATE)
    (path / "bad.wav").write_bytes(b"RIFF no")
    return path


@pytest.fixture
def slow_reading(tmp_path: Path) -> dict[str, str]:
    """Variables with which each file takes a tenth of a second, and one named poison.wav kills who reads it."""
    place = tmp_path / "hooks"
    place.mkdir()
    (place / "sitecustomize.py").write_text(
        "import os, time, soundfile\n"
        "opened = soundfile.SoundFile.__init__\n"
        "def slowly(self, file, *rest, **named):\n"
        "    time.sleep(0.1)\n"
        "    if str(file).endswith('poison.wav'):\n"
        "        os.kill(os.getpid(), 9)\n"
        "    opened(self, file, *rest, **named)\n"
        "soundfile.SoundFile.__init__ = slowly\n",
        encoding="utf-8",
    )
    path = os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}
