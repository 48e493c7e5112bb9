"""`streamser demo`: play recorded voices, and print the recognized emotions and commands to try next."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from makers import babble
from virtualmic import VirtualMic, needs_virtual_mic

from streamser.audio import SAMPLE_RATE, AudioBlock, Samples, read_audio
from streamser.bundle import DEFAULT_MODEL, Bundle, load_bundle
from streamser.cli import build_parser, main
from streamser.cli.demo import comparison
from streamser.events import EmotionEvent
from streamser.samples import Sample, find_samples, samples_folder
from streamser.stream.playback import PlayedSource
from streamser.stream.sources import PushSource

SECOND = SAMPLE_RATE


def test_the_demo_ends_with_a_summary_a_comparison_and_three_commands(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--model", str(bundle.path), "--speed", "max"]) == 0
    printed = capsys.readouterr()
    assert printed.err == "streamser: 6 recorded sentences by actors, 20 s, muted\n"
    lines = printed.out.splitlines()
    assert any(line.startswith("  timeline  ") for line in lines)
    first = next(row for row, line in enumerate(lines) if line.split() == ["played", "recognized", "sentence"])
    assert [line.split()[0] for line in lines[first + 1 : first + 7]] == [sample.label for sample in find_samples()]
    steps = lines[lines.index("Next:") + 1 :]
    commands = [line.split("  ")[1].split()[1:] for line in steps if line.startswith("  streamser")]
    assert len(commands) == 3
    for words in commands:
        build_parser(words[0]).parse_args(words)


def test_the_recordings_are_short_complete_and_attributed() -> None:
    samples = find_samples()
    recordings = [read_audio(sample.path) for sample in samples]
    assert {sample.label for sample in samples} == {"angry", "happy", "neutral", "sad"}
    assert 12 < sum(map(len, recordings)) / SECOND < 22
    files = {path.name for path in samples_folder().iterdir()}
    assert files == {"README.md", "samples.csv", *(sample.path.name for sample in samples)}
    notice = (samples_folder() / "README.md").read_text(encoding="utf-8")
    for words in ("CREMA-D", "opendatacommons.org/licenses/odbl/1.0/", "opendatacommons.org/licenses/dbcl/1.0/"):
        assert words in notice
    with (samples_folder() / "samples.csv").open(encoding="utf-8", newline="") as file:
        assert all(row["file"].startswith(f"{row['speaker']}_") for row in csv.DictReader(file))
    assert {sample.training for sample in samples} <= {"seen", "validation", "unseen"}


def final(start_s: float, end_s: float, label: str, *, uncertain: bool = False) -> EmotionEvent:
    start, end = round(start_s * SECOND), round(end_s * SECOND)
    printed = {"label": label, "scores": {label: 1.0}, "confidence": 1.0, "uncertain": uncertain}
    return EmotionEvent(utterance=0, seq=0, start=start, end=end, final=True, **printed)  # type: ignore[arg-type]


def test_a_final_belongs_to_the_sample_that_its_middle_lies_in() -> None:
    samples = [Sample(Path(f"{label}.opus"), "1001", label, "Words.", "seen") for label in ("sad", "happy", "angry")]
    finals = [final(0.5, 1.5, "sad"), final(1.9, 3.2, "happy"), final(3.4, 3.9, "happy", uncertain=True)]
    rows = comparison(samples, [0, 2 * SECOND, 5 * SECOND], finals).splitlines()[1:]
    assert [" ".join(row.split()) for row in rows] == [
        "sad sad Words.",
        "happy happy, uncertain Words.",
        "angry no speech found Words.",
    ]
    narrow = [Sample(Path("sad.opus"), "1001", "sad", "A sentence of many short words.", "seen")]
    wrapped = comparison(narrow, [0], finals[:1], width=40).splitlines()
    assert max(map(len, wrapped)) < 40
    assert [line.strip() for line in wrapped[1:]] == ["sad        sad         A sentence of", "many short", "words."]


class Collector:
    """A loudspeaker that keeps the samples instead of playing them."""

    def __init__(self) -> None:
        self.played: list[Samples] = []
        self.closed = False

    def play(self, samples: Samples) -> None:
        self.played.append(samples)

    def close(self) -> None:
        self.closed = True


def test_the_played_samples_are_the_samples_that_are_scored() -> None:
    source, output = PushSource(), Collector()
    source.push(babble(1.0))
    source.close()
    played = PlayedSource(source, output, lambda: "the second of two")
    blocks = [item.samples for item in played if isinstance(item, AudioBlock)]
    assert np.array_equal(np.concatenate(blocks), np.concatenate(output.played)) and len(blocks) > 5
    assert output.closed and played.description == "the second of two"


_PLAY_AND_RECORD = """
import sys, threading, time, numpy as np
from streamser.audio import AudioBlock
from streamser.stream.portaudio import Speaker
from streamser.stream.sources import MicSource, SourceConfig
mic, speaker = MicSource(SourceConfig(device="vmic")), Speaker()
recorded = []
for item in mic:
    if isinstance(item, AudioBlock):
        recorded.append(item.samples)
        speaker.play(0.3 * np.sin(2 * np.pi * 440 / 16000 * np.arange(len(item.samples)), dtype=np.float32))
    if sum(map(len, recorded)) > 32000:
        break
speaker.close(); mic.close()
print(20 * np.log10(np.sqrt(np.mean(np.concatenate(recorded)[16000:] ** 2)) + 1e-9))
"""


@needs_virtual_mic
def test_the_loudspeaker_really_plays() -> None:
    device = VirtualMic()
    device.start()
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PLAY_AND_RECORD],
            env=os.environ | device.env,
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        device.stop()
    assert done.returncode == 0, done.stderr
    assert -20 < float(done.stdout) < -8


def test_without_a_loudspeaker_the_demo_prints_the_reason_and_continues(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from streamser.cli import demo
    from streamser.errors import DeviceError

    def none() -> None:
        raise DeviceError("no loudspeaker: Error querying device -1")

    monkeypatch.setattr(demo, "Speaker", none)
    monkeypatch.setattr(demo, "find_samples", lambda: find_samples()[:1])
    assert main(["demo", "--model", str(bundle.path), "--plain"]) == 0
    assert "without playback (no loudspeaker: Error querying device -1)" in capsys.readouterr().err


def test_the_table_states_correctly_which_speakers_the_default_checkpoint_was_trained_on() -> None:
    provenance = load_bundle(DEFAULT_MODEL).provenance
    parts = {"train_speakers": "seen", "validation_speakers": "validation"}
    known = {name: word for part, word in parts.items() for name in provenance[part]}
    for sample in find_samples():
        assert sample.training == known.get(f"cremad_part/{sample.speaker}", "unseen")
