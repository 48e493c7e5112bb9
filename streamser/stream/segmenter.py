"""Cut a stream of audio blocks into utterances: no thread, no clock, the same for every size of block."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from streamser.audio import SAMPLE_RATE, AudioBlock, Samples, Segment, energies
from streamser.errors import AudioError
from streamser.events import SpeechEnded, SpeechStarted
from streamser.features import FeatureConfig
from streamser.settings import require
from streamser.stream.ring import Ring
from streamser.stream.vad import Vad, detector

__all__ = ["Item", "Segmenter", "SegmenterConfig", "State"]

Item = SpeechStarted | Segment | SpeechEnded
"""Output of a segmenter, for each utterance in order: SpeechStarted, Segments (the last one final), SpeechEnded."""

State = Literal["quiet", "starting", "speaking", "stopping"]

_Reason = Literal["silence", "max_length", "stream_end", "gap"]

_REMEMBERED_BLOCKS = 4096  # blocks whose arrival time is kept: 80 s of 20 ms blocks, longer than an utterance
_SLICE_SAMPLES = SAMPLE_RATE  # a block of any length passes through the ring in slices of a second
_RESET_GAP_SAMPLES = 5 * SAMPLE_RATE  # after a gap of this length the microphone and the room may be different ones
_MOST_WAIT = 4096  # 256 ms, the default hop: most audio that waits for the detector while no event can be due
_METER_SAMPLES = SAMPLE_RATE // 12  # 80 ms: the level meter follows syllables


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmenterConfig:
    """What counts as an utterance, and how often partial results are computed."""

    pre_roll_ms: float = 300.0
    """An utterance begins this long before its first speech frame, so that soft onsets are included."""
    min_speech_ms: float = 200.0
    """Shorter speech is not an utterance and gives no events."""
    dip_ms: float = 100.0
    """Silence of this length before min_speech_ms is reached restarts the count of speech."""
    end_silence_ms: float = 400.0
    """Silence of this length ends an utterance; a shorter pause does not split it."""
    resume_ms: float = 40.0
    """Shorter speech inside a pause counts as a click: the silence continues."""
    post_roll_ms: float = 100.0
    """An utterance ends this long after its last speech frame, so that soft endings are included."""
    speculate_ms: float = 100.0
    """Shortest silence after which the final is computed in advance; 0 = never."""
    max_utterance_s: float = 20.0
    """A longer utterance is split at its quietest point before this limit, into linked utterances."""
    cut_search_s: float = 3.0
    """Length of the audio before that limit that is searched for the quietest point."""
    hop_ms: float = 256.0
    """Time between partial results, rounded to the network's frames; 0 = finals only."""
    first_partial_ms: float = 500.0
    """The first partial result needs this much audio after the first speech frame."""
    bridge_gap_ms: float = 200.0
    """Lost audio up to this length counts as silence inside an utterance; a longer gap ends the utterance."""

    def __post_init__(self) -> None:
        ranges = {
            "pre_roll_ms": (0, 5_000),
            "min_speech_ms": (10, 5_000),
            "dip_ms": (10, 5_000),
            "end_silence_ms": (50, 10_000),
            "max_utterance_s": (2, 300),
            "cut_search_s": (0.2, 60),
            "first_partial_ms": (0, 10_000),
            "bridge_gap_ms": (0, 2_000),
        }
        for name, (least, most) in ranges.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name}: must be {least} to {most}, not {getattr(self, name)}")
        rules = {
            f"resume_ms: must be 0 or more and below end_silence_ms, not {self.resume_ms}": (
                0 <= self.resume_ms < self.end_silence_ms
            ),
            f"post_roll_ms: must be 0 or more and below end_silence_ms, not {self.post_roll_ms}": (
                0 <= self.post_roll_ms < self.end_silence_ms
            ),
            f"speculate_ms: must be 0, or from post_roll_ms to below end_silence_ms, not {self.speculate_ms}": (
                self.speculate_ms == 0 or self.post_roll_ms <= self.speculate_ms < self.end_silence_ms
            ),
            f"max_utterance_s: must exceed pre_roll_ms + min_speech_ms + cut_search_s, not {self.max_utterance_s}": (
                self.max_utterance_s > (self.pre_roll_ms + self.min_speech_ms) / 1000 + self.cut_search_s
            ),
            f"hop_ms: must be 0 or 20 to 10000, not {self.hop_ms}": self.hop_ms == 0 or 20 <= self.hop_ms <= 10_000,
        }
        require(rules)


@dataclass(slots=True)
class _Utterance:
    """The open utterance; all positions are sample indexes of the stream."""

    number: int
    onset: int
    first_speech: int
    speech_end: int  # end of its last speech frame
    continues: bool = False
    speech: int = 0  # samples in its speech frames so far, counted until it is announced
    resumed: int = 0  # samples in the run of speech frames that may end a pause
    seq: int = 0
    ticks: int = 0  # partials due so far, delivered or skipped
    ahead: Segment | None = None  # the speculative final of the present pause


@dataclass(frozen=True, slots=True)
class _Grid:
    """Positions of partial windows, counted from an utterance's onset in 16 kHz samples."""

    frame: float  # the frame step of the network's features
    hop: float  # step from one partial window to the next: a multiple of the frame step
    window: int

    @classmethod
    def of(cls, features: FeatureConfig, hop_ms: float) -> _Grid:
        frame = features.hop_samples * SAMPLE_RATE / features.sample_rate
        hop = frame * max(1, round(hop_ms * SAMPLE_RATE / 1000 / frame))
        # Exactly the samples of the network's window; if frames are centred, up to the centre of the last frame.
        steps = features.window_frames - 1
        whole = max(1, steps) * features.hop_samples if features.center else features.samples_in(steps + 1)
        return cls(frame, hop, math.ceil(whole * SAMPLE_RATE / features.sample_rate))

    def span(self, tick: int) -> tuple[int, int]:
        """Start and end of the tick's window: on the grid, and no longer than the network's."""
        received = round(tick * self.hop)
        if received <= self.window:
            return 0, received
        start = round(self.frame * math.floor((received - self.window) / self.frame))
        return start, start + self.window


class Segmenter:
    """Takes blocks; returns events when speech begins and ends, and the audio to classify.

    An utterance is announced when it has `min_speech_ms` of speech. Then follow partial Segments on the grid of the
    network's frames, a speculative Segment of the whole utterance at each silence, and exactly one final. A final after
    a silence has the same samples as the speculative Segment of this silence.
    """

    def __init__(self, config: SegmenterConfig, vad: Vad, features: FeatureConfig, stream: str = "main") -> None:
        self.config = config
        self.stream = stream
        self.state: State = "quiet"
        self._vad = vad
        self._detect = detector(vad)
        self._grid = _Grid.of(features, config.hop_ms)
        self._pre_roll = _samples(config.pre_roll_ms)
        self._min_speech = _samples(config.min_speech_ms)
        self._dip = _samples(config.dip_ms)
        self._end_silence = _samples(config.end_silence_ms)
        self._resume = _samples(config.resume_ms)
        self._post_roll = _samples(config.post_roll_ms)
        self._speculate = _samples(config.speculate_ms)
        # The speculative final may be this late: the rest of the silence suffices to compute it.
        self._ahead_due = (self._speculate + self._end_silence) // 2 if self._speculate else self._end_silence
        self._max = _samples(1000 * config.max_utterance_s)
        self._search = _samples(1000 * config.cut_search_s)
        self._first_partial = _samples(config.first_partial_ms)
        self._bridge = _samples(config.bridge_gap_ms)
        # An utterance may exceed its limit by one pause and the speech after it before it is cut.
        overrun = self._end_silence + self._resume + self._bridge + 2 * vad.frame_samples
        self._ring = Ring(self._max + overrun + _SLICE_SAMPLES)
        frames = (self._search + overrun) // vad.frame_samples + 1
        self._recent: deque[tuple[int, float, bool]] = deque(maxlen=frames)  # of frames: start, energy, is speech
        self._arrivals: deque[tuple[int, float]] = deque(maxlen=_REMEMBERED_BLOCKS)  # block's end, time of its arrival
        self._due = 0  # samples before this index cannot cause an event
        self._detected = 0  # the VAD has processed all samples before this index
        self._barrier = 0  # no pre-roll reaches back past this: another utterance's end, or lost audio
        self._open: _Utterance | None = None
        self._count = 0

    @property
    def position(self) -> int:
        """Index one past the last sample fed."""
        return self._ring.end

    @property
    def next_utterance(self) -> int:
        """Number of the next utterance."""
        return self._count

    @property
    def due(self) -> int:
        """The earliest sample index that can cause an event; audio before it may be collected and fed later."""
        return self._due

    @property
    def level_db(self) -> float:
        """The present level: RMS of the last 80 ms in dB of full scale, at least -120.

        Computed on request, on any thread: the ring is so long that these samples are not overwritten meanwhile.
        """
        end = self.position
        newest = self._ring.read(max(self._ring.start, end - _METER_SAMPLES), end)
        power = float(np.dot(newest, newest)) / max(1, len(newest))
        return 10.0 * math.log10(power) if 1e-12 < power < math.inf else -120.0

    def feed(self, block: AudioBlock) -> list[Item]:
        """The events and segments of this block, which must begin where the last one ended."""
        if block.start != self.position:
            raise ValueError(f"block: starts at {block.start}, not at {self.position}; report lost audio with gap()")
        if block.arrived_s is not None:
            self.note_arrival(block.end, block.arrived_s)
        items: list[Item] = []
        for first in range(0, len(block.samples), _SLICE_SAMPLES):
            self._ring.write(block.samples[first : first + _SLICE_SAMPLES], block.start + first)
            if self.position >= self._due:
                items += self._detect_speech()
        return items

    def note_arrival(self, end: int, arrived_s: float) -> None:
        """The samples before index `end` have arrived; for audio that is held back and fed later."""
        self._arrivals.append((end, arrived_s))

    def gap(self, start: int, length: int) -> list[Item]:
        """Audio was lost here. A gap of up to `bridge_gap_ms` counts as silence; a longer one ends the open utterance.

        In both cases the next block starts after the gap.
        """
        if start != self.position or length <= 0:
            raise ValueError(
                f"gap: must start at {self.position} and be longer than 0, not start {start}, length {length}"
            )
        items = self._detect_speech()
        bridged = length <= self._bridge
        if self._open is not None and self.state == "stopping":  # the pause continues through the gap
            bridged = bridged and start + length - self._open.speech_end < self._end_silence
        items += [] if bridged else self._close("gap")
        self._ring.write(np.zeros(0, np.float32), start + length)
        self._detected = self._due = start + length  # frames start again after the gap
        if self._open is None:
            self._barrier = self._detected
        if length >= _RESET_GAP_SAMPLES:
            self._vad.reset()
        return items

    def flush(self) -> list[Item]:
        """End the stream: close the open utterance."""
        return [*self._detect_speech(), *self._close("stream_end")]

    def _detect_speech(self) -> list[Item]:
        """Process all waiting whole frames together: with a `BatchVad`, several cost little more time than one."""
        size = self._vad.frame_samples
        count = (self.position - self._detected) // size
        if not count:
            return []
        frames = self._ring.read(self._detected, self._detected + count * size).reshape(count, size)
        with np.errstate(all="ignore"):  # non-finite samples are an error below
            powers = energies(frames)
        if not math.isfinite(sum(powers)):
            broken = next((place for place, power in enumerate(powers) if not math.isfinite(power)), 0)
            start_s = (self._detected + broken * size) / SAMPLE_RATE
            raise AudioError(f"audio at {start_s:.2f} s: NaN or infinite samples; the source is broken")
        items: list[Item] = []
        for power, speech in zip(powers, self._detect(frames), strict=True):
            items += self._take(power, speech)
        self._due = self._next_due()
        return items

    def _take(self, power: float, speech: bool) -> list[Item]:
        """Process the next frame: first the state, then the segments that are due."""
        start = self._detected
        end = self._detected = start + self._vad.frame_samples
        self._recent.append((start, power, speech))
        if self._open is None and not speech:
            return []
        if self.state == "speaking" and speech and self._open is not None:  # most frames of an utterance
            self._open.speech_end = end
            items = []
        else:
            items = self._advance(start, end, speech)
        if self._open is not None and self.state in ("speaking", "stopping"):
            if end - self._open.onset >= (self._open.ticks + 1) * self._grid.hop:
                items += self._partial(self._open, end)
            if self.state == "stopping":
                items += self._ahead(self._open, end)
            elif end - self._open.onset >= self._max:
                items += self._cut(self._open, end)
        return items

    def _next_due(self) -> int:
        """The earliest sample that can cause an event, whatever the audio before it; at most `_MOST_WAIT` ahead."""
        utterance = self._open
        soon = self._detected + _MOST_WAIT
        if utterance is None:
            return min(soon, self._detected + self._min_speech)
        if self.state == "starting":
            return min(soon, self._detected + self._min_speech - utterance.speech)
        end = utterance.speech_end + (self._ahead_due if utterance.ahead is None else self._end_silence)
        # Near the end of a silence, process half of the rest each time: little is then left to do before the final.
        if utterance.ahead is not None and end - self._detected > 3 * self._vad.frame_samples:
            end = (end + self._detected) // 2
        tick = utterance.onset + (utterance.ticks + 1) * self._grid.hop if self.config.hop_ms else math.inf
        return int(min(soon, end, tick, utterance.onset + self._max))

    def _advance(self, start: int, end: int, speech: bool) -> list[Item]:
        """Move between the four states."""
        if self._open is None:
            onset = max(self._barrier, start - self._pre_roll)
            self._open = _Utterance(self._count, onset, first_speech=start, speech_end=end)
            self.state = "starting"
        utterance = self._open
        if self.state == "starting":
            return self._start(utterance, end, speech)
        self.state = "stopping"
        if speech:
            utterance.resumed += end - start
            if utterance.resumed >= self._resume:
                self.state = "speaking"
                utterance.speech_end, utterance.resumed, utterance.ahead = end, 0, None
            return []
        utterance.resumed = 0
        return self._close("silence") if end - utterance.speech_end >= self._end_silence else []

    def _start(self, utterance: _Utterance, end: int, speech: bool) -> list[Item]:
        """Count speech until it is enough for an utterance."""
        dipped = not speech and end - utterance.speech_end >= self._dip
        if dipped or end - utterance.onset >= self._max:  # too little speech: discard the beginning
            self._open, self.state = None, "quiet"
        if self._open is None or not speech:
            return []
        utterance.speech += self._vad.frame_samples
        utterance.speech_end = end
        if utterance.speech < self._min_speech:
            return []
        return [self._announce(utterance)]

    def _announce(self, utterance: _Utterance) -> SpeechStarted:
        self._open, self.state = utterance, "speaking"
        self._count = utterance.number + 1
        return SpeechStarted(
            stream=self.stream, utterance=utterance.number, start=utterance.onset, continues=utterance.continues
        )

    def _partial(self, utterance: _Utterance, end: int) -> list[Item]:
        """The newest window that is due, unless it would have more silence than the final."""
        ticks = int((end - utterance.onset) / self._grid.hop)
        if not self.config.hop_ms or ticks <= utterance.ticks:
            return []
        utterance.ticks = ticks
        start, stop = (utterance.onset + place for place in self._grid.span(ticks))
        if stop - utterance.first_speech < self._first_partial or stop > utterance.speech_end + self._post_roll:
            return []
        segment = self._segment(utterance, start, stop)
        utterance.seq += 1
        return [segment]

    def _ahead(self, utterance: _Utterance, end: int) -> list[Item]:
        """The speculative final, which equals the final if the silence continues."""
        silence = end - utterance.speech_end
        if not self._speculate or utterance.ahead is not None or silence < self._speculate:
            return []
        whole = self._segment(utterance, utterance.onset, self._final_end(utterance))
        utterance.ahead = replace(whole, speculative=True)
        return [utterance.ahead]

    def _close(self, reason: _Reason) -> list[Item]:
        """End the open utterance, if any: with its final, or without an event if it was not announced."""
        utterance, announced = self._open, self.state in ("speaking", "stopping")
        self._open, self.state = None, "quiet"
        if utterance is None or not announced:
            return []
        ahead = utterance.ahead
        whole = ahead or self._segment(utterance, utterance.onset, self._final_end(utterance))
        return self._end(utterance, whole, reason)

    def _cut(self, utterance: _Utterance, end: int) -> list[Item]:
        """End an utterance that is too long, and start a linked one at the cut."""
        place = self._quietest(utterance.onset + self._max)
        items = self._end(utterance, self._segment(utterance, utterance.onset, place), "max_length")
        following = _Utterance(utterance.number + 1, place, place, utterance.speech_end, continues=True)
        following.ticks = int((end - place) / self._grid.hop)
        return [*items, self._announce(following)]

    def _end(self, utterance: _Utterance, whole: Segment, reason: _Reason) -> list[Item]:
        self._barrier = whole.end
        ended = SpeechEnded(
            stream=self.stream, utterance=utterance.number, start=whole.start, end=whole.end, reason=reason
        )
        return [replace(whole, final=True, speculative=False), ended]

    def _final_end(self, utterance: _Utterance) -> int:
        return min(utterance.speech_end + self._post_roll, utterance.onset + self._max, self.position)

    def _quietest(self, limit: int) -> int:
        """Sample index in the middle of the quietest 100 ms near the limit that have enough speech after them."""
        starts = np.array([start for start, _, _ in self._recent])
        power = np.array([power for _, power, _ in self._recent])
        speech = np.array([speech for _, _, speech in self._recent])
        frame = self._vad.frame_samples
        width = 2 * (SAMPLE_RATE // 20 // frame) + 1
        around = np.ones(width)
        smooth = np.convolve(power, around, "same") / np.convolve(np.ones(len(power)), around, "same")
        after = np.cumsum(speech[::-1])[::-1] * frame
        near = (starts >= limit - self._search) & (starts + frame <= limit)
        fit = near & (after >= self._min_speech)
        candidates = np.flatnonzero(fit if fit.any() else near)
        if not len(candidates):  # all frames near the limit were lost in a gap
            return limit
        return int(starts[candidates[np.argmin(smooth[candidates])]]) + frame // 2

    def _segment(self, utterance: _Utterance, start: int, end: int) -> Segment:
        samples: Samples = self._ring.read(start, end)
        return Segment(
            utterance.number, start, samples, False, utterance.seq, utterance.onset, utterance.continues,
            arrived_s=self._arrival(end),
        )  # fmt: skip

    def _arrival(self, end: int) -> float | None:
        """When the sample before index `end` came in; None if that is not known."""
        arrived_s = None
        for block_end, block_arrived_s in reversed(self._arrivals):
            if block_end < end:
                break
            arrived_s = block_arrived_s
        return arrived_s


def _samples(ms: float) -> int:
    return round(ms * SAMPLE_RATE / 1000)
