"""Tracks that continue on another engine if the first one fails; it gets all frames of the utterance again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from streamser.engines import Engine, WindowScores, steps_of
from streamser.engines.steps import Track, advance
from streamser.errors import EngineError
from streamser.features import Frames

__all__ = ["FallbackSteps"]


class Attempt(Protocol):
    """Calls a function with the present engine, and again with the next one if the first one fails."""

    def __call__(self, call: Callable[[Engine], Any], /) -> Any: ...


class FallbackSteps:
    """The step graphs of a FallbackEngine's engines."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt

    def track(self, after: Track | None = None) -> Track:
        """A track for a new utterance; it keeps all frames."""
        return _FallbackTrack(self._attempt, after)

    def advance(self, tracks: Sequence[Track]) -> None:
        """Encode the frames that these tracks were fed, in as few steps as possible."""
        own = [track for track in tracks if isinstance(track, _FallbackTrack)]
        self._attempt(lambda engine: advance(steps_of(engine), [track.on(engine) for track in own]))


class _FallbackTrack:
    """An utterance whose frames are kept, because another engine may have to begin again with it."""

    def __init__(self, attempt: Attempt, after: Track | None) -> None:
        self.fed = 0
        self._attempt = attempt
        self._frames: list[Frames] = []
        self._given = 0  # number of `_frames` that the engine's track was fed
        self._engine: Engine | None = None
        self._track: Track | None = None
        if isinstance(after, _FallbackTrack):
            self._attempt(lambda engine: self._begin(engine, after._track if after._engine is engine else None))

    def feed(self, frames: Frames) -> None:
        """Add frames; the engine gets them with the next call of `scores` or `final`."""
        self.fed += len(frames)
        self._frames.append(frames)

    def scores(self) -> WindowScores:
        """The scores of the track on the present engine."""
        scores: WindowScores = self._attempt(lambda engine: self.on(engine).scores())
        return scores

    def final(self, kept: slice) -> WindowScores:
        """The final scores of the track on the present engine."""
        scores: WindowScores = self._attempt(lambda engine: self.on(engine).final(kept))
        return scores

    def close(self) -> None:
        """Close the engine's track and drop the frames."""
        self._frames.clear()
        if self._track is not None:
            self._track.close()

    def on(self, engine: Engine) -> Track:
        """The utterance's track on this engine, with all frames."""
        track = self._track if self._engine is engine else None
        track = track or self._begin(engine, None)
        for frames in self._frames[self._given :]:
            track.feed(frames)
            self._given += 1
        return track

    def _begin(self, engine: Engine, after: Track | None) -> Track:
        steps = steps_of(engine)
        if steps is None:
            raise EngineError(f"the {engine.name} engine has no step graph for streams")
        self._engine, self._given = engine, 0
        self._track = steps.track(after)
        return self._track
