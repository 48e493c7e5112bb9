"""However a command ends, its output files are complete and none of its processes remains."""

from __future__ import annotations

import csv
import errno
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from makers import babble, noise, silence

from streamser.audio import SAMPLE_RATE
from streamser.bundle import Bundle
from streamser.cli import main

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


def start(*words: object, **options: object) -> subprocess.Popen[bytes]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([sys.executable, "-m", "streamser", *map(str, words)], **pipes)  # type: ignore[call-overload,no-any-return]


def until(condition: Callable[[], bool], what: str, deadline_s: float = 60.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def long_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short file and five files of half an hour, which keep workers busy."""
    folder = tmp_path_factory.mktemp("long")
    soundfile.write(folder / "a.wav", babble(1.0), SAMPLE_RATE)
    soundfile.write(folder / "long0.flac", np.zeros(8_000 * 1800, np.int16), 8_000)
    for number in range(1, 6):
        os.link(folder / "long0.flac", folder / f"long{number}.flac")
    return folder


# label --jobs


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for child processes in /proc")
@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([signal.SIGTERM], 143),
        ([signal.SIGHUP], 129),
        ([signal.SIGINT], 130),
        ([signal.SIGINT, signal.SIGINT], -2),
        ([signal.SIGKILL], -9),
    ],
    ids=["TERM", "HUP", "INT", "INT twice", "KILL"],
)
def test_a_label_command_that_a_signal_ends_leaves_no_worker_process(
    long_folder: Path, bundle: Bundle, tmp_path: Path, signals: list[signal.Signals], code: int
) -> None:
    out = tmp_path / "labels.jsonl"
    with start("label", long_folder, "--model", bundle.path, "--out", out, "--jobs", 2) as process:
        until(lambda: out.exists() and out.read_bytes().count(b"\n") == 1, "the first row")
        workers = children(process.pid)
        assert len(workers) >= 2
        for number in signals:
            process.send_signal(number)
            time.sleep(0.05)
        # A second SIGINT may arrive before or after the command has handled the first.
        assert process.wait(timeout=10) in (code, 130 if code == -2 else code)
    until(lambda: not any(map(lives, workers)), "the workers' end", 10)
    assert [json.loads(line)["file"] for line in out.read_text().splitlines()] == ["a.wav"]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_table_with_odd_file_names_is_resumed(bundle: Bundle, tmp_path: Path, suffix: str) -> None:
    folder, out = tmp_path / "talks", tmp_path / f"labels{suffix}"
    names = sorted(["a\u2028b.wav", "c\u0085d.wav", "e\rf.wav", "g\nh.wav", "i\x0bj.wav", 'k"l.wav', "m\x1cn.wav"])
    folder.mkdir()
    for name in names:
        soundfile.write(folder / name, babble(0.5), SAMPLE_RATE)
    words = ["label", str(folder), "--model", str(bundle.path), "--out", str(out)]
    assert main(words) == 0
    whole = out.read_bytes()
    for cut in range(len(whole) - 1, len(whole) - 400, -37):  # as if killed anywhere within the last rows
        out.write_bytes(whole[:cut])
        assert main(words) == 0
        assert out.read_bytes() == whole
    with out.open(encoding="utf-8", newline="") as file:
        rows = (
            [json.loads(line) for line in file.read().split("\n")[:-1]] if suffix == ".jsonl" else csv.DictReader(file)
        )
        assert sorted(row["file"] for row in rows) == names


def test_a_file_that_needs_too_much_memory_gets_an_error_row(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "talks", tmp_path / "labels.jsonl"
    folder.mkdir()
    for name in ("a.wav", "b.wav"):
        soundfile.write(folder / name, babble(0.5), SAMPLE_RATE)

    def read(path: Path) -> np.ndarray:
        if path.name == "a.wav":
            raise MemoryError
        return babble(0.5)

    monkeypatch.setattr("streamser.labelling.worker.read_audio", read)
    assert main(["label", str(folder), "--model", str(bundle.path), "--out", str(out)]) == 3
    assert "a.wav: needs more memory than there is" in capsys.readouterr().err
    failed, done = map(json.loads, out.read_text().splitlines())
    assert (failed["file"], done["file"]) == ("a.wav", "b.wav") and "memory" in failed["error"]


# replay and live


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """A file with one long utterance, which is still open when the signal is sent."""
    audio = np.concatenate([silence(0.5), babble(20.0, seed=2)])
    path = tmp_path / "talk.wav"
    soundfile.write(path, audio + noise(len(audio) / SAMPLE_RATE, level=0.001), SAMPLE_RATE)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_replay_at_real_speed_with_the_final_of_the_open_utterance(
    talk: Path, bundle: Bundle, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "events.jsonl"
    with start("replay", talk, "--speed", 1, "--plain", "--model", bundle.path, "--out", out) as process:
        until(lambda: out.exists() and b'"emotion"' in out.read_bytes(), "a partial result")
        process.send_signal(number)
        assert process.wait(timeout=10) == 128 + number
        assert process.stderr is not None and b"Traceback" not in process.stderr.read()
    events = [json.loads(line) for line in out.read_text().splitlines()]
    assert [event["type"] for event in events][-3:] == ["emotion", "speech_ended", "stream_ended"]
    assert events[-3]["final"] and events[-1]["error"] is None


@pytest.mark.slow
def test_two_signals_at_once_leave_an_output_file_of_complete_lines(talk: Path, bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "events.jsonl"
    with start("replay", talk, "--speed", 1, "--plain", "--model", bundle.path, "--out", out) as process:
        until(lambda: out.exists() and b'"emotion"' in out.read_bytes(), "a partial result")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) in (130, -signal.SIGINT)  # the second signal may come before or after the end
        assert process.stderr is not None and b"Traceback" not in process.stderr.read()
    content = out.read_text()
    assert content.endswith("\n") and all(json.loads(line)["v"] == 1 for line in content.splitlines())


@pytest.mark.slow
def test_closing_the_terminal_window_ends_the_stream_with_the_final_of_the_open_utterance(
    talk: Path, bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "events.jsonl"
    master, slave = pty.openpty()
    words = ("replay", talk, "--speed", 1, "--plain", "--model", bundle.path, "--out", out)
    with start(*words, stdin=slave, stdout=slave, stderr=slave, start_new_session=True) as process:
        os.close(slave)
        until(lambda: out.exists() and b'"emotion"' in out.read_bytes(), "a partial result")
        process.send_signal(signal.SIGHUP)
        os.close(master)  # printing now fails with EIO
        process.wait(timeout=10)
    events = [json.loads(line) for line in out.read_text().splitlines()]
    assert [event["type"] for event in events][-3:] == ["emotion", "speech_ended", "stream_ended"]


@pytest.mark.slow
def test_sighup_does_not_end_a_command_that_was_started_with_nohup(talk: Path, bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "events.jsonl"
    words = ("replay", talk, "--speed", 8, "--plain", "--model", bundle.path, "--out", out)
    with start(*words, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as process:  # as nohup does
        until(lambda: out.exists() and b'"emotion"' in out.read_bytes(), "a partial result")
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=20) == 0
    assert json.loads(out.read_text().splitlines()[-1])["end_s"] == pytest.approx(20.5, abs=0.1)


# Outputs that are closed before the command ends


@pytest.fixture
def short_talk(tmp_path: Path) -> Path:
    path = tmp_path / "short.wav"
    soundfile.write(path, np.concatenate([silence(0.5), babble(1.0), silence(1.0)]), SAMPLE_RATE)
    return path


def closed_pipe() -> Iterator[int]:
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("form", ["--plain", "--jsonl"])
def test_a_closed_pipe_at_standard_output_ends_the_command_without_an_error(
    short_talk: Path, bundle: Bundle, form: str
) -> None:
    for writer in closed_pipe():
        with start("replay", short_talk, "--model", bundle.path, form, stdout=writer) as process:
            assert process.stderr is not None
            assert (process.wait(timeout=60), process.stderr.read()) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("form", ["--plain", "--jsonl"])
def test_a_full_disk_at_standard_output_is_reported_in_one_line(short_talk: Path, bundle: Bundle, form: str) -> None:
    with (
        Path("/dev/full").open("wb") as full,
        start("replay", short_talk, "--model", bundle.path, form, stdout=full) as process,
    ):
        assert process.stderr is not None
        assert process.wait(timeout=60) == 1
        printed = process.stderr.read().decode()
    assert (
        printed == f"streamser: the output cannot be written: {os.strerror(errno.ENOSPC)}; "
        "free some disk space and run it again\n"
    )


@pytest.mark.parametrize("form", ["--plain", "--jsonl"])
def test_a_closed_standard_output_causes_no_traceback(short_talk: Path, bundle: Bundle, form: str) -> None:
    words = [sys.executable, "-m", "streamser", "replay", str(short_talk), "--model", str(bundle.path), form]
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *words], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert (done.returncode, done.stderr.count("\n")) in ((0, 0), (1, 1))
