"""Read corpora of emotional speech, and report every problem in them."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from streamser.audio import Samples, read_audio, to_pcm16
from streamser.corpora.clips import EMOTIONS, Clip, CorpusReport, Problem
from streamser.corpora.layouts import LAYOUTS
from streamser.errors import AudioError, CorpusError

FOUR = {"angry": "angry", "excited": "happy", "happy": "happy", "neutral": "neutral", "sad": "sad"}
"""The four classes. RAVDESS's clips with the label `calm` are left out: as neutral clips, they would be two thirds of
its neutral clips. To include them, use {**FOUR, "calm": "neutral"}."""

ENVIRONMENT = "STREAMSER_CORPORA"
"""Environment variable with the folder in which corpora are looked up by name."""

FEW_SPEAKERS = 4
FEW_CLIPS = 20
SILENT_PEAK = 1e-4
"""Peak below -80 dBFS: the clip is silent."""
QUIET_DBFS = -46.0
"""Peak below half a percent of full scale: a 16-bit file of such quiet speech contains mostly noise."""


def find_corpus(folder: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> Path:
    """`folder` itself if it is a directory, else `root`/`folder`; CorpusError if neither exists.

    `root` is $STREAMSER_CORPORA by default.
    """
    path = Path(folder)
    if path.is_dir():
        return path
    if root is not None and not path.is_absolute():
        if (Path(root) / path).is_dir():
            return Path(root) / path
        raise CorpusError(f"{path}: no such corpus folder, and not in {root} either")
    root = os.environ.get(ENVIRONMENT, "")
    if root and not path.is_absolute() and (Path(root) / path).is_dir():
        return Path(root) / path
    looked = f" and not in {ENVIRONMENT}={root} either" if root else f"; set {ENVIRONMENT} to use corpora by name"
    raise CorpusError(f"{path}: no such corpus folder{looked}")


def read_corpus(
    folder: str | os.PathLike[str],
    layout: str = "auto",
    *,
    name: str = "",
    labels: Collection[str] | None = None,
    labelled: bool = True,
    check: AudioCheck | None = None,
) -> tuple[list[Clip], CorpusReport]:
    """All usable clips of a corpus, and a report of the other files.

    `layout` is one of LAYOUTS, or "auto" to recognise it. `name` is the corpus's name (default: the folder's, for a
    manifest, else the layout's). `labels` are the labels it may use (default: EMOTIONS). `labelled=False` takes clips
    without speaker or label too, for noise and plain speech. With `check` all audio is read: see `check_audio`.
    """
    root = find_corpus(folder)
    chosen = LAYOUTS[_layout_of(root, layout)]
    corpus = name or (root.resolve().name if chosen.name == "manifest" else chosen.name)
    known = EMOTIONS if labels is None else frozenset(labels)
    clips: list[Clip] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    for found in chosen.read(root, corpus):
        problem = found if isinstance(found, Problem) else _clip_problem(found, known, labelled, seen)
        if problem is not None:
            problems.append(problem)
        elif isinstance(found, Clip):
            seen.add(found.id)
            clips.append(found)
    if not clips and not problems:
        raise CorpusError(f"{root}: has no clips in the layout '{chosen.name}', which is {chosen.shape}")
    if check is not None:
        clips, unusable = check_audio(clips, check)
        problems += unusable
    return clips, CorpusReport(corpus, len(clips), tuple(problems), cautions(clips) if labelled else ())


def read_corpora(
    folders: Iterable[str | os.PathLike[str]],
    *,
    labelled: bool = True,
    check: AudioCheck | None = None,
) -> tuple[list[Clip], list[CorpusReport]]:
    """Read several corpora; the layout of each is recognised."""
    clips: list[Clip] = []
    reports: list[CorpusReport] = []
    for folder in folders:
        more, report = read_corpus(folder, labelled=labelled, check=check)
        if any(report.corpus == other.corpus for other in reports):
            raise CorpusError(f"{folder}: a second corpus called '{report.corpus}'; give one of the two another name")
        clips += more
        reports.append(report)
    return clips, reports


def _layout_of(root: Path, layout: str) -> str:
    if layout in LAYOUTS:
        return layout
    if layout != "auto":
        raise CorpusError(f"unknown layout '{layout}'; known are auto, {', '.join(LAYOUTS)}")
    for name, candidate in LAYOUTS.items():
        if candidate.matches(root):
            return name
    shapes = "\n".join(f"  {one.name}: {one.shape}" for one in LAYOUTS.values())
    raise CorpusError(f"{root}: has none of the known layouts, which are\n{shapes}")


def _clip_problem(clip: Clip, known: frozenset[str], labelled: bool, seen: set[str]) -> Problem | None:
    """The first problem of a clip that can be found without reading its audio, or None."""
    if labelled and not clip.label:
        return Problem("no label", clip.id)
    if clip.label and clip.label not in known:
        return Problem("unknown label", clip.id, f"'{clip.label}'")
    if labelled and not clip.speaker:
        return Problem("no speaker", clip.id)
    if clip.id in seen:
        return Problem("listed twice", clip.id)
    if not clip.path.is_file():
        return Problem("missing file", clip.id, str(clip.path))
    return None


def cautions(clips: Sequence[Clip]) -> tuple[str, ...]:
    """Weaknesses of the clips as data: few speakers, rare labels, sentences that reveal the label."""
    found = []
    speakers = {clip.speaker for clip in clips}
    if len(speakers) < FEW_SPEAKERS:
        found.append(f"{len(speakers)} speakers: a split by clip tests nothing, a split by speaker very little")
    scarce = [f"{label} {n}" for label, n in sorted(Counter(clip.label for clip in clips).items()) if n < FEW_CLIPS]
    if scarce:
        found.append(f"labels with fewer than {FEW_CLIPS} clips: {', '.join(scarce)}")
    labels_of: dict[str, Counter[str]] = defaultdict(Counter)
    for clip in clips:
        if clip.text_id:
            labels_of[clip.text_id][clip.label] += 1
    revealing = [labels.total() for labels in labels_of.values() if len(labels) == 1 and labels.total() >= FEW_CLIPS]
    if sum(revealing) > 0.1 * len(clips):
        found.append(
            f"{sum(revealing)} of {len(clips)} clips have one of {len(revealing)} sentences that have a single label: "
            "words give the label away"
        )
    return tuple(found)


def map_labels(clips: Iterable[Clip], mapping: Mapping[str, str]) -> tuple[list[Clip], dict[str, int]]:
    """Clips with mapped labels, and for each label that the mapping lacks, how many clips were left out."""
    kept = []
    dropped: Counter[str] = Counter()
    for clip in clips:
        if clip.label in mapping:
            kept.append(replace(clip, label=mapping[clip.label]))
        else:
            dropped[clip.label] += 1
    return kept, dict(dropped.most_common())


@dataclass(frozen=True, slots=True)
class FileCheck:
    """The result of reading one file."""

    digest: str
    peak: float
    duration_s: float
    error: str = ""


def check_file(path: Path) -> FileCheck:
    """Digest (of samples in 16 bits), peak and duration of a file; for an unreadable file, only the error."""
    try:
        samples = read_audio(path)
    except AudioError as error:
        return FileCheck("", 0.0, 0.0, str(error))
    return FileCheck(_digest(samples), float(np.abs(samples).max()), len(samples) / 16_000)


def _digest(samples: Samples) -> str:
    # the digest of 16-bit samples, so that a recording has the same digest in FLAC and in float WAV
    return hashlib.blake2b(to_pcm16(samples).tobytes(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class AudioCheck:
    """How the audio of a corpus is checked."""

    cache: Path | None = None
    """A JSON file that caches the results, by path, size and modification time."""
    quiet_dbfs: float = QUIET_DBFS
    """A file whose peak is below this level is a problem."""


def check_audio(clips: Sequence[Clip], how: AudioCheck) -> tuple[list[Clip], list[Problem]]:
    """Read every file; returns the usable clips with their digests, each recording once, and all problems."""
    known = _load_cache(how.cache)
    kept: dict[str, Clip] = {}
    problems: list[Problem] = []
    for clip in clips:
        check = _cached_check(clip.path, known)
        problem = _audio_problem(clip, check, how.quiet_dbfs)
        twin = kept.get(check.digest)
        if problem is None and twin is not None:
            detail = f"the same samples as {twin.id}" + ("" if twin.label == clip.label else f", there {twin.label}")
            problem = Problem("duplicate clip", clip.id, detail)
        if problem is None:
            kept[check.digest] = replace(clip, digest=check.digest)
        else:
            problems.append(problem)
    _save_cache(how.cache, known)
    return list(kept.values()), problems


def _audio_problem(clip: Clip, check: FileCheck, quiet_dbfs: float) -> Problem | None:
    if check.error:
        return Problem("unreadable file", clip.id, check.error)
    if check.peak < SILENT_PEAK:
        return Problem("silent file", clip.id, f"{check.duration_s:.1f} s")
    peak_dbfs = 20 * np.log10(check.peak)
    if peak_dbfs < quiet_dbfs:
        return Problem("almost silent file", clip.id, f"peak {peak_dbfs:.0f} dBFS, below quiet_dbfs {quiet_dbfs:g}")
    return None


def _cached_check(path: Path, known: dict[str, list[object]]) -> FileCheck:
    stat = path.stat()
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    if key not in known:
        check = check_file(path)
        known[key] = [check.digest, check.peak, check.duration_s, check.error]
    digest, peak, duration_s, error = known[key]
    return FileCheck(str(digest), float(str(peak)), float(str(duration_s)), str(error))


def _load_cache(cache: Path | None) -> dict[str, list[object]]:
    if cache is None or not cache.is_file():
        return {}
    try:
        values = json.loads(cache.read_text(encoding="utf-8"))
    except ValueError:  # the cache was cut off while it was written: the files are read again
        return {}
    return values if isinstance(values, dict) else {}


def _save_cache(cache: Path | None, known: dict[str, list[object]]) -> None:
    if cache is None:
        return
    cache.parent.mkdir(parents=True, exist_ok=True)
    part = cache.with_suffix(f".{os.getpid()}.part")  # two runs may share a cache
    part.write_text(json.dumps(known), encoding="utf-8")
    part.replace(cache)


__all__ = [
    "EMOTIONS",
    "ENVIRONMENT",
    "FOUR",
    "LAYOUTS",
    "AudioCheck",
    "Clip",
    "CorpusReport",
    "Problem",
    "cautions",
    "check_audio",
    "find_corpus",
    "map_labels",
    "read_corpora",
    "read_corpus",
]
