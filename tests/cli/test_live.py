"""`streamser live` as a user runs it: a process, a microphone, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from makers import babble, noise, silence
from virtualmic import VirtualMic, needs_virtual_mic

from streamser.audio import SAMPLE_RATE
from streamser.bundle import Bundle
from streamser.cli import main


@pytest.fixture
def mic() -> Iterator[VirtualMic]:
    device = VirtualMic()
    device.start()
    yield device
    device.stop()


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """A file with one second of background noise, a short utterance and a long one."""
    audio = np.concatenate([silence(1.0), babble(1.5, seed=1), silence(0.9), babble(12.0, seed=2)])
    path = tmp_path / "talk.wav"
    soundfile.write(path, audio + noise(len(audio) / SAMPLE_RATE, level=0.001), SAMPLE_RATE)
    return path


def live(mic: VirtualMic, bundle: Bundle, *options: object) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "streamser", "live", "--model", bundle.path, "--device", "vmic", *options]
    return subprocess.Popen(
        list(map(str, words)), env=os.environ | mic.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def events(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)


def wait_for(path: Path, suffix: str) -> Path:
    deadline = time.monotonic() + 20
    while not (found := list(path.glob(f"*{suffix}"))):
        assert time.monotonic() < deadline, f"no {suffix} in {path}"
        time.sleep(0.05)
    return found[0]


@needs_virtual_mic
def test_live_prints_json_lines_and_ctrl_c_gives_the_final_of_the_open_utterance(
    mic: VirtualMic, bundle: Bundle, talk: Path, tmp_path: Path
) -> None:
    folder, subtitles = tmp_path / "audio", tmp_path / "talk.vtt"
    with live(mic, bundle, "--jsonl", "-", "--record", folder, "--out", subtitles) as process:
        recording = wait_for(folder, ".wav")
        mic.play(talk)
        received: list[dict[str, Any]] = []
        for event in events(process):
            received.append(event)
            done = sum(event.get("final", False) for event in received)
            if done and event["type"] == "emotion" and not event["final"]:
                break
        process.send_signal(signal.SIGINT)
        interrupted = time.monotonic()
        received.extend(events(process))
        assert process.wait(5) == 0 and time.monotonic() - interrupted < 3
        assert process.stderr is not None
        assert [line.partition(" to ")[0] for line in process.stderr] == ["streamser: RECORDING"]
    assert [event["type"] for event in received[-3:]] == ["emotion", "speech_ended", "stream_ended"]
    assert received[-3]["final"] and received[-2]["reason"] == "stream_end" and received[-1]["error"] is None
    assert soundfile.info(recording).frames == pytest.approx(received[-1]["end_s"] * SAMPLE_RATE, abs=2)
    assert subtitles.read_text().startswith("WEBVTT")


@needs_virtual_mic
def test_each_utterance_is_printed_as_a_line(mic: VirtualMic, bundle: Bundle, talk: Path) -> None:
    with live(mic, bundle) as process:
        assert process.stderr is not None and process.stdout is not None
        assert process.stderr.readline().startswith("streamser: listening to vmic (ALSA) with tiny; Ctrl-C ends")
        mic.play(talk)
        first = process.stdout.readline()
        process.terminate()
        rest, errors = process.communicate(timeout=5)
    assert any(label in first for label in (*bundle.labels, "uncertain"))
    assert any("end: " in line for line in rest.splitlines())
    assert rest.splitlines()[-1] == "  saved     nothing; --out FILE keeps the results"
    assert process.returncode == 0 and errors == ""


@needs_virtual_mic
def test_an_unplugged_microphone_is_reported_in_a_line_and_portaudios_messages_are_hidden(
    mic: VirtualMic, bundle: Bundle, talk: Path
) -> None:
    with live(mic, bundle) as process:
        assert process.stderr is not None and process.stdout is not None
        process.stderr.readline()
        mic.play(talk)
        process.stdout.readline()
        mic("unplug")
        while "microphone lost: vmic (ALSA)" not in (line := process.stdout.readline()):
            assert line
        mic("replug")
        while "microphone back: vmic (ALSA)" not in (line := process.stdout.readline()):
            assert line
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=5)
    assert process.returncode == 0 and errors == ""


@needs_virtual_mic
def test_a_hanging_sound_server_does_not_keep_the_program_from_ending(
    mic: VirtualMic, bundle: Bundle, talk: Path
) -> None:
    with live(mic, bundle, "--jsonl", "-") as process:
        mic.play(talk)
        next(events(process))
        mic("freeze")
        lost = next(event for event in events(process) if event["type"] == "source")
        assert lost["state"] == "lost"
        process.send_signal(signal.SIGINT)
        assert process.wait(8) == 0


def test_a_missing_microphone_is_reported_in_one_line(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sounddevice", exc_type=OSError)
    assert main(["live", "--model", str(bundle.path), "--device", "no such thing"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("streamser: no microphone") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--compute", "warp"], "streamser: --compute: auto, cpu, cuda or cuda:N, not 'warp'"),
        (["--set", "vad.mode=9"], "streamser: --set vad.mode=9: vad.mode: must be 0, 1, 2 or 3, not 9"),
        (["--config", "none.yaml"], "streamser: none.yaml: cannot be read (No such file or directory)"),
    ],
)
def test_an_invalid_option_is_reported_in_one_line(
    options: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["live", *options]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(error) and printed.count("\n") == 1
