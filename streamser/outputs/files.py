"""A file of records that is continued where it ended, and valid whenever the process is killed."""

from __future__ import annotations

import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, TypeVar

from streamser.errors import ConfigError
from streamser.events import EmotionEvent, Event
from streamser.filelock import try_lock

W = TypeVar("W", bound="FileWriter")

CHUNK_BYTES = 65_536


class Writer(ABC):
    """Writes events; the end of its `with` block closes it."""

    before = 0
    """Number of entries in the file when it was opened."""
    entry: ClassVar[str] = "entry"
    """The word for one of the entries that `before` counts."""

    @abstractmethod
    def write(self, event: Event) -> None:
        """Write one event; it is stored when this returns."""

    @abstractmethod
    def close(self) -> None:
        """End the file."""

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class FileWriter(Writer):
    """A file of records, continued where it ended."""

    record_end: ClassVar[bytes] = b"\n"
    head_records: ClassVar[int] = 0
    """Records at the beginning of a file of this format."""
    several_streams: ClassVar[bool] = True
    suffix: ClassVar[str] = ""
    title: ClassVar[str] = ""

    def __init__(self, path: Path, labels: Sequence[str] = ()) -> None:
        self.path = path
        self.labels = tuple(labels)
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: is not a file that can be written")
        try:
            # Unbuffered: data that was written survives if the process is killed.
            self._file = path.open("r+b" if path.exists() else "x+b", buffering=0)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written ({error.strerror}); choose another place") from error
        try:
            if not try_lock(self._file):
                raise ConfigError(f"{path}: another streamser is writing it; wait for its end, or choose another name")
            self._begin()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._file.close()

    def _begin(self) -> None:
        """Start a new file, or repair and continue an existing one."""
        head = self._file.read(CHUNK_BYTES) or b""
        first, complete, _ = head.partition(b"\n")
        if head and not self._is_ours(first.decode("utf-8", "replace").rstrip("\r"), torn=not complete):
            raise self._foreign()
        length = self._complete_length()
        self._file.seek(length)
        torn = self._file.readall() or b""
        self._file.truncate(length)
        try:
            if length:
                self.before = max(0, self._count_records() - self.head_records)
                self._resume()
            else:
                self._fresh()
        except ConfigError:  # another model's file is refused, and left unchanged
            self._file.seek(length)
            self._file.write(torn)
            raise

    def _complete_length(self) -> int:
        """Bytes up to the end of the last complete record."""
        at = self._file.seek(0, io.SEEK_END)
        tail = b""
        while at:
            step = min(at, CHUNK_BYTES)
            at = self._file.seek(at - step)
            tail = read_bytes(self._file, step) + tail[: len(self.record_end) - 1]
            found = tail.rfind(self.record_end)
            if found >= 0:
                return at + found + len(self.record_end)
        return 0

    def _count_records(self) -> int:
        self._file.seek(0)
        count, rest = 0, b""
        while part := read_bytes(self._file, CHUNK_BYTES):
            *whole, rest = (rest + part).split(self.record_end)
            count += len(whole)
        return count

    def _last_bytes(self) -> str:
        size = self._file.seek(0, io.SEEK_END)
        self._file.seek(max(0, size - CHUNK_BYTES))
        return read_bytes(self._file, CHUNK_BYTES).decode("utf-8", "replace")

    def _append(self, text: str) -> None:
        """Add text at the end: all of it, or nothing when the disk is full."""
        end = self._file.seek(0, io.SEEK_END)
        try:
            write_text(self._file, text)
        except OSError as error:
            self._file.truncate(end)
            raise self._full(error) from error

    def _overwrite(self, text: str) -> None:
        """Write text over the beginning: all of it, or nothing when the disk is full."""
        end = self._file.seek(0, io.SEEK_END)
        self._file.seek(0)
        before = read_bytes(self._file, len(text.encode()))
        self._file.seek(0)
        try:
            write_text(self._file, text)
        except OSError as error:
            self._file.seek(0)
            self._file.write(before)  # these bytes already have space on the disk
            self._file.truncate(end)
            raise self._full(error) from error

    def _full(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"{self.path}: cannot be written ({error.strerror}); free some disk space and run it again; "
            "the file is valid"
        )

    def _foreign(self) -> ConfigError:
        return ConfigError(
            f"{self.path}: exists and was not written by streamser as {self.title}; "
            "choose another name, or move it away"
        )

    def _fresh(self) -> None:
        """The beginning of a new file."""

    def _resume(self) -> None:
        """Read from an existing file the values that are needed to continue it."""

    @abstractmethod
    def _is_ours(self, first_line: str, *, torn: bool) -> bool:
        """Whether a file with this first line, which may be incomplete, can be continued."""


def read_bytes(file: io.FileIO, size: int) -> bytes:
    """The next `size` bytes, or fewer at the end of the file; a single raw read may return fewer anywhere."""
    parts: list[bytes] = []
    while size and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def write_text(file: io.FileIO, text: str) -> None:
    data = memoryview(text.encode("utf-8", "replace"))
    while data:  # one write, unless the disk fills up
        data = data[file.write(data) :]


def json_line(event: Event) -> str:
    return json.dumps(event.to_dict()) + "\n"


def plain(text: str, gap: str = " ") -> str:
    """Text without characters that would break a line or a field."""
    return re.sub(r"[\s\x00-\x1f\x7f]+", gap, text).strip(gap)


FORMATS: dict[str, type[FileWriter]] = {}
"""The writer for each extension, in lower case."""


def output_format(suffix: str, title: str) -> Callable[[type[W]], type[W]]:
    """Make a writer class the format of files with this extension; help and errors name it from then on.

    `title` is for people, in the plural: "Praat TextGrids".
    """

    def add(writer: type[W]) -> type[W]:
        writer.suffix, writer.title = suffix, title
        FORMATS[suffix.lower()] = writer
        return writer

    return add


def known_suffixes(*, several_streams: bool = False) -> str:
    """The extensions for a message, as ".jsonl, .csv or .rttm"; on request only of formats for several streams."""
    *most, last = [one.suffix for one in FORMATS.values() if one.several_streams or not several_streams]
    return f"{', '.join(most)} or {last}"


class Finals(FileWriter):
    """A format that holds one record for each final."""

    def write(self, event: Event) -> None:
        if isinstance(event, EmotionEvent) and event.final:
            self._write_final(event)

    @abstractmethod
    def _write_final(self, event: EmotionEvent) -> None: ...
