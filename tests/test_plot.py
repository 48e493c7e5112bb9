"""The timeline picture shows what was told, in the emotions' colours, and asks for its extra when that is missing."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streamser.colors import COLORS
from streamser.errors import ConfigError, MissingExtraError
from streamser.events import EmotionEvent, Event, Gap, SpeechEnded, SpeechStarted, StreamEnded
from streamser.plot import check_plot, save_timeline

SECOND = 16_000
Pixels = set[tuple[int, int, int]]


def utterance(number: int, label: str, *, uncertain: bool = False, stream: str = "main") -> list[Event]:
    start, end = number * 4 * SECOND, (number * 4 + 3) * SECOND
    scores = {name: 0.6 if name == label else 0.2 for name in ("angry", "happy", "sad")}
    told: list[Event] = [SpeechStarted(stream=stream, utterance=number, start=start)]
    for seq, at in enumerate((start + SECOND, end)):
        told.append(
            EmotionEvent(
                stream=stream,
                utterance=number,
                seq=seq,
                start=start,
                end=at,
                final=at == end,
                label=label,
                scores=scores,
                confidence=0.6,
                uncertain=uncertain,
            )
        )
    return [*told, SpeechEnded(stream=stream, utterance=number, start=start, end=end)]


def drawn(path: Path) -> Pixels:
    image = pytest.importorskip("matplotlib.image", reason="needs the extra 'plot'")
    pixels = np.round(image.imread(path)[..., :3] * 255).astype(int).reshape(-1, 3)
    return {(int(r), int(g), int(b)) for r, g, b in np.unique(pixels, axis=0)}


def rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def test_every_class_has_its_colour_in_the_picture(tmp_path: Path) -> None:
    sound = np.sin(np.arange(8 * SECOND) * 0.05).astype(np.float32)
    events = [*utterance(0, "happy"), Gap(start=3 * SECOND, length=SECOND // 2), *utterance(1, "sad", uncertain=True)]
    save_timeline(tmp_path / "out.png", events, samples=sound, title="two utterances")
    assert {rgb(COLORS[name]) for name in ("angry", "happy", "sad")} <= drawn(tmp_path / "out.png")


def test_a_guess_is_not_drawn_in_the_colour_of_the_emotion(tmp_path: Path) -> None:
    guess = EmotionEvent(  # its scores leave "happy" out, so that neither ribbon nor legend show that colour
        utterance=0,
        seq=0,
        start=0,
        end=SECOND,
        final=True,
        label="happy",
        scores={"sad": 0.4},
        confidence=0.4,
        uncertain=True,
    )
    save_timeline(tmp_path / "sure.png", [replace(guess, uncertain=False)])
    assert rgb(COLORS["happy"]) in drawn(tmp_path / "sure.png")
    save_timeline(tmp_path / "out.png", [guess])
    assert rgb(COLORS["happy"]) not in drawn(tmp_path / "out.png")


@pytest.mark.parametrize("events", [[], [StreamEnded(end=0)], [SpeechStarted(utterance=0, start=0)]])
def test_a_stream_that_told_nothing_gives_an_empty_picture(tmp_path: Path, events: list[Event]) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra 'plot'")
    save_timeline(tmp_path / "out.svg", events)
    assert (tmp_path / "out.svg").read_text().count("<svg") == 1


def test_a_wrong_name_is_told_at_the_door(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"known are \.png, \.svg, \.pdf"):
        check_plot(tmp_path / "out.bmp")
    with pytest.raises(ConfigError, match="does not exist"):
        check_plot(tmp_path / "missing" / "out.png")


def test_two_streams_do_not_share_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra 'plot'")
    with pytest.raises(ValueError, match="one stream, not a, b"):
        save_timeline(tmp_path / "out.png", [*utterance(0, "sad", stream="a"), *utterance(0, "sad", stream="b")])


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"--plot needs the extra 'plot': pip install 'streamser\[plot\]'"):
        check_plot(tmp_path / "out.png")


def test_importing_it_does_not_import_matplotlib() -> None:
    probe = "import sys, streamser.plot; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
