"""Write a stream's sound to a WAV file: only where the operator asked for it, and never silently."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import soundfile

from streamser.audio import SAMPLE_RATE, Samples
from streamser.errors import ConfigError

_SKIP_SAMPLES = 60 * SAMPLE_RATE  # silence is written a minute at a time


def check_folder(folder: str) -> Path:
    """The folder for recordings, made if it is not there."""
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"server.record: {path} cannot be a folder ({error.strerror}); choose another") from error
    return path


class Recording:
    """One stream's WAV: 16 kHz, mono, 16 bit, with silence where sound was lost."""

    def __init__(self, folder: Path, stream: str) -> None:
        plain = re.sub(r"[^\w.-]+", "_", stream)[:64].strip("._") or "stream"
        began = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        self.path = _unused(folder, f"{began}-{plain}")
        self._file = soundfile.SoundFile(self.path, "x", SAMPLE_RATE, 1, "PCM_16", format="WAV")

    def write(self, samples: Samples) -> None:
        self._file.write(np.clip(samples, -1.0, 1.0))

    def skip(self, samples: int) -> None:
        """So many samples were lost."""
        for first in range(0, samples, _SKIP_SAMPLES):
            self._file.write(np.zeros(min(_SKIP_SAMPLES, samples - first), np.float32))

    def close(self) -> None:
        self._file.close()


def _unused(folder: Path, stem: str) -> Path:
    path, count = folder / f"{stem}.wav", 1
    while path.exists():
        count += 1
        path = folder / f"{stem}-{count}.wav"
    return path
