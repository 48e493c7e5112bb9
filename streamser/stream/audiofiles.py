"""Read audio files block by block, so that memory does not grow with their length."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from streamser.audio import Resampler, Samples, cut_off, mono_pieces, open_audio
from streamser.errors import AudioError
from streamser.media import MEDIA_SUFFIXES, WAY_OUT, MediaFile, find_ffmpeg

if TYPE_CHECKING:
    import soundfile

__all__ = [
    "AUDIO_SUFFIXES",
    "Folder",
    "blocks",
    "duration_s",
    "expand",
    "ffmpeg_notice",
    "find_audio",
    "read_pieces",
    "search_folder",
]

logger = logging.getLogger(__name__)

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".rf64", ".caf")
"""Suffixes of the files that are searched for in a folder; a file given by its name may have any suffix."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The files of a folder and its subfolders, sorted by name; hidden ones are left out."""

    audio: tuple[Path, ...]
    """The files that can be read."""
    needs_ffmpeg: tuple[Path, ...]
    """The files that could be read if ffmpeg were installed."""
    others: Counter[str]
    """How many other files there are of each suffix."""


def search_folder(folder: Path) -> Folder:
    """The files of a folder and its subfolders, grouped by whether they can be read."""
    audio: list[Path] = []
    media: list[Path] = []
    others = Counter[str]()
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        suffix = path.suffix.lower()
        if suffix in AUDIO_SUFFIXES + MEDIA_SUFFIXES:
            (audio if suffix in AUDIO_SUFFIXES else media).append(path)
        else:
            others[suffix or "no suffix"] += 1
    if media and find_ffmpeg() is not None:
        audio, media = sorted(audio + media), []
    return Folder(tuple(audio), tuple(media), others)


def ffmpeg_notice(files: Sequence[Path]) -> str:
    """A warning that these files are left out, and what is needed to read them."""
    named = ", ".join(file.name for file in files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
    return f"{len(files)} file{'s need' if len(files) > 1 else ' needs'} ffmpeg ({named}); {WAY_OUT}"


def find_audio(folder: Path) -> list[Path]:
    """All readable audio files in a folder and its subfolders, sorted by name; hidden ones are left out."""
    return list(search_folder(folder).audio)


def expand(path: Path) -> list[Path]:
    """A folder's audio files, or the file itself."""
    if not path.is_dir():
        return [path]
    found = search_folder(path)
    if not found.audio:
        why = ffmpeg_notice(found.needs_ffmpeg) if found.needs_ffmpeg else ", ".join(AUDIO_SUFFIXES + MEDIA_SUFFIXES)
        raise AudioError(f"{path}: the folder has no readable audio file ({why})")
    return list(found.audio)


def duration_s(path: Path) -> float:
    with _opened(path) as audio:
        return float(len(audio)) / float(audio.samplerate)


def _opened(path: Path) -> soundfile.SoundFile | MediaFile:
    if not path.is_file():
        raise AudioError(f"{path}: " + ("is not a file" if path.exists() else "no such file"))
    if path.stat().st_size == 0:
        raise AudioError(f"{path}: the file is empty (0 bytes)")
    audio = open_audio(path, str(path))
    if not len(audio):
        audio.close()
        raise AudioError(f"{path}: the file has no samples")
    return audio


def read_pieces(path: Path) -> Iterator[Samples]:
    """A file's audio as 16 kHz mono, piece by piece; a file that is cut off gives a warning in the log."""
    with _opened(path) as audio:
        resampler, frames = Resampler(audio.samplerate), 0
        for piece in mono_pieces(audio, str(path)):
            frames += len(piece)
            yield resampler.feed(piece)
        yield resampler.flush()
        if (missing := cut_off(audio, frames)) is not None:
            logger.warning("%s: %s", path, missing)


def blocks(pieces: Iterator[Samples], length: int) -> Iterator[Samples]:
    """The pieces' audio in blocks of `length` samples; the last block may be shorter."""
    waiting: Samples = np.zeros(0, np.float32)
    for piece in pieces:
        waiting = np.concatenate([waiting, piece])
        whole = len(waiting) - len(waiting) % length
        yield from (waiting[first : first + length] for first in range(0, whole, length))
        waiting = waiting[whole:]
    if len(waiting):
        yield waiting
