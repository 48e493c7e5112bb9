"""Decode m4a, mp4, webm and other media files through ffmpeg, if it is installed."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from streamser.errors import AudioError

__all__ = ["MEDIA_SUFFIXES", "WAY_OUT", "MediaFile", "find_ffmpeg", "is_media"]

MEDIA_SUFFIXES = (".m4a", ".mp4", ".webm", ".aac", ".mka", ".mkv", ".mov", ".3gp", ".amr", ".wma")
"""Formats that ffmpeg reads and libsndfile does not; Ogg Opus (.opus) needs no ffmpeg."""

WAY_OUT = "install ffmpeg, or: pip install 'streamser[media]'"

# Only the formats of these suffixes are decoded: ffmpeg would also follow playlists to other files and URLs.
_ONLY = ("-protocol_whitelist", "file", "-format_whitelist", "mov,matroska,webm,aac,amr,asf,3gp")
_DURATION = re.compile(r"Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)")
_CHUNK_HEADER = 8


def is_media(path: Path) -> bool:
    """Whether the file's name has a suffix that ffmpeg decodes."""
    return path.suffix.lower() in MEDIA_SUFFIXES


def find_ffmpeg() -> str | None:
    """Path of ffmpeg: the system's, or that of the extra 'media'; None when there is neither."""
    import shutil  # imported here, like `subprocess` and `tempfile` below, so that a start does not take longer

    if found := shutil.which("ffmpeg"):
        return found
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        return None


class MediaFile:
    """A media file's first audio track, decoded by a process; has the methods of SoundFile that are used here."""

    def __init__(self, path: Path) -> None:
        ffmpeg = find_ffmpeg()
        if ffmpeg is None:
            raise AudioError(f"{path}: a {path.suffix} file is read through ffmpeg, which is not installed; {WAY_OUT}")
        import subprocess
        import tempfile

        self._path = path
        self._ffmpeg = [ffmpeg, "-hide_banner", "-nostdin", *_ONLY, "-i", f"file:{path}"]
        self._words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        track = ["-map", "0:a:0", "-f", "wav", "-c:a", "pcm_f32le", "pipe:1"]
        # With "-v error", standard error has only the reason of a failure.
        self._process = subprocess.Popen(
            [*self._ffmpeg[:1], "-v", "error", *self._ffmpeg[1:], *track], stdout=subprocess.PIPE, stderr=self._words
        )
        assert self._process.stdout is not None
        self._out = self._process.stdout
        try:
            self.samplerate, self.channels = self._header()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        """Number of frames from the file's header, at least one: some headers give 0."""
        import subprocess

        asked = subprocess.run(self._ffmpeg, capture_output=True, text=True, errors="replace", check=False)
        found = _DURATION.search(asked.stderr)
        seconds = int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else 0.0
        return max(1, round(seconds * self.samplerate))

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> NDArray[np.float32]:
        """The next frames, shape (frames, channels), fewer at the end; AudioError when the rest cannot be decoded."""
        frame_bytes = 4 * self.channels
        data = self._out.read(frames * frame_bytes)
        if not data and self._process.wait():
            raise AudioError(f"{self._path}: cannot be read to its end ({self._complaint()}); convert the file again")
        whole = len(data) - len(data) % frame_bytes
        return np.frombuffer(data[:whole], "<f4").reshape(-1, self.channels)

    def close(self) -> None:
        """End the process, also in the middle of the file."""
        self._out.close()
        self._process.terminate()
        self._process.wait()
        self._words.close()

    def __enter__(self) -> MediaFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _header(self) -> tuple[int, int]:
        """Rate and channels from the WAV header that ffmpeg writes; reads up to the first sample."""
        if len(self._out.read(12)) < 12:  # RIFF, size, WAVE
            raise self._refused()
        form: tuple[int, int] | None = None
        while len(head := self._out.read(_CHUNK_HEADER)) == _CHUNK_HEADER:
            kind, size = head[:4], struct.unpack("<I", head[4:])[0]
            if kind == b"data":
                break
            body = self._out.read(size + size % 2)
            if kind == b"fmt ":
                channels, rate = struct.unpack("<HI", body[2:8])
                form = rate, channels
        if form is None:
            raise self._refused()
        return form

    def _refused(self) -> AudioError:
        self._process.wait()
        return AudioError(f"{self._path}: has no audio that ffmpeg can read ({self._complaint()})")

    def _complaint(self) -> str:
        """ffmpeg's last line, without the addresses and the file's name in it."""
        self._words.seek(0)
        lines: list[Any] = [line for line in self._words.read().decode("utf-8", "replace").splitlines() if line.strip()]
        words = re.sub(r"\[[^]]*@ 0x[0-9a-f]+\] ?", "", lines[-1]) if lines else "no reason given"
        return words.replace(f"file:{self._path}: ", "").replace(f"file:{self._path}", "the file").strip().rstrip(".")
