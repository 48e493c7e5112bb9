"""Process an utterance incrementally: each frame is computed once and given to the step graph once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from streamser.audio import Samples, Segment
from streamser.engines.steps import StepEngine, Track
from streamser.features import FeatureConfig, Frames, FrontEnd, speech_range

__all__ = ["FeatureTrack", "Novelty", "Piece", "StepTrack", "TrackInput"]


class Piece(NamedTuple):
    """The samples that one partial window adds to the previous one."""

    samples: Samples
    afresh: bool
    """True when it does not continue the previous window: another utterance, or missing audio."""


class Novelty:
    """Finds the new audio in each partial window; audio of a skipped window is added to the next one."""

    def __init__(self) -> None:
        self._utterance = -1
        self._end = 0

    def of(self, segment: Segment) -> Piece:
        """The new samples of this partial window."""
        follows = segment.utterance == self._utterance and segment.start <= self._end
        first = self._end - segment.start if follows else 0
        self._utterance, self._end = segment.utterance, segment.end
        return Piece(segment.samples[first:].copy(), not follows)


class FeatureTrack:
    """The frames of the open utterance, for an engine without a step graph.

    A frame's bits do not depend on the pieces in which its audio comes, so that a replay equals the live stream.
    """

    def __init__(self, config: FeatureConfig) -> None:
        self._front_end = FrontEnd(config)
        self._keep = config.window_frames
        self._frames: Frames = np.zeros((0, config.bins), np.float32)

    def feed(self, samples: Samples) -> None:
        """Compute the frames that this audio completes."""
        self._frames = np.concatenate([self._frames, self._front_end.feed(samples)])[-self._keep :]

    @property
    def window(self) -> Frames:
        """The newest frames, at most one window of the network, (frames, bins)."""
        return self._frames


class TrackInput(NamedTuple):
    """Input of a prediction from a step graph's track."""

    track: Track
    kept: slice | None
    """The frames of a final that trimming leaves; None asks for the newest window."""


class StepTrack:
    """One stream's utterances in a step graph."""

    def __init__(self, steps: StepEngine, config: FeatureConfig) -> None:
        self._steps = steps
        self._config = config
        self._track: Track | None = None
        self._front_end = FrontEnd(config)
        self._utterance = -1
        self._start = 0  # sample index of the first sample fed
        self._end = 0

    def restart(self) -> None:
        """Discard the track, whose state is unknown after an error."""
        self.finish()
        self._track = None

    def finish(self) -> None:
        """Close the utterance's track; the next track may take over a part of its state."""
        if self._track is not None:
            self._track.close()
        self._utterance = -1

    def partial(self, segment: Segment, pieces: Sequence[Piece]) -> TrackInput:
        """Feed the pieces up to the end of a partial window; returns its input."""
        afresh = [place for place, piece in enumerate(pieces) if piece.afresh]
        if afresh or self._track is not None:
            samples = np.concatenate([piece.samples for piece in pieces[afresh[-1] if afresh else 0 :]])
        else:  # the track was discarded after an error: the new one begins with the whole window
            samples = segment.samples
        start = segment.end - len(samples)
        if afresh or self._track is None:
            self._begin(segment.utterance, start)
        self._feed(samples[self._end - start :])  # a final computed ahead may have fed a part of it
        return self._input(None)

    def whole(self, segment: Segment) -> TrackInput | None:
        """Feed the rest of a final's audio; returns its input, or None if no frame is left to score."""
        first, end = speech_range(segment.samples, self._config)
        frames = self._config.frames_in(end - first)
        if not frames:
            return None
        known = (self._utterance, self._start) == (segment.utterance, segment.start) and self._end <= segment.end
        if not known:  # no partial came before this final, or one reached beyond the cut
            self._begin(segment.utterance, segment.start)
        self._feed(segment.samples[self._end - segment.start :])
        kept = -(-first // self._config.hop_samples)
        return self._input(slice(kept, kept + frames))

    def _begin(self, utterance: int, start: int) -> None:
        self.finish()  # an utterance that is begun again still has its earlier track
        self._track = self._steps.track(self._track)
        self._front_end = FrontEnd(self._config)
        self._utterance, self._start, self._end = utterance, start, start

    def _feed(self, samples: Samples) -> None:
        assert self._track is not None
        self._track.feed(self._front_end.feed(samples))
        self._end += len(samples)

    def _input(self, kept: slice | None) -> TrackInput:
        assert self._track is not None
        return TrackInput(self._track, kept)
