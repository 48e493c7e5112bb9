"""Settling in: what a stream's own answers say of its voice and room, taken out of the answers that follow.

A new voice, microphone or room moves all of a net's answers alike, and one answer does not show it. Many do, to
whoever knows where answers of each class lie, how widely, how far voices and rooms move them (the checkpoint's
`drift`), and that people speak neutrally most of the time. That is a mixture of Gaussians, one a class, with one offset
for all: expectation-maximization finds the likeliest offset in the newest answers, nobody labels anything. A mood that
never ends is in part taken for the voice. docs/your-voice.md has what it brings and costs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamser.bundle import Bundle, Drift
from streamser.errors import ConfigError

Values = NDArray[np.float64]

MEMORY = 60
"""Utterances that are remembered: a voice or a room that changes is forgotten after so many."""
EXPECTED = 1.0
EXPECTED_NEUTRAL = 10.0
"""What is believed before anything was heard, as so many utterances of each class."""
WORTH = 0.5
"""What one utterance counts: neighbours say much the same."""
STRENGTH = 0.7
"""How much of the offset is taken out."""
LEAST_CONFIDENCE = 1.4
"""An answer less sure than so many times chance is of no class, and teaches nothing."""

_ROUNDS = 15
_LEAST_PROBABILITY = 1e-9


class Settling:
    """What is remembered of one voice in one room: a stream's last answers."""

    def __init__(self, bundle: Bundle) -> None:
        drift = _drift_of(bundle)
        self._means = np.array(drift.means)  # (C, C - 1)
        self._precision = np.linalg.inv(np.array(drift.within))
        self._rigidity = np.linalg.inv(np.array(drift.between))
        self._expected = np.array([EXPECTED_NEUTRAL if label == "neutral" else EXPECTED for label in bundle.labels])
        self._heard: deque[Values] = deque(maxlen=MEMORY)
        self.offset: Values = np.zeros(len(bundle.labels) - 1)
        """How far this stream's answers lie from everybody's, in `ratios`."""

    def settle(self, scores: Mapping[str, float]) -> dict[str, float]:
        """An answer's scores without what is this voice's and room's own."""
        moved = np.append(ratios(list(scores.values())) - STRENGTH * self.offset, 0.0)
        odds = np.exp(moved - moved.max())
        return dict(zip(scores, (odds / odds.sum()).tolist(), strict=True))

    def hear(self, scores: Mapping[str, float]) -> None:
        """Learn from a whole utterance's scores, as the recognizer gave them."""
        if max(scores.values()) * len(scores) >= LEAST_CONFIDENCE:
            self._heard.append(ratios(list(scores.values())))
            self.offset = self._likeliest(np.array(self._heard))

    def _likeliest(self, heard: Values) -> Values:
        """The offset that makes these answers, (N, C - 1), and so small an offset, likeliest."""
        offset = np.zeros_like(self.offset)
        shares = np.full(len(self._means), 1 / len(self._means))
        certainty = np.linalg.inv(self._rigidity + WORTH * len(heard) * self._precision)
        away = heard[:, None] - self._means  # (N, C, C - 1)
        for _ in range(_ROUNDS):
            off = away - offset
            fit = np.log(shares) - 0.5 * np.einsum("nci,ij,ncj->nc", off, self._precision, off)
            belongs = np.exp(fit - fit.max(axis=1, keepdims=True))
            belongs /= belongs.sum(axis=1, keepdims=True)
            shares = self._expected + WORTH * belongs.sum(axis=0)
            shares /= shares.sum()
            offset = certainty @ (self._precision @ (WORTH * np.einsum("nc,nci->i", belongs, away)))
        return offset


def ratios(scores: ArrayLike) -> Values:
    """Each class's log probability against the last one's, (..., C) to (..., C - 1)."""
    logs = np.log(np.maximum(np.asarray(scores, np.float64), _LEAST_PROBABILITY))
    return np.asarray(logs[..., :-1] - logs[..., -1:])


def _drift_of(bundle: Bundle) -> Drift:
    """What the checkpoint knows of voices and rooms; ConfigError where nobody measured it."""
    if bundle.drift is None:
        raise ConfigError(
            f"the checkpoint '{bundle.name}' does not say how voices and rooms move its answers (bundle.yaml has no "
            "'drift'), so that it cannot settle in; use another checkpoint, or leave --settle out"
        )
    return bundle.drift


__all__ = ["Settling", "ratios"]
