"""The files of an archive: a folder that is searched, or a text file with one path per line."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from streamser.errors import AudioError
from streamser.media import MEDIA_SUFFIXES
from streamser.stream.audiofiles import AUDIO_SUFFIXES, ffmpeg_notice, search_folder

__all__ = ["Archive", "open_archive"]

LIST_SUFFIXES = (".txt", ".lst", ".list")


@dataclass(frozen=True, slots=True)
class Archive:
    """The files to be labelled."""

    root: Path
    """The folder that the files' names are relative to."""
    files: tuple[str, ...]
    """Each file once. Names from a folder have forward slashes; names from a list are unchanged."""
    needs_ffmpeg: tuple[Path, ...] = ()
    """Files that could be read if ffmpeg were installed."""
    others: Counter[str] = field(default_factory=Counter)
    """How many files of other kinds were left out, by suffix."""


def open_archive(path: Path) -> Archive:
    """The files of a folder, or those that a list names; AudioError if there are none."""
    if path.is_dir():
        found = search_folder(path)
        files = tuple(file.relative_to(path).as_posix() for file in found.audio)
        archive = Archive(path, files, found.needs_ffmpeg, found.others)
    elif path.is_file() and path.suffix.lower() in LIST_SUFFIXES:
        archive = Archive(path.parent, _listed(path))
    else:
        raise AudioError(
            f"{path}: is not a folder, nor a list of files ({', '.join(LIST_SUFFIXES)}); "
            f"label one file with: streamser replay {path}"
        )
    if not archive.files:
        known = ", ".join(AUDIO_SUFFIXES + MEDIA_SUFFIXES)
        why = ffmpeg_notice(archive.needs_ffmpeg) if archive.needs_ffmpeg else known
        raise AudioError(f"{path}: has no readable audio file ({why})")
    return archive


def _listed(path: Path) -> tuple[str, ...]:
    """The lines of a list without empty ones, each once."""
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror})") from error
    return tuple(dict.fromkeys(line for line in (line.removesuffix("\r") for line in lines) if line.strip()))
