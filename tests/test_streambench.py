"""Composed streams have correct labels and times, and the streaming benchmark counts their events correctly."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from makers import LABELS, babble, make_bundle, silence

from streamser.audio import SAMPLE_RATE
from streamser.cli import main
from streamser.corpora.clips import Clip
from streamser.errors import CorpusError
from streamser.evaluation.compose import Composed, Span, compose_all, music, speech_extent
from streamser.evaluation.degrade import level_db, speech_level_db
from streamser.events import EmotionEvent
from streamser.recognizer import Recognizer
from streamser.streambench import (
    StreamPlan,
    TimedPrediction,
    _score,
    _Sheet,
    measure_streams,
    score_stream,
    stream_markdown,
)

PLAN = StreamPlan(minutes=1.0, stream_minutes=0.5, pause_s=(0.8, 1.5), filler_probability=0.4, filler_s=(1.0, 2.0))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Clips of three speakers and all labels, each with a voice of 1.2 s between silences."""
    folder = tmp_path_factory.mktemp("voices")
    made = []
    for i in range(24):
        path = folder / f"{i}.wav"
        audio = np.concatenate([silence(0.3), babble(1.2, seed=i, level=0.02 * (1 + i % 5)), silence(0.4)])
        soundfile.write(path, audio, SAMPLE_RATE)
        made.append(Clip(path, "voices", f"voices/{i % 3}", LABELS[i % 4], name=str(i)))
    return made


def test_the_same_seed_composes_the_same_streams_and_another_does_not(clips: list[Clip]) -> None:
    first, again = (list(compose_all(clips, PLAN)) for _ in range(2))
    other = list(compose_all(clips, StreamPlan(minutes=1.0, stream_minutes=0.5, seed=1)))
    assert len(first) >= 2
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.samples, b.samples) and a.spans == b.spans
    assert not np.array_equal(first[0].samples[:1000], other[0].samples[:1000])


def test_spans_cover_the_stream_without_gaps_and_contain_the_speech(clips: list[Clip]) -> None:
    for stream in compose_all(clips, PLAN):
        assert stream.spans[0].start == 0 and stream.spans[-1].end == len(stream.samples)
        assert all(a.end == b.start for a, b in zip(stream.spans, stream.spans[1:], strict=False))
        assert np.abs(stream.samples).max() <= 1.0
        quiet_db = max(level_db(stream.samples[s.start : s.end]) for s in stream.spans if s.kind == "quiet")
        for span in stream.spoken:
            assert 1.1 < (span.end - span.start) / SAMPLE_RATE < 1.3  # the silences of the clip are cut off
            assert level_db(stream.samples[span.start : span.end]) > quiet_db


def test_no_clip_is_used_twice_and_the_labels_alternate(clips: list[Clip]) -> None:
    used = [span.clip for stream in compose_all(clips, StreamPlan(minutes=60)) for span in stream.spoken]
    assert len(used) == len(set(used)) == len(clips)
    first = [span.clip.label for span in next(iter(compose_all(clips, PLAN))).spoken if span.clip]
    assert len(set(first)) >= 3


def test_speech_is_set_to_levels_within_the_plan(clips: list[Clip]) -> None:
    for stream in compose_all(clips, PLAN):
        for span in stream.spoken:
            level = speech_level_db(stream.samples[span.start : span.end])
            assert -38 < level < -14


def test_speech_extent_leaves_out_the_silence_around_the_speech() -> None:
    start, end = speech_extent(np.concatenate([silence(0.3), babble(1.0), silence(0.5)]))
    assert start == pytest.approx(0.3 * SAMPLE_RATE, abs=400)
    assert end == pytest.approx(1.3 * SAMPLE_RATE, abs=400)
    assert speech_extent(silence(0.001)) == (0, 16)


def test_music_has_a_fixed_level_and_is_reproducible() -> None:
    tune = music(3 * SAMPLE_RATE, np.random.default_rng(3))
    assert level_db(tune) == pytest.approx(-20, abs=0.5)
    assert np.array_equal(tune, music(3 * SAMPLE_RATE, np.random.default_rng(3)))


# ---- scoring of events that the tests make

S = SAMPLE_RATE
STREAM = Composed(
    np.zeros(20 * S, np.float32),
    (
        Span(0, 2 * S, "quiet"),
        Span(2 * S, 4 * S, "speech", Clip(Path("a"), "c", "c/1", "angry")),
        Span(4 * S, 8 * S, "music"),
        Span(8 * S, 10 * S, "quiet"),
        Span(10 * S, 13 * S, "speech", Clip(Path("b"), "c", "c/2", "sad")),
        Span(13 * S, 20 * S, "quiet"),
    ),
)


def timed_prediction(
    utterance: int, start_s: float, end_s: float, label: str, at_s: float, **changes: object
) -> TimedPrediction:
    values: dict[str, object] = {"final": True, "uncertain": False, "confidence": 0.7, **changes}
    event = EmotionEvent(
        utterance=utterance,
        seq=0,
        start=round(start_s * S),
        end=round(end_s * S),
        label=label,
        scores={one: 0.7 if one == label else 0.1 for one in LABELS},
        **values,  # type: ignore[arg-type]
    )
    return TimedPrediction(event, round(at_s * S))


def sheet_of(*events: TimedPrediction) -> _Sheet:
    sheet = _Sheet([], [], Counter())
    _score(STREAM, events, sheet)
    return sheet


def test_a_clip_is_found_if_an_utterance_covers_at_least_half_of_it() -> None:
    received = sheet_of(
        timed_prediction(0, 2.0, 3.2, "angry", 3.5), timed_prediction(1, 10.0, 11.0, "sad", 11.4)
    ).results
    assert [one.found for one in received] == [True, False]
    assert received[0].predictions[-1].event.label == "angry"


def test_an_utterance_in_music_or_silence_is_a_false_event_of_this_kind() -> None:
    sheet = sheet_of(timed_prediction(0, 4.5, 7.0, "happy", 7.4), timed_prediction(1, 14.0, 15.0, "sad", 15.4))
    assert [kind for kind, _ in sheet.false] == ["music", "quiet"]
    assert not any(one.found for one in sheet.results)


def test_an_utterance_over_speech_with_a_quiet_pre_roll_is_no_false_event() -> None:
    assert sheet_of(timed_prediction(0, 1.7, 4.1, "angry", 4.4)).false == []


def test_two_clips_in_one_utterance_count_as_merged_and_two_utterances_in_one_clip_as_pieces() -> None:
    sheet = sheet_of(timed_prediction(0, 2.0, 13.0, "angry", 13.4))
    assert sheet.merged == 1
    sheet = sheet_of(timed_prediction(0, 10.0, 11.8, "sad", 12.0), timed_prediction(1, 12.0, 13.0, "happy", 13.4))
    assert sheet.results[1].pieces == 2
    assert sheet.results[1].predictions[-1].event.label == "sad"  # the piece that covers more of the clip


def test_each_change_of_the_shown_result_is_a_flip_including_uncertain() -> None:
    events = [
        timed_prediction(0, 2, 2.5, "angry", 2.5, final=False),
        timed_prediction(0, 2, 3.0, "angry", 3.0, final=False, uncertain=True),
        timed_prediction(0, 2, 3.5, "sad", 3.5, final=False, uncertain=True),
        timed_prediction(0, 2, 4.0, "sad", 4.4),
    ]
    assert sheet_of(*events).flips == 2


# ---- the whole benchmark, with the real pipeline


def test_most_utterances_are_found_and_the_figures_are_consistent(recognizer: Recognizer, clips: list[Clip]) -> None:
    reported: list[tuple[str, int, int]] = []
    result = measure_streams(recognizer, clips, PLAN, progress=lambda *what: reported.append(what))
    assert result.found > 0.8
    assert result.finals.clips == round(result.found * result.utterances)
    assert 0.0 < result.delay_p50_s < 1.0
    assert -0.5 < result.onset_p50_s < 0.2
    assert [row.kind for row in result.false] == ["quiet", "noise", "music", "all"]
    assert sum(row.minutes for row in result.false[:-1]) == pytest.approx(result.false[-1].minutes)
    assert 0 < result.real_time_factor < 1
    assert reported[-1][1:] == (1, 1)
    assert "| utterances found |" in stream_markdown(result)


def test_a_second_run_of_the_benchmark_gives_the_same_figures(recognizer: Recognizer, clips: list[Clip]) -> None:
    first, again = (measure_streams(recognizer, clips, PLAN).to_dict() for _ in range(2))
    del first["real_time_factor"], again["real_time_factor"]
    assert first == again


def test_results_are_timed_in_samples_and_never_before_their_audio(recognizer: Recognizer, clips: list[Clip]) -> None:
    stream = next(iter(compose_all(clips, PLAN)))
    events = score_stream(stream, recognizer)
    assert any(not one.event.final for one in events)
    assert all(one.at >= one.event.end for one in events)
    assert [one.at for one in events] == sorted(one.at for one in events)


def test_streams_without_clips_are_refused(recognizer: Recognizer) -> None:
    with pytest.raises(CorpusError, match="no clips to compose"):
        measure_streams(recognizer, [])


def test_an_invalid_plan_is_refused() -> None:
    with pytest.raises(ValueError, match="minutes and stream_minutes must be positive"):
        StreamPlan(minutes=0)


def test_evaluate_with_stream_writes_the_benchmark(
    clips: list[Clip], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = clips[0].path.parent
    rows = [f"{clip.path.name},{clip.speaker[-1]},{clip.label}" for clip in clips]
    (corpus / "manifest.csv").write_text("path,speaker,emotion\n" + "\n".join(rows), encoding="utf-8")
    bundle = make_bundle(tmp_path / "tiny")
    words = ["evaluate", str(bundle.path), str(corpus), "--stream", "--minutes", "1", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert "tiny on composed streams" in capsys.readouterr().out
    values = json.loads((tmp_path / "out" / "stream.json").read_text(encoding="utf-8"))
    assert values["plan"]["minutes"] == 1.0 and values["utterances"] > 5
    assert (tmp_path / "out" / "stream.md").read_text(encoding="utf-8").startswith("# tiny on composed streams")


def test_without_matplotlib_the_benchmark_is_written_without_its_picture(
    clips: list[Clip], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"] + ["matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    corpus = clips[0].path.parent
    rows = [f"{clip.path.name},{clip.speaker[-1]},{clip.label}" for clip in clips]
    (corpus / "manifest.csv").write_text("path,speaker,emotion\n" + "\n".join(rows), encoding="utf-8")
    bundle, out = make_bundle(tmp_path / "tiny"), tmp_path / "out"
    assert main(["evaluate", str(bundle.path), str(corpus), "--stream", "--minutes", "1", "--out", str(out)]) == 0
    assert "matplotlib" in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == ["stream.json", "stream.md"]
    assert "png" not in (out / "stream.md").read_text(encoding="utf-8")
