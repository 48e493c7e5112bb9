"""The one inference worker: segments of many streams in, their events out, each stream in its own order.

The queue between a stream and the worker is bounded. A waiting partial is replaced by a newer one of its stream, or by
the final; a final is never dropped. While `waiting_finals` finals wait, `submit` blocks: a live source then loses audio
and reports a Gap, and a replay takes longer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from streamser.audio import Segment
from streamser.errors import explain
from streamser.events import Event, StreamEnded
from streamser.recognizer import Prediction, Recognizer
from streamser.settings import require
from streamser.stream.fairqueue import FairQueue
from streamser.stream.scorer import (
    AUDIO_ERRORS,
    NewSpeaker,
    Novelty,
    Piece,
    Scorer,
    ScorerInput,
    Voice,
    compute_predictions,
    computes_on_cuda,
)
from streamser.stream.status import Tally

__all__ = ["Deliver", "InferenceWorker", "OnError", "PipelineConfig", "StreamHandle"]

logger = logging.getLogger(__name__)

Deliver = Callable[[Event], None]
"""Callback for one stream's events, in order, on the worker's thread; it must be quick."""

OnError = Callable[[BaseException], None]
"""Callback for the error that ended a stream, on the worker's thread."""

_WAKE_S = 0.25
_LEAST_COST_S = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig:
    """Settings of the steps between segments and events."""

    smoothing: float = 0.4
    """Weight of the previous partial results in each new one, from 0 (none) to below 1; finals are never smoothed."""
    adapt: bool = True
    """Compare each utterance with the earlier ones of the stream, if the checkpoint can; see docs/your-voice.md."""
    waiting_finals: int = 32
    """Largest number of finals of one stream that wait for the recognizer; beyond it, the source waits."""
    batch: int = 64
    """Largest number of segments, of all streams, that a GPU computes in one call; a CPU computes them one by one."""
    waiting_events: int = 1024
    """Largest number of events that wait for the reading program; beyond it, a live stream drops partial results,
    then the oldest events.
    """

    def voice(self, recognizer: Recognizer) -> Voice:
        """Baseline of a new stream, before its first utterance."""
        return Voice(recognizer, learns=self.adapt)

    def __post_init__(self) -> None:
        rules = {
            "smoothing: must be 0 or more and below 1": 0 <= self.smoothing < 1,
            "waiting_finals: must be at least 1": self.waiting_finals >= 1,
            "batch: must be at least 1": self.batch >= 1,
            "waiting_events: must be at least 16": self.waiting_events >= 16,
        }
        require(rules)


@dataclass(slots=True, eq=False)
class _StreamState:
    """The worker's state of one stream."""

    scorer: Scorer
    deliver: Deliver
    on_error: OnError | None
    tally: Tally
    lossless: bool
    novelty: Novelty = field(default_factory=Novelty)
    partial: _Job | None = None  # the waiting partial
    ahead: _Job | None = None  # the waiting speculative final
    finals: int = 0  # number of waiting finals
    waiting: int = 0  # number of waiting jobs of any kind
    end: int = 0  # sample index up to which the stream was scored
    over: bool = False  # ended, failed or closed: nothing more is delivered


@dataclass(slots=True, eq=False)
class _Job:
    """One item of a stream: a ready event, a segment to be scored, or a NewSpeaker."""

    state: _StreamState
    item: Segment | Event | NewSpeaker
    submitted_s: float
    pieces: list[Piece] = field(default_factory=list)


class StreamHandle:
    """One stream's interface to the worker, as `InferenceWorker.open` returns it.

    `submit` takes the stream's segments and events in order. Segments become emotion events, events stay unchanged, and
    `deliver` gets all of them in the same order. StreamEnded is the last. NewSpeaker is not delivered.
    """

    def __init__(self, worker: InferenceWorker, state: _StreamState) -> None:
        self._worker = worker
        self._state = state

    @property
    def waiting(self) -> int:
        """Items of this stream that wait; a host on an event loop checks this before it accepts more audio."""
        return self._state.waiting

    def submit(self, item: Segment | Event | NewSpeaker) -> None:
        """Add the stream's next item.

        Waits while too many finals of this stream wait. After the end, a failure or `close` it does nothing.
        """
        self._worker._submit(self._state, item)

    def new_speaker(self, utterance: int) -> None:
        """Another person speaks from this utterance on: the stream's baseline is reset."""
        self.submit(NewSpeaker(utterance))

    def close(self) -> None:
        """Close the stream: waiting items are dropped, and nothing more is delivered, not even StreamEnded."""
        self._worker._end(self._state)


class InferenceWorker:
    """Scores the segments of any number of streams on one thread; `open` adds a stream."""

    def __init__(self, recognizer: Recognizer, config: PipelineConfig | None = None) -> None:
        self.recognizer = recognizer
        self.config = config or PipelineConfig()
        self._states: set[_StreamState] = set()
        self._jobs = FairQueue[_StreamState, _Job]()
        self._serving: set[_StreamState] = set()  # streams whose jobs the thread computes now
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._calls = 0
        self._segments_scored = 0
        self._dropped = 0
        self._errors = 0
        self._busy_s = 0.0

    def start(self) -> InferenceWorker:
        """Start the thread; a second call does nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="streamser-inference", daemon=True)
            self._thread.start()
        return self

    def __enter__(self) -> InferenceWorker:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_alive(self) -> bool:
        """Whether it works: started, not closed, and its thread not ended by a fault."""
        return self._thread is not None and self._thread.is_alive()

    def open(
        self,
        name: str,
        deliver: Deliver,
        *,
        lossless: bool = False,
        on_error: OnError | None = None,
        tally: Tally | None = None,
        voice: Voice | None = None,
    ) -> StreamHandle:
        """Add a stream; `name` only labels its events, so two streams may have the same.

        `lossless` keeps every partial and waits for room instead. An error in scoring or delivering goes to `on_error`
        and is delivered as StreamEnded; the stream is then over and the others continue. Give the `voice` of an earlier
        stream of the same speaker to continue its baseline. The worker's time is shared fairly
        between the streams that wait for it.
        """
        scorer = Scorer(self.recognizer, self.config.smoothing, name, voice or self.config.voice(self.recognizer))
        state = _StreamState(scorer, deliver, on_error, tally or Tally(), lossless)
        with self._changed:
            self._states.add(state)
        return StreamHandle(self, state)

    def _submit(self, state: _StreamState, item: Segment | Event | NewSpeaker) -> None:
        submitted_s = time.monotonic()
        with self._changed:
            if self._closing or state.over:
                return
            job = _Job(state, item, submitted_s)
            if isinstance(item, Segment) and not self._admit(job):
                return
            while self._is_full(state) and not self._closing and not state.over:
                self._changed.wait(_WAKE_S)
            if not state.over:
                self._append(job)

    def _end(self, state: _StreamState) -> None:
        """Drop the stream's waiting jobs, deliver nothing more to it, and wake threads that wait for room.

        Its track is closed, so that another stream can use its place on a device at once.
        """
        with self._changed:
            state.over = True
            self._states.discard(state)
            for job in self._jobs.waiting(state):
                self._forget(job)
            self._jobs.forget(state)
            if state not in self._serving:  # else the thread still uses the scorer, and closes it afterwards
                state.scorer.close()
            self._changed.notify_all()

    def metrics(self) -> dict[str, Any]:
        """Operating figures of the worker and its engine."""
        return {
            **self.recognizer.metrics(),
            "streams": len(self._states),
            "waiting": len(self._jobs),
            "segments_judged": self._segments_scored,
            "calls": self._calls,
            "partials_dropped": self._dropped,
            "errors": self._errors,
            "busy_s": round(self._busy_s, 3),
        }

    def close(self, timeout_s: float = 1.0) -> bool:
        """Finish the waiting jobs, within a time limit, and stop; True when all were finished."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is None or self._thread is threading.current_thread():
            return True
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            return True
        with self._changed:  # too slow: waiting jobs are dropped, and the thread ends after its present call
            logger.warning("closed with %d results not yet computed", len(self._jobs))
            self._jobs.clear()
        return False

    def _admit(self, job: _Job) -> bool:
        """Make room in the stream's queue; False when the segment itself is to be dropped."""
        state, segment = job.state, job.item
        assert isinstance(segment, Segment)
        if segment.speculative:  # computed ahead only when the worker is idle; without it, the final is computed later
            return not (self._jobs if state.lossless else state.partial or state.finals)
        if not segment.final:
            job.pieces = [state.novelty.of(segment)]
        if not state.lossless and state.partial is not None:
            job.pieces = [*state.partial.pieces, *job.pieces] if not segment.final else []
            self._drop(state.partial)
            state.tally.partials_dropped += 1
            self._dropped += 1
        if state.ahead is not None:
            self._drop(state.ahead)
        return True

    def _append(self, job: _Job) -> None:
        state, item = job.state, job.item
        state.waiting += 1
        if isinstance(item, Segment):
            if item.final:
                state.finals += 1
            elif item.speculative:
                state.ahead = job
            else:
                state.partial = job
        self._jobs.append(state, job)
        self._changed.notify_all()

    def _drop(self, job: _Job) -> None:
        self._jobs.remove(job.state, job)
        self._forget(job)

    def _forget(self, job: _Job) -> None:
        """Update the stream's counts after a job was taken from the queue."""
        state = job.state
        state.waiting -= 1
        if state.partial is job:
            state.partial = None
        elif state.ahead is job:
            state.ahead = None
        elif isinstance(job.item, Segment) and job.item.final:
            state.finals -= 1

    def _is_full(self, state: _StreamState) -> bool:
        return (state.waiting if state.lossless else state.finals) >= self.config.waiting_finals

    def _work(self) -> None:
        """The thread: take waiting jobs, score them, deliver the results."""
        while self._work_once():
            pass  # no variable refers to a job while the thread waits: a stream that ended frees its memory at once
        with self._changed:
            for state in self._states:  # streams that were still open when the worker was closed
                state.scorer.close()

    def _work_once(self) -> bool:
        """Serve the next jobs; False when the worker is closed."""
        jobs = self._take()
        if not jobs:
            return False
        started = time.perf_counter()
        for part in self._rounds(jobs):
            self._serve(part)
        took_s = time.perf_counter() - started
        self._busy_s += took_s
        with self._changed:
            for job in jobs:
                self._jobs.charge(job.state, took_s / len(jobs))
            for state in self._serving:
                if state.over:
                    state.scorer.close()
            self._serving.clear()
        return True

    def _take(self) -> list[_Job]:
        """Jobs in order, as many as one call to the recognizer should serve; none when the worker is closed."""
        batch = self.config.batch if computes_on_cuda(self.recognizer) else 1
        with self._changed:
            while not self._jobs:
                if self._closing:
                    return []
                self._changed.wait()
            jobs: list[_Job] = []
            while self._jobs and len(jobs) < batch:
                state, job = self._jobs.pop()
                self._jobs.charge(state, _LEAST_COST_S)  # so that a batch holds jobs of all streams
                self._forget(job)
                jobs.append(job)
            self._serving = {job.state for job in jobs}
            self._changed.notify_all()
            return jobs

    def _rounds(self, jobs: Sequence[_Job]) -> Iterable[list[_Job]]:
        """Split a batch into parts that are scored one after the other, each with at most one segment of a stream.

        Tracks are fed before a part is computed. With two segments of one stream, the scores of the first would include
        the audio of the second.
        """
        if len(jobs) < 2 or self.recognizer.steps is None:
            return [list(jobs)]
        rounds: dict[int, list[_Job]] = {}
        segments: dict[_StreamState, int] = {}
        for job in jobs:
            before = segments.get(job.state, 0)
            rounds.setdefault(before, []).append(job)
            segments[job.state] = before + isinstance(job.item, Segment)
        return rounds.values()

    def _serve(self, jobs: Sequence[_Job]) -> None:
        inputs: dict[int, ScorerInput] = {}
        predictions: dict[int, Prediction | None] = {}
        for index, job in enumerate(jobs):
            if isinstance(job.item, Segment) and not job.state.over:
                try:
                    scorer_input = job.state.scorer.input_of(job.item, job.pieces)
                except BaseException as error:
                    predictions[index] = self._recover(job, error)
                    continue
                if scorer_input is not None:
                    inputs[index] = scorer_input
        predictions |= self._predictions(jobs, inputs)
        for index, job in enumerate(jobs):
            if not job.state.over:
                self._deliver(job, predictions.get(index), skipped=index in predictions and predictions[index] is None)

    def _predictions(self, jobs: Sequence[_Job], inputs: dict[int, ScorerInput]) -> dict[int, Prediction | None]:
        """Predictions by job; if a batch fails, its jobs are computed one by one, to find the one that fails."""
        if not inputs:
            return {}
        try:
            predictions = dict(zip(inputs, compute_predictions(self.recognizer, list(inputs.values())), strict=True))
        except BaseException as error:
            if len(inputs) > 1:
                alone = [self._predictions(jobs, {index: one}) for index, one in inputs.items()]
                return {index: prediction for one in alone for index, prediction in one.items()}
            index = next(iter(inputs))
            return {index: self._recover(jobs[index], error)}
        self._calls += 1
        self._segments_scored += len(predictions)
        return {**predictions}

    def _recover(self, job: _Job, error: BaseException) -> Prediction | None:
        """Let the scorer recover; None if there is no prediction. The stream ends if it cannot."""
        assert isinstance(job.item, Segment)
        if not isinstance(error, AUDIO_ERRORS):
            self._errors += 1
        try:
            return job.state.scorer.recover(job.item, error)
        except BaseException as again:
            self._fail(job.state, again)
            return None

    def _deliver(self, job: _Job, prediction: Prediction | None, *, skipped: bool) -> None:
        if isinstance(job.item, StreamEnded):  # first: the stream is removed before a reader gets the event
            with self._changed:
                self._states.discard(job.state)
        try:
            event = job.item
            if isinstance(event, NewSpeaker):
                job.state.scorer.new_speaker(event.utterance)
                return
            if isinstance(event, Segment):
                job.state.end = event.end
                if skipped:
                    return
                scored = job.state.scorer.event(event, prediction)
                if scored is None:
                    return
                event = scored
            job.state.tally.count(event, (time.monotonic() - job.submitted_s) * 1000)
            job.state.deliver(event)
            if isinstance(event, StreamEnded):
                self._end(job.state)
        except BaseException as error:  # also SystemExit from a callback: it must not end the thread of all streams
            self._fail(job.state, error)

    def _fail(self, state: _StreamState, error: BaseException) -> None:
        """End this stream after an error; the others continue."""
        if state.over:
            return
        self._end(state)
        ended = StreamEnded(stream=state.scorer.stream, end=state.end, error=explain(error))
        try:
            if state.on_error is not None:
                state.on_error(error)
            state.deliver(ended)
        except BaseException:
            logger.exception("stream %s: a callback failed while an error ended the stream", state.scorer.stream)
