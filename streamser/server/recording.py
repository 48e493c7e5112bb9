"""Record the audio of a server's clients into a folder, only if the operator asked for it; clients are informed."""

from __future__ import annotations

import itertools
import logging
import os
import re
import shutil
import time
from pathlib import Path

from streamser.errors import ConfigError
from streamser.stream.wavfile import RecordingError, WavWriter, repair_recordings

__all__ = ["RecordingFolder"]

logger = logging.getLogger(__name__)

_LEAST_FREE_BYTES = 16_000_000  # eight minutes of one stream: time to notice the full disk and to act


class RecordingFolder:
    """Makes one WAV for each stream, and reports the reason if that is impossible.

    ConfigError if the folder cannot be used. Recordings in it are repaired if their program was killed.
    """

    def __init__(self, folder: str) -> None:
        self.path = Path(folder).expanduser()
        self._failure: str | None = None
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"server.record: {self.path} cannot be a folder ({error.strerror}); choose another"
            ) from error
        if (problem := self.problem()) is not None:
            raise ConfigError(f"server.record: {self.path}: {problem}; choose another folder")
        for path in repair_recordings(self.path):
            logger.info("%s: repaired; the program that wrote it was killed", path)

    def open(self, stream: str) -> WavWriter:
        """A new file for a stream, named after the time and the stream; RecordingError when there can be none."""
        plain = re.sub(r"[^\w.-]+", "_", stream)[:64].strip("._") or "stream"
        stem = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{plain}"
        for name in itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2))):
            if not (path := self.path / f"{name}.wav").exists():
                break
        try:
            writer = WavWriter(path)
        except RecordingError as error:
            self.note(error)
            raise
        self._failure = None
        return writer

    def note(self, error: RecordingError) -> None:
        """Report that a recording failed: the problem lasts until a new one can be started."""
        self._failure = error.reason

    def problem(self) -> str | None:
        """The reason that no audio can be stored now, without paths; None when it can."""
        if not self.path.is_dir():
            return "the folder for recordings does not exist any more"
        if not os.access(self.path, os.W_OK | os.X_OK):
            return "the folder for recordings cannot be written to"
        if shutil.disk_usage(self.path).free < _LEAST_FREE_BYTES:
            return "the disk for recordings is full"
        return None if self._failure is None else f"a recording could not be written ({self._failure})"
