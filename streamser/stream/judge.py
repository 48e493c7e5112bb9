"""Turn one stream's segments into emotion events: new frames only, answers computed ahead, partials smoothed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from streamser.audio import Samples, Segment
from streamser.events import EmotionEvent
from streamser.features import FeatureConfig, Frames, FrontEnd
from streamser.recognizer import Prediction, Recognizer
from streamser.settling import Settling

__all__ = ["FeatureTrack", "Judge", "Novelty", "Piece", "Question", "ask"]

Question = Frames | Segment
"""What the recognizer is asked: frames that are already computed, or a segment to be heard whole."""


class Piece(NamedTuple):
    """What one partial window adds to the one before."""

    samples: Samples
    afresh: bool
    """True when it continues nothing: another utterance, or sound is missing in between."""


class Novelty:
    """Tells what of each partial window is new: a window that is never judged still gives its sound to the next."""

    def __init__(self) -> None:
        self._utterance = -1
        self._end = 0

    def of(self, segment: Segment) -> Piece:
        """What this partial window adds."""
        follows = segment.utterance == self._utterance and segment.start <= self._end
        first = self._end - segment.start if follows else 0
        self._utterance, self._end = segment.utterance, segment.end
        return Piece(segment.samples[first:].copy(), not follows)


class FeatureTrack:
    """The frames of an utterance that goes on, each computed once.

    Sound must come in the same pieces each time an utterance is heard: BLAS may round a product of other shape
    otherwise, and a replay would differ in the last bit. The pieces are what each partial window adds.
    """

    def __init__(self, config: FeatureConfig) -> None:
        self._front_end = FrontEnd(config)
        self._keep = config.window_frames
        self._frames: Frames = np.zeros((0, config.bins), np.float32)

    def feed(self, samples: Samples) -> None:
        """Compute the frames that this sound completes."""
        self._frames = np.concatenate([self._frames, self._front_end.feed(samples)])[-self._keep :]

    @property
    def window(self) -> Frames:
        """The newest frames, at most one window of the net, (frames, bins)."""
        return self._frames


class Judge:
    """One stream's memory between its segments.

    `question` and `event` are called for every segment in the stream's order; the answer in between comes from
    `ask`, which may serve several streams at once.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        smoothing: float = 0.0,
        stream: str = "main",
        settling: Settling | None = None,
    ) -> None:
        self.recognizer = recognizer
        self.smoothing = smoothing
        self.stream = stream
        self.settling = settling
        self._track = FeatureTrack(recognizer.features)
        self._ahead: tuple[Segment, Prediction] | None = None
        self._smooth: tuple[Segment, np.ndarray[tuple[int], np.dtype[np.float64]]] | None = None

    def question(self, segment: Segment, pieces: Sequence[Piece]) -> Question | None:
        """What to ask about this segment; None when the answer is known.

        `pieces` are what this partial window adds and what those added that were skipped before it.
        """
        if segment.final or segment.speculative:
            return None if self._known(segment) is not None else segment
        if computes_on_cuda(self.recognizer):
            return segment  # the GPU has ears of its own
        for piece in pieces:
            if piece.afresh:
                self._track = FeatureTrack(self.recognizer.features)
            self._track.feed(piece.samples)
        return self._track.window

    def event(self, segment: Segment, prediction: Prediction | None, arrived_s: float) -> EmotionEvent | None:
        """The event that says it; None for a speculative segment, whose answer waits for its final."""
        if segment.speculative:
            if prediction is not None:
                self._ahead = (segment, prediction)
            return None
        prediction = prediction or self._known(segment)
        assert prediction is not None, "a question without an answer"
        if self.settling is not None:
            heard, prediction = prediction, self._again(prediction, self.settling.settle(prediction.scores))
            if segment.final and heard.audible:
                self.settling.hear(heard.scores)
        if segment.final:
            self._ahead = self._smooth = None
        else:
            prediction = self._again(prediction, self._smoothed(segment, prediction))
        return EmotionEvent(
            stream=self.stream,
            utterance=segment.utterance,
            seq=segment.seq,
            start=segment.start,
            end=segment.end,
            final=segment.final,
            label=prediction.label,
            scores=prediction.scores,
            confidence=prediction.confidence,
            uncertain=prediction.uncertain,
            latency_ms=max(0.0, (time.monotonic() - arrived_s) * 1000),
        )

    def _known(self, segment: Segment) -> Prediction | None:
        """The answer that was computed ahead for just these samples."""
        if self._ahead is None:
            return None
        ahead, prediction = self._ahead
        same = (ahead.utterance, ahead.start, ahead.end) == (segment.utterance, segment.start, segment.end)
        return prediction if same else None

    def _smoothed(self, segment: Segment, prediction: Prediction) -> dict[str, float]:
        """Blend with what was said before in this utterance: s = a s' + (1 - a) p, a = smoothing ** steps."""
        scores = np.array(list(prediction.scores.values()))
        if self._smooth is not None and self._smooth[0].utterance == segment.utterance:
            before, smooth = self._smooth
            share = self.smoothing ** (segment.seq - before.seq)  # a skipped partial fades as if it had been said
            scores = share * smooth + (1.0 - share) * scores
        self._smooth = (segment, scores)
        return dict(zip(prediction.scores, scores.tolist(), strict=True))

    def _again(self, prediction: Prediction, scores: Mapping[str, float]) -> Prediction:
        """The same answer with other scores."""
        best = max(scores, key=scores.__getitem__)
        uncertain = not prediction.audible or scores[best] < self.recognizer.threshold
        return replace(prediction, label=best, scores=scores, confidence=scores[best], uncertain=uncertain)


def computes_on_cuda(recognizer: Recognizer) -> bool:
    """Whether a batch costs about as much as one window."""
    return recognizer.engine.device.startswith("cuda")


def ask(recognizer: Recognizer, questions: Sequence[Question]) -> list[Prediction]:
    """Answers in order: in one call on a GPU, one by one on a CPU, where batches gain nothing."""
    if computes_on_cuda(recognizer):
        segments = [question for question in questions if isinstance(question, Segment)]
        frames = [question for question in questions if not isinstance(question, Segment)]
        heard = iter(recognizer.predict(segments) if segments else [])
        judged = iter(recognizer.predict_frames(frames) if frames else [])
        return [next(heard) if isinstance(question, Segment) else next(judged) for question in questions]
    return [
        recognizer.predict(question) if isinstance(question, Segment) else recognizer.predict_frames([question])[0]
        for question in questions
    ]
