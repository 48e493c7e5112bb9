"""`streamser devices`: list the microphones, and test one of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from makers import tone
from virtualmic import VirtualMic, needs_virtual_mic, virtual_mic

from streamser.audio import SAMPLE_RATE, Samples
from streamser.cli import main
from streamser.cli.devices import measure
from streamser.stream.sources import PushSource


@pytest.fixture
def mic(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualMic]:
    with virtual_mic(monkeypatch) as device:
        yield device


def pushed(audio: Samples) -> PushSource:
    source = PushSource(description="a source")
    source.push(audio)
    source.close()
    return source


@pytest.mark.parametrize(
    ("level", "code", "words"),
    [
        (0.3, 0, "peak -10 dB; good"),
        (0.0, 1, "peak -120 dB; no signal: is it muted, or did you mean another microphone?"),
        (0.003, 0, "peak -50 dB; very quiet: raise its gain, or move closer"),
        (1.0, 0, "peak 0 dB; too loud, it clips: lower its gain"),
    ],
)
def test_a_microphone_test_explains_the_level(
    level: float, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure(pushed(np.float32(level) * np.sign(tone(440, 0.5))), 5.0, as_json=False) == code
    assert capsys.readouterr().out == f"a source: {words}\n"


def test_a_microphone_test_ends_after_the_given_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    assert measure(pushed(tone(duration_s=1.5)), 0.5, as_json=True) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == {"device": "a source", "seconds": 0.5, "peak_db": -10.5, "overflows": 0, "verdict": "good"}


def test_devices_exits_with_code_1_if_there_is_no_microphone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("streamser.cli.devices.list_devices", list)
    assert main(["devices"]) == 1
    assert "no microphone found; plug one in" in capsys.readouterr().err
    assert main(["devices", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == []


@needs_virtual_mic
def test_the_list_of_microphones_marks_the_default(mic: VirtualMic, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["microphone", "system", "channels", "rate"]
    assert [line.split()[1:3] for line in lines if "*" in line] == [["*", "default"]]
    assert main(["devices", "--json"]) == 0
    names = {device["name"]: device for device in json.loads(capsys.readouterr().out)}
    assert {"vmic", "monomic"} <= set(names) and names["default"]["is_default"]


@needs_virtual_mic
def test_a_microphone_is_chosen_by_a_part_of_its_name(
    mic: VirtualMic, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "tone.wav", tone(440, 8.0), SAMPLE_RATE)
    mic.play(tmp_path / "tone.wav", "mono")
    assert main(["devices", "--test", "MONO", "--seconds", "2.5"]) == 0
    assert capsys.readouterr().out.startswith("monomic (ALSA), 44100 Hz")


@needs_virtual_mic
def test_a_test_of_a_silent_microphone_exits_with_code_1(mic: VirtualMic, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--test", "vmic", "--seconds", "0.3"]) == 1
    assert "is it muted" in capsys.readouterr().out


def test_an_unknown_setting_is_refused_with_the_nearest_known_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--test", "--set", "source.chanels=1"]) == 1
    assert "did you mean 'source.channels'?" in capsys.readouterr().err
