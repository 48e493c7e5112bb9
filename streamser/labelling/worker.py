"""Label one file after the other, for `streamser label`, in this process or in another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from streamser.audio import SAMPLE_RATE, read_audio
from streamser.config import Config
from streamser.errors import AudioError
from streamser.labelling.voices import ScoredFile, adapt_to_voices
from streamser.recognizer import Recognizer
from streamser.stream.audiofiles import read_pieces
from streamser.stream.pipeline import Stream

__all__ = ["Labelled", "Mode", "Worker"]

Mode: TypeAlias = Literal["whole", "utterances", "score"]
"""One row for each file, one row for each utterance, or no rows: the first of two passes."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """One file's rows, or the reason that there are none."""

    file: str
    """The file's name in the archive."""
    rows: tuple[dict[str, Any], ...] = ()
    scored: ScoredFile | None = None
    """The first pass's result, instead of rows."""
    error: str | None = None
    audio_s: float = 0.0
    """Duration of the file's audio."""


class Worker:
    """Labels one file after the other with one recognizer."""

    def __init__(self, folder: Path, recognizer: Recognizer, config: Config, mode: Mode) -> None:
        self._folder = folder
        self._recognizer = recognizer
        self._config = config
        ways: dict[Mode, Callable[[str], Labelled]] = {
            "whole": self._whole,
            "utterances": self._utterances,
            "score": self._score,
        }
        self.mode = mode
        self._label = ways[mode]

    def __call__(self, file: str) -> Labelled:
        try:
            return self._label(file)
        except AudioError as error:
            return Labelled(file, error=str(error))
        except MemoryError:
            return Labelled(file, error=f"{self._folder / file}: needs more memory than there is; split the file")

    def second_pass(self, scored: Sequence[ScoredFile], speakers: Mapping[str, str] | None) -> Iterator[dict[str, Any]]:
        """Compare each file of the first pass with its speaker's baseline, and yield the file's row."""
        predictions = adapt_to_voices(self._recognizer, scored, speakers) if scored else []
        for one, prediction in zip(scored, predictions, strict=True):
            yield self._row(replace(one, prediction=prediction))

    def _score(self, file: str) -> Labelled:
        audio = read_audio(self._folder / file)
        audio_s = len(audio) / SAMPLE_RATE
        return Labelled(file, scored=ScoredFile(file, audio_s, self._recognizer.predict(audio)), audio_s=audio_s)

    def _whole(self, file: str) -> Labelled:
        scored = self._score(file).scored
        assert scored is not None
        return Labelled(file, (self._row(scored),), audio_s=scored.duration_s)

    def _utterances(self, file: str) -> Labelled:
        # Finals only: nothing uses partial results here.
        config = replace(self._config, segmenter=replace(self._config.segmenter, hop_ms=0.0))
        stream = Stream(self._recognizer, config, file)
        pieces = read_pieces(self._folder / file)  # so that the audio in memory does not grow with the file's length
        events = [event for piece in pieces for event in stream.push(piece)] + stream.close()
        finals = [event.to_dict() for event in events if event.type == "emotion"]
        keys = ("utterance", "start_s", "end_s", "label", "confidence", "uncertain", "scores")
        model = self._recognizer.bundle.name
        return Labelled(
            file,
            tuple({"file": file, **{key: row[key] for key in keys}, "model": model} for row in finals),
            audio_s=max((event.end_s for event in events if event.type == "stream_ended"), default=0.0),
        )

    def _row(self, scored: ScoredFile) -> dict[str, Any]:
        prediction = scored.prediction
        place = {"file": scored.file, "duration_s": round(scored.duration_s, 3)}
        if prediction.problem:  # the scores mean nothing
            return {**place, "uncertain": True, "reason": prediction.problem, "model": self._recognizer.bundle.name}
        return {
            **place,
            "label": prediction.label,
            "confidence": round(prediction.confidence, 4),
            "uncertain": prediction.uncertain,
            "scores": {label: round(score, 4) for label, score in prediction.scores.items()},
            "model": self._recognizer.bundle.name,
        }
