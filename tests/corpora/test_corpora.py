"""Corpora: each layout is read from a small folder in this layout; every fault is reported by name and counted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamser.corpora.clips import Clip, CorpusReport, Problem
from streamser.corpora.layouts import Layout
from streamser.corpora.reader import (
    FOUR,
    LAYOUTS,
    AudioCheck,
    cautions,
    check_audio,
    find_corpus,
    map_labels,
    read_corpora,
    read_corpus,
)
from streamser.errors import CorpusError

REAL = Path(os.environ.get("STREAMSER_CORPORA") or Path(__file__).parents[3] / "shared" / "corpora")


def audio(path: Path, seed: int = 0, level: float = 0.1, seconds: float = 0.2) -> Path:
    """Write a short file of noise with this peak level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).uniform(-level, level, round(16_000 * seconds))
    soundfile.write(path, np.round(noise * 32767).astype(np.int16), 16_000)
    return path


def manifest(folder: Path, rows: list[str], header: str = "path,speaker,emotion") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return folder


def by_name(clips: list[Clip]) -> dict[str, Clip]:
    return {clip.path.stem: clip for clip in clips}


# ---- layouts


def test_a_manifest_gives_clips_with_the_values_of_all_its_columns(tmp_path: Path) -> None:
    audio(tmp_path / "mine" / "audio" / "a.wav")
    folder = manifest(
        tmp_path / "mine",
        ["audio/a.wav,S1,F,Happiness,strong,t7,de,C,s2"],
        "path,speaker,gender,emotion,intensity,text_id,language,difficulty,session",
    )
    (clip,), report = read_corpus(folder)
    assert (clip.id, clip.corpus, clip.speaker, clip.label) == ("mine/audio/a", "mine", "mine/S1", "happy")
    assert (clip.gender, clip.style, clip.text_id, clip.language) == ("f", "strong", "t7", "de")
    assert (clip.difficulty, clip.session) == ("C", "s2")
    assert report.kept == 1 and not report.problems


def test_a_manifest_may_have_a_column_label_and_a_byte_order_mark(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav")
    (tmp_path / "manifest.csv").write_text("path,label,speaker\r\na.wav,sad,1\r\n", encoding="utf-8-sig", newline="")
    (clip,), _ = read_corpus(tmp_path, name="mine")
    assert (clip.label, clip.speaker) == ("sad", "mine/1")


def test_emodb_is_read_from_its_file_names(tmp_path: Path) -> None:
    for name in ("03a01Fa", "08b10Wb", "16a02Lb", "10a04Ad", "11a05Td", "13b01Ec", "09a07Nb"):
        audio(tmp_path / "wav" / f"{name}.wav")
    clips, report = read_corpus(tmp_path)
    assert report.corpus == "emodb"
    labels = {clip.path.stem: clip.label for clip in clips}
    assert list(labels.values()) == ["happy", "angry", "neutral", "fear", "sad", "disgust", "boredom"]
    clip = by_name(clips)["03a01Fa"]
    assert (clip.speaker, clip.gender, clip.text_id, clip.language) == ("emodb/03", "m", "a01", "de")
    assert by_name(clips)["16a02Lb"].gender == "f"


def test_a_layout_is_added_by_one_row_of_layouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(folder: Path, corpus: str) -> Iterator[Clip | Problem]:
        for path in sorted(folder.glob("*/*/*.wav")):
            speaker, label = path.parts[-3:-1]
            yield Clip(path, corpus, f"{corpus}/{speaker}", label, name=f"{speaker}/{label}/{path.stem}")

    row = Layout("tree", "SPEAKER/LABEL/*.wav", lambda folder: any(folder.glob("*/sad/*.wav")), read)
    monkeypatch.setitem(LAYOUTS, "tree", row)
    for speaker, label in (("anna", "sad"), ("anna", "happy"), ("ben", "hungry")):
        audio(tmp_path / speaker / label / "1.wav")
    clips, report = read_corpus(tmp_path)
    assert [(clip.speaker, clip.label) for clip in clips] == [("tree/anna", "happy"), ("tree/anna", "sad")]
    assert (report.corpus, report.counts) == ("tree", {"unknown label": 1})
    with pytest.raises(CorpusError, match="tree: SPEAKER/LABEL"):
        read_corpus(tmp_path / "anna")


def test_ravdess_is_read_and_its_songs_are_left_out_and_reported(tmp_path: Path) -> None:
    for number in range(1, 9):
        audio(tmp_path / "Actor_01" / f"03-01-{number:02d}-01-02-01-01.wav", number)
    audio(tmp_path / "Actor_02" / "03-01-05-02-01-02-02.wav")
    audio(tmp_path / "Actor_02" / "03-02-05-02-01-02-02.wav")
    clips, report = read_corpus(tmp_path)
    expected = ["neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise"]
    assert [clip.label for clip in clips if clip.speaker == "ravdess/01"] == expected
    (strong,) = [clip for clip in clips if clip.speaker == "ravdess/02"]
    assert (strong.gender, strong.style, strong.text_id) == ("f", "strong", "01")
    assert report.counts == {"song, not speech": 1}


def test_ravdess_is_found_in_a_subfolder_named_like_its_archive(tmp_path: Path) -> None:
    audio(tmp_path / "Audio_Speech_Actors_01-24" / "Actor_03" / "03-01-05-02-01-02-03.wav")
    (clip,), _ = read_corpus(tmp_path)
    assert (clip.speaker, clip.gender) == ("ravdess/03", "m")


def test_cremad_takes_genders_from_the_demographics_table_if_it_exists(tmp_path: Path) -> None:
    for emotion in ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD"):
        audio(tmp_path / "AudioWAV" / f"1001_DFA_{emotion}_XX.wav")
    audio(tmp_path / "AudioWAV" / "1002_IEO_SAD_HI.wav")
    audio(tmp_path / "AudioWAV" / "1002_IEO_SAD_X.wav", 3)  # one published file name lacks a letter of the level
    clips, _ = read_corpus(tmp_path)
    assert {clip.gender for clip in clips} == {""}
    (tmp_path / "VideoDemographics.csv").write_text("ActorID,Age,Sex,Race\n1001,51,Male,x\n1002,21,Female,x\n")
    clips, report = read_corpus(tmp_path)
    assert report.corpus == "crema-d" and not report.problems
    assert [clip.label for clip in clips[:6]] == ["angry", "disgust", "fear", "happy", "neutral", "sad"]
    loud = by_name(clips)["1002_IEO_SAD_HI"]
    assert (loud.speaker, loud.gender, loud.style, loud.text_id) == ("crema-d/1002", "f", "high", "IEO")


def test_tess_is_read_with_any_names_of_its_folders(tmp_path: Path) -> None:
    audio(tmp_path / "OAF_angry" / "OAF_back_angry.wav")
    audio(tmp_path / "OAF_neutral" / "OA_bite_neutral.wav", 1)
    audio(tmp_path / "YAF_pleasant_surprised" / "YAF_door_ps.wav", 2)
    clips, _ = read_corpus(tmp_path)
    assert [(clip.speaker, clip.text_id, clip.label) for clip in clips] == [
        ("tess/OAF", "back", "angry"),
        ("tess/OAF", "bite", "neutral"),
        ("tess/YAF", "door", "surprise"),
    ]


@pytest.mark.parametrize("flat", [True, False])
def test_savee_is_read_in_folders_and_flat(tmp_path: Path, flat: bool) -> None:
    for number, code in enumerate(("a", "d", "f", "h", "n", "sa", "su")):
        audio(tmp_path / (f"ALL/JE_{code}03.wav" if flat else f"AudioData/JE/{code}03.wav"), number)
    clips, report = read_corpus(tmp_path)
    assert report.corpus == "savee"
    assert {(clip.speaker, clip.gender) for clip in clips} == {("savee/JE", "m")}
    assert [clip.label for clip in clips] == ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
    assert len({clip.id for clip in clips}) == 7


def test_asvp_esd_is_read_without_babies_and_mixed_voices(tmp_path: Path) -> None:
    audio(tmp_path / "Audio" / "actor_12" / "03-01-06-01-02-12-02-01-01-16.wav")
    audio(tmp_path / "Audio" / "actor_5" / "03-02-13-02-02-05-02-03-02-77.wav", 1)
    audio(tmp_path / "Audio" / "actor_5" / "03-01-03-02-02-05-02-03-02-66.wav", 2)
    audio(tmp_path / "Bonus" / "actor_1" / "03-02-04-02-02-01-04-03-02-16.wav", 3)
    clips, report = read_corpus(tmp_path)
    assert [(c.speaker, c.gender, c.label, c.style, c.language) for c in clips] == [
        ("asvp-esd/12", "m", "fear", "speech", "zh"),
        ("asvp-esd/5", "f", "breath", "nonspeech", "en"),
    ]
    assert report.counts == {"several voices at once": 1}


DIALOG = """% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]

[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]
C-E2:\tNeutral;\t()
C-E3:\tNeutral;\t()
C-E4:\tNeutral;\t()
C-F1:\tFrustration;\t(curious)
A-E3:\tval 3; act 2; dom  2;\t()

[10.0100 - 11.3925]\tSes01F_impro01_M000\texc\t[2.5000, 2.5000, 2.5000]
C-E2:\tExcited; Happiness;\t()
C-E3:\tExcited;\t(laughs)
C-E4:\tHappiness;\t()

[14.8872 - 18.0175]\tSes01F_impro01_F001\thap\t[2.5000, 2.5000, 2.5000]
C-E1:\tHappiness;\t()
C-E2:\tAnger;\t()

[18.1000 - 19.2000]\tSes01F_impro01_F002\thap\t[2.5000, 2.5000, 2.5000]
C-E1:\tHappiness;\t()
C-E2:\tHappiness;\t()
C-E4:\tHappiness; Excited;\t()
C-F1:\tHappiness; Excited;\t()

[19.2900 - 20.7875]\tSes01F_impro01_M001\txxx\t[2.5000, 3.0000, 3.0000]
C-E2:\tAnger;\t()
C-E3:\tSadness;\t()
C-E4:\tNeutral;\t()
"""


def iemocap(root: Path) -> Path:
    evaluation = root / "Session1" / "dialog" / "EmoEvaluation"
    evaluation.mkdir(parents=True)
    (evaluation / "Ses01F_impro01.txt").write_text(DIALOG, encoding="utf-8")
    (evaluation / "._Ses01F_impro01.txt").write_bytes(b"\x00\x05\x16\x07")  # archives from macOS contain such files
    (evaluation / "Ses01M_script01_1.txt").write_text(
        "[1.0 - 2.5]\tSes01M_script01_1_FXX0\tsad\t[1.0, 2.0, 3.0]\n", encoding="utf-8"
    )
    for dialog, turns in {
        "Ses01F_impro01": ("F000", "M000", "F001", "F002", "M001"),
        "Ses01M_script01_1": ("FXX0",),
    }.items():
        for turn in turns:
            audio(root / "Session1" / "sentences" / "wav" / dialog / f"{dialog}_{turn}.wav")
    return root


def test_iemocap_gives_each_turn_its_speaker_votes_and_difficulty(tmp_path: Path) -> None:
    clips, _ = read_corpus(iemocap(tmp_path))
    found = {clip.path.stem: (clip.speaker, clip.label, clip.difficulty, clip.style) for clip in clips}
    assert found == {
        "Ses01F_impro01_F000": ("iemocap/Ses01F", "neutral", "B", "improvised"),
        "Ses01F_impro01_M000": ("iemocap/Ses01M", "excited", "C", "improvised"),
        "Ses01F_impro01_F001": ("iemocap/Ses01F", "happy", "C", "improvised"),
        # Four of the six votes for F002 are happy: see Zhong et al., table 1.
        "Ses01F_impro01_F002": ("iemocap/Ses01F", "happy", "B", "improvised"),
        "Ses01F_impro01_M001": ("iemocap/Ses01M", "xxx", "C", "improvised"),
        "Ses01M_script01_1_FXX0": ("iemocap/Ses01F", "sad", None, "scripted"),
    }
    assert by_name(clips)["Ses01F_impro01_M000"].votes == ("excited+happy", "excited", "happy")
    assert {clip.session for clip in clips} == {"Ses01"}


def test_excited_counts_as_happy_among_the_four_classes(tmp_path: Path) -> None:
    clips, dropped = map_labels(read_corpus(iemocap(tmp_path))[0], FOUR)
    assert sorted(clip.label for clip in clips) == ["happy", "happy", "happy", "neutral", "sad"]
    assert dropped == {"xxx": 1}  # turns on which the annotators do not agree are counted


def test_map_labels_counts_what_it_leaves_out(tmp_path: Path) -> None:
    for number in (2, 2, 5, 8):
        audio(tmp_path / "Actor_01" / f"03-01-{number:02d}-01-02-01-01.wav")
    clips, dropped = map_labels(read_corpus(tmp_path)[0], FOUR)
    assert [clip.label for clip in clips] == ["angry"]
    assert dropped == {"calm": 1, "surprise": 1}


# ---- faults


def test_a_missing_folder_is_an_error_that_names_the_folders_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STREAMSER_CORPORA", raising=False)
    with pytest.raises(CorpusError, match="nowhere: no such corpus folder; set STREAMSER_CORPORA"):
        read_corpus("nowhere")
    monkeypatch.setenv("STREAMSER_CORPORA", str(tmp_path))
    with pytest.raises(CorpusError, match="not in STREAMSER_CORPORA="):
        read_corpus("nowhere")
    (tmp_path / "there").mkdir()
    assert find_corpus("there") == tmp_path / "there"


def test_a_folder_in_no_known_layout_is_an_error_that_lists_the_layouts(tmp_path: Path) -> None:
    audio(tmp_path / "song.wav")
    with pytest.raises(CorpusError) as error:
        read_corpus(tmp_path)
    assert all(f"{name}: " in str(error.value) for name in LAYOUTS)


def test_an_unknown_layout_is_an_error_that_lists_the_layouts(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="unknown layout 'emobd'; known are auto, manifest, "):
        read_corpus(tmp_path, "emobd")


def test_a_folder_without_a_clip_of_its_layout_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="has no clips in the layout 'tess', which is OAF_angry/"):
        read_corpus(tmp_path, "tess")


def test_missing_columns_of_a_manifest_are_named(tmp_path: Path) -> None:
    manifest(tmp_path, ["a.wav,x"], "path,mood")
    with pytest.raises(CorpusError, match=r"no column emotion and no column speaker; .* this one has mood, path"):
        read_corpus(tmp_path)


def test_every_fault_of_a_row_is_named_and_counted(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav")
    rows = ["a.wav,1,sad", "a.wav,1,angry", "gone.wav,1,sad", "b.wav,1,hangry", "c.wav,1,", "d.wav,,sad", ",1,sad"]
    clips, report = read_corpus(manifest(tmp_path, rows), name="mine")
    assert [clip.id for clip in clips] == ["mine/a"]
    assert report.counts == {
        "listed twice": 1,
        "missing file": 1,
        "unknown label": 1,
        "no label": 1,
        "no speaker": 1,
        "row without a path": 1,
    }
    assert "1 x unknown label: mine/b ('hangry')" in report.text()
    assert "mine: 1 clips, 6 problems" in report.text()


@pytest.mark.parametrize(
    "path", ["../a.wav", "audio/../../a.wav", "/etc/hostname", "C:/a.wav", "..\\a.wav", "\\\\host\\a.wav"]
)
def test_a_path_outside_the_corpus_is_a_problem_and_is_not_read(tmp_path: Path, path: str) -> None:
    (tmp_path / "corpus" / "audio").mkdir(parents=True)
    audio(tmp_path / "a.wav")
    audio(tmp_path / "corpus" / "b.wav")
    clips, report = read_corpus(manifest(tmp_path / "corpus", [f"{path},1,sad", "b.wav,1,sad"]))
    assert [clip.id for clip in clips] == ["corpus/b"]
    assert report.counts == {"path outside the corpus": 1}
    assert f"path outside the corpus: {path} (a manifest's paths lie below its folder" in report.text()


@pytest.mark.parametrize("path", ["", ".", "./"])
def test_a_row_that_names_no_file_is_a_problem(tmp_path: Path, path: str) -> None:
    audio(tmp_path / "b.wav")
    clips, report = read_corpus(manifest(tmp_path, [f"{path},1,sad", "b.wav,1,sad"]))
    assert len(clips) == 1
    assert report.counts == {"row without a path": 1}


def test_own_labels_are_accepted_if_they_are_passed(tmp_path: Path) -> None:
    audio(tmp_path / "b.wav")
    manifest(tmp_path, ["b.wav,1,hangry"])
    clips, report = read_corpus(tmp_path, labels=["hangry"])
    assert len(clips) == 1 and not report.problems


def test_clips_without_labels_and_speakers_are_read_on_request(tmp_path: Path) -> None:
    audio(tmp_path / "rain.wav")
    manifest(tmp_path, ["rain.wav,,"])
    assert read_corpus(tmp_path)[1].counts == {"no label": 1}
    clips, report = read_corpus(tmp_path, labelled=False)
    assert [clip.speaker for clip in clips] == [""] and not report.problems


def test_an_unknown_emotion_letter_is_a_problem_not_a_class(tmp_path: Path) -> None:
    audio(tmp_path / "wav" / "03a01Fa.wav")
    audio(tmp_path / "wav" / "03a01Qa.wav")
    audio(tmp_path / "wav" / "test.wav")
    clips, report = read_corpus(tmp_path)
    assert len(clips) == 1
    assert report.counts == {"unknown label": 1, "foreign file name": 1}


def test_the_audio_check_finds_unreadable_silent_and_repeated_files(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav", seed=1)
    audio(tmp_path / "again.flac", seed=1)
    audio(tmp_path / "b.wav", seed=2)
    audio(tmp_path / "silent.wav", level=0.0)
    audio(tmp_path / "faint.wav", level=0.003)
    (tmp_path / "broken.wav").write_bytes(b"RIFF....")
    names = ("a.wav", "again.flac", "b.wav", "silent.wav", "faint.wav", "broken.wav")
    rows = [f"{name},1,{'sad' if name != 'again.flac' else 'angry'}" for name in names]
    clips, report = read_corpus(manifest(tmp_path, rows), name="mine", check=AudioCheck())
    assert [clip.id for clip in clips] == ["mine/a", "mine/b"]
    assert all(clip.digest for clip in clips)
    assert {p.kind: p.where for p in report.problems} == {
        "duplicate clip": "mine/again",
        "silent file": "mine/silent",
        "almost silent file": "mine/faint",
        "unreadable file": "mine/broken",
    }
    assert "the same samples as mine/a, there sad" in report.text()
    assert report.kept == 2


def test_quiet_speech_above_the_threshold_is_kept_and_below_it_reported(tmp_path: Path) -> None:
    audio(tmp_path / "faint.wav", level=0.003)  # -50 dBFS
    folder = manifest(tmp_path, ["faint.wav,1,sad"])
    (problem,) = read_corpus(folder, name="mine", check=AudioCheck())[1].problems
    assert "mine/faint" in str(problem) and "below quiet_dbfs -46" in str(problem)
    assert len(read_corpus(folder, name="mine", check=AudioCheck(quiet_dbfs=-60.0))[0]) == 1


def test_the_audio_check_caches_a_file_until_its_time_changes(tmp_path: Path) -> None:
    path = audio(tmp_path / "a.wav", seed=1)
    clip = Clip(path, "mine", "mine/1", "sad")
    cache = tmp_path / "cache" / "heard.json"
    (first,), _ = check_audio([clip], AudioCheck(cache))
    stamp = path.stat().st_mtime_ns
    audio(path, seed=2)
    os.utime(path, ns=(stamp, stamp))  # same size, same time: the cache is used
    assert check_audio([clip], AudioCheck(cache))[0][0].digest == first.digest
    os.utime(path, ns=(stamp, stamp + 10**9))
    assert check_audio([clip], AudioCheck(cache))[0][0].digest != first.digest


def test_a_damaged_cache_is_replaced(tmp_path: Path) -> None:
    clip = Clip(audio(tmp_path / "a.wav"), "mine", "mine/1", "sad")
    cache = tmp_path / "heard.json"
    cache.write_text('{"half')
    assert len(check_audio([clip], AudioCheck(cache))[0]) == 1
    assert cache.read_text().endswith("}")


def test_two_corpora_with_the_same_name_are_refused(tmp_path: Path) -> None:
    for parent in ("x", "y"):
        audio(tmp_path / parent / "mine" / "a.wav")
        manifest(tmp_path / parent / "mine", ["a.wav,1,sad"])
    with pytest.raises(CorpusError, match="a second corpus called 'mine'"):
        read_corpora([tmp_path / "x" / "mine", tmp_path / "y" / "mine"])


def test_cautions_name_few_speakers_scarce_labels_and_sentences_that_reveal_the_label() -> None:
    clips = [
        Clip(Path(f"{text}{n}.wav"), "c", f"c/{n % 2}", label, text_id=text)
        for text, label, count in (("t1", "sad", 30), ("t2", "sad", 20), ("t2", "angry", 19))
        for n in range(count)
    ]
    few, scarce, telling = cautions(clips)
    assert few.startswith("2 speakers")
    assert scarce == "labels with fewer than 20 clips: angry 19"
    assert telling.startswith("30 of 69 clips have one of 1 sentences that have a single label")


# ---- real corpora


def real(name: str) -> Path:
    if not (REAL / name).is_dir():
        pytest.skip(f"no corpus {name} in {REAL}; set STREAMSER_CORPORA")
    return REAL / name


def checked(name: str, only: tuple[str, ...]) -> CorpusReport:
    """The report of the audio check for the named files of a real corpus."""
    clips, _ = read_corpus(real(name))
    _, problems = check_audio([clip for clip in clips if clip.path.stem in only], AudioCheck())
    return CorpusReport(name, 0, tuple(problems))


def test_the_known_faults_of_the_real_corpora_are_found() -> None:
    twins = ("03-01-03-01-02-01-07", "03-01-03-01-02-02-07", "03-01-02-02-02-02-20", "03-01-05-01-01-01-01")
    assert checked("ravdess", twins).counts == {"duplicate clip": 1, "almost silent file": 1}
    assert checked("cremad_part", ("1076_MTI_SAD_XX", "1001_DFA_SAD_XX")).counts == {"silent file": 1}


@pytest.mark.parametrize(("name", "clips", "speakers"), [("emodb", 535, 10), ("ravdess", 1440, 24), ("ased", 2474, 65)])
def test_all_clips_of_the_real_manifests_are_read(name: str, clips: int, speakers: int) -> None:
    found, report = read_corpus(real(name))
    assert (len(found), len({clip.speaker for clip in found})) == (clips, speakers)
    assert not report.problems


def test_the_real_cautions_are_found() -> None:
    assert any("2 speakers" in caution for caution in read_corpus(real("tess"))[1].cautions)
    assert any("words give the label away" in caution for caution in read_corpus(real("ased"))[1].cautions)
    assert read_corpus(real("ravdess"))[1].cautions == ()
