"""The data types of corpora: clips with a speaker and a label, and a report of the files that are not clips."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

SYNONYMS = {
    "anger": "angry",
    "bored": "boredom",
    "disappointed": "disappointment",
    "disgusted": "disgust",
    "excitement": "excited",
    "fearful": "fear",
    "frustrated": "frustration",
    "happiness": "happy",
    "joy": "happy",
    "neutral state": "neutral",
    "sadness": "sad",
    "surprised": "surprise",
}
"""Spelling of a label in a corpus -> our spelling."""

NO_MAJORITY = "xxx"
"""IEMOCAP's label for turns on which its annotators do not agree."""


PLAIN = "plain"
"""Style of clips that are not acted: reading, broadcasts, prompts."""

UNLABELLED = "unlabelled"
"""Style of clips whose label is empty, because it is not used."""

EMOTIONS = frozenset(SYNONYMS.values()) | {"breath", "calm", "other", "pain", "pleasure", NO_MAJORITY}
"""The labels that a corpus may use by default."""


def plain_label(text: str) -> str:
    """A label in lower case and in our spelling; unknown labels stay unchanged.

    >>> plain_label(" Happiness ")
    'happy'
    """
    word = " ".join(text.lower().replace("_", " ").split())
    return SYNONYMS.get(word, word)


@dataclass(frozen=True, slots=True)
class Clip:
    """One utterance of one corpus."""

    path: Path
    corpus: str
    speaker: str
    """`corpus/speaker`, so that speakers of two corpora never have the same name."""
    label: str
    text_id: str = ""
    """Which sentence is spoken."""
    language: str = ""
    """ISO 639-1, if the corpus gives it."""
    gender: str = ""
    """f, m or empty."""
    difficulty: str | None = None
    """A: all annotations are the label, B: at least 65 % of them, C: fewer; None if there are none."""
    session: str | None = None
    style: str = ""
    """A further property from the corpus: `scripted`, `improvised`, `speech`, `nonspeech` or an intensity."""
    votes: tuple[str, ...] = ()
    """Each annotator's label, several joined by `+`."""
    name: str = ""
    """Unique path within the corpus without its suffix; by default the file's own name."""
    digest: str = ""
    """Hash of the decoded samples; empty until the audio is read."""

    @property
    def id(self) -> str:
        """`corpus/name`: unique, and the same on every machine."""
        return f"{self.corpus}/{self.name or self.path.stem}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem found in a corpus."""

    kind: str
    """Kind of problem; problems are counted by kind."""
    where: str
    """The file or the row."""
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True, slots=True)
class CorpusReport:
    """The result of reading a corpus: how many clips, and the problems."""

    corpus: str
    kept: int
    problems: tuple[Problem, ...] = ()
    cautions: tuple[str, ...] = ()
    """Weaknesses of the clips for training and testing."""

    @property
    def counts(self) -> dict[str, int]:
        """How many problems of each kind, most frequent first."""
        return dict(Counter(problem.kind for problem in self.problems).most_common())

    def text(self, examples: int = 3) -> str:
        """A few lines to print: counts, and the first examples of each kind."""
        lines = [f"{self.corpus}: {self.kept} clips, {len(self.problems)} problems"]
        for kind, count in self.counts.items():
            named = [p for p in self.problems if p.kind == kind]
            shown = "; ".join(f"{p.where} ({p.detail})" if p.detail else p.where for p in named[:examples])
            lines.append(f"  {count} x {kind}: {shown}" + ("; ..." if count > examples else ""))
        return "\n".join([*lines, *(f"  caution: {caution}" for caution in self.cautions)])
