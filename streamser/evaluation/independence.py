"""Check whether a test's speakers were used in a checkpoint's training, and describe the result in the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from streamser.bundle import Bundle
from streamser.corpora.clips import Clip


@dataclass(frozen=True, slots=True)
class Independence:
    """Whether a test is speaker-independent of the checkpoint."""

    kind: Literal["independent", "seen", "unknown"]
    text: str
    """One sentence for the head of the report."""
    excluded: Mapping[str, int]
    """Number of clips whose speakers were in a part of the training: train, validation, teacher or pretraining."""


def part_of(bundle: Bundle) -> dict[str, str]:
    """Speaker -> `train`, `validation` or `teacher`, from the checkpoint's provenance; empty when it lists no speakers.

    A teacher's training speakers count: the checkpoint was trained on its predictions.
    """
    named: dict[str, str] = {}
    for part in ("teacher", "validation", "train"):  # training overrides validation, which overrides teacher
        for speaker in bundle.provenance.get(f"{part}_speakers") or ():
            named[str(speaker)] = part
    return named


def unseen_clips(bundle: Bundle, clips: Sequence[Clip]) -> tuple[list[Clip], Independence]:
    """The clips whose speakers were not used in training, and the result of the check.

    All clips are returned if every speaker was used, or if the checkpoint does not name its training speakers.
    """
    parts = part_of(bundle)
    before = set(bundle.pretrained_on)  # all speakers of these corpora, without labels
    parts = {clip.speaker: "pretraining" for clip in clips if parts and clip.corpus in before} | parts
    if not parts:
        text = (
            f"The checkpoint '{bundle.name}' does not name its training speakers (no train_speakers in provenance), so "
            "nothing here may be called speaker-independent."
        )
        return list(clips), Independence("unknown", text, {})
    excluded = Counter(parts[clip.speaker] for clip in clips if clip.speaker in parts)
    unseen = [clip for clip in clips if clip.speaker not in parts]
    if not unseen:
        text = (
            "SPEAKERS SEEN IN TRAINING: every speaker here was used to train the checkpoint, perhaps without labels, "
            "or to choose its settings. These figures measure memory of the training data; they are not "
            "speaker-independent."
        )
        return list(clips), Independence("seen", text, dict(excluded))
    twin = _namesake(parts, unseen)
    if twin:
        text = (
            f"The corpora {twin[0]} (here) and {twin[1]} (in training) have exactly the same speaker names. If they "
            "are one corpus under two names, these speakers were seen; name the folder as in training to be sure. "
            "Until then nothing here may be called speaker-independent."
        )
        return unseen, Independence("unknown", text, dict(excluded))
    count = len({clip.speaker for clip in unseen})
    text = f"Speaker-independent: none of these {count} speakers was used in the checkpoint's training or validation."
    return unseen, Independence("independent", text, dict(excluded))


def training_noises(bundle: Bundle) -> set[str]:
    """Names of the audio collections that the checkpoint's recipe used as noise or as outliers."""
    recipe = bundle.provenance.get("recipe") or {}
    folders = [*((recipe.get("augment") or {}).get("noise_folders") or ())]
    folders.append((recipe.get("outliers") or {}).get("folder") or "")
    return {Path(str(folder)).name for folder in folders if folder}


def _namesake(parts: Mapping[str, str], clips: Iterable[Clip]) -> tuple[str, str] | None:
    """A corpus of the test and one of the training that have different names but the same speakers."""
    here, there = _names(clip.speaker for clip in clips), _names(parts)
    for corpus, names in here.items():
        for other, others in there.items():
            if corpus != other and len(names) > 2 and names == others:
                return corpus, other
    return None


def _names(speakers: Iterable[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for speaker in speakers:
        corpus, _, name = speaker.partition("/")
        found.setdefault(corpus, set()).add(name)
    return found


__all__ = ["Independence", "part_of", "training_noises", "unseen_clips"]
