"""`streamser label`: a folder of audio becomes one table; an interrupted run can be resumed."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from makers import babble, make_bundle, noise, silence

from streamser.audio import SAMPLE_RATE, read_audio
from streamser.baseline import Baseline
from streamser.bundle import Bundle
from streamser.calibration import Calibration
from streamser.cli import main
from streamser.recognizer import Recognizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three audio files, a damaged audio file and a text file."""
    for seed, name in enumerate(("a.wav", "deep/er/b.flac", 'ü, "c".wav')):
        path = tmp_path / "talks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        audio = np.concatenate([silence(1.2), babble(1.2 + seed / 5, seed=seed), silence(1.0)])
        soundfile.write(path, audio + noise(len(audio) / SAMPLE_RATE, level=0.001), SAMPLE_RATE)
    (tmp_path / "talks" / "bad.wav").write_bytes(b"RIFF no")
    (tmp_path / "talks" / "notes.txt").write_text("not audio")
    return tmp_path / "talks"


NAMES = ["a.wav", "deep/er/b.flac", 'ü, "c".wav']


def label(folder: Path, bundle: Bundle, out: Path, *options: object) -> int:
    return main(["label", str(folder), "--model", str(bundle.path), "--out", str(out), *map(str, options)])


def all_rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def rows(out: Path) -> list[dict[str, Any]]:
    """The rows of files that could be labelled."""
    return [row for row in all_rows(out) if "error" not in row]


def test_each_file_gets_the_recognizers_prediction_or_its_error(
    folder: Path, bundle: Bundle, recognizer: Recognizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "labels.jsonl"
    assert label(folder, bundle, out) == 3
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and "skipped" in printed.err and "bad.wav" in printed.err
    assert printed.out.startswith(f"streamser: 3 of 4 files labelled in {out}") and printed.out.endswith(": 1 .txt\n")
    assert [row["file"] for row in all_rows(out)] == ["a.wav", "bad.wav", *NAMES[1:]]
    bad = all_rows(out)[1]
    assert bad.keys() == {"file", "error", "model"} and "bad.wav: not a readable audio file" in bad["error"]
    for row in rows(out):
        prediction = recognizer.predict(read_audio(folder / row["file"]))
        assert (row["label"], row["uncertain"], row["model"]) == (prediction.label, prediction.uncertain, "tiny")
        assert row["scores"] == {name: round(score, 4) for name, score in prediction.scores.items()}


def test_label_exits_with_code_0_if_every_file_is_labelled(folder: Path, bundle: Bundle, tmp_path: Path) -> None:
    (folder / "bad.wav").unlink()
    assert label(folder, bundle, tmp_path / "labels.jsonl") == 0


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_second_run_continues_the_table_and_replaces_an_incomplete_last_row(
    folder: Path, bundle: Bundle, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"labels{suffix}"
    label(folder, bundle, out)
    whole = out.read_bytes()
    out.write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 20])  # as if killed in the middle of the last row
    capsys.readouterr()
    assert label(folder, bundle, out) == 3
    # The damaged file was tried again, after the others, so only the order of the rows differs.
    assert sorted(out.read_bytes().splitlines()) == sorted(whole.splitlines())
    assert "3 of 4 files labelled" in (printed := capsys.readouterr().out) and "2 of them before" in printed


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_file_with_an_error_is_tried_again_and_has_one_row_in_the_end(
    folder: Path, bundle: Bundle, tmp_path: Path, suffix: str
) -> None:
    out, again = tmp_path / f"labels{suffix}", tmp_path / f"again{suffix}"
    assert label(folder, bundle, out) == 3
    (folder / "bad.wav").write_bytes((folder / "a.wav").read_bytes())
    assert label(folder, bundle, out) == 0
    assert label(folder, bundle, again) == 0
    assert sorted(out.read_bytes().splitlines()) == sorted(again.read_bytes().splitlines())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_files_can_be_named_by_a_list_and_a_repeated_name_counts_once(
    folder: Path, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named, out = folder / "these.txt", tmp_path / "labels.jsonl"
    named.write_text(f"deep/er/b.flac\r\n\n{folder / 'a.wav'}\ndeep/er/b.flac\ngone.wav\n", encoding="utf-8")
    assert label(named, bundle, out) == 3
    assert [row["file"] for row in rows(out)] == ["deep/er/b.flac", str(folder / "a.wav")]
    assert "gone.wav: no such file" in all_rows(out)[-1]["error"]
    capsys.readouterr()
    assert label(folder, bundle, tmp_path / "folder.jsonl") == 3
    scores = {Path(row["file"]).name: row["scores"] for row in rows(tmp_path / "folder.jsonl")}
    assert all(row["scores"] == scores[Path(row["file"]).name] for row in rows(out))
    named.write_text("\n", encoding="utf-8")
    assert label(named, bundle, tmp_path / "x.jsonl") == 1
    assert "has no readable audio file" in capsys.readouterr().err


def test_several_processes_write_the_same_table_as_one(folder: Path, bundle: Bundle, tmp_path: Path) -> None:
    alone, together = tmp_path / "alone.jsonl", tmp_path / "together.jsonl"
    assert label(folder, bundle, alone) == label(folder, bundle, together, "--jobs", 2) == 3
    assert alone.read_bytes() == together.read_bytes()


def test_a_csv_opens_in_a_spreadsheet(folder: Path, bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "labels.csv"
    label(folder, bundle, out)
    with out.open(encoding="utf-8", newline="") as file:
        everything = list(csv.DictReader(file))
    (bad,), table = ([row for row in everything if bool(row["error"]) is error] for error in (True, False))
    assert bad["file"] == "bad.wav" and "not a readable audio file" in bad["error"] and not bad["label"]
    assert [row["file"] for row in table] == NAMES
    columns = ["label", "uncertain", "likeliest", "confidence", *(f"p_{name}" for name in bundle.labels)]
    assert list(table[0]) == ["file", "duration_s", *columns, "reason", "model", "error"]
    assert all(sum(float(row[f"p_{name}"]) for name in bundle.labels) == pytest.approx(1, abs=1e-3) for row in table)


def test_label_and_replay_write_the_same_columns_and_values_for_an_utterance(tmp_path: Path) -> None:
    timid = make_bundle(tmp_path / "timid", calibration=Calibration(threshold=0.99))  # always uncertain
    audio = np.concatenate([silence(1.2), babble(1.4), silence(1.0)])
    path = tmp_path / "talks" / "a.wav"
    path.parent.mkdir()
    soundfile.write(path, audio + noise(len(audio) / SAMPLE_RATE, level=0.001), SAMPLE_RATE)
    assert label(path.parent, timid, tmp_path / "label.csv", "--utterances") == 0
    assert (
        main(["replay", str(path), "--model", str(timid.path), "--plain", "--out", str(tmp_path / "replay.csv")]) == 0
    )
    tables = [(tmp_path / name).read_text(encoding="utf-8") for name in ("label.csv", "replay.csv")]
    (labelled,), (replayed,) = (list(csv.DictReader(io.StringIO(table))) for table in tables)
    assert replayed["label"] == "uncertain" and replayed["likeliest"] in timid.labels
    shared = [column for column in replayed if column != "stream"]
    assert {column: labelled[column] for column in shared} == {column: replayed[column] for column in shared}
    assert [column for column in labelled if column in shared] == shared


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_with_utterances_each_utterance_has_a_row_and_a_file_without_speech_has_a_row_with_the_reason(
    folder: Path, bundle: Bundle, tmp_path: Path, suffix: str
) -> None:
    soundfile.write(folder / "quiet.wav", silence(2.0), SAMPLE_RATE)
    (folder / "bad.wav").unlink()
    out = tmp_path / f"labels{suffix}"
    assert label(folder, bundle, out, "--utterances") == 0
    before = out.read_bytes()
    assert label(folder, bundle, out, "--utterances") == 0
    assert out.read_bytes() == before
    if suffix == ".jsonl":
        spoken = [row for row in rows(out) if "label" in row]
        (quiet,) = [row for row in rows(out) if "label" not in row]
        assert (quiet["file"], quiet["uncertain"], quiet["reason"]) == ("quiet.wav", True, "no speech")
        assert [row["file"] for row in spoken] == NAMES
        assert all(0.5 < row["start_s"] < 1.3 and 2 < row["end_s"] < 3.5 for row in spoken)


@pytest.mark.parametrize(("seconds", "reason"), [(2.0, "no sound"), (0.01, "too short")])
def test_a_file_with_nothing_to_score_is_uncertain_and_has_no_likeliest_label(
    bundle: Bundle, tmp_path: Path, seconds: float, reason: str
) -> None:
    (tmp_path / "talks").mkdir()
    soundfile.write(tmp_path / "talks" / "quiet.wav", silence(seconds), SAMPLE_RATE)
    assert label(tmp_path / "talks", bundle, tmp_path / "labels.jsonl") == 0
    assert label(tmp_path / "talks", bundle, tmp_path / "labels.csv") == 0
    printed = {"file": "quiet.wav", "duration_s": seconds, "uncertain": True, "reason": reason, "model": "tiny"}
    assert rows(tmp_path / "labels.jsonl") == [printed]
    (row,) = csv.DictReader(io.StringIO((tmp_path / "labels.csv").read_text()))
    assert (row["label"], row["uncertain"], row["likeliest"], row["reason"]) == ("uncertain", "true", "", reason)
    assert row["confidence"] == row[f"p_{bundle.labels[0]}"] == ""


@pytest.mark.parametrize("options", [(), ("--two-passes",)], ids=["one pass", "two passes"])
def test_a_clipped_file_has_the_reason_and_does_not_change_the_speakers_baseline(
    folder: Path, adaptive: Recognizer, tmp_path: Path, options: tuple[str, ...]
) -> None:
    usual, out, table = tmp_path / "usual.jsonl", tmp_path / "labels.jsonl", tmp_path / "labels.csv"
    assert label(folder, adaptive.bundle, usual, *options) == 3
    clipped = 0.001 * np.clip(100 * babble(2.0), -1.0, 1.0)  # made so quiet that the tiny network finds it neutral
    soundfile.write(folder / "clipped.wav", clipped, SAMPLE_RATE)
    assert label(folder, adaptive.bundle, out, *options) == 3
    assert label(folder, adaptive.bundle, table, *options) == 3
    (row,) = [row for row in rows(out) if row["file"] == "clipped.wav"]
    assert row == {
        "file": "clipped.wav",
        "duration_s": 2.0,
        "uncertain": True,
        "reason": "clipped",
        "model": "adaptive",
    }
    assert [other for other in rows(out) if other != row] == rows(usual)
    (flat,) = [row for row in csv.DictReader(io.StringIO(table.read_text())) if row["file"] == "clipped.wav"]
    assert (flat["label"], flat["uncertain"], flat["likeliest"], flat["reason"]) == ("uncertain", "true", "", "clipped")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_table_of_another_model_or_kind_is_refused_and_not_changed(
    folder: Path, bundle: Bundle, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"labels{suffix}"
    label(folder, bundle, out)
    before = out.read_bytes()
    other = make_bundle(tmp_path / "other")
    assert label(folder, other, out) == 1
    assert "has labels of the model 'tiny', not 'other'" in capsys.readouterr().err
    assert label(folder, bundle, out, "--utterances") == 1
    assert out.read_bytes() == before
    out.write_text("another program's file\n")
    assert label(folder, bundle, out) == 1
    assert out.read_text() == "another program's file\n"
    assert label(folder, other, out, "--overwrite") == 3
    assert out.read_bytes() != before


@pytest.mark.parametrize(
    ("name", "out", "error"),
    [
        (
            "talks/a.wav",
            "x.jsonl",
            "is not a folder, nor a list of files (.txt, .lst, .list); label one file with: streamser",
        ),
        ("nowhere", "x.jsonl", "is not a folder"),
        ("empty", "x.jsonl", "has no readable audio file"),
        ("talks", "x.txt", "the extension selects the format; known extensions are .jsonl and .csv"),
        ("talks", "nowhere/x.csv", "cannot be written (No such file or directory)"),
    ],
)
def test_an_invalid_argument_is_reported_in_one_line(
    folder: Path, bundle: Bundle, tmp_path: Path, name: str, out: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert label(tmp_path / name, bundle, tmp_path / out) == 1
    printed = capsys.readouterr().err
    assert error in printed and printed.count("\n") == 1


def test_stream_options_without_utterances_are_refused_before_a_table_is_written(
    folder: Path, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "labels.jsonl"
    assert label(folder, bundle, out, "--no-adapt") == 1
    assert "add --utterances" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        label(folder, bundle, out, "--settle", "--utterances")
    assert "--settle was removed: streams adapt to the voice by default now; --no-adapt" in capsys.readouterr().err
    assert not out.exists()


# Two passes


def adapted_by_hand(recognizer: Recognizer, folder: Path, names: list[str]) -> dict[str, dict[str, float]]:
    """The scores of each file with a baseline from the other files, computed again in a second way."""
    rule = recognizer.bundle.baseline
    assert rule is not None
    recordings = {name: read_audio(folder / name) for name in names}
    alone = recognizer.predict(list(recordings.values()))
    weights = [
        prediction.scores["neutral"] * min(1.0, len(audio) / SAMPLE_RATE / 2.0)
        for prediction, audio in zip(alone, recordings.values(), strict=True)
    ]
    found = {}
    for row, name in enumerate(names):
        others = [place for place in range(len(names)) if place != row]
        embeddings = [alone[place].embedding for place in others]
        total = sum((weights[place] * one for place, one in zip(others, embeddings, strict=True)), np.zeros(64))
        baseline = Baseline(np.asarray(total, np.float64), sum(weights[place] for place in others), len(others))
        found[name] = dict(recognizer.predict(recordings[name], baseline).scores)
    return found


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_passes_compare_each_file_with_the_others(
    folder: Path, adaptive: Recognizer, tmp_path: Path, jobs: int
) -> None:
    once, twice = tmp_path / "once.jsonl", tmp_path / "twice.jsonl"
    assert label(folder, adaptive.bundle, once) == 3
    assert label(folder, adaptive.bundle, twice, "--two-passes", "--jobs", jobs) == 3
    assert [row.keys() for row in rows(twice)] == [row.keys() for row in rows(once)]
    expected = adapted_by_hand(adaptive, folder, NAMES)
    for before, after in zip(rows(once), rows(twice), strict=True):
        assert after["scores"] == pytest.approx(expected[after["file"]], abs=1e-4)
        assert after["scores"] != before["scores"]


def test_each_speaker_is_compared_with_their_own_files(folder: Path, adaptive: Recognizer, tmp_path: Path) -> None:
    manifest, out = tmp_path / "who.csv", tmp_path / "labels.jsonl"
    with manifest.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("file", "speaker"), ("bad.wav", "x"), *zip(NAMES, "aba", strict=True)])
    assert label(folder, adaptive.bundle, out, "--two-passes", "--speakers", manifest) == 3
    pair = adapted_by_hand(adaptive, folder, [NAMES[0], NAMES[2]])
    alone = adaptive.predict(read_audio(folder / NAMES[1])).scores
    for row in rows(out):
        assert row["scores"] == pytest.approx(pair.get(row["file"], alone), abs=1e-4)


@pytest.mark.parametrize(
    ("options", "printed"),
    [
        (["--speakers", "who.csv"], "--speakers: needs --two-passes"),
        (["--two-passes", "--utterances"], "--two-passes: cannot be used with --utterances"),
        (["--two-passes", "--profile", "me"], "--two-passes: builds the baseline from the files themselves"),
        (["--two-passes", "--speakers", "nowhere.csv"], "--speakers nowhere.csv: cannot be read"),
    ],
)
def test_options_that_two_passes_cannot_use_are_refused_before_a_table_is_written(
    folder: Path,
    adaptive: Recognizer,
    tmp_path: Path,
    options: list[str],
    printed: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "labels.jsonl"
    assert label(folder, adaptive.bundle, out, *options) == 1
    assert printed in capsys.readouterr().err
    assert not out.exists()


def test_a_table_of_speakers_without_a_file_or_a_column_is_refused(
    folder: Path, adaptive: Recognizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, out = tmp_path / "who.csv", tmp_path / "labels.jsonl"
    for text, printed in (
        ("file,person\na.wav,x\n", "needs the columns file and speaker"),
        ("file,speaker\na.wav,x\n", "names no speaker for 'bad.wav' and 2 other files"),
    ):
        manifest.write_text(text, encoding="utf-8")
        assert label(folder, adaptive.bundle, out, "--two-passes", "--speakers", manifest) == 1
        assert printed in capsys.readouterr().err
    assert not out.exists()


def test_two_passes_need_a_relative_head_and_a_new_table(
    folder: Path, bundle: Bundle, adaptive: Recognizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "labels.jsonl"
    assert label(folder, bundle, out, "--two-passes") == 1
    assert "has no relative head" in capsys.readouterr().err and not out.exists()
    assert label(folder, adaptive.bundle, out) == 3
    before = out.read_bytes()
    capsys.readouterr()
    assert label(folder, adaptive.bundle, out, "--two-passes") == 1
    assert "already has rows" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert label(folder, adaptive.bundle, out, "--two-passes", "--overwrite") == 3
    assert out.read_bytes() != before
