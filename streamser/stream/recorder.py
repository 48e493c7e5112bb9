"""Write a stream's audio to a WAV file, only if the user requested it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from streamser.audio import AudioBlock
from streamser.events import Gap
from streamser.stream.sourcebase import Source, SourceItem, WrappedSource
from streamser.stream.wavfile import RecordingError, WavWriter, as_recorded, repair_recordings

__all__ = ["RecordingSource"]

logger = logging.getLogger(__name__)


class RecordingSource(WrappedSource):
    """A source that also writes its audio to a new file in `folder`, with silence for lost audio.

    Its audio is rounded to the 16 bits that are written, so a replay of the recording gives the same events.
    Audio that arrives while a Listener is paused is written too.
    """

    def __init__(self, source: Source, folder: Path) -> None:
        super().__init__(source)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise RecordingError(folder, "cannot be a folder for recordings", error) from error
        for path in repair_recordings(folder):
            logger.info("%s: repaired; the program that wrote it was killed", path)
        self._writer = WavWriter(folder / f"streamser-{datetime.now():%Y%m%d-%H%M%S-%f}.wav")

    @property
    def recording(self) -> str | None:
        """The file, while it is written."""
        return None if self._writer.closed else str(self._writer.path)

    def __iter__(self) -> Iterator[SourceItem]:
        try:
            for item in self.inner:
                if isinstance(item, AudioBlock):
                    item = replace(item, samples=as_recorded(item.samples))
                    self._writer.write(item.samples)
                elif isinstance(item, Gap):
                    self._writer.skip(item.length)
                yield item
        finally:
            self._writer.close()
