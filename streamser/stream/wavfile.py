"""Write WAV files that are valid at any moment, and repair those whose program was killed."""

from __future__ import annotations

import logging
import os
import re
import struct
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np

from streamser.audio import SAMPLE_RATE, Samples, to_pcm16
from streamser.errors import AudioError

__all__ = ["RecordingError", "WavWriter", "as_recorded", "repair_recordings"]

logger = logging.getLogger(__name__)

_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
_UPDATE_BYTES = 2 * SAMPLE_RATE  # one second: a reader may miss this much of a recording in progress
_MOST_BYTES = 2**31 - 2**20  # about 18 hours; some players take longer files for damaged ones
_SILENCE = bytes(2 * SAMPLE_RATE)
_OURS = re.compile(r"(streamser-[\d-]+|\d{8}T\d{6}-.+)\.wav")


def _header(data_bytes: int) -> bytes:
    return _HEADER.pack(
        *(b"RIFF", 36 + data_bytes, b"WAVE"),
        *(b"fmt ", 16, 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16),
        *(b"data", data_bytes),
    )


class RecordingError(AudioError):
    """A recording that cannot be made or can no longer be written."""

    def __init__(self, path: Path, what: str, error: OSError) -> None:
        self.reason = error.strerror or str(error)
        """The system's own message, without the path."""
        advice = "free some disk space, choose another folder, or leave out --record"
        super().__init__(f"{path}: {what} ({self.reason}); {advice}")


def as_recorded(samples: Samples) -> Samples:
    """The samples rounded to 16 bits, as a reader of the file gets them."""
    return np.asarray(to_pcm16(samples) / np.float32(32768), np.float32)


class WavWriter:
    """A new WAV file, 16 kHz, mono, 16 bit, that only its owner can read.

    The header is updated every second of audio, so that a program that is killed loses at most that second,
    and `repair_recordings` restores even that. A recording that becomes too long continues in a second file.
    """

    def __init__(self, path: Path) -> None:
        """RecordingError when the file cannot be created; it must not exist."""
        self.path = path
        """The file that is written now."""
        self._first = path
        self._parts = 1
        self._open(path)

    def write(self, samples: Samples) -> None:
        """Append audio; RecordingError when it cannot be stored."""
        self._append(to_pcm16(samples).tobytes())

    def skip(self, samples: int) -> None:
        """Append silence for lost samples, so that times in the file agree with those of the events."""
        for first in range(0, samples, SAMPLE_RATE):
            self._append(_SILENCE[: 2 * (samples - first)])

    def close(self) -> None:
        """Finish the file; a second call does nothing. RecordingError when its last second cannot be stored."""
        if self._file.closed:
            return
        try:
            self._update()
        except OSError as error:
            raise self._failed(error) from error
        finally:
            self._file.close()

    @property
    def closed(self) -> bool:
        return self._file.closed

    def _open(self, path: Path) -> None:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
            self._file = os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0)
        except OSError as error:
            raise RecordingError(path, "cannot be written", error) from error
        self.path = path
        self._bytes = self._in_header = 0
        _lock(self._file.fileno())
        try:
            _write_all(self._file, _header(0))
        except OSError as error:
            self._file.close()
            raise self._failed(error) from error

    def _append(self, data: bytes) -> None:
        try:
            _write_all(self._file, data)
            self._bytes += len(data)
            if self._bytes - self._in_header >= _UPDATE_BYTES:
                self._update()
        except OSError as error:
            self._give_up()
            raise self._failed(error) from error
        if self._bytes >= _MOST_BYTES:
            self.close()
            self._parts += 1
            self._open(self._first.with_stem(f"{self._first.stem}-part{self._parts}"))

    def _update(self) -> None:
        """Write the present length into the header."""
        if os.fstat(self._file.fileno()).st_nlink == 0:
            raise OSError(0, "the file was deleted while it was written")
        self._file.seek(0)
        _write_all(self._file, _header(self._bytes))
        self._file.seek(0, os.SEEK_END)
        self._in_header = self._bytes

    def _give_up(self) -> None:
        """Keep the stored audio readable; overwriting the header needs no space on the disk."""
        try:
            self._bytes = max(0, self._file.seek(0, os.SEEK_END) - _HEADER.size) // 2 * 2
            self._file.seek(0)
            _write_all(self._file, _header(self._bytes))
        except OSError:
            logger.debug("%s: its header could not be written", self.path)
        finally:
            self._file.close()

    def _failed(self, error: OSError) -> RecordingError:
        return RecordingError(self.path, "the recording cannot be written", error)


def repair_recordings(folder: Path) -> list[Path]:
    """Correct the headers of recordings in `folder` whose program was killed; recordings in progress are left alone."""
    repaired = []
    for path in sorted(folder.glob("*.wav")):
        if _OURS.fullmatch(path.name) and not path.is_symlink():
            try:
                if _repair(path):
                    repaired.append(path)
            except OSError as error:
                logger.warning("%s: cannot be repaired (%s)", path, error.strerror)
    return repaired


def _repair(path: Path) -> bool:
    with path.open("r+b", buffering=0) as file:
        if not _lock(file.fileno()):
            return False
        found = file.read(_HEADER.size)
        size = os.fstat(file.fileno()).st_size
        data_bytes = max(0, size - _HEADER.size) // 2 * 2
        wanted = _header(data_bytes)
        is_ours = found[:4] == wanted[: len(found[:4])] and found[8:40] == wanted[8 : 8 + len(found[8:40])]
        if found == wanted or not is_ours:
            return False
        file.seek(0)
        _write_all(file, wanted)
        return True


def _write_all(file: BinaryIO, data: bytes) -> None:
    """Write all data: one call of an unbuffered file may write only a part."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _lock(handle: int) -> bool:
    """Mark the file as being written, until it is closed; False when another program has it marked."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
