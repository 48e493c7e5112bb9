"""A stream that continues over a new connection: audio that is sent again, and events in one timeline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from makers import babble, silence

from streamser.audio import resample
from streamser.client.continuity import Continuity, Lost, NewSpeaker, Piece
from streamser.events import EmotionEvent, Event, SpeechEnded, SpeechStarted
from streamser.recognizer import Recognizer
from streamser.stream.channel import Stream, StreamConfig

RATE = 24_000


def talk() -> bytes:
    """Four utterances as 16-bit PCM at 24 kHz."""
    parts = [part for seed in range(4) for part in (silence(0.7), babble(1.3, seed))]
    audio = resample(np.concatenate([*parts, silence(0.8)]), 16_000, RATE)
    return (np.clip(audio, -1, 0.999) * 32767).astype("<i2").tobytes()


class Line:
    """Replaces one connection to a server by a stream in this process."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.stream = Stream(recognizer, StreamConfig())

    def take(self, piece: Piece) -> Sequence[Event]:
        assert isinstance(piece, bytes)
        return self.stream.push(piece, sample_rate=RATE)


def events_over(recognizer: Recognizer, cuts: Sequence[int], step: int = 4_800) -> list[Event]:
    """The events of the recording if the connection is lost at the messages whose numbers are in `cuts`."""
    data, continuity, line, events = talk(), Continuity(sample_rate=RATE, channels=1), Line(recognizer), []
    for number, first in enumerate(range(0, len(data), step)):
        piece = data[first : first + step]
        continuity.send(piece)
        found = list(line.take(piece))
        if number in cuts:
            found = found[: len(found) // 2]  # the connection is lost before the rest arrives
            events += [event for one in found if (event := continuity.event(one)) is not None]
            line, found = Line(recognizer), []
            for again in continuity.restart():
                found += line.take(again)
        events += [event for one in found if (event := continuity.event(one)) is not None]
    return events + [event for one in line.stream.close() if (event := continuity.event(one)) is not None]


@pytest.fixture(scope="module")
def whole(recognizer: Recognizer) -> list[Event]:
    """The events over one connection."""
    return events_over(recognizer, [])


@pytest.mark.parametrize("cuts", [[12], [20, 21], list(range(2, 80, 9))])
def test_each_utterance_has_one_start_one_final_and_one_end_in_one_timeline(
    recognizer: Recognizer, whole: list[Event], cuts: list[int]
) -> None:
    events = events_over(recognizer, cuts)

    def of(kind: type[Event], all_of: list[Event]) -> list[Event]:
        return [event for event in all_of if isinstance(event, kind)]

    def finals(all_of: list[Event]) -> list[EmotionEvent]:
        return [event for event in all_of if isinstance(event, EmotionEvent) and event.final]

    assert [event.utterance for event in finals(events)] == [event.utterance for event in finals(whole)] == [0, 1, 2, 3]
    for kind in (SpeechStarted, SpeechEnded):
        assert [event.utterance for event in of(kind, events)] == [0, 1, 2, 3]  # type: ignore[union-attr]
    for one, other in zip(finals(events), finals(whole), strict=True):
        assert abs(one.start - other.start) < 4_800 and abs(one.end - other.end) < 4_800
    seqs = [(event.utterance, event.seq) for event in of(EmotionEvent, events)]  # type: ignore[union-attr]
    assert seqs == sorted(set(seqs))
    assert events[-1].to_dict()["end_s"] == pytest.approx(len(talk()) / 2 / RATE, abs=0.01)


def test_finished_utterances_are_not_sent_again_and_the_rest_keeps_its_order() -> None:
    continuity = Continuity(sample_rate=16_000, channels=2)
    continuity.send(bytes(4 * 16_000))
    continuity.send(Lost(8_000))
    continuity.send(NewSpeaker())
    continuity.send(bytes(4 * 1_000))
    continuity.event(SpeechStarted(utterance=0, start=100))
    continuity.event(SpeechEnded(utterance=0, start=100, end=10_000))
    again = continuity.restart()
    assert [len(one) if isinstance(one, bytes) else one for one in again] == [
        4 * 6_000,
        Lost(8_000),
        NewSpeaker(),
        4 * 1_000,
    ]
    started = continuity.event(SpeechStarted(utterance=0, start=500))
    assert isinstance(started, SpeechStarted) and (started.utterance, started.start) == (1, 10_500)


def test_silence_is_not_kept_and_the_kept_audio_is_bounded() -> None:
    continuity = Continuity(sample_rate=16_000, channels=1)
    for second in range(1, 61):
        continuity.send(bytes(32_000))
        continuity.status(float(second), silent=True)
    assert sum(len(piece) for piece in continuity.restart() if isinstance(piece, bytes)) <= 3 * 32_000
    endless = Continuity(sample_rate=16_000, channels=1)
    for _ in range(1_000):
        endless.send(bytes(32_000))
    assert sum(len(piece) for piece in endless.restart() if isinstance(piece, bytes)) <= 16_000_000
