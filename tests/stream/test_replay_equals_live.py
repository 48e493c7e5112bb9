"""The same audio gives the same events, byte by byte, however it is fed: replayed at any speed, live, or in pieces."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from makers import make_bundle, make_features
from stream_parts import ListSource, as_json, finals, in_blocks, partials, two_utterances, with_engine

from streamser.audio import SAMPLE_RATE, resample
from streamser.events import Event
from streamser.recognizer import Recognizer, load
from streamser.stream.pipeline import Listener, Stream, StreamConfig, replay
from streamser.stream.recorder import RecordingSource
from streamser.stream.segmenter import SegmenterConfig
from streamser.stream.sources import PushSource, SourceConfig

GOLDEN = Path(__file__).with_name("golden_events.jsonl")


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    path = tmp_path / "spoken.wav"
    soundfile.write(path, two_utterances(), SAMPLE_RATE, subtype="FLOAT")
    return path


@pytest.fixture
def expected(recognizer: Recognizer) -> list[str]:
    """The events of a `Stream` that gets the whole recording in one push."""
    events = whole(recognizer)
    assert len(finals(events)) == 2 and len(partials(events)) > 6
    assert (
        len({event.confidence for event in finals(events) + partials(events)}) > 6
    )  # equality of constant events would prove little
    return as_json(events)


def whole(recognizer: Recognizer, config: StreamConfig | None = None) -> list[Event]:
    stream = Stream(recognizer, config)
    return [*stream.push(two_utterances()), *stream.close()]


@pytest.mark.parametrize("speed", ["max", 1.0, 20.0])
def test_a_replay_at_any_speed_gives_the_same_events(
    recognizer: Recognizer, spoken: Path, expected: list[str], speed: Any
) -> None:
    with replay(spoken, speed=speed, model=recognizer) as listener:
        assert as_json(listener) == expected


def test_a_replay_of_a_recording_gives_the_same_events_as_the_live_stream(
    recognizer: Recognizer, tmp_path: Path
) -> None:
    """The recording has 16 bits and the microphone has more, which makes a difference for quiet audio."""
    quiet = two_utterances() * np.float32(0.02)
    live = as_json(Listener(RecordingSource(ListSource(in_blocks(quiet)), tmp_path), recognizer, name="one"))
    (recording,) = tmp_path.glob("*.wav")
    again = as_json(replay(recording, model=recognizer, name="one"))
    assert len(live) > 8 and live == again
    assert live != as_json(Listener(ListSource(in_blocks(quiet)), recognizer, name="one")), (
        "the control: without rounding to 16 bits the events differ"
    )


def test_a_second_replay_gives_the_same_events(recognizer: Recognizer, spoken: Path, expected: list[str]) -> None:
    for _ in range(2):
        assert as_json(replay(spoken, model=recognizer)) == expected


@pytest.mark.parametrize("block_ms", [5, 20, 33, 200])
def test_blocks_of_any_length_give_the_same_events(
    recognizer: Recognizer, spoken: Path, expected: list[str], block_ms: float
) -> None:
    config = StreamConfig(source=SourceConfig(block_ms=block_ms, stall_ms=2_000))
    assert as_json(replay(spoken, model=recognizer, config=config)) == expected


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pieces_of_random_size_pushed_into_a_source_give_the_same_events(
    recognizer: Recognizer, expected: list[str], seed: int
) -> None:
    source, audio, rng = PushSource(), two_utterances(), np.random.default_rng(seed)

    def push() -> None:
        place = 0
        while place < len(audio):
            size = int(rng.integers(1, 3_000))
            source.push(audio[place : place + size])
            place += size
        source.close()

    pusher = threading.Thread(target=push)
    with Listener(source, recognizer) as listener:
        pusher.start()
        assert as_json(listener) == expected
    pusher.join(5)


@pytest.mark.parametrize("size", [1, 160, 7_777])
def test_pieces_of_any_size_pushed_into_a_stream_give_the_same_events(
    recognizer: Recognizer, expected: list[str], size: int
) -> None:
    audio = two_utterances() if size > 1 else two_utterances()[:24_000]
    stream = Stream(recognizer)
    events = [event for i in range(0, len(audio), size) for event in stream.push(audio[i : i + size])]
    if size > 1:
        assert as_json([*events, *stream.close()]) == expected
    else:
        whole_stream = Stream(recognizer)
        assert as_json([*events, *stream.close()]) == as_json([*whole_stream.push(audio), *whole_stream.close()])


def test_audio_of_another_sample_rate_gives_the_same_events_in_pieces_and_as_a_whole(recognizer: Recognizer) -> None:
    audio = (resample(two_utterances(), 16_000, 44_100) * 32767).astype("<i2").tobytes()
    once, often = Stream(recognizer), Stream(recognizer)
    crumbs = [event for i in range(0, len(audio), 777) for event in often.push(audio[i : i + 777], 44_100)]
    assert as_json([*crumbs, *often.close()]) == as_json([*once.push(audio, 44_100), *once.close()])


def test_predictions_computed_ahead_do_not_change_the_events(recognizer: Recognizer, expected: list[str]) -> None:
    later = StreamConfig(segmenter=SegmenterConfig(speculate_ms=0))
    assert as_json(whole(recognizer, later)) == expected


def test_a_slow_recognizer_does_not_change_the_events_of_a_replay(
    recognizer: Recognizer, spoken: Path, expected: list[str]
) -> None:
    slow, _ = with_engine(recognizer, lambda: time.sleep(0.02))
    assert as_json(replay(spoken, model=slow)) == expected


def test_audio_with_one_sample_less_gives_other_events(recognizer: Recognizer, expected: list[str]) -> None:
    stream = Stream(recognizer)
    assert as_json([*stream.push(two_utterances()[1:]), *stream.close()]) != expected


@pytest.mark.parametrize("changes", [{"center": True}, {"sample_rate": 22_050}, {"short": "zero", "length_s": 3.0}])
def test_other_front_ends_also_give_the_same_events(tmp_path: Path, spoken: Path, changes: dict[str, Any]) -> None:
    recognizer = load(make_bundle(tmp_path / "other", features=make_features(**changes)).path, "cpu")
    assert as_json(replay(spoken, model=recognizer)) == as_json(whole(recognizer))


def test_events_equal_those_of_the_golden_file(recognizer: Recognizer) -> None:
    """Scores may differ slightly between processors, all else is equal. UPDATE_GOLDEN=1 writes the file again."""
    rows = [json.loads(line) for line in as_json(whole(recognizer))]
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    golden = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]
    for row, good in zip(rows, golden, strict=True):
        for key in ("scores", "confidence"):
            assert row.pop(key, None) == pytest.approx(good.pop(key, None), abs=2e-3)
        assert row == good
