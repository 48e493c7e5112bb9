"""The baseline of a stream's speaker: built from the stream's utterances until another person speaks."""

from __future__ import annotations

from typing import NamedTuple

from streamser.baseline import Baseline, BaselineKind
from streamser.recognizer import Prediction, Recognizer

__all__ = ["NewSpeaker", "Voice"]


class NewSpeaker(NamedTuple):
    """Another person speaks from here on; it takes its place among a stream's segments."""

    utterance: int
    """The first utterance of the new speaker; one that has begun is still the earlier speaker's."""


class Voice:
    """One speaker's baseline, for one stream at a time or for several that follow each other.

    It begins with the recognizer's profile, or with nothing. `learns` false keeps it as it began.
    """

    def __init__(self, recognizer: Recognizer, learns: bool = True) -> None:
        self._recognizer = recognizer
        self._rule = recognizer.bundle.baseline
        self._learns = learns
        self.baseline = self._first()

    @property
    def kind(self) -> BaselineKind:
        """What answers are compared with: nothing, the stream's own baseline, or a profile."""
        return "none" if self.baseline is None else self.baseline.kind

    @property
    def utterances(self) -> int:
        """How many utterances the baseline is made of."""
        return 0 if self.baseline is None else self.baseline.utterances

    def adapted(self, prediction: Prediction) -> Prediction:
        """The absolute prediction of a sound, compared with the baseline."""
        return self._recognizer.adapted(prediction, self.baseline)

    def add(self, prediction: Prediction, duration_s: float) -> None:
        """Learn from a whole utterance's absolute prediction."""
        if self._rule is None or self.baseline is None or prediction.embedding is None or not self._learns:
            return
        if prediction.audible:
            weight = self._rule.weight_of(prediction.neutrality, duration_s)
            self.baseline = self.baseline.plus(prediction.embedding, weight, self._rule)

    def reset(self) -> None:
        """Begin again: with the profile, or with nothing."""
        self.baseline = self._first()

    def _first(self) -> Baseline | None:
        head = self._recognizer.relative
        return None if head is None else self._recognizer.baseline or Baseline.empty(head.size)
