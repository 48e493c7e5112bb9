"""Classify the clips of a corpus with a Recognizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamser.audio import Samples, read_audio
from streamser.corpora.clips import Clip, Problem
from streamser.errors import AudioError
from streamser.evaluation.degrade import Degradation, generator_of
from streamser.recognizer import Recognizer

BATCH = 8  # recordings scored at once: enough to use a GPU well, few enough to update the progress bar often


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """A checkpoint's predictions for some clips."""

    labels: tuple[str, ...]
    clips: tuple[Clip, ...]
    probabilities: NDArray[np.float64]
    """(clips, classes), calibrated."""
    uncertain: NDArray[np.bool_]
    problems: tuple[Problem, ...] = ()
    """Clips that could not be read."""

    @property
    def targets(self) -> NDArray[np.int64]:
        return np.array([self.labels.index(clip.label) for clip in self.clips], np.int64)

    @property
    def predicted(self) -> NDArray[np.int64]:
        return np.asarray(self.probabilities.argmax(axis=1), np.int64)

    @property
    def confidence(self) -> NDArray[np.float64]:
        return np.asarray(self.probabilities.max(axis=1))

    @property
    def speakers(self) -> list[str]:
        return [clip.speaker for clip in self.clips]

    def where(self, keep: Callable[[Clip], bool]) -> Predictions:
        """The predictions for the clips for which `keep` is true."""
        at = [i for i, clip in enumerate(self.clips) if keep(clip)]
        clips = tuple(self.clips[i] for i in at)
        return Predictions(self.labels, clips, self.probabilities[at], self.uncertain[at])

    def split(self, group: Callable[[Clip], str]) -> list[tuple[str, Predictions]]:
        """The predictions of each group, sorted by its name."""
        names = sorted({group(clip) for clip in self.clips})
        return [(name, self.where(lambda clip, of=name: group(clip) == of)) for name in names]  # type: ignore[misc]


ClipProgress = Callable[[int], None]
"""Callback that gets the number of clips finished since its last call."""


def predict_clips(
    recognizer: Recognizer,
    clips: Sequence[Clip],
    change: Degradation | None = None,
    progress: ClipProgress | None = None,
) -> Predictions:
    """Classify every clip, degraded by `change` if given."""
    classified: list[Clip] = []
    scores: list[list[float]] = []
    uncertain: list[bool] = []
    problems: list[Problem] = []
    for first in range(0, len(clips), BATCH):
        batch = clips[first : first + BATCH]
        recordings = [(clip, audio) for clip in batch if (audio := _audio(clip, change, problems)) is not None]
        for prediction in recognizer.predict([audio for _, audio in recordings]):
            scores.append([prediction.scores[label] for label in recognizer.labels])
            uncertain.append(prediction.uncertain)
        classified += [clip for clip, _ in recordings]
        if progress:
            progress(len(batch))
    table = np.array(scores).reshape(len(scores), len(recognizer.labels))
    return Predictions(recognizer.labels, tuple(classified), table, np.array(uncertain, np.bool_), tuple(problems))


def _audio(clip: Clip, change: Degradation | None, problems: list[Problem]) -> Samples | None:
    try:
        samples = read_audio(clip.path)
    except AudioError as error:
        problems.append(Problem("unreadable file", clip.id, str(error)))
        return None
    return change.apply(samples, generator_of(clip.id, change.name)) if change else samples


__all__ = ["BATCH", "ClipProgress", "Predictions", "predict_clips"]
