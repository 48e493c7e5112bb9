"""Protocols: parts of honest splits share no speaker, splits of papers follow the papers, and leaks are refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from streamser.corpora.clips import Clip
from streamser.corpora.protocols import (
    HONEST,
    PAPERS,
    Split,
    check_split,
    honest_folds,
    leave_one_corpus_out,
    leave_one_speaker_out,
    make_splits,
    ship,
)
from streamser.errors import ProtocolError

LABELS = ("angry", "happy", "neutral", "sad")


def corpus(name: str = "c", speakers: int = 10, each: int = 8, sessions: bool = False) -> list[Clip]:
    """Clips of speakers of alternating gender, with labels in turn; with `sessions`, two speakers share a session."""
    return [
        Clip(
            path=Path(f"{name}/{speaker:02d}-{n}.wav"),
            corpus=name,
            speaker=f"{name}/{speaker:02d}",
            label=LABELS[n % len(LABELS)],
            gender="fm"[speaker % 2],
            session=f"Ses{(speaker + 1) // 2}" if sessions else None,
            digest=f"{name}{speaker}-{n}",
        )
        for speaker in range(1, speakers + 1)
        for n in range(each)
    ]


def speakers(clips: tuple[Clip, ...]) -> list[str]:
    return sorted({clip.speaker.partition("/")[2] for clip in clips})


# ---- honest


def test_six_folds_of_ravdess_test_neighbouring_actors_and_validate_on_both_genders_equally() -> None:
    splits = honest_folds(corpus(speakers=24), 6)
    assert speakers(splits[0].test) == ["01", "02", "03", "04"]
    assert speakers(splits[5].test) == ["21", "22", "23", "24"]
    for split in splits:
        assert len(speakers(split.validation)) == 4
        assert Counter(clip.gender for clip in split.validation)["f"] == len(split.validation) / 2


@pytest.mark.parametrize("n_folds", [2, 3, 5, 10, "loso"])
def test_honest_folds_test_every_clip_once_and_share_no_speaker(n_folds: int) -> None:
    clips = corpus(speakers=10)
    splits = honest_folds(clips, n_folds)
    assert sorted(clip.id for split in splits for clip in split.test) == sorted(clip.id for clip in clips)
    for split in splits:
        assert len(split.train) + len(split.validation) + len(split.test) == len(clips)
        parts = [set(speakers(part)) for part in split.parts.values()]
        assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])


def test_the_seed_changes_the_validation_speakers_but_not_the_test_folds() -> None:
    first, same, other = (honest_folds(corpus(speakers=12), 4, seed) for seed in (0, 0, 1))
    assert first == same
    assert [split.test for split in first] == [split.test for split in other]
    assert [split.validation for split in first] != [split.validation for split in other]


def test_a_fold_that_leaves_one_speaker_out_is_named_after_the_speaker() -> None:
    splits = leave_one_speaker_out(corpus("emodb", speakers=4))
    assert [split.name for split in splits] == [f"without-emodb/0{n}" for n in (1, 2, 3, 4)]


def test_folds_over_several_corpora_spread_each_corpus_over_the_folds() -> None:
    clips = [*corpus("a", 10), *corpus("b", 2), *corpus("d", 15)]
    splits = honest_folds(clips, 5)
    sizes = [Counter(clip.corpus for clip in split.test) for split in splits]
    assert {size["a"] for size in sizes} == {16}
    assert {size["d"] for size in sizes} == {24}
    assert sum(size["b"] > 0 for size in sizes) == 2


def test_validation_speakers_are_a_number_or_a_share_of_each_corpus() -> None:
    clips = [*corpus("a", 10), *corpus("b", 6)]
    (split,) = ship(clips, validation_speakers=2)
    assert Counter(clip.corpus for clip in split.validation) == {"a": 16, "b": 16}
    (split,) = ship(clips, validation_speakers=0.3)
    assert len({clip.speaker for clip in split.validation}) == 3 + 2
    assert split.test == ()


def test_each_corpus_keeps_a_training_speaker_however_many_validation_speakers_are_wanted() -> None:
    (split,) = ship([*corpus("a", 2), *corpus("b", 6)], validation_speakers=5)
    assert {clip.corpus for clip in split.train} == {"a", "b"}


def test_a_left_out_corpus_is_tested_alone_and_neither_trained_nor_validated_on() -> None:
    clips = [*corpus("a"), *corpus("b"), *corpus("d")]
    splits = leave_one_corpus_out(clips)
    assert [{clip.corpus for clip in split.test} for split in splits] == [{"a"}, {"b"}, {"d"}]
    assert all(split.test[0].corpus not in {c.corpus for c in (*split.train, *split.validation)} for split in splits)
    (only,) = leave_one_corpus_out(clips, test_corpora=["b"])
    assert only.name == "without-b"


def test_an_unknown_or_the_only_corpus_cannot_be_left_out() -> None:
    with pytest.raises(ProtocolError, match="no clips of x; there are a, b"):
        leave_one_corpus_out([*corpus("a"), *corpus("b")], test_corpora=["x"])
    with pytest.raises(ProtocolError, match="one corpus cannot be left out of one"):
        leave_one_corpus_out(corpus("a"))


def test_more_folds_than_speakers_are_refused() -> None:
    with pytest.raises(ProtocolError, match="12 folds of 10 speakers: take 2 to 10 folds"):
        honest_folds(corpus(speakers=10), 12)


def test_two_speakers_cannot_train_validate_and_test() -> None:
    with pytest.raises(ProtocolError, match="gives no validation speaker"):
        honest_folds(corpus(speakers=2), 2)


# ---- the check of splits


def split_of(train: list[Clip], validation: list[Clip], test: list[Clip], protocol: str = "honest") -> Split:
    return Split("mine", 0, tuple(train), tuple(validation), tuple(test), protocol)


def test_a_shared_speaker_is_refused_by_name_with_a_solution() -> None:
    clips = corpus(speakers=3)
    leaking = split_of(clips[:12], clips[12:16], clips[16:])
    with pytest.raises(ProtocolError) as error:
        check_split(leaking)
    assert "train and validation share speakers: c/02; split by speaker" in str(error.value)
    assert check_split(replace(leaking, protocol="paper:sepconv"))


def test_a_paper_protocol_that_separates_speakers_refuses_shared_speakers() -> None:
    clips = corpus(speakers=3)
    with pytest.raises(ProtocolError, match="share speakers"):
        check_split(split_of(clips[:12], clips[12:16], clips[16:], "paper:parallel-cnn"))


def test_a_shared_clip_is_refused_in_every_protocol() -> None:
    clips = corpus(speakers=3)
    for protocol in ("honest", "paper:lightsernet"):
        with pytest.raises(ProtocolError, match="train and test share clips: c/03-0"):
            check_split(split_of([*clips[:8], clips[16]], clips[8:16], clips[16:], protocol))


def test_the_same_audio_under_two_names_is_refused() -> None:
    clips = corpus(speakers=3)
    clips[16] = replace(clips[16], digest=clips[0].digest)
    with pytest.raises(ProtocolError, match="train and test share the same audio: c/03-0 = c/01-0"):
        check_split(split_of(clips[:8], clips[8:16], clips[16:]))


def test_an_error_lists_four_names_and_the_number_of_the_others() -> None:
    clips = corpus(speakers=10)
    with pytest.raises(ProtocolError, match="c/01, c/02, c/03, c/04 and 6 more"):
        check_split(split_of(clips[::2], clips[1::2], []))


def test_an_honest_split_may_not_choose_the_epoch_on_the_test_part() -> None:
    clips = corpus(speakers=3)
    split = replace(split_of(clips[:8], clips[8:16], clips[16:]), choose_on="test")
    with pytest.raises(ProtocolError, match="honest protocol chooses the best epoch on validation speakers"):
        check_split(split)


def test_an_empty_validation_or_training_part_is_refused() -> None:
    clips = corpus(speakers=3)
    with pytest.raises(ProtocolError, match="chosen on the validation part, which is empty"):
        check_split(split_of(clips[:16], [], clips[16:]))
    with pytest.raises(ProtocolError, match="no clips to train on"):
        check_split(split_of([], clips[:16], clips[16:]))


def test_a_test_label_without_training_clips_is_refused() -> None:
    clips = corpus(speakers=3)
    clips[16] = replace(clips[16], label="boredom")
    with pytest.raises(ProtocolError, match="has labels that the training part lacks: boredom"):
        check_split(split_of(clips[:8], clips[8:16], clips[16:]))


def test_an_honest_split_needs_a_speaker_for_every_clip() -> None:
    clips = corpus(speakers=3)
    clips[0] = replace(clips[0], speaker="")
    with pytest.raises(ProtocolError, match="c/01-0 have no speaker"):
        check_split(split_of(clips[:8], clips[8:16], clips[16:]))


def test_an_unknown_protocol_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ProtocolError, match=r"unknown protocol 'paper:x'; known are honest, .*paper:sepconv"):
        make_splits("paper:x", corpus())
    clips = corpus(speakers=3)
    with pytest.raises(ProtocolError, match="unknown protocol 'mine'"):
        check_split(split_of(clips[:8], clips[8:16], clips[16:], "mine"))


def test_emobox_folds_of_ravdess_test_its_actors_and_refuse_other_speakers() -> None:
    splits = make_splits("emobox-ravdess", corpus("ravdess", 24, 8))
    assert [speakers(split.test) for split in splits][:2] == [["01", "11", "20", "21"], ["04", "10", "12", "14"]]
    assert sorted(name for split in splits for name in speakers(split.test)) == [f"{n:02d}" for n in range(1, 25)]
    with pytest.raises(ProtocolError, match="needs the 24 actors"):
        make_splits("emobox-ravdess", corpus("ravdess", 23, 8))


# ---- papers


@pytest.mark.parametrize("protocol", [*HONEST, *PAPERS])
def test_every_protocol_gives_checked_splits_that_share_no_clip(protocol: str) -> None:
    clips = [*corpus("a", 10, 10, sessions=True)]
    clips += corpus("b", 10, 10) if protocol == "leave-one-corpus-out" else []
    clips += corpus("nemo", 10, 10) if protocol == "poleval-nemo" else []
    clips = corpus("ravdess", 24, 10) if protocol == "emobox-ravdess" else clips
    for split in make_splits(protocol, clips):
        assert check_split(split) is split
        ids = [clip.id for part in split.parts.values() for clip in part]
        assert len(ids) == len(set(ids))
        assert split.protocol == (protocol if protocol in PAPERS else "honest")
        assert split.protocol in split.text()


def test_sepconv_trains_on_8_of_10_stratified_subsets_validates_on_1_and_tests_on_a_fixed_one() -> None:
    splits = make_splits("paper:sepconv", corpus(speakers=10, each=20))
    assert len(splits) == 9
    assert len({split.test for split in splits}) == 1
    assert len({split.validation for split in splits}) == 9
    for split in splits:
        assert (len(split.train), len(split.validation), len(split.test)) == (160, 20, 20)
        assert Counter(clip.label for clip in split.validation) == dict.fromkeys(LABELS, 5)


def test_lightsernet_chooses_the_epoch_on_the_test_fold_and_reports_this() -> None:
    splits = make_splits("paper:lightsernet", corpus(speakers=10, each=20))
    assert len(splits) == 10
    assert {split.choose_on for split in splits} == {"test"}
    assert all(split.validation == () and len(split.test) == 20 for split in splits)
    assert len({clip.id for split in splits for clip in split.test}) == 200
    assert "best epoch chosen on test" in splits[0].text()


def test_the_lightsernet_report_protocol_trains_on_the_only_clip_of_a_label() -> None:
    clips = corpus(speakers=10, each=20)
    for place in range(0, 200, 40):  # at any position in the list
        rare = [replace(clip, label="disgust") if i == place else clip for i, clip in enumerate(clips)]
        for seed in range(3):
            (split,) = make_splits("paper:lightsernet-report", rare, seed=seed)
            assert rare[place] in split.train


def test_folds_by_session_test_one_speaker_of_the_session_and_validate_on_the_other() -> None:
    splits = make_splits("paper:parallel-cnn", corpus(speakers=10, sessions=True))
    assert [split.name for split in splits] == [f"session-Ses{n}" for n in range(1, 6)]
    for split in splits:
        assert len(speakers(split.validation)) == len(speakers(split.test)) == 1
        assert split.validation[0].session == split.test[0].session
        assert split.test[0].session not in {clip.session for clip in split.train}


def test_folds_by_session_need_sessions() -> None:
    with pytest.raises(ProtocolError, match="need clips with sessions"):
        make_splits("paper:parallel-cnn", corpus())


def test_cnn_blstm_splits_55_25_20_at_random() -> None:
    splits = make_splits("paper:cnn-blstm", corpus(speakers=10, each=10))
    assert [(len(s.train), len(s.validation), len(s.test)) for s in splits] == [(55, 25, 20)] * 5
    assert len({clip.id for split in splits for clip in split.test}) == 100


def test_another_seed_draws_another_random_split() -> None:
    clips = corpus(each=10)
    for protocol in ("paper:sepconv", "paper:cnn-blstm", "paper:lightsernet"):
        first, same, other = (make_splits(protocol, clips, seed=seed) for seed in (0, 0, 1))
        assert first == same
        assert first != other
