"""Pushed audio may be held back until an event can be due; nothing that a program sees depends on it."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
from makers import babble, silence, tone
from stream_parts import finals, two_utterances

from streamser.audio import AudioBlock, Samples, Segment, to_pcm16
from streamser.events import Event
from streamser.recognizer import Recognizer
from streamser.stream.pcm import Pcm, PcmConverter
from streamser.stream.pipeline import InferenceWorker, Stream, WorkerStream

LOST_AT = {40: 1_000, 130: 8_000}
"""Samples that are lost before these pushes: a gap inside an utterance, and one that ends an utterance."""


class CountingConverter(PcmConverter):
    calls = 0

    def feed(self, pcm: Pcm) -> Samples:
        self.calls += 1
        return super().feed(pcm)


def pieces(audio: Samples, length: int = 320) -> list[bytes]:
    pcm = to_pcm16(audio)
    return [pcm[at : at + length].tobytes() for at in range(0, len(pcm), length)]


def by_push(stream: Stream, pushed: list[Pcm]) -> list[tuple[int, int, Event]]:
    """Each event with the number of the push that returned it, and the position after this push."""
    given: list[tuple[int, int, Event]] = []
    for number, pcm in enumerate(pushed):
        events = stream.lose(LOST_AT[number]) if number in LOST_AT else []
        events += stream.push(pcm)
        given += [(number, stream.position, event) for event in events]
    return given + [(len(pushed), stream.position, event) for event in stream.close()]


@pytest.mark.parametrize("kinds", [(0, 1), (0, 0, 1), (0, 2), (0, 1, 2)])
def test_bytes_that_are_held_give_each_event_at_the_same_push_as_arrays_that_are_not(
    recognizer: Recognizer, kinds: tuple[int, ...]
) -> None:
    data = pieces(np.concatenate([two_utterances(), babble(0.94)]))  # ends in speech, and its last pieces are held
    arrays: list[Pcm] = [np.frombuffer(piece, "<i2") for piece in data]
    halves: list[Pcm] = [piece[: len(piece) // 2 + 1] for piece in data]  # an odd number of bytes
    mixed = [(data, arrays, halves)[kinds[number % len(kinds)]][number] for number in range(len(data))]
    expected = by_push(Stream(recognizer), arrays)
    assert len(finals(event for _, _, event in expected)) >= 2
    assert by_push(Stream(recognizer), list(data)) == expected
    plain: list[Pcm] = [pcm if isinstance(pcm, np.ndarray) else bytearray(pcm) for pcm in mixed]  # never held
    assert by_push(Stream(recognizer), mixed) == by_push(Stream(recognizer), plain)


def test_bytes_are_converted_together_until_an_event_can_be_due(recognizer: Recognizer) -> None:
    stream = Stream(recognizer)
    stream._converter = converter = CountingConverter()
    data = pieces(np.concatenate([silence(2.0), two_utterances()]))
    for number, piece in enumerate(data):
        stream.push(piece)
        assert stream.position == 320 * (number + 1)
    assert converter.calls < len(data) / 4


def test_a_segment_has_the_time_at_which_its_own_last_sample_was_pushed(recognizer: Recognizer) -> None:
    stream = Stream(recognizer)
    times, segments = [time.monotonic()], []
    for piece in pieces(two_utterances()):
        segments += [item for item in stream._segment(piece, 16_000, 1) if isinstance(item, Segment)]
        times.append(time.monotonic())
    spans = list(pairwise(times))
    assert len(segments) > 10
    for segment in segments:
        began, ended = spans[(segment.end - 1) // 320]
        assert segment.arrived_s is not None and began <= segment.arrived_s <= ended


def test_a_block_follows_the_bytes_that_are_held(recognizer: Recognizer) -> None:
    events: list[Event] = []
    with InferenceWorker(recognizer) as worker:
        stream = WorkerStream(worker, events.append)
        for piece in pieces(silence(0.1)):
            stream.push(piece)
        stream.feed(AudioBlock(silence(0.5), stream.position))
        stream.close()
    assert [event.to_dict()["end_s"] for event in events] == [0.6]


def test_the_level_is_at_most_100_ms_old_while_it_is_read(recognizer: Recognizer) -> None:
    stream = Stream(recognizer)
    stream.push(pieces(silence(1.0), 16_000)[0])
    assert stream.status().level_db == -120
    for piece in pieces(tone(duration_s=0.18, level=0.5)):
        stream.push(piece)
        levels = stream.status()
    assert levels.level_db == pytest.approx(-9, abs=0.5) and levels.position_s == 1.18
