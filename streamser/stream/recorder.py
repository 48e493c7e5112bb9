"""Write a stream's sound to a WAV file, only ever because the user asked for it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import soundfile

from streamser.audio import SAMPLE_RATE
from streamser.errors import AudioError
from streamser.events import Gap
from streamser.stream.sourcebase import Source, SourceItem, TimedBlock
from streamser.stream.status import SourceState

__all__ = ["RecordingSource"]


class RecordingSource:
    """A source that also writes what it gives to a new file in `folder`; lost sound is silence, so times agree.

    What comes while a Listener is paused is written as well: `recording` says so for as long as it runs.
    """

    def __init__(self, source: Source, folder: Path) -> None:
        self._source = source
        self._path = folder / f"streamser-{datetime.now():%Y%m%d-%H%M%S-%f}.wav"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: soundfile.SoundFile = soundfile.SoundFile(
                self._path, "x", samplerate=SAMPLE_RATE, channels=1, subtype="PCM_16"
            )
        except (OSError, RuntimeError) as error:
            raise AudioError(
                f"{self._path}: cannot be written ({error}); choose another folder with --record"
            ) from error

    @property
    def recording(self) -> str | None:
        """The file, while it is written."""
        return None if self._file.closed else str(self._path)

    @property
    def live(self) -> bool:
        return self._source.live

    @property
    def description(self) -> str:
        return self._source.description

    @property
    def state(self) -> SourceState:
        return self._source.state

    @property
    def overflows(self) -> int:
        return self._source.overflows

    def close(self) -> None:
        self._source.close()

    def __iter__(self) -> Iterator[SourceItem]:
        try:
            for item in self._source:
                if isinstance(item, TimedBlock):
                    self._file.write(item.block.samples)
                elif isinstance(item, Gap):
                    self._write_silence(item.length)
                yield item
        finally:
            self._file.close()

    def _write_silence(self, length: int) -> None:
        second = np.zeros(SAMPLE_RATE, np.float32)
        for first in range(0, length, SAMPLE_RATE):
            self._file.write(second[: length - first])
