"""Turn one stream's segments into emotion events.

Only new frames are computed, finals are computed ahead, partials are smoothed, and the speaker's baseline is applied.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import NamedTuple

from streamser.audio import Segment
from streamser.baseline import Baseline, BaselineKind
from streamser.engines.steps import advance
from streamser.errors import AudioError, explain
from streamser.events import EmotionEvent
from streamser.features import Frames
from streamser.recognizer import Prediction, Recognizer
from streamser.stream.tracks import FeatureTrack, Novelty, Piece, StepTrack, TrackInput

__all__ = [
    "AUDIO_ERRORS",
    "NewSpeaker",
    "Novelty",
    "Piece",
    "Scorer",
    "ScorerInput",
    "Voice",
    "compute_predictions",
    "computes_on_cuda",
]

logger = logging.getLogger(__name__)

AUDIO_ERRORS = (AudioError, ValueError)
"""Errors in the audio: computing again gives the same error."""

ScorerInput = Frames | Segment | TrackInput
"""Input of a prediction: frames that are already computed, a whole segment, or a step graph's track."""


class NewSpeaker(NamedTuple):
    """Another person speaks from here on; queued in order with a stream's segments."""

    utterance: int
    """Number of the new speaker's first utterance; an open utterance still belongs to the earlier speaker."""


class Voice:
    """One speaker's baseline, for one stream at a time or for several that follow each other.

    It begins with the recognizer's profile, or empty. With `learns` false it does not change.
    """

    def __init__(self, recognizer: Recognizer, learns: bool = True) -> None:
        self._recognizer = recognizer
        self._rule = recognizer.bundle.baseline
        self._learns = learns
        self.baseline = self._first()

    @property
    def kind(self) -> BaselineKind:
        """Kind of baseline that predictions are compared with: none, the stream's own, or a profile."""
        return "none" if self.baseline is None else self.baseline.kind

    @property
    def utterances(self) -> int:
        """Number of utterances in the baseline."""
        return 0 if self.baseline is None else self.baseline.utterances

    def adapted(self, prediction: Prediction) -> Prediction:
        """An absolute prediction, adjusted by the baseline."""
        return self._recognizer.adapted(prediction, self.baseline)

    def add(self, prediction: Prediction, duration_s: float) -> None:
        """Add a whole utterance's absolute prediction to the baseline."""
        if self._rule is None or self.baseline is None or prediction.embedding is None or not self._learns:
            return
        if not prediction.problem:
            weight = self._rule.weight_of(prediction.neutrality, duration_s)
            self.baseline = self.baseline.plus(prediction.embedding, weight, self._rule)

    def reset(self) -> None:
        """Start again with the profile, or empty."""
        self.baseline = self._first()

    def _first(self) -> Baseline | None:
        head = self._recognizer.relative
        return None if head is None else self._recognizer.baseline or Baseline.empty(head.size)


class Scorer:
    """The state of one stream between its segments.

    `input_of` and `event` are called for every segment in the stream's order; in between, `compute_predictions`
    computes the absolute prediction, for several streams at once if there are several. The stream's baseline is applied
    in `event`, so that it depends only on the order of the events.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        smoothing: float = 0.0,
        stream: str = "main",
        voice: Voice | None = None,
    ) -> None:
        self.recognizer = recognizer
        self.smoothing = smoothing
        self.stream = stream
        self.voice = voice or Voice(recognizer)
        self._new_speaker: int | None = None  # the first utterance of another speaker
        self._features = FeatureTrack(recognizer.features)
        # The step graph is opened before the first audio, because opening it takes time. A stream that begins without
        # one scores whole windows to its end, even if its engine falls back to another one that has a step graph.
        self._steps = None if recognizer.steps is None else StepTrack(recognizer.steps, recognizer.features)
        self._ahead: tuple[Segment, Prediction] | None = None
        self._smooth: tuple[Segment, list[float]] | None = None
        self._warned = False

    def input_of(self, segment: Segment, pieces: Sequence[Piece]) -> ScorerInput | None:
        """The input of this segment's prediction; None if the prediction was computed ahead.

        It feeds `pieces` to the stream's features: the audio that is new in this partial window, and in the windows
        that were skipped since the last call.
        """
        if segment.final or segment.speculative:
            if self._known(segment) is not None:
                return None
            self.recognizer.check(segment)
            return (self._steps.whole(segment) if self._steps is not None else None) or segment
        if self._steps is not None:
            return self._steps.partial(segment, pieces)
        if computes_on_cuda(self.recognizer):
            return segment  # features are computed on the GPU, with the network
        for piece in pieces:
            if piece.afresh:
                self._features = FeatureTrack(self.recognizer.features)
            self._features.feed(piece.samples)
        return self._features.window

    def event(self, segment: Segment, prediction: Prediction | None) -> EmotionEvent | None:
        """The event for a prediction; None for a speculative segment, whose prediction is kept for the final."""
        if segment.speculative:
            if prediction is not None:
                self._ahead = (segment, prediction)
            return None
        absolute = prediction or self._known(segment)
        assert absolute is not None, "no prediction for the segment"
        # Tracks predict from features, which do not show whether samples were clipped.
        absolute = absolute.marked_if_clipped(segment.samples)
        if self._new_speaker is not None and segment.utterance >= self._new_speaker:
            self._new_speaker = None
            self.voice.reset()
        kind, utterances = self.voice.kind, self.voice.utterances
        prediction = self.voice.adapted(absolute)
        if segment.final:
            self._ahead = self._smooth = None
            if self._steps is not None:
                self._steps.finish()
            self.voice.add(absolute, segment.duration_s)
        else:
            prediction = prediction.with_scores(self._smoothed(segment, prediction))
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
            baseline=kind,
            baseline_utterances=utterances,
            latency_ms=0.0 if segment.arrived_s is None else max(0.0, (time.monotonic() - segment.arrived_s) * 1000),
        )

    def new_speaker(self, utterance: int) -> None:
        """Another person speaks from this utterance on: the baseline is reset when it is scored."""
        self._new_speaker = utterance

    def close(self) -> None:
        """The stream is over: close the track of an utterance in progress."""
        if self._steps is not None:
            self._steps.finish()

    def recover(self, segment: Segment, error: BaseException) -> Prediction | None:
        """Try again after an error in `input_of` or `compute_predictions`; None if the result is left out.

        An engine may fail once, or a GPU may be short of memory for a moment. A partial result is then left out, and
        the next one is computed from its own audio. A final is computed once more, from its whole recording; if that
        fails too, its error is raised. An error in the audio itself is raised at once.
        """
        if isinstance(error, AUDIO_ERRORS):
            raise error
        if not self._warned:
            self._warned = True
            logger.warning("stream %s: %s; one result is left out or computed again", self.stream, explain(error))
        if self._steps is not None:
            self._steps.restart()
        return compute_predictions(self.recognizer, [segment])[0] if segment.final else None

    def _known(self, segment: Segment) -> Prediction | None:
        """The prediction that was computed ahead for exactly these samples."""
        if self._ahead is None:
            return None
        ahead, prediction = self._ahead
        same = (ahead.utterance, ahead.start, ahead.end) == (segment.utterance, segment.start, segment.end)
        return prediction if same else None

    def _smoothed(self, segment: Segment, prediction: Prediction) -> dict[str, float]:
        """Smooth with the utterance's previous partial results: s = a s' + (1 - a) p, a = smoothing ** steps."""
        scores = list(prediction.scores.values())
        if self._smooth is not None and self._smooth[0].utterance == segment.utterance:
            before, smooth = self._smooth
            share = self.smoothing ** (segment.seq - before.seq)  # a skipped partial counts as a step too
            scores = [share * old + (1.0 - share) * new for old, new in zip(smooth, scores, strict=True)]
        self._smooth = (segment, scores)
        return dict(zip(prediction.scores, scores, strict=True))


def computes_on_cuda(recognizer: Recognizer) -> bool:
    """Whether the network runs on a GPU, where a batch takes about as long as one window."""
    return recognizer.engine.compute.startswith("cuda")


def compute_predictions(recognizer: Recognizer, inputs: Sequence[ScorerInput]) -> list[Prediction]:
    """Absolute predictions in order: in one call on a GPU, one by one on a CPU, where batches gain nothing."""
    if recognizer.baseline is not None:
        recognizer = recognizer.with_baseline(None)
    if tracks := [one.track for one in inputs if isinstance(one, TrackInput)]:
        advance(recognizer.steps, tracks)
    if computes_on_cuda(recognizer):
        segments = [one for one in inputs if isinstance(one, Segment)]
        whole = iter(recognizer.predict(segments) if segments else [])
        return [next(whole) if isinstance(one, Segment) else _compute_prediction(recognizer, one) for one in inputs]
    return [_compute_prediction(recognizer, one) for one in inputs]


def _compute_prediction(recognizer: Recognizer, scorer_input: ScorerInput) -> Prediction:
    if isinstance(scorer_input, Segment):
        return recognizer.predict(scorer_input)
    if isinstance(scorer_input, TrackInput):
        track, kept = scorer_input
        return recognizer.predict_scores([track.scores() if kept is None else track.final(kept)])[0]
    return recognizer.predict_frames([scorer_input])[0]
