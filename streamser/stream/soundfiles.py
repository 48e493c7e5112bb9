"""Sound files read piece by piece, so that an hour takes no more memory than a second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from streamser.audio import Resampler, Samples, mono_pieces, open_sound
from streamser.errors import AudioError

__all__ = ["AUDIO_SUFFIXES", "blocks", "duration_s", "expand", "find_audio", "read_pieces"]

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".rf64", ".caf")
"""What a folder is searched for; a file that is named may have any suffix."""


def find_audio(folder: Path) -> list[Path]:
    """All sound files in a folder and its folders, by name; hidden ones are left out."""
    files = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in AUDIO_SUFFIXES)
    return [
        file
        for file in files
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]


def expand(path: Path) -> list[Path]:
    """A folder's sound files, or the file itself."""
    if not path.is_dir():
        return [path]
    files = find_audio(path)
    if not files:
        raise AudioError(f"{path}: the folder holds no sound file ({', '.join(AUDIO_SUFFIXES)})")
    return files


def duration_s(path: Path) -> float:
    with _opened(path) as sound:
        return float(len(sound)) / float(sound.samplerate)


def _opened(path: Path) -> soundfile.SoundFile:
    if not path.is_file():
        raise AudioError(f"{path}: " + ("is not a file" if path.exists() else "no such file"))
    sound = open_sound(path, str(path))
    if not len(sound):
        sound.close()
        raise AudioError(f"{path}: the file holds no samples")
    return sound


def read_pieces(path: Path) -> Iterator[Samples]:
    """A file's sound as 16 kHz mono, piece by piece."""
    with _opened(path) as sound:
        resampler = Resampler(sound.samplerate)
        for piece in mono_pieces(sound, str(path)):
            yield resampler.feed(piece)
        yield resampler.flush()


def blocks(pieces: Iterator[Samples], length: int) -> Iterator[Samples]:
    """The same sound in blocks of one length, the last one shorter."""
    waiting: Samples = np.zeros(0, np.float32)
    for piece in pieces:
        waiting = np.concatenate([waiting, piece])
        whole = len(waiting) - len(waiting) % length
        yield from (waiting[first : first + length] for first in range(0, whole, length))
        waiting = waiting[whole:]
    if len(waiting):
        yield waiting
