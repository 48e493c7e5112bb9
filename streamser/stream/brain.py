"""The one inference worker: segments of many streams in, their events out, each stream in its own order.

The mailbox between a stream and the brain is bounded. A partial result that nobody has served yet gives way to a
newer one of its stream, or to the final; a final is never dropped. When `waiting_finals` of them wait, `submit`
waits too, so that a live source loses sound and says so in a Gap, and a replay just takes longer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from streamser.audio import Segment
from streamser.bundle import Bundle
from streamser.errors import StreamserError
from streamser.events import Event, StreamEnded
from streamser.recognizer import Prediction, Recognizer
from streamser.settling import Settling
from streamser.stream.judge import Judge, Novelty, Piece, Question, ask, computes_on_cuda
from streamser.stream.status import Tally

__all__ = ["Brain", "Deliver", "OnError", "PipelineConfig"]

logger = logging.getLogger(__name__)

Deliver = Callable[[Event], None]
"""Takes one stream's events, in order, on the brain's thread: it must be quick."""

OnError = Callable[[BaseException], None]
"""Hears, on the brain's thread, why a stream can go on no longer."""

_WAKE_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig:
    """Between segments and events."""

    smoothing: float = 0.4
    """Weight of what was said before in each partial result, 0 (none) to below 1; finals are never smoothed."""
    settle: bool = False
    """Whether each stream learns from its own answers how its voice and room move them; see docs/your-voice.md."""
    waiting_finals: int = 32
    """Finals of one stream that may wait for the recognizer; then its source waits."""
    batch: int = 64
    """Segments of all streams that are judged in one call on a GPU; a CPU takes them one by one."""
    waiting_events: int = 1024
    """Events that may wait for the program that reads them; a live stream then drops partial results."""

    def settling(self, bundle: Bundle) -> Settling | None:
        """A voice that nobody knows yet, where streams settle in; ConfigError for a checkpoint that cannot."""
        return Settling(bundle) if self.settle else None

    def __post_init__(self) -> None:
        rules = {
            "smoothing: is 0 or more and below 1": 0 <= self.smoothing < 1,
            "waiting_finals: is at least 1": self.waiting_finals >= 1,
            "batch: is at least 1": self.batch >= 1,
            "waiting_events: is at least 16": self.waiting_events >= 16,
        }
        for rule, held in rules.items():
            if not held:
                raise ValueError(rule)


@dataclass(slots=True)
class _Seat:
    """What the brain keeps of one stream."""

    judge: Judge
    deliver: Deliver
    on_error: OnError | None
    tally: Tally
    novelty: Novelty = field(default_factory=Novelty)
    partial: _Job | None = None  # the one that waits
    ahead: _Job | None = None  # the speculative one that waits
    finals: int = 0  # that wait
    waiting: int = 0  # jobs of any kind
    end: int = 0  # sample index up to which the stream was judged
    failed: bool = False


@dataclass(slots=True, eq=False)
class _Job:
    """One thing to say for a stream: a ready event, or a segment to be judged."""

    seat: _Seat
    item: Segment | Event
    heard_s: float
    submitted_s: float
    pieces: list[Piece] = field(default_factory=list)


class Brain:
    """Judges the segments of any number of streams on one thread.

    Everything a stream has to say goes through `submit`, in order: segments become emotion events, events pass as
    they are, and `deliver` hears them all in that order. StreamEnded is the last; the stream's name is then free.
    """

    def __init__(self, recognizer: Recognizer, config: PipelineConfig | None = None) -> None:
        self.recognizer = recognizer
        self.config = config or PipelineConfig()
        self.config.settling(recognizer.bundle)  # a checkpoint that cannot is refused before the first sound
        self._seats: dict[str, _Seat] = {}
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._calls = 0
        self._judged = 0
        self._dropped = 0
        self._busy_s = 0.0

    def start(self) -> Brain:
        """Begin to work; a second call does nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="streamser-brain", daemon=True)
            self._thread.start()
        return self

    def __enter__(self) -> Brain:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(
        self,
        item: Segment | Event,
        *,
        stream: str = "main",
        deliver: Deliver,
        lossless: bool = False,
        heard_s: float | None = None,
        on_error: OnError | None = None,
        tally: Tally | None = None,
    ) -> None:
        """Add what `stream` has to say next; `deliver`, `on_error` and `tally` are taken from its first call.

        `lossless` keeps every partial and waits for room instead. `heard_s` is when the last sound of the item came
        in, on time.monotonic. An error in judging or delivering is told to `on_error`, or delivered as StreamEnded;
        the stream is then over and other streams go on.
        """
        now = time.monotonic()
        with self._changed:
            if self._closing:
                return
            seat = self._seats.get(stream)
            if seat is None:
                settling = self.config.settling(self.recognizer.bundle)
                judge = Judge(self.recognizer, self.config.smoothing, stream, settling)
                seat = self._seats[stream] = _Seat(judge, deliver, on_error, tally or Tally())
            job = _Job(seat, item, now if heard_s is None else heard_s, now)
            if isinstance(item, Segment) and not self._admit(job, lossless):
                return
            while self._is_full(seat, lossless) and not self._closing and not seat.failed:
                self._changed.wait(_WAKE_S)
            self._append(job)

    def waiting(self, stream: str) -> int:
        """How many things of that stream wait; a host on an event loop looks here before it takes more sound in."""
        seat = self._seats.get(stream)
        return seat.waiting if seat else 0

    def metrics(self) -> dict[str, Any]:
        """What an operator wants to see of the worker and its engine."""
        return {
            **self.recognizer.metrics(),
            "streams": len(self._seats),
            "waiting": len(self._jobs),
            "segments_judged": self._judged,
            "calls": self._calls,
            "partials_dropped": self._dropped,
            "busy_s": round(self._busy_s, 3),
        }

    def close(self, timeout_s: float = 1.0) -> bool:
        """Finish what waits, at most for so long, and stop; True when all was finished."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is None or self._thread is threading.current_thread():
            return True
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            return True
        with self._changed:  # too slow: what still waits is given up, and the thread ends after its present call
            logger.warning("closed with %d results not yet computed", len(self._jobs))
            self._jobs.clear()
        return False

    def _admit(self, job: _Job, lossless: bool) -> bool:
        """Make room by the rules of the mailbox; False when the segment itself is not worth a place."""
        seat, segment = job.seat, job.item
        assert isinstance(segment, Segment)
        if segment.speculative:  # a favour for an idle brain: the same answer later costs nothing but time
            return not (self._jobs if lossless else seat.partial or seat.finals)
        if not segment.final:
            job.pieces = [seat.novelty.of(segment)]
        if not lossless and seat.partial is not None:
            job.pieces = [*seat.partial.pieces, *job.pieces] if not segment.final else []
            self._drop(seat.partial)
            seat.tally.partials_dropped += 1
            self._dropped += 1
        if seat.ahead is not None:
            self._drop(seat.ahead)
        return True

    def _append(self, job: _Job) -> None:
        seat, item = job.seat, job.item
        seat.waiting += 1
        if isinstance(item, Segment):
            if item.final:
                seat.finals += 1
            elif item.speculative:
                seat.ahead = job
            else:
                seat.partial = job
        self._jobs.append(job)
        self._changed.notify_all()

    def _drop(self, job: _Job) -> None:
        self._jobs.remove(job)
        self._forget(job)

    def _forget(self, job: _Job) -> None:
        """The job waits no longer."""
        seat = job.seat
        seat.waiting -= 1
        if seat.partial is job:
            seat.partial = None
        elif seat.ahead is job:
            seat.ahead = None
        elif isinstance(job.item, Segment) and job.item.final:
            seat.finals -= 1

    def _is_full(self, seat: _Seat, lossless: bool) -> bool:
        return (seat.waiting if lossless else seat.finals) >= self.config.waiting_finals

    def _work(self) -> None:
        """The thread: take what waits, judge it, deliver it."""
        while jobs := self._take():
            started = time.perf_counter()
            self._serve(jobs)
            self._busy_s += time.perf_counter() - started

    def _take(self) -> list[_Job]:
        """Jobs in order, as many as one call to the recognizer should serve; none when the brain is closed."""
        batch = self.config.batch if computes_on_cuda(self.recognizer) else 1
        with self._changed:
            while not self._jobs:
                if self._closing:
                    return []
                self._changed.wait()
            jobs = [self._jobs.popleft() for _ in range(min(batch, len(self._jobs)))]
            for job in jobs:
                self._forget(job)
            self._changed.notify_all()
            return jobs

    def _serve(self, jobs: Sequence[_Job]) -> None:
        questions: dict[int, Question] = {}
        for index, job in enumerate(jobs):
            if isinstance(job.item, Segment) and not job.seat.failed:
                try:
                    question = job.seat.judge.question(job.item, job.pieces)
                except Exception as error:
                    self._fail(job.seat, error)
                    continue
                if question is not None:
                    questions[index] = question
        answers = self._answers(jobs, questions)
        for index, job in enumerate(jobs):
            if isinstance(job.item, StreamEnded):  # first: who hears it may give the name to a new stream at once
                with self._changed:
                    self._seats = {name: seat for name, seat in self._seats.items() if seat is not job.seat}
            if not job.seat.failed:
                self._say(job, answers.get(index))

    def _answers(self, jobs: Sequence[_Job], questions: dict[int, Question]) -> dict[int, Prediction]:
        """Predictions by job; when a batch fails its jobs are asked one by one, to find the one that is to blame."""
        if not questions:
            return {}
        try:
            answers = dict(zip(questions, ask(self.recognizer, list(questions.values())), strict=True))
        except Exception as error:
            if len(questions) > 1:
                alone = [self._answers(jobs, {index: question}) for index, question in questions.items()]
                return {index: answer for one in alone for index, answer in one.items()}
            self._fail(jobs[next(iter(questions))].seat, error)
            return {}
        self._calls += 1
        self._judged += len(answers)
        return answers

    def _say(self, job: _Job, answer: Prediction | None) -> None:
        try:
            event = job.item
            if isinstance(event, Segment):
                job.seat.end = event.end
                said = job.seat.judge.event(event, answer, job.heard_s)
                if said is None:
                    return
                event = said
            job.seat.tally.count(event, (time.monotonic() - job.submitted_s) * 1000)
            job.seat.deliver(event)
        except Exception as error:
            self._fail(job.seat, error)

    def _fail(self, seat: _Seat, error: Exception) -> None:
        """This stream is over; the others go on."""
        if seat.failed:
            return
        seat.failed = True
        with self._changed:
            self._changed.notify_all()
        if seat.on_error is not None:
            seat.on_error(error)
        ended = StreamEnded(stream=seat.judge.stream, end=seat.end, error=explain(error))
        try:
            seat.deliver(ended)
        except Exception:
            logger.exception("stream %s: its reader failed twice", seat.judge.stream)


def explain(error: BaseException) -> str:
    """An error in one line, for StreamEnded."""
    return str(error) if isinstance(error, StreamserError) else f"{type(error).__name__}: {error}"
