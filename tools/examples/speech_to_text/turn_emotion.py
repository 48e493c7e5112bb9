"""The emotion of a user's turn, beside any speech-to-text: push the same audio, then read the emotion with the words.

Scoring runs on its own thread, and `push` returns at once, so the words are never delayed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypedDict

import numpy as np

import streamser
from streamser.stream.pcm import Pcm

__all__ = ["Emotion", "TurnEmotion", "merge"]


class Emotion(TypedDict):
    """The emotion that is attached to a turn; do not act on an uncertain emotion."""

    emotion: str
    confidence: float
    uncertain: bool


class TurnEmotion:
    """Scores one speaker's audio, only while this person's consent is given."""

    def __init__(
        self,
        recognizer: streamser.Recognizer,
        *,
        consent: bool = False,
        on_final: Callable[[streamser.EmotionEvent], None] | None = None,
    ) -> None:
        """`on_final` is called, on the scoring thread, with the final of each utterance."""
        self.consent = consent
        """Audio that is pushed while this is False is not scored, kept or counted."""
        self._recognizer = recognizer
        self._on_final = on_final
        self._source: streamser.PushSource | None = None
        self._listener: streamser.Listener | None = None
        self._changed = threading.Condition()
        self._results: dict[int, streamser.EmotionEvent] = {}
        """The newest result of each utterance of this turn."""
        self._open = False

    def push(self, pcm: Pcm, sample_rate: int = 16_000, channels: int = 1) -> None:
        """Score audio: 16-bit PCM bytes or an array; the first push sets the rate and the channels."""
        if not self.consent:
            return
        if self._source is None:
            self._source = streamser.PushSource(sample_rate, channels, live=True)
            self._listener = streamser.Listener(self._source, self._recognizer, on_event=self._take)
            self._listener.start()
        self._source.push(pcm)

    def turn(self, wait_s: float = 0.0) -> Emotion | None:
        """The emotion since the last call, or None if nothing was scored; waits up to `wait_s` for an open final."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open, wait_s)
            results, self._results = self._results, {}
        return merge(results.values()) if self.consent else None

    def close(self) -> None:
        """End the stream; an open utterance still gets its final (waits at most 5 s)."""
        if self._source is not None and self._listener is not None:
            self._source.close()
            self._listener.wait(5.0)
            self._listener.close()

    def _take(self, event: streamser.Event) -> None:
        with self._changed:
            if isinstance(event, streamser.SpeechStarted):
                self._open = True
            elif isinstance(event, streamser.SpeechEnded | streamser.StreamEnded):
                self._open = False
            elif isinstance(event, streamser.EmotionEvent):
                self._results[event.utterance] = event
            self._changed.notify_all()
        if isinstance(event, streamser.EmotionEvent) and event.final and self._on_final is not None:
            self._on_final(event)


def merge(
    results: Iterable[streamser.EmotionEvent], start_s: float = 0.0, end_s: float = float("inf")
) -> Emotion | None:
    """One emotion for the time from `start_s` to `end_s`; None if no result lies in it.

    The scores are the mean of the results' scores, weighted by each result's seconds within this time. The emotion is
    uncertain if more than half of these seconds belong to uncertain results.
    """
    weighed = [(max(0.0, min(one.end_s, end_s) - max(one.start_s, start_s)), one) for one in results]
    weighed = [(seconds, one) for seconds, one in weighed if seconds > 0]
    total = sum(seconds for seconds, _ in weighed)
    if not total:
        return None
    names = list(weighed[0][1].scores)
    scores = np.sum([[seconds * one.scores[name] for name in names] for seconds, one in weighed], axis=0) / total
    unsure = sum(seconds for seconds, one in weighed if one.uncertain) / total
    best = int(np.argmax(scores))
    return {"emotion": names[best], "confidence": round(float(scores[best]), 4), "uncertain": unsure > 0.5}
