"""Utterances are cut at pauses, completely and once, whatever the size of the blocks."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from makers import babble

from streamser.audio import SAMPLE_RATE, AudioBlock, Samples, Segment
from streamser.errors import AudioError
from streamser.events import SpeechEnded, SpeechStarted
from streamser.features import FeatureConfig
from streamser.stream.segmenter import Item, Segmenter, SegmenterConfig
from streamser.stream.vad import Vad, VadConfig, make_vad

MS = SAMPLE_RATE // 1000
FEATURES = FeatureConfig()  # a window of 3 s on a grid of 256 samples


class LoudVad:
    """Detects speech by level alone, so that tests decide exactly where speech is."""

    frame_samples = 20 * MS
    resets = 0

    def speech(self, frame: Samples) -> bool:
        return bool(np.max(np.abs(frame)) > 0.1)

    def reset(self) -> None:
        self.resets += 1


def audio(*parts: tuple[float, float], seed: int = 0) -> Samples:
    """Noise from (level, milliseconds) pairs; for LoudVad, noise above 0.1 is speech."""
    rng = np.random.default_rng(seed)
    pieces = [level * np.sign(rng.standard_normal(round(ms * MS))) for level, ms in parts]
    return np.concatenate(pieces).astype(np.float32)


def make_segmenter(vad: Vad | None = None, features: FeatureConfig = FEATURES, **config: Any) -> Segmenter:
    return Segmenter(SegmenterConfig(**config), vad or LoudVad(), features)


def segmented(samples: Samples, **config: Any) -> list[Item]:
    """All items of a whole stream."""
    segmenter = make_segmenter(**config)
    return segmenter.feed(AudioBlock(samples, 0)) + segmenter.flush()


def segments(items: Sequence[Item], kind: str) -> list[Segment]:
    found = [item for item in items if isinstance(item, Segment)]
    kinds = {"final": lambda s: s.final, "ahead": lambda s: s.speculative}
    return [s for s in found if kinds.get(kind, lambda s: not s.final and not s.speculative)(s)]


def ended(items: Sequence[Item]) -> list[SpeechEnded]:
    return [item for item in items if isinstance(item, SpeechEnded)]


def started(items: Sequence[Item]) -> list[SpeechStarted]:
    return [item for item in items if isinstance(item, SpeechStarted)]


def described(items: Sequence[Item]) -> list[Any]:
    """Items as values that can be compared, samples included."""
    return [
        (i.utterance, i.start, i.samples.tobytes(), i.final, i.seq, i.onset, i.continues, i.speculative)
        if isinstance(i, Segment)
        else i
        for i in items
    ]


def test_an_utterance_begins_with_pre_roll_and_ends_with_post_roll() -> None:
    stream = audio((0.01, 1000), (0.5, 800), (0.01, 1000))
    items = segmented(stream)
    (final,) = segments(items, "final")
    assert (final.start, final.end) == (700 * MS, 1900 * MS)  # 300 ms pre-roll, 100 ms post-roll
    assert np.array_equal(final.samples, stream[final.start : final.end])
    assert started(items) == [SpeechStarted(utterance=0, start=700 * MS)]
    assert ended(items) == [SpeechEnded(utterance=0, start=700 * MS, end=1900 * MS, reason="silence")]
    assert (items[0], items[-1]) == (started(items)[0], ended(items)[0])
    assert items[-2] is final


def test_pre_roll_reaches_neither_before_the_stream_nor_into_the_utterance_before() -> None:
    items = segmented(audio((0.01, 100), (0.5, 500), (0.01, 420), (0.5, 500), (0.01, 600)), pre_roll_ms=1000)
    first, second = segments(items, "final")
    assert (first.start, second.start) == (0, first.end)


def test_a_pause_shorter_than_end_silence_ms_does_not_split_the_utterance() -> None:
    assert len(ended(segmented(audio((0.5, 500), (0.01, 380), (0.5, 500), (0.01, 600))))) == 1
    assert len(ended(segmented(audio((0.5, 500), (0.01, 400), (0.5, 500), (0.01, 600))))) == 2


def test_speech_shorter_than_min_speech_ms_gives_no_item() -> None:
    assert segmented(audio((0.01, 500), (0.5, 180), (0.01, 1000))) == []
    assert len(started(segmented(audio((0.01, 500), (0.5, 200), (0.01, 1000))))) == 1


def test_too_little_speech_at_the_end_of_the_stream_gives_no_item() -> None:
    assert segmented(audio((0.01, 500), (0.5, 180))) == []


def test_short_dips_do_not_reset_the_count_of_speech_but_silence_does() -> None:
    assert len(started(segmented(audio((0.5, 120), (0.01, 80), (0.5, 120), (0.01, 500))))) == 1
    assert not started(segmented(audio((0.5, 120), (0.01, 120), (0.5, 120), (0.01, 500))))


def test_sparse_speech_that_never_adds_up_is_dropped_and_does_not_exceed_the_ring() -> None:
    thin = audio(*[(0.5, 20), (0.01, 980)] * 30)
    assert segmented(thin, min_speech_ms=1000, dip_ms=2000, max_utterance_s=5) == []


def test_a_click_in_a_pause_does_not_prolong_the_utterance() -> None:
    items = segmented(audio((0.5, 500), (0.01, 200), (0.5, 20), (0.01, 800)))
    assert [end.end for end in ended(items)] == [600 * MS]
    longer = segmented(audio((0.5, 500), (0.01, 200), (0.5, 40), (0.01, 800)))
    assert [end.end for end in ended(longer)] == [840 * MS]


def test_the_four_states_follow_each_other() -> None:
    stream = audio((0.01, 100), (0.5, 500), (0.01, 200), (0.5, 100), (0.01, 500))
    segmenter, states = make_segmenter(), []
    for start in range(0, len(stream), 320):
        segmenter._due = 0  # process every frame as soon as it arrives
        segmenter.feed(AudioBlock(stream[start : start + 320], start))
        if not states or states[-1] != segmenter.state:
            states.append(segmenter.state)
    assert states == ["quiet", "starting", "speaking", "stopping", "speaking", "stopping", "quiet"]


def test_partials_come_every_hop_and_lie_on_the_grid_of_feature_frames() -> None:
    stream = audio((0.01, 500), (0.5, 6000), (0.01, 600))
    parts = segments(segmented(stream), "partial")
    (onset,) = {part.onset for part in parts}
    assert onset == 200 * MS
    for number, part in enumerate(parts):
        assert part.seq == number
        assert (part.start - onset) % FEATURES.hop_samples == 0
        assert np.array_equal(part.samples, stream[part.start : part.end])
    assert {later.end - part.end for part, later in pairwise(parts)} == {4096}  # one hop of 256 ms
    full = [part for part in parts if part.start > onset]
    assert {FEATURES.frames_in(len(part.samples)) for part in full} == {FEATURES.window_frames}
    assert len(full) >= 10


@pytest.mark.parametrize("changes", [{"center": True}, {"sample_rate": 22_050}, {"hop_samples": 160, "length_s": 1.0}])
def test_partials_of_other_front_ends_have_a_whole_window(changes: dict[str, Any]) -> None:
    features = FeatureConfig(**changes)
    stream = audio((0.5, 5000), (0.01, 600))
    segmenter = make_segmenter(features=features)
    items = segmenter.feed(AudioBlock(stream, 0)) + segmenter.flush()
    full = [part for part in segments(items, "partial") if part.start > 0]
    at_rate = {len(part.samples) * features.sample_rate // SAMPLE_RATE for part in full}
    assert {features.frames_in(samples) for samples in at_rate} == {features.window_frames}


def test_no_partial_comes_before_first_partial_ms_or_in_a_pause() -> None:
    stream = audio((0.01, 500), (0.5, 1500), (0.01, 380), (0.5, 800), (0.01, 600))
    parts = segments(segmented(stream, first_partial_ms=1000), "partial")
    assert parts[0].end >= 1500 * MS
    assert not [part for part in parts if 2100 * MS < part.end < 2380 * MS]
    assert [part for part in parts if part.end > 2380 * MS]


def test_with_hop_0_there_are_no_partials() -> None:
    assert not segments(segmented(audio((0.5, 3000), (0.01, 600)), hop_ms=0), "partial")


def test_the_speculative_segment_in_the_silence_has_the_samples_of_the_final() -> None:
    stream = audio((0.01, 500), (0.5, 1500), (0.01, 1000))
    segmenter, ahead_at, final_at = make_segmenter(), 0, 0
    for start in range(0, len(stream), 160):
        for item in segmenter.feed(AudioBlock(stream[start : start + 160], start)):
            if isinstance(item, Segment) and item.speculative:
                ahead, ahead_at = item, segmenter.position
            if isinstance(item, Segment) and item.final:
                final, final_at = item, segmenter.position
    assert (ahead_at, final_at) == (2250 * MS, 2400 * MS)  # halfway between 100 and 400 ms after the last speech
    assert final.samples is ahead.samples
    assert (final.start, final.seq, final.utterance) == (ahead.start, ahead.seq, ahead.utterance)
    assert not ahead.final
    assert not final.speculative


def test_each_pause_gives_a_new_speculative_segment_and_the_last_one_equals_the_final() -> None:
    items = segmented(audio((0.5, 500), (0.01, 300), (0.5, 500), (0.01, 300), (0.5, 500), (0.01, 700)))
    aheads, (final,) = segments(items, "ahead"), segments(items, "final")
    assert [ahead.end for ahead in aheads] == [600 * MS, 1400 * MS, 2200 * MS]
    assert final.samples is aheads[-1].samples


def test_without_speculation_all_other_items_are_the_same() -> None:
    stream = audio((0.5, 2500), (0.01, 300), (0.5, 500), (0.01, 700))
    ahead = [item for item in segmented(stream) if not (isinstance(item, Segment) and item.speculative)]
    assert described(ahead) == described(segmented(stream, speculate_ms=0))


def test_the_end_of_the_stream_closes_the_utterance_once() -> None:
    segmenter = make_segmenter()
    segmenter.feed(AudioBlock(audio((0.01, 500), (0.5, 1010)), 0))
    final, end = segmenter.flush()
    assert isinstance(final, Segment)
    assert isinstance(end, SpeechEnded)
    assert (final.end, end.reason) == (1510 * MS, "stream_end")  # the final includes the last half frame
    assert segmenter.flush() == []
    assert segmenter.state == "quiet"


def test_a_monologue_is_cut_at_its_quietest_places_and_no_sample_is_lost() -> None:
    stream = audio((0.01, 300), *[(0.5, 1400), (0.2, 100), (0.5, 700)] * 14, (0.01, 700))  # 31 s without a pause
    items = segmented(stream, max_utterance_s=8)
    finals = segments(items, "final")
    assert [final.continues for final in finals] == [False, *[True] * (len(finals) - 1)]
    assert [final.utterance for final in finals] == list(range(len(finals)))
    assert np.array_equal(np.concatenate([final.samples for final in finals]), stream[0 : finals[-1].end])
    assert max(final.duration_s for final in finals) <= 8
    for cut in [final.end for final in finals[:-1]]:
        assert np.max(np.abs(stream[cut - 20 * MS : cut + 20 * MS])) == pytest.approx(0.2)
    assert [end.reason for end in ended(items)] == ["max_length"] * (len(finals) - 1) + ["silence"]
    assert [start.continues for start in started(items)] == [final.continues for final in finals]
    assert [start.start for start in started(items)] == [final.start for final in finals]


def test_silence_at_the_maximum_length_ends_the_utterance_without_a_silent_piece() -> None:
    items = segmented(audio((0.5, 7900), (0.01, 1000)), max_utterance_s=8)
    assert [(end.end, end.reason) for end in ended(items)] == [(8000 * MS, "silence")]


def test_every_piece_of_a_monologue_has_at_least_min_speech_ms_of_speech() -> None:
    stream = audio((0.5, 7700), (0.01, 340), (0.5, 120), (0.01, 1000))
    first, second = segments(segmented(stream, max_utterance_s=8), "final")
    assert first.end == second.start < 7600 * MS
    assert second.end == 8260 * MS


def test_a_short_gap_becomes_silence_within_the_utterance() -> None:
    segmenter, stream = make_segmenter(), audio((0.5, 1000))
    items = segmenter.feed(AudioBlock(stream, 0)) + segmenter.gap(1000 * MS, 150 * MS)
    items += segmenter.feed(AudioBlock(stream, 1150 * MS)) + segmenter.flush()
    (final,) = segments(items, "final")
    assert np.array_equal(final.samples, np.concatenate([stream, np.zeros(150 * MS, np.float32), stream]))


def test_a_long_gap_ends_the_utterance_and_does_not_shift_the_time() -> None:
    segmenter, stream = make_segmenter(), audio((0.5, 1000))
    items = segmenter.feed(AudioBlock(stream, 0)) + segmenter.gap(1000 * MS, 300 * MS)
    assert (ended(items)[0].end, ended(items)[0].reason, segmenter.state) == (1000 * MS, "gap", "quiet")
    assert segmenter.position == 1300 * MS
    items = segmenter.feed(AudioBlock(stream, 1300 * MS)) + segmenter.flush()
    (final,) = segments(items, "final")
    assert (final.start, final.utterance) == (1300 * MS, 1)  # the pre-roll does not reach into the gap
    assert np.array_equal(final.samples, stream)


def test_a_gap_in_a_pause_counts_as_part_of_the_pause() -> None:
    segmenter = make_segmenter()
    segmenter.feed(AudioBlock(audio((0.5, 1000), (0.01, 260)), 0))
    assert segmenter.state == "stopping"
    assert [end.end for end in ended(segmenter.gap(1260 * MS, 150 * MS))] == [1100 * MS]


def test_a_partial_frame_before_a_gap_is_kept_and_frames_restart_after_the_gap() -> None:
    segmenter, stream = make_segmenter(), audio((0.5, 1007))
    segmenter.feed(AudioBlock(stream, 0))
    segmenter.gap(1007 * MS, 100 * MS)
    segmenter.feed(AudioBlock(stream, 1107 * MS))
    (final,) = segments(segmenter.flush(), "final")
    assert np.array_equal(final.samples, np.concatenate([stream, np.zeros(100 * MS, np.float32), stream]))


def test_only_a_long_gap_resets_the_detector() -> None:
    vad = LoudVad()
    segmenter = make_segmenter(vad)
    segmenter.gap(0, 4 * SAMPLE_RATE)
    assert vad.resets == 0
    segmenter.gap(4 * SAMPLE_RATE, 3600 * SAMPLE_RATE)
    assert (vad.resets, segmenter.position) == (1, 3604 * SAMPLE_RATE)


@pytest.mark.parametrize("seed", range(20))
def test_with_gaps_anywhere_each_utterance_has_one_start_one_final_and_one_end(seed: int) -> None:
    """Starts, finals and ends are in order, and each segment has the samples of the stream."""
    rng = np.random.default_rng(seed)
    config = {"max_utterance_s": 3, "cut_search_s": 0.2, "bridge_gap_ms": 500, "end_silence_ms": 300}
    segmenter, truth, items = make_segmenter(**config), np.zeros(0, np.float32), []
    for _ in range(150):
        if rng.random() < 0.4:
            length = int(rng.integers(1, 12_000))
            items += segmenter.gap(len(truth), length)
            truth = np.concatenate([truth, np.zeros(length, np.float32)])
        else:
            block = audio((float(rng.choice([0.01, 0.5])), float(rng.integers(5, 900))), seed=int(rng.integers(99)))
            items += segmenter.feed(AudioBlock(block, len(truth)))
            truth = np.concatenate([truth, block])
    items += segmenter.flush()
    finals = segments(items, "final")
    assert len(finals) > 5
    assert [f.utterance for f in finals] == [e.utterance for e in ended(items)] == list(range(len(finals)))
    assert [s.utterance for s in started(items)] == list(range(len(finals)))
    assert all(later.start >= final.end for final, later in pairwise(finals))
    for segment in (item for item in items if isinstance(item, Segment)):
        assert np.array_equal(segment.samples, truth[segment.start : segment.end])
        assert segment.duration_s <= 3


def test_a_block_or_gap_that_does_not_start_at_the_end_is_refused() -> None:
    segmenter = make_segmenter()
    segmenter.feed(AudioBlock(audio((0.01, 100)), 0))
    with pytest.raises(ValueError, match=r"block: starts at 3200, not at 1600; report lost audio with gap\(\)"):
        segmenter.feed(AudioBlock(audio((0.01, 100)), 3200))
    with pytest.raises(ValueError, match="gap: must start at 1600"):
        segmenter.gap(0, 100)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_or_infinite_samples_are_an_error_in_the_segmenter(bad: float) -> None:
    stream = audio((0.01, 1000))
    stream[9000] = bad
    with pytest.raises(AudioError, match=r"audio at 0\.56 s: NaN or infinite"):
        segmented(stream)


def test_an_error_of_the_detector_is_raised() -> None:
    class Broken(LoudVad):
        def speech(self, frame: Samples) -> bool:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        make_segmenter(Broken()).feed(AudioBlock(audio((0.01, 100)), 0))


def test_the_level_is_in_decibels_of_full_scale() -> None:
    segmenter = make_segmenter()
    assert segmenter.level_db == -120
    segmenter.feed(AudioBlock(audio((0.1, 500)), 0))
    assert segmenter.level_db == pytest.approx(-20, abs=0.1)
    segmenter.feed(AudioBlock(audio((0.001, 2000)), 500 * MS))
    assert segmenter.level_db == pytest.approx(-60, abs=0.1)


def scene(seed: int) -> Samples:
    """Twelve seconds of voices, clicks, pauses and room noise."""
    rng = np.random.default_rng(seed)
    parts: list[Samples] = []
    for _ in range(8):
        parts.append(np.zeros(int(rng.integers(100, 14_000)), np.float32))
        parts.append(babble(float(rng.uniform(0.03, 2.2)), seed=int(rng.integers(1000))))
    whole = np.concatenate(parts)
    return (whole + 0.003 * rng.standard_normal(len(whole))).astype(np.float32)


@pytest.mark.parametrize("seed", range(6))
def test_blocks_of_any_size_give_the_same_items_as_the_whole(seed: int) -> None:
    rng, stream = np.random.default_rng(seed), scene(seed)
    config = SegmenterConfig(max_utterance_s=4, cut_search_s=1)
    whole = Segmenter(config, make_vad(VadConfig()), FEATURES)
    expected = described(whole.feed(AudioBlock(stream, 0)) + whole.flush())
    segmenter, items, at = Segmenter(config, make_vad(VadConfig()), FEATURES), [], 0
    while at < len(stream):
        size = int(rng.choice([1, 7, 160, 320, 500, 4096]))
        items += segmenter.feed(AudioBlock(stream[at : at + size], at))
        at += len(stream[at : at + size])
    assert len(expected) > 10
    assert described(items + segmenter.flush()) == expected


def test_a_stream_with_one_sample_less_gives_other_items() -> None:
    """The control: `described` detects differences."""
    stream = scene(0)
    assert described(segmented(stream)) != described(segmented(stream[1:]))


def test_each_sentence_in_a_noisy_room_is_one_utterance() -> None:
    rng = np.random.default_rng(0)
    quiet = np.zeros(SAMPLE_RATE, np.float32)
    voice = [babble(1.5, seed=n, level=0.1) for n in range(5)]
    stream = np.concatenate([part for one in voice for part in (quiet, one)] + [quiet])
    noisy = (stream + 0.02 * rng.standard_normal(len(stream))).astype(np.float32)  # about 7 dB below the voice
    segmenter = Segmenter(SegmenterConfig(), make_vad(VadConfig()), FEATURES)
    finals = segments(segmenter.feed(AudioBlock(noisy, 0)) + segmenter.flush(), "final")
    assert len(finals) == 5
    for number, final in enumerate(finals):
        begins, ends = (SAMPLE_RATE * (2.5 * number + 1), SAMPLE_RATE * (2.5 * number + 2.5))
        assert begins - 400 * MS <= final.start <= begins
        assert ends - 150 * MS <= final.end <= ends + 300 * MS


def test_the_memory_of_a_long_stream_does_not_grow_and_its_cpu_time_is_small() -> None:
    minute = audio(*[(0.5, 2500), (0.01, 500)] * 20)
    segmenter = make_segmenter()

    def feed(minutes: int) -> int:
        given = [segmenter.feed(AudioBlock(minute, segmenter.position)) for _ in range(minutes)]
        return sum(len(segments(items, "final")) for items in given)

    finals = feed(1)
    tracemalloc.start()
    finals += feed(1)
    before, _ = tracemalloc.get_traced_memory()
    finals += feed(2)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 50_000
    began_s = time.process_time()
    finals += feed(11)
    assert time.process_time() - began_s < 10  # usually about half a second
    assert (finals, segmenter.position) == (15 * 20, 900 * SAMPLE_RATE)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pre_roll_ms": -1}, "pre_roll_ms: must be 0 to 5000, not -1"),
        ({"min_speech_ms": 0}, "min_speech_ms: must be 10 to 5000, not 0"),
        ({"end_silence_ms": float("nan")}, "end_silence_ms: must be 50 to 10000, not nan"),
        ({"post_roll_ms": 400}, "post_roll_ms: must be 0 or more and below end_silence_ms, not 400"),
        ({"resume_ms": 500}, "resume_ms: must be 0 or more and below end_silence_ms, not 500"),
        ({"speculate_ms": 50}, "speculate_ms: must be 0, or from post_roll_ms to below end_silence_ms, not 50"),
        ({"max_utterance_s": 3}, "max_utterance_s: must exceed"),
        ({"hop_ms": 5}, "hop_ms: must be 0 or 20 to 10000, not 5"),
        ({"bridge_gap_ms": 3000}, "bridge_gap_ms: must be 0 to 2000, not 3000"),
    ],
)
def test_invalid_segmenter_settings_are_refused_with_the_field_the_rule_and_the_value(
    values: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SegmenterConfig(**values)


@pytest.mark.parametrize("block", [320, 77, 1600])
def test_frames_are_processed_in_batches_without_delaying_events(block: int) -> None:
    """The VAD is called less than ten times per second; each event is still returned for the block that decides it.

    Speculative segments are no events: they come later than with single frames, but at least 100 ms before the final.
    """

    class CountingVad(LoudVad):
        calls = newest = 0

        def speech_all(self, frames: Samples) -> list[bool]:
            CountingVad.calls += 1
            CountingVad.newest = len(frames)
            return [self.speech(frame) for frame in frames]

    stream = audio((0.3, 700), (0.01, 900), (0.3, 2400), (0.01, 250), (0.3, 100), (0.01, 900))
    plain, counting = make_segmenter(), make_segmenter(CountingVad())
    expected: list[tuple[int, Any]] = []
    given: list[tuple[int, Any]] = []
    for first in range(0, len(stream), block):
        piece = AudioBlock(stream[first : first + block], first)
        plain._due = 0  # process every frame as soon as it arrives
        expected += [(first, event) for event in described(plain.feed(piece))]
        given += [(first, event) for event in described(counting.feed(piece))]
        if given[-1:] and isinstance(given[-1][1], SpeechEnded) and given[-1][0] == first:
            assert CountingVad.newest <= 4 + block // 320  # a final does not wait for many frames
    assert [item for _, item in given] == [item for _, item in expected] and len(given) > 10

    def ahead(item: Any) -> bool:
        return isinstance(item, tuple) and bool(item[-1])

    assert [pair for pair in given if not ahead(pair[1])] == [pair for pair in expected if not ahead(pair[1])]
    ends = [first for first, item in given if isinstance(item, SpeechEnded) and item.reason == "silence"]
    for first, item in given:
        if ahead(item):
            assert min(end for end in ends if end >= first) - first >= 100 * MS
    assert CountingVad.calls < 10 * len(stream) / SAMPLE_RATE  # there are 50 frames per second
