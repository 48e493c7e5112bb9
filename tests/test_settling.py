"""A stream's own answers tell its voice and room from its moods, as long as most of it is as people speak."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from makers import LABELS, babble, make_bundle, silence
from numpy.typing import NDArray

from streamser.audio import Samples, Segment
from streamser.bundle import Bundle, Calibration, Drift
from streamser.cli.common import add_model_arguments, load_run_config
from streamser.errors import ConfigError
from streamser.evaluation.drift import measure_drift
from streamser.evaluation.folds import FoldResult
from streamser.events import EmotionEvent, Event
from streamser.recognizer import Recognizer, load
from streamser.settling import MEMORY, Settling, ratios
from streamser.stream.judge import Judge
from streamser.stream.pipeline import Stream, StreamConfig, WorkerStream
from streamser.stream.vad import VadConfig
from streamser.stream.worker import InferenceWorker, PipelineConfig

ANGRY, HAPPY, NEUTRAL, SAD = range(4)
CENTRES = np.array([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0], [-2.0, -2.0, -2.0]])
WITHIN, BETWEEN = 0.6, 1.0
DRIFT = Drift(
    means=tuple(map(tuple, CENTRES.tolist())),
    within=tuple(map(tuple, (WITHIN**2 * np.eye(3)).tolist())),
    between=tuple(map(tuple, (BETWEEN**2 * np.eye(3)).tolist())),
)
ROOM = np.array([1.6, -0.6, -0.8])
"""Makes what is neutral sound angry."""


@pytest.fixture(scope="module")
def settler(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A checkpoint that knows how rooms move it."""
    return make_bundle(tmp_path_factory.mktemp("models") / "settler", drift=DRIFT)


def answers(targets: NDArray[np.int64], room: NDArray[np.float64], seed: int = 0) -> list[dict[str, float]]:
    """What a net with that drift says of utterances in that room."""
    moved = CENTRES[targets] + room + WITHIN * np.random.default_rng(seed).standard_normal((len(targets), 3))
    odds = np.exp(np.pad(moved, ((0, 0), (0, 1))))
    return [dict(zip(LABELS, row, strict=True)) for row in (odds / odds.sum(axis=1, keepdims=True)).tolist()]


def right(said: list[dict[str, float]], targets: NDArray[np.int64]) -> float:
    return float(np.mean([int(np.argmax(list(scores.values()))) == t for scores, t in zip(said, targets, strict=True)]))


def live(bundle: Bundle, heard: list[dict[str, float]]) -> tuple[Settling, list[dict[str, float]]]:
    """Each answer settled by what was heard before it."""
    settling, said = Settling(bundle), []
    for scores in heard:
        said.append(settling.settle(scores))
        settling.hear(scores)
    return settling, said


def moods(share_neutral: float, count: int = 60, seed: int = 1) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    others = rng.choice([ANGRY, HAPPY, SAD], count)
    return np.where(rng.random(count) < share_neutral, NEUTRAL, others)


def test_before_anything_was_heard_answers_stay_as_they_are(settler: Bundle) -> None:
    scores = {"angry": 0.5, "happy": 0.3, "neutral": 0.15, "sad": 0.05}
    assert Settling(settler).settle(scores) == pytest.approx(scores)


@pytest.mark.parametrize("share_neutral", [0.25, 0.8])
def test_a_room_that_moves_all_answers_is_taken_out_of_them(settler: Bundle, share_neutral: float) -> None:
    targets = moods(share_neutral)
    heard = answers(targets, ROOM)
    settling, said = live(settler, heard)
    assert right(said[20:], targets[20:]) >= right(heard[20:], targets[20:]) + 0.15
    assert np.linalg.norm(settling.offset - ROOM) < 0.5 * np.linalg.norm(ROOM)


@pytest.mark.parametrize("mood", [ANGRY, HAPPY, NEUTRAL, SAD])
def test_a_mood_that_never_ends_is_not_taken_for_the_room_where_classes_lie_apart(settler: Bundle, mood: int) -> None:
    """Where they overlap, as a real net's do, it is in part: docs/your-voice.md has the price."""
    targets = np.full(40, mood)
    _, said = live(settler, answers(targets, np.zeros(3)))
    assert right(said, targets) == 1.0


def test_neutral_speech_alone_gives_the_room_away(settler: Bundle) -> None:
    targets = np.full(40, NEUTRAL)
    heard = answers(targets, ROOM)
    _, said = live(settler, heard)
    assert right(said[10:], targets[10:]) >= right(heard[10:], targets[10:]) + 0.15


def test_another_room_is_learnt_when_the_first_is_forgotten(settler: Bundle) -> None:
    heard = answers(moods(0.6, MEMORY), ROOM) + answers(moods(0.6, MEMORY, seed=2), -ROOM)
    settling, _ = live(settler, heard)
    alone, _ = live(settler, heard[MEMORY:])
    assert settling.offset == pytest.approx(alone.offset, abs=0.15)  # what was unsure took no place in the memory
    assert settling.offset @ ROOM < 0


def test_answers_that_know_nothing_teach_nothing(settler: Bundle) -> None:
    settling = Settling(settler)
    for top in np.linspace(0.25, 0.349, 20).tolist():
        rest = (1 - top) / 3
        settling.hear({"angry": top, "happy": rest, "neutral": rest, "sad": rest})
    assert not settling.offset.any()
    settling.hear({"angry": 1.0, "happy": 0.0, "neutral": 0.0, "sad": 0.0})
    assert np.isfinite(settling.offset).all() and settling.offset.any()


# --- in a stream


def talk() -> Samples:
    """Five utterances."""
    spoken = [np.concatenate([babble(1.2, seed=seed), silence(0.8)]) for seed in range(1, 6)]
    return np.concatenate([silence(0.5), *spoken])


def streamed(recognizer: Recognizer, settle: bool, smoothing: float = 0.0) -> list[EmotionEvent]:
    pipeline = PipelineConfig(settle=settle, smoothing=smoothing)
    stream = Stream(recognizer, StreamConfig(vad=VadConfig(engine="energy"), pipeline=pipeline))
    events = [*stream.push(talk()), *stream.close()]
    return [event for event in events if isinstance(event, EmotionEvent)]


def test_a_stream_s_utterances_are_settled_by_the_finals_before_them(settler: Bundle) -> None:
    recognizer = load(settler.path, "cpu")
    plain, settled = streamed(recognizer, False), streamed(recognizer, True)
    settling = Settling(settler)
    for raw, event in zip(plain, settled, strict=True):
        assert event.scores == settling.settle(raw.scores)
        assert event.label == max(event.scores, key=event.scores.__getitem__)
        assert event.uncertain == (event.confidence < recognizer.threshold)
        if raw.final:
            settling.hear(raw.scores)
    assert plain[0].scores == pytest.approx(settled[0].scores) and plain[-1].scores != settled[-1].scores


def test_a_worker_says_what_a_stream_says_whatever_it_leaves_out(settler: Bundle) -> None:
    """Partials may be dropped under load; what settles is the finals, and of these none is."""
    recognizer = load(settler.path, "cpu")
    said: list[Event] = []
    settings = StreamConfig(vad=VadConfig(engine="energy"), pipeline=PipelineConfig(settle=True))
    with InferenceWorker(recognizer, settings.pipeline) as worker:
        stream = WorkerStream(worker, said.append, settings)
        stream.push(talk())
        stream.close()
    finals = [event.scores for event in said if isinstance(event, EmotionEvent) and event.final]
    assert finals == [event.scores for event in streamed(recognizer, True) if event.final]


def test_what_cannot_be_heard_is_uncertain_wherever_it_settled_and_teaches_nothing(settler: Bundle) -> None:
    settling = Settling(settler)
    settling.offset = np.array([9.0, -9.0, 9.0])
    judge = Judge(load(settler.path, "cpu"), settling=settling)
    segment = Segment(utterance=0, start=0, samples=silence(1.0), final=True)
    prediction = judge.recognizer.predict(segment)
    assert not prediction.audible and prediction.uncertain
    sure = replace(prediction, scores={"angry": 0.97, "happy": 0.01, "neutral": 0.01, "sad": 0.01}, confidence=0.97)
    for heard in (prediction, sure):
        event = judge.event(segment, heard, 0.0)
        assert event is not None and event.uncertain
    assert settling.offset.tolist() == [9.0, -9.0, 9.0]


def test_a_stream_can_go_on_from_what_an_earlier_one_of_the_voice_learnt(settler: Bundle) -> None:
    recognizer, settling = load(settler.path, "cpu"), Settling(settler)
    settings = StreamConfig(vad=VadConfig(engine="energy"))
    first, second = [
        [event.scores for event in [*stream.push(talk()), *stream.close()] if isinstance(event, EmotionEvent)]
        for stream in (Stream(recognizer, settings, settling=settling) for _ in range(2))
    ]
    assert first[0] != second[0] and len(first) == len(second)


def test_partials_are_smoothed_after_they_settled(settler: Bundle) -> None:
    recognizer = load(settler.path, "cpu")
    last = [event for event in streamed(recognizer, True) if event.utterance == 4 and not event.final]
    smooth = [event for event in streamed(recognizer, True, smoothing=0.5) if event.utterance == 4 and not event.final]
    second = {name: 0.5 * last[0].scores[name] + 0.5 * last[1].scores[name] for name in LABELS}
    assert smooth[1].scores == pytest.approx(second)


def test_a_checkpoint_that_knows_no_drift_is_refused_before_the_first_sound(recognizer: Recognizer) -> None:
    with pytest.raises(ConfigError, match=r"'tiny' does not say how voices and rooms move .* leave --settle out"):
        Stream(recognizer, StreamConfig(pipeline=PipelineConfig(settle=True)))
    with pytest.raises(ConfigError, match="--settle"):
        InferenceWorker(recognizer, PipelineConfig(settle=True))


def test_the_option_and_the_setting_are_one() -> None:
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    assert load_run_config(parser.parse_args(["--settle"])).pipeline.settle
    assert load_run_config(parser.parse_args(["--set", "pipeline.settle=true"])).pipeline.settle
    assert not load_run_config(parser.parse_args([])).pipeline.settle


def test_the_shipped_default_can_settle() -> None:
    assert streamed(load(compute="cpu"), True)


# --- how it is measured


def left_out(rooms: int = 6, voices: int = 8, each: int = 12, seed: int = 0) -> list[FoldResult]:
    """Corpora with rooms and voices drawn from what `DRIFT` says, half of the spread in each."""
    rng = np.random.default_rng(seed)
    folds = []
    for room in range(rooms):
        targets = np.tile(np.repeat(np.arange(4), each), voices)
        of_voice = np.repeat(rng.normal(0, BETWEEN / np.sqrt(2), (voices, 3)), 4 * each, axis=0)
        moved = CENTRES[targets] + rng.normal(0, BETWEEN / np.sqrt(2), 3) + of_voice
        moved = moved + rng.normal(0, WITHIN, moved.shape)
        speakers = tuple(f"c{room}/{voice}" for voice in range(voices) for _ in range(4 * each))
        folds.append(
            FoldResult(
                name="r", protocol="leave-one-corpus-out", fold=f"without-c{room}", seed=0, labels=LABELS,
                targets=targets, logits=np.pad(2 * moved, ((0, 0), (0, 1))).astype(np.float32),
                speakers=speakers, clips=tuple(map(str, range(len(targets)))), test_corpora=(f"c{room}",),
            )
        )  # fmt: skip
    return folds


def test_what_was_planted_is_measured() -> None:
    found = measure_drift(left_out(rooms=40), Calibration(temperature=2.0))
    assert found is not None
    assert np.array(found.within) == pytest.approx(WITHIN**2 * np.eye(3), abs=0.05)
    assert np.array(found.between) == pytest.approx(BETWEEN**2 * np.eye(3), abs=0.35)
    apart = np.array(found.means) - np.array(found.means).mean(axis=0)
    assert apart == pytest.approx(CENTRES - CENTRES.mean(axis=0), abs=0.05)


def test_seeds_are_averaged_not_taken_for_corpora() -> None:
    folds = left_out(rooms=4)
    once = measure_drift(folds, Calibration())
    assert measure_drift([*folds, *(replace(fold, seed=1) for fold in folds)], Calibration()) == once


def test_what_moves_one_class_more_than_another_widens_all() -> None:
    """A corpus whose anger alone lies elsewhere: no common offset explains it, so less is believed of any."""
    folds = left_out(rooms=4)
    shifted = folds[0].logits + 3.0 * np.eye(4, dtype=np.float32)[0] * (folds[0].targets == ANGRY)[:, None]
    plain = measure_drift(folds, Calibration())
    odd = measure_drift([replace(folds[0], logits=shifted), *folds[1:]], Calibration())
    assert plain is not None and odd is not None
    assert odd.within[0][0] > plain.within[0][0] + 0.2


def test_few_answers_of_a_speaker_do_not_look_alike_by_chance() -> None:
    """Two answers lie half as widely around their own mean as around the truth."""
    found = measure_drift(left_out(rooms=60, each=2), Calibration(temperature=2.0))
    assert found is not None
    assert np.diag(found.within) == pytest.approx(WITHIN**2, abs=0.06)


def test_nothing_is_made_up_where_a_class_or_a_second_corpus_is_missing() -> None:
    folds = left_out(rooms=2)
    assert measure_drift(folds[:1], Calibration()) is None
    incomplete = folds[1].where(folds[1].targets != SAD)
    assert measure_drift([folds[0], incomplete], Calibration()) is None
    three = left_out(rooms=3)
    assert measure_drift([three[0], three[2], incomplete], Calibration()) == measure_drift(three[::2], Calibration())
    assert measure_drift([], Calibration()) is None


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"within": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 0.0))}, "within is a covariance"),
        ({"within": ((1.0, 9.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))}, "within is a covariance: symmetric"),
        ({"between": ((1.0, 0.0), (0.0, 1.0))}, "between is a table of 3 times 3 finite numbers"),
        ({"means": ((1.0, 0.0, float("nan")),) * 4}, "means is a table of 4 times 3 finite numbers"),
    ],
)
def test_tables_that_are_none_are_refused(change: dict[str, tuple[tuple[float, ...], ...]], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        replace(DRIFT, **change)


def test_a_drift_of_other_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"drift.means has 4 rows but labels has 2"):
        make_bundle(tmp_path / "two", labels=("calm", "excited"), drift=DRIFT)


def test_ratios_are_log_odds_against_the_last_class() -> None:
    assert ratios([0.5, 0.25, 0.25]) == pytest.approx([np.log(2), 0.0])
    assert np.isfinite(ratios([1.0, 0.0, 0.0])).all()
