"""Composed streams: a baseline of earlier utterances removes a speaker's offset from the predictions."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from streamser.calibration import BaselineRule, Calibration
from streamser.evaluation.folds import FoldResult
from streamser.evaluation.streammetrics import known_speakers, plain_speech, stream_metrics
from streamser.evaluation.streams import LeftOutCorpus, blend, choose_rule

LABELS = ("angry", "happy", "neutral", "sad")
SHRINKAGE = 1.0
DIRECTIONS = np.eye(4, 6, dtype=np.float32) * 3.0  # (labels, dimensions); the last two dimensions are 0 for every label


def relative(
    embedding: NDArray[np.float32], total: NDArray[np.float32], weight: NDArray[np.float32]
) -> NDArray[np.float32]:
    """A relative head: logits of the difference to the baseline, shrunken towards the direction of neutral."""
    baseline = (total + SHRINKAGE * DIRECTIONS[2]) / (weight + SHRINKAGE)
    return np.asarray((embedding - baseline + DIRECTIONS[2]) @ DIRECTIONS.T, np.float32)


def left_out_corpus(name: str, seed: int, offset: float = 2.0) -> LeftOutCorpus:
    """A corpus of five speakers; each speaker's embeddings have their own constant offset."""
    rng = np.random.default_rng(seed)
    speakers, targets = np.repeat(np.arange(5), 40), np.tile(np.repeat(np.arange(4), 10), 5)
    voices = rng.normal(0, offset, (5, 6))
    embeddings = (DIRECTIONS[targets] + voices[speakers] + rng.normal(0, 0.7, (200, 6))).astype(np.float32)
    fold = FoldResult(
        name="test",
        protocol="honest",
        fold=f"without-{name}",
        seed=0,
        labels=LABELS,
        targets=targets,
        logits=(embeddings @ DIRECTIONS.T).astype(np.float32),
        speakers=tuple(f"{name}/{speaker}" for speaker in speakers),
        clips=tuple(f"{name}/{clip}" for clip in range(200)),
        test_corpora=(name,),
        embeddings=embeddings,
    )
    return LeftOutCorpus(fold, relative)


@pytest.fixture(scope="module")
def corpora() -> list[LeftOutCorpus]:
    return [left_out_corpus(name, seed) for seed, name in enumerate(("one", "two", "three"))]


def absolute(_: object) -> Calibration:
    return Calibration(temperature=3.0, threshold=0.4)


def test_a_baseline_helps_in_natural_streams_and_enrolment_helps_most(corpora: list[LeftOutCorpus]) -> None:
    found = stream_metrics(corpora, absolute, risk=0.25)
    ua = {name: one.mean("ua") for name, one in found.items()}
    assert ua["natural_10"] > ua["first"] + 5
    assert ua["enrolled_6"] > ua["first"] + 10
    assert ua["one_mood_10"] > ua["first"] - 5
    assert ua["other_speaker_10"] < ua["natural_10"], "the control: the baseline of another speaker does not help"


def test_a_row_has_the_figures_of_each_corpus_and_of_all_with_an_interval_over_speakers(
    corpora: list[LeftOutCorpus],
) -> None:
    found = stream_metrics(corpora, absolute, risk=0.25)["first"]
    low, high = found.ua_interval
    assert sorted(found.of) == ["one", "three", "two"]
    assert low < found.mean("ua") < high and high - low > 1
    shares = [row["coverage"] for row in found.of.values()]
    assert found.pooled["coverage"] == pytest.approx(np.mean(shares)), (
        "all corpora and labels have equally many clips here"
    )
    assert found.pooled["ece"] <= found.mean("ece"), "errors of opposite sign cancel"
    assert found.to_dict()["of"]["one"]["ua"] == round(found.of["one"]["ua"], 1)


def test_the_rule_is_chosen_reproducibly_and_reaches_the_risk(corpora: list[LeftOutCorpus]) -> None:
    rule = choose_rule(corpora[:2], absolute(None), risk=0.25)
    assert rule.calibration.risk is not None and rule.calibration.risk <= 0.25
    assert rule == choose_rule(corpora[:2], absolute(None), risk=0.25)


def test_without_earlier_utterances_the_prediction_is_that_of_the_absolute_head(corpora: list[LeftOutCorpus]) -> None:
    one = corpora[0]
    own = one.own(absolute(None))
    rule = BaselineRule(exponent=1.0, full_s=1.0, memory=60, half=0.5, calibration=Calibration())
    compared, _ = one.compared("natural_10", 1.0, absolute(None))
    np.testing.assert_array_equal(blend(own, compared, np.zeros((len(own), 1)), rule), own)


def test_the_history_of_a_clip_has_clips_of_the_same_speaker_but_never_the_clip_itself(
    corpora: list[LeftOutCorpus],
) -> None:
    one = corpora[0]
    for name, histories in one.histories.items():
        for clip, before in zip(one.scored, histories, strict=True):
            assert clip not in before
            voices = {one.fold.speakers[other] for other in before}
            assert (one.fold.speakers[clip] in voices) != (name == "other_speaker_10")


def test_the_history_of_two_passes_is_all_other_clips_of_the_speaker(corpora: list[LeftOutCorpus]) -> None:
    one = corpora[0]
    assert {len(before) for before in one.histories["two_passes"]} == {39}
    rule = BaselineRule(exponent=1.0, full_s=1.0, memory=60, half=0.5, calibration=Calibration())
    found = known_speakers(corpora, rule)
    assert found["two_passes"]["macro_f1"] > found["first"]["macro_f1"] + 5


def test_plain_speech_is_counted_in_three_shares() -> None:
    logits = np.array([[4.0, 0, 0, 0], [0, 0, 4.0, 0], [0.1, 0, 0, 0], [0, 0, 4.0, 0]], np.float32)
    fold = FoldResult(
        name="test", protocol="honest", fold="without-reading", seed=0, labels=LABELS, targets=np.full(4, 2),
        logits=logits, speakers=("reading/a",) * 4, clips=("a", "b", "c", "d"), test_corpora=("reading",),
    )  # fmt: skip
    assert plain_speech([fold], Calibration(threshold=0.5)) == {
        "reading": {"neutral": 0.5, "mood": 0.25, "uncertain": 0.25}
    }


def test_a_fold_without_embeddings_is_refused(corpora: list[LeftOutCorpus]) -> None:
    keep = np.arange(200) < 10
    fold = corpora[0].fold.where(keep)
    assert fold.embeddings is not None and len(fold.embeddings) == 10
    with pytest.raises(ValueError, match="has no embeddings"):
        LeftOutCorpus(FoldResult(**{**_fields(fold), "embeddings": None}), relative)


def _fields(fold: FoldResult) -> dict[str, object]:
    return {name: getattr(fold, name) for name in FoldResult.__dataclass_fields__}
