"""`streamser replay` prints or writes the events of files."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from makers import babble, noise, silence

from streamser.audio import SAMPLE_RATE
from streamser.bundle import Bundle
from streamser.cli import main
from streamser.cli.replay import stream_names
from streamser.recognizer import Recognizer
from streamser.stream.pipeline import replay


def write(path: Path, times: int = 1) -> Path:
    one = np.concatenate([silence(1.2), babble(1.5, seed=1), silence(1.3)])
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.tile(one + noise(len(one) / SAMPLE_RATE, level=0.001), times), SAMPLE_RATE)
    return path


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    return write(tmp_path / "talk.wav", times=2)


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_each_utterance_is_printed_as_a_line(bundle: Bundle, talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(talk), "--model", str(bundle.path)]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[2].endswith("end: 2 utterances")
    assert lines[4].startswith("00:00:08  2 utterances")
    assert lines[-1] == "  saved     nothing; --out FILE keeps the results"
    assert printed.err == ""


def test_the_summary_names_the_output_files_that_were_continued(
    bundle: Bundle, talk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, new = tmp_path / "a.csv", tmp_path / "b.rttm"
    words = ["replay", str(talk), "--model", str(bundle.path), "--out", str(out)]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"  saved     {out}"
    assert main([*words, "--out", str(new)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"  saved     {out} (continued after 2 rows), {new}"
    with pytest.raises(SystemExit):
        main(["replay", "--help"])
    assert "an existing file is continued" in " ".join(capsys.readouterr().out.split())


def test_jsonl_prints_the_same_events_as_the_python_function(
    bundle: Bundle, recognizer: Recognizer, talk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(talk), "--model", str(bundle.path), "--jsonl", "-"]) == 0
    received = rows(capsys.readouterr().out)
    expected = [event.to_dict() | {"stream": "talk"} for event in replay(talk, model=recognizer)]
    for row in (*received, *expected):
        row.pop("latency_ms", None)
    assert received == expected and sum(row.get("final", False) for row in received) == 2


def test_each_file_of_a_folder_is_a_separate_stream(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("talks/b.wav", "talks/a/x.wav", "talks/c/x.flac"):
        write(tmp_path / name)
    out = tmp_path / "{stream}.vtt"
    call = ["replay", str(tmp_path / "talks"), "--model", str(bundle.path), "--jsonl", "-", "--out", str(out)]
    assert main(call) == 0
    ended = [row for row in rows(capsys.readouterr().out) if row["type"] == "stream_ended"]
    names = [row["stream"] for row in ended]
    assert names[1] == "b" and names[0].endswith("talks_a_x") and names[2].endswith("talks_c_x")
    assert [row["end_s"] for row in ended] == [4.0, 4.0, 4.0]
    assert (tmp_path / "b.vtt").read_text().startswith("WEBVTT")


def test_files_that_cannot_be_read_are_skipped_if_there_are_others(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "talks"
    for name in ("a.wav", "z.flac"):
        write(folder / name)
    (folder / "bad.wav").write_bytes(b"RIFF no")
    torn = write(folder / "torn.flac", times=8).read_bytes()
    (folder / "torn.flac").write_bytes(torn[: len(torn) // 2])  # can be opened, but not read to its end
    assert main(["replay", str(folder), "--model", str(bundle.path), "--jsonl", "-"]) == 3
    printed = capsys.readouterr()
    ended = {row["stream"]: row.get("error") for row in rows(printed.out) if row["type"] == "stream_ended"}
    assert list(ended) == ["a", "torn", "z"] and ended["a"] is None and ended["z"] is None
    assert "cannot be read to its end" in (ended["torn"] or "")
    skipped = printed.err.splitlines()
    assert len(skipped) == 2 and all(line.startswith("streamser: skipped: ") for line in skipped)
    assert "bad.wav" in skipped[0] and "torn.flac" in skipped[1]


def test_if_no_file_can_be_read_the_last_line_reports_this(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).write_bytes(b"RIFF no")
    assert main(["replay", str(tmp_path / "a.wav"), str(tmp_path / "b.wav"), "--model", str(bundle.path)]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "streamser: none of the 2 files can be read"


def test_streams_are_named_after_their_files() -> None:
    assert stream_names((Path("a/x.wav"), Path("y.flac"))) == ["x", "y"]
    assert stream_names((Path("a/x.wav"), Path("b/x.wav"), Path("y.wav"))) == ["a_x", "b_x", "y"]


def test_a_picture_is_drawn_at_the_end(bundle: Bundle, talk: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert (
        main(["replay", str(talk), "--model", str(bundle.path), "--plain", "--plot", str(tmp_path / "talk.png")]) == 0
    )
    assert (tmp_path / "talk.png").read_bytes().startswith(b"\x89PNG")


def test_a_long_file_shows_its_progress_on_a_terminal(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert (
        main(["replay", str(write(tmp_path / "long.wav", times=16)), "--model", str(bundle.path), "--jsonl", "-"]) == 0
    )
    shown = terminal.getvalue()
    assert "long.wav  [" in shown and "/64  0:0" in shown
    assert shown.endswith("\r\x1b[K")
    assert len(rows(capsys.readouterr().out)) > 40


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["none.wav"], "streamser: none.wav: no such file"),
        (["{empty}"], "streamser: {empty}: the file is empty (0 bytes)"),
        (["{talk}", "--model", "nonsense"], "streamser: "),
        (["{talk}", "{talk}", "--plot", "x.png"], "streamser: --plot: a picture shows one file"),
        (["{talk}", "--out", "x.mp4"], "streamser: x.mp4: the extension decides the format"),
    ],
)
def test_an_invalid_argument_is_reported_in_one_line(
    options: list[str], error: str, bundle: Bundle, talk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = talk.with_name("empty.wav")
    empty.touch()
    words = [word.format(talk=talk, empty=empty) for word in options]
    assert main(["replay", "--model", str(bundle.path), *words]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(error.format(empty=empty)) and printed.count("\n") == 1


@pytest.mark.parametrize("speed", ["0", "-1", "fast", "inf"])
def test_an_invalid_speed_is_a_usage_error(speed: str, talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["replay", str(talk), "--speed", speed])
    assert ended.value.code == 2
    assert f"argument --speed: must be a number above 0, or max, not '{speed}'" in capsys.readouterr().err


def process(bundle: Bundle, *options: object) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "streamser", "replay", "--model", bundle.path, "--jsonl", "-", *options]
    return subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_ctrl_c_ends_a_replay_with_the_final_of_the_open_utterance(bundle: Bundle, talk: Path) -> None:
    with process(bundle, talk, "--speed", "1") as replaying:
        assert replaying.stdout is not None
        lines = [replaying.stdout.readline(), replaying.stdout.readline()]
        replaying.send_signal(signal.SIGINT)
        rest, errors = replaying.communicate(timeout=10)
    received = rows("".join(lines) + rest)
    assert [row["type"] for row in received[-3:]] == ["emotion", "speech_ended", "stream_ended"]
    assert received[-3]["final"] and received[-1]["end_s"] < 4.0
    assert (replaying.returncode, errors) == (130, "")


def test_a_reader_that_closes_the_pipe_ends_the_replay_without_a_message(bundle: Bundle, talk: Path) -> None:
    with process(bundle, talk, talk, talk) as replaying:
        assert replaying.stdout is not None and replaying.stderr is not None
        replaying.stdout.readline()
        replaying.stdout.close()
        assert replaying.wait(10) == 0
        assert replaying.stderr.read() == ""


def test_the_lines_of_several_files_are_printed_under_their_names(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(write(tmp_path / name)) for name in ("first.wav", "second.wav")]
    assert main(["replay", *files, "--model", str(bundle.path), "--plain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [number for number, line in enumerate(lines) if line in ("-- first", "-- second")] == [0, 3]
    assert main(["replay", files[0], "--model", str(bundle.path), "--plain"]) == 0
    assert "-- " not in capsys.readouterr().out


def test_every_requested_picture_is_drawn(bundle: Bundle, talk: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pictures = [tmp_path / "one.png", tmp_path / "two.svg"]
    words = [word for picture in pictures for word in ("--plot", str(picture))]
    assert main(["replay", str(talk), "--model", str(bundle.path), "--plain", *words]) == 0
    assert pictures[0].read_bytes().startswith(b"\x89PNG") and "<svg" in pictures[1].read_text()


@pytest.mark.parametrize("command", ["replay", "label"])
def test_a_damaged_mp3_is_reported_in_one_line_and_the_decoders_messages_are_hidden(
    command: str, bundle: Bundle, tmp_path: Path
) -> None:
    folder, whole = tmp_path / "talks", tmp_path / "whole.mp3"
    folder.mkdir()
    soundfile.write(whole, noise(3.0), SAMPLE_RATE)
    data = whole.read_bytes()
    (folder / "bad.mp3").write_bytes(data[:2000] + np.random.default_rng(1).bytes(3000) + data[3000:])
    words = [sys.executable, "-m", "streamser", command, folder, "--model", bundle.path]
    words += ["--out", tmp_path / "labels.csv"] if command == "label" else ["--plain"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 3)
    assert done.stderr.startswith("streamser: ") and "bad.mp3" in done.stderr and done.stderr.count("\n") == 1
