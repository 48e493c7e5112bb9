"""Write events to files that people and other programs open: tables, subtitles, and the tiers of Praat and ELAN.

`open_writer` picks the format by the file's extension. All formats have in common:

- Before `write` returns, the operating system has the whole record; so the file is valid at any moment, also after the
  process was killed.
- A file that exists is continued. An incomplete last record is cut off first; another program's file is refused.
- Times are the stream's own, from its first sample. JSONL, CSV and RTTM name the stream in every row. WebVTT,
  TextGrid, EAF and Audacity labels are one timeline and hold one stream: a second one is refused, unless the
  file's name contains `{stream}`, for a file per stream. If another session continues such a file, its timeline
  continues where the last entry ended.
- A label is alone in its field, cue or tier, so that you can search for it; below the threshold it is
  `uncertain`. Confidence and the likeliest class have fields of their own.

JSONL holds every event; the others hold the finals.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path

from streamser.errors import ConfigError
from streamser.events import Event, StreamEnded
from streamser.outputs.files import FORMATS, FileWriter, Finals, Writer, known_suffixes, output_format
from streamser.outputs.rows import Stdout
from streamser.outputs.tiers import TieredFile
from streamser.outputs.timelines import Timeline, one_stream

__all__ = [
    "FORMATS",
    "FileWriter",
    "Finals",
    "TieredFile",
    "Timeline",
    "Writer",
    "known_suffixes",
    "open_writer",
    "output_format",
]


class PerStream(Writer):
    """A file for each stream, with the stream's name in the place of `{stream}`."""

    def __init__(self, path: Path, labels: Sequence[str]) -> None:
        self._path = path
        self._labels = labels
        self._writers: dict[Path, Writer] = {}  # streams whose names differ only in replaced characters share a file

    def write(self, event: Event) -> None:
        name = re.sub(r"[^\w.-]+", "_", event.stream).strip("._") or "main"
        path = Path(str(self._path).replace("{stream}", name))
        writer = self._writers.get(path)
        if writer is None:
            writer = self._writers[path] = FORMATS[path.suffix.lower()](path, self._labels)
        writer.write(event)
        if isinstance(event, StreamEnded):
            self._writers.pop(path).close()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


def open_writer(path: str | PathLike[str], *, labels: Sequence[str] = (), streams: int = 1) -> Writer:
    """A writer of the format that the extension names; `-` is JSON lines on standard output.

    With `labels`, the model's classes, a CSV gets its header now, and an existing CSV is refused now if its classes
    differ. `streams` is the number of streams that will come; a format that cannot hold them refuses now. Raises
    ConfigError when the file cannot be written or continued.
    """
    name = fspath(path)
    if name == "-":
        return Stdout()
    file = Path(name)
    kind = FORMATS.get(file.suffix.lower())
    if kind is None:
        raise ConfigError(f"{name}: the extension decides the format; known are {known_suffixes()}")
    if not file.parent.is_dir():
        raise ConfigError(f"{name}: the folder {file.parent} does not exist; make it first")
    if "{stream}" in file.name:
        return PerStream(file, labels)
    if streams > 1 and not kind.several_streams:
        raise one_stream(file, kind.title)
    return kind(file, labels)
