"""Protocols: honest splits share no speaker, papers' splits follow the papers, and a leak is refused by name."""

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
    """Speakers, every second one a woman, two in a session, each with every text in every label."""
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


def test_six_folds_of_ravdess_are_neighbouring_actors_two_of_each_gender() -> None:
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


def test_the_seed_draws_validation_speakers_and_leaves_the_test_folds() -> None:
    first, same, other = (honest_folds(corpus(speakers=12), 4, seed) for seed in (0, 0, 1))
    assert first == same
    assert [split.test for split in first] == [split.test for split in other]
    assert [split.validation for split in first] != [split.validation for split in other]


def test_leaving_one_speaker_out_names_him() -> None:
    splits = leave_one_speaker_out(corpus("emodb", speakers=4))
    assert [split.name for split in splits] == [f"without-emodb/0{n}" for n in (1, 2, 3, 4)]


def test_folds_over_several_corpora_spread_each_corpus_and_small_ones_too() -> None:
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


def test_a_corpus_keeps_a_speaker_to_train_on_however_many_are_asked_for() -> None:
    (split,) = ship([*corpus("a", 2), *corpus("b", 6)], validation_speakers=5)
    assert {clip.corpus for clip in split.train} == {"a", "b"}


def test_leaving_a_corpus_out_tests_on_it_alone_and_chooses_on_the_others() -> None:
    clips = [*corpus("a"), *corpus("b"), *corpus("d")]
    splits = leave_one_corpus_out(clips)
    assert [{clip.corpus for clip in split.test} for split in splits] == [{"a"}, {"b"}, {"d"}]
    assert all(split.test[0].corpus not in {c.corpus for c in (*split.train, *split.validation)} for split in splits)
    (only,) = leave_one_corpus_out(clips, test_corpora=["b"])
    assert only.name == "without-b"


def test_a_corpus_that_is_not_there_cannot_be_left_out() -> None:
    with pytest.raises(ProtocolError, match="no clips of x; there are a, b"):
        leave_one_corpus_out([*corpus("a"), *corpus("b")], test_corpora=["x"])
    with pytest.raises(ProtocolError, match="one corpus cannot be left out of one"):
        leave_one_corpus_out(corpus("a"))


def test_more_folds_than_speakers_are_refused() -> None:
    with pytest.raises(ProtocolError, match="12 folds of 10 speakers: take 2 to 10 folds"):
        honest_folds(corpus(speakers=10), 12)


def test_two_speakers_cannot_train_validate_and_test() -> None:
    with pytest.raises(ProtocolError, match="no validation speakers"):
        honest_folds(corpus(speakers=2), 2)


# ---- the guard


def split_of(train: list[Clip], validation: list[Clip], test: list[Clip], protocol: str = "honest") -> Split:
    return Split("mine", 0, tuple(train), tuple(validation), tuple(test), protocol)


def test_a_shared_speaker_is_refused_by_name_with_the_way_out() -> None:
    clips = corpus(speakers=3)
    leaking = split_of(clips[:12], clips[12:16], clips[16:])
    with pytest.raises(ProtocolError) as error:
        check_split(leaking)
    assert "train and validation share speakers: c/02; split by speaker" in str(error.value)
    assert check_split(replace(leaking, protocol="paper:sepconv"))


def test_a_paper_that_kept_speakers_apart_may_not_share_them_either() -> None:
    clips = corpus(speakers=3)
    with pytest.raises(ProtocolError, match="share speakers"):
        check_split(split_of(clips[:12], clips[12:16], clips[16:], "paper:parallel-cnn"))


def test_a_shared_clip_is_refused_whatever_the_protocol() -> None:
    clips = corpus(speakers=3)
    for protocol in ("honest", "paper:lightsernet"):
        with pytest.raises(ProtocolError, match="train and test share clips: c/03-0"):
            check_split(split_of([*clips[:8], clips[16]], clips[8:16], clips[16:], protocol))


def test_the_same_audio_under_two_names_is_refused() -> None:
    clips = corpus(speakers=3)
    clips[16] = replace(clips[16], digest=clips[0].digest)
    with pytest.raises(ProtocolError, match="train and test share the same audio: c/03-0 = c/01-0"):
        check_split(split_of(clips[:8], clips[8:16], clips[16:]))


def test_only_a_few_of_many_names_are_listed() -> None:
    clips = corpus(speakers=10)
    with pytest.raises(ProtocolError, match="c/01, c/02, c/03, c/04 and 6 more"):
        check_split(split_of(clips[::2], clips[1::2], []))


def test_an_honest_split_may_not_choose_on_the_test() -> None:
    clips = corpus(speakers=3)
    split = replace(split_of(clips[:8], clips[8:16], clips[16:]), choose_on="test")
    with pytest.raises(ProtocolError, match="honest protocol chooses the best epoch on validation speakers"):
        check_split(split)


def test_an_empty_part_that_is_chosen_on_is_refused() -> None:
    clips = corpus(speakers=3)
    with pytest.raises(ProtocolError, match="chosen on the validation part, which is empty"):
        check_split(split_of(clips[:16], [], clips[16:]))
    with pytest.raises(ProtocolError, match="no clips to train on"):
        check_split(split_of([], clips[:16], clips[16:]))


def test_a_label_that_training_never_shows_is_refused() -> None:
    clips = corpus(speakers=3)
    clips[16] = replace(clips[16], label="boredom")
    with pytest.raises(ProtocolError, match="asks for boredom, which the training part never shows"):
        check_split(split_of(clips[:8], clips[8:16], clips[16:]))


def test_clips_without_a_speaker_cannot_be_honest() -> None:
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


def test_sepconv_takes_eight_one_and_a_fixed_one_of_ten_stratified_subsets() -> None:
    splits = make_splits("paper:sepconv", corpus(speakers=10, each=20))
    assert len(splits) == 9
    assert len({split.test for split in splits}) == 1
    assert len({split.validation for split in splits}) == 9
    for split in splits:
        assert (len(split.train), len(split.validation), len(split.test)) == (160, 20, 20)
        assert Counter(clip.label for clip in split.validation) == dict.fromkeys(LABELS, 5)


def test_lightsernet_chooses_on_the_test_fold_and_reports_it() -> None:
    splits = make_splits("paper:lightsernet", corpus(speakers=10, each=20))
    assert len(splits) == 10
    assert {split.choose_on for split in splits} == {"test"}
    assert all(split.validation == () and len(split.test) == 20 for split in splits)
    assert len({clip.id for split in splits for clip in split.test}) == 200
    assert "best epoch chosen on test" in splits[0].text()


def test_the_report_trains_on_a_label_s_only_clip() -> None:
    clips = corpus(speakers=10, each=20)
    for place in range(0, 200, 40):  # wherever the draw would put it
        rare = [replace(clip, label="disgust") if i == place else clip for i, clip in enumerate(clips)]
        for seed in range(3):
            (split,) = make_splits("paper:lightsernet-report", rare, seed=seed)
            assert rare[place] in split.train


def test_folds_by_session_validate_on_one_of_its_two_speakers() -> None:
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
