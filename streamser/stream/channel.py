"""One stream of pushed audio: events computed in the caller's thread (`Stream`) or by a shared worker."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from streamser.audio import SAMPLE_RATE, AudioBlock, Samples, Segment
from streamser.events import EmotionEvent, Event, Gap, SourceChanged, StreamEnded
from streamser.recognizer import Recognizer
from streamser.stream.pcm import Pcm, PcmConverter
from streamser.stream.scorer import Novelty, Scorer, Voice, compute_predictions
from streamser.stream.segmenter import Item, Segmenter, SegmenterConfig, State
from streamser.stream.sources import SourceConfig
from streamser.stream.status import SourceState, StreamStatus, Tally, percentile
from streamser.stream.vad import VadChoice, VadConfig, make_vad
from streamser.stream.worker import Deliver, InferenceWorker, OnError, PipelineConfig

__all__ = ["Delivery", "Stream", "StreamConfig", "WorkerStream"]

_METER_SAMPLES = SAMPLE_RATE // 10
"""Largest age of the level, in samples, while a program reads it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    """All settings between audio and events."""

    source: SourceConfig = field(default_factory=SourceConfig)
    vad: VadChoice = field(default_factory=VadConfig)
    """How speech is detected: settings, a class or function that makes a `Vad`, or a `Vad` of your own."""
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)


@dataclass(frozen=True, slots=True)
class Delivery:
    """Which events of a WorkerStream are delivered, and to whom."""

    deliver: Deliver
    """Takes the events, in order, on the worker's thread: it must be quick."""
    on_error: OnError | None = None
    """Takes, on the worker's thread, the error that ended the stream."""
    lossless: bool = False
    """Keep every partial result and wait for room, instead of replacing a waiting partial with a newer one."""
    partials: bool = True
    """False delivers no partial results, and computes none if that saves work.

    A step graph computes only new frames, so its partial results cost nothing beyond the final.
    """


class _Channel:
    """The common base of Stream and WorkerStream: one stream of audio and its segmenter."""

    def __init__(self, recognizer: Recognizer, config: StreamConfig | None, name: str) -> None:
        self.recognizer = recognizer
        self.config = config or StreamConfig()
        self.name = name
        self.tally = Tally()
        self._segmenter = Segmenter(self.config.segmenter, make_vad(self.config.vad), recognizer.features, name)
        self._converter = PcmConverter()
        self._held: list[bytes] = []  # pushed audio that can cause no event yet: it is converted later, all together
        self._held_samples = 0
        self._ended = False
        self._watched = -SAMPLE_RATE  # position at which the status was last read

    @property
    def vad_state(self) -> State:
        """Whether somebody speaks, as in `status`."""
        return self._segmenter.state

    @property
    def position(self) -> int:
        """Index one past the last sample received or lost."""
        return self._segmenter.position + self._held_samples

    def status(
        self,
        *,
        device: str = "pushed audio",
        source_state: SourceState | None = None,
        overflows: int = 0,
        events_dropped: int = 0,
        paused: bool = False,
        recording: str | None = None,
    ) -> StreamStatus:
        """The stream's present status; the arguments are the fields that only the host knows."""
        # Another thread may be feeding held audio at this moment: its samples are then in neither of the two counts.
        self._watched = position = max(self._watched, self.position)
        state: SourceState = "ended" if self._ended else "open" if position else "waiting"
        tally, engine = self.tally, self.recognizer.engine
        return StreamStatus(
            stream=self.name,
            position_s=round(position / SAMPLE_RATE, 2),
            level_db=round(self._segmenter.level_db, 1),
            vad_state=self.vad_state,
            source_state=source_state or state,
            device=device,
            model=self.recognizer.bundle.name,
            engine=f"{engine.name} on {engine.compute}",
            finals=tally.finals,
            partials=tally.partials,
            partials_dropped=tally.partials_dropped,
            events_dropped=events_dropped,
            latency_p50_ms=percentile(tally.latencies_ms, 0.5),
            latency_p95_ms=percentile(tally.latencies_ms, 0.95),
            final_latency_p50_ms=percentile(tally.final_latencies_ms, 0.5),
            gaps=tally.gaps,
            lost_ms=tally.lost_ms,
            overflows=overflows,
            paused=paused,
            recording=recording,
        )

    def _segment(self, pcm: Pcm, sample_rate: int, channels: int) -> list[Item | Event]:
        if self._ended:
            raise ValueError("push: the stream is closed")
        items: list[Item | Event] = []
        if (sample_rate, channels) != (self._converter.sample_rate, self._converter.channels):
            converter = PcmConverter(sample_rate, channels)  # first, so that a refused rate changes nothing
            items += self._flush()
            self._converter = converter
        if self._converter.can_wait(pcm):
            if self._hold(pcm, time.monotonic()):
                return items
            pcm = b"".join([*self._take_held(), pcm])
        else:
            items += self._feed_held()
        return [*items, *self._feed(self._converter.feed(pcm))]

    def _hold(self, pcm: bytes, arrived_s: float) -> bool:
        """Keep whole 16 kHz mono samples for later; False if an event or a new level can be due at their end."""
        held = self._held_samples + len(pcm) // 2
        end = self._segmenter.position + held
        if end >= self._segmenter.due or (held > _METER_SAMPLES and self._is_watched):
            return False
        self._held.append(pcm)
        self._held_samples = held
        self._segmenter.note_arrival(end, arrived_s)
        return True

    def _take_held(self) -> list[bytes]:
        held, self._held, self._held_samples = self._held, [], 0
        return held

    def _feed_held(self) -> list[Item]:
        """Feed the held audio now: a gap, the end, or audio of another form follows it."""
        held = self._take_held()
        return self._segmenter.feed(self._block(self._converter.feed(b"".join(held)), None)) if held else []

    def _flush(self) -> list[Item]:
        """Feed all audio that is held or incomplete."""
        return [*self._feed_held(), *self._feed(self._converter.flush())]

    def _feed(self, samples: Samples) -> list[Item]:
        return self._segmenter.feed(self._block(samples, time.monotonic()))

    def _block(self, samples: Samples, arrived_s: float | None) -> AudioBlock:
        return AudioBlock(samples, self._segmenter.position, arrived_s)

    @property
    def _is_watched(self) -> bool:
        """Whether a program has read the status in the last second of audio."""
        return self.position - self._watched < SAMPLE_RATE

    def _note(self, event: Gap | SourceChanged) -> list[Item | Event]:
        """The items that a gap causes, such as an utterance's end, then the event; a SourceChanged causes none."""
        items: list[Item] = []
        if isinstance(event, Gap):
            items = [*self._feed_held(), *self._segmenter.gap(event.start, event.length)]
        return [*items, replace(event, stream=self.name)]

    def _end(self, error: str | None) -> list[Item | Event]:
        if self._ended:
            return []
        self._ended = True
        items = [*self._flush(), *self._segmenter.flush()]
        return [*items, StreamEnded(stream=self.name, end=self.position, error=error)]


class Stream(_Channel):
    """Push audio, get events: no thread, no queue, no clock, for hosts that bring their own loop.

    >>> stream = Stream(recognizer)  # recognizer = streamser.load()
    >>> events = [event for pcm in spoken_pcm for event in stream.push(pcm, sample_rate=48_000)]
    >>> [event.type for event in events + stream.close() if event.type != "emotion"]
    ['speech_started', 'speech_ended', 'stream_ended']
    """

    def __init__(
        self,
        recognizer: Recognizer,
        config: StreamConfig | None = None,
        name: str = "main",
        voice: Voice | None = None,
    ) -> None:
        """`voice` continues from an earlier stream of the same speaker."""
        super().__init__(recognizer, config, name)
        pipeline = self.config.pipeline
        self._scorer = Scorer(recognizer, pipeline.smoothing, name, voice or pipeline.voice(recognizer))
        self._novelty = Novelty()
        self._items: deque[Item | Event] = deque()  # items and events that an error left over, for the next call
        self._events: list[Event] = []

    def push(self, pcm: Pcm, sample_rate: int = 16_000, channels: int = 1) -> list[Event]:
        """Add audio and return its events: bytes are 16-bit little-endian PCM, arrays are integers or floats.

        An error of the engine is raised if a final cannot be computed. The next call then continues with the events
        before and after that final.
        """
        return self._events_of(self._segment(pcm, sample_rate, channels))

    def lose(self, samples: int, reason: Literal["client", "overflow"] = "client") -> list[Event]:
        """Report that this many 16 kHz samples were lost; the stream's time advances by them."""
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 0:
            raise ValueError(f"samples: a whole number, 0 or more, not {samples!r}")
        if self._ended:
            raise ValueError("lose: the stream is closed")
        if not samples:
            return []
        return self._events_of(self._note(Gap(start=self.position, length=samples, reason=reason)))

    def new_speaker(self) -> None:
        """Another person speaks from here on: the stream's own baseline is reset, the profile stays.

        An open utterance still belongs to the earlier speaker.
        """
        self._scorer.new_speaker(self._segmenter.next_utterance)

    def close(self) -> list[Event]:
        """End the stream, and an open utterance with it; returns the last events."""
        try:
            return self._events_of(self._end(None))
        finally:
            self._scorer.close()

    def _events_of(self, items: Sequence[Item | Event]) -> list[Event]:
        self._items.extend(items)
        while self._items:
            item = self._items.popleft()
            began = time.monotonic()
            event = self._event_of(item) if isinstance(item, Segment) else item
            if event is not None:
                self.tally.count(event, (time.monotonic() - began) * 1000)
                self._events.append(event)
        events, self._events = self._events, []
        return events

    def _event_of(self, segment: Segment) -> EmotionEvent | None:
        partial = not (segment.final or segment.speculative)
        try:
            scorer_input = self._scorer.input_of(segment, [self._novelty.of(segment)] if partial else [])
            prediction = None if scorer_input is None else compute_predictions(self.recognizer, [scorer_input])[0]
        except Exception as error:
            prediction = self._scorer.recover(segment, error)
            if prediction is None:
                return None
        return self._scorer.event(segment, prediction)


class WorkerStream(_Channel):
    """A stream whose segments go to a shared InferenceWorker, which delivers its events on the worker's thread."""

    def __init__(
        self,
        worker: InferenceWorker,
        delivery: Deliver | Delivery,
        config: StreamConfig | None = None,
        name: str = "main",
        voice: Voice | None = None,
    ) -> None:
        """`voice` continues from an earlier stream of the same speaker."""
        super().__init__(worker.recognizer, config, name)
        how = delivery if isinstance(delivery, Delivery) else Delivery(delivery)
        self._finals_only = not how.partials and worker.recognizer.steps is None
        self._handle = worker.open(
            name, how.deliver, lossless=how.lossless, on_error=how.on_error, tally=self.tally, voice=voice
        )

    def due_s(self) -> float:
        """Seconds of audio that the source may hold back, because they cause no event and the level is not read."""
        waiting = self._segmenter.due - self.position
        if self._is_watched:
            waiting = min(waiting, _METER_SAMPLES)
        return max(0.0, waiting / SAMPLE_RATE)

    @property
    def waiting(self) -> int:
        """Number of items that wait for the worker; a host should feed no audio while there are too many."""
        return self._handle.waiting

    def push(self, pcm: Pcm, sample_rate: int = 16_000, channels: int = 1) -> None:
        """Add audio: bytes are 16-bit little-endian PCM, arrays are integers or floats."""
        self._submit(self._segment(pcm, sample_rate, channels))

    def hold(self, pcm: bytes, arrived_s: float) -> bool:
        """Keep whole 16-bit samples (16 kHz, mono) for the next call of another method, which feeds them first.

        It takes microseconds, so that an event loop may call it. False, and nothing is kept, if an event or a new level
        can be due at their end.
        """
        return not self._ended and self._hold(pcm, arrived_s)

    def feed(self, block: AudioBlock) -> None:
        """Add a block that begins at `position`; without a time of arrival it arrives now."""
        if block.arrived_s is None:
            block = replace(block, arrived_s=time.monotonic())
        self._submit([*self._feed_held(), *self._segmenter.feed(block)])

    def note(self, event: Gap | SourceChanged) -> None:
        """Process a Gap or a change of the source; another microphone counts as another speaker."""
        self._submit(self._note(event))
        if isinstance(event, SourceChanged) and event.another:
            self.new_speaker()

    def new_speaker(self) -> None:
        """Another person speaks from here on: the stream's own baseline is reset, the profile stays.

        An open utterance still belongs to the earlier speaker.
        """
        self._handle.new_speaker(self._segmenter.next_utterance)

    def close(self, error: str | None = None) -> None:
        """End the stream: the open utterance gets its final, then StreamEnded is delivered."""
        self._submit(self._end(error))

    def give_up(self) -> None:
        """End the stream without its last results: nothing more is delivered, not even StreamEnded."""
        self._ended = True
        self._handle.close()

    def _submit(self, items: Sequence[Item | Event]) -> None:
        for item in items:
            if self._finals_only and isinstance(item, Segment) and not (item.final or item.speculative):
                continue
            self._handle.submit(item)
