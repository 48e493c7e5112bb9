"""The timeline picture shows the events in the colors of the emotions, and the reference labels."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from streamser.colors import COLORS
from streamser.errors import ConfigError, MissingExtraError
from streamser.events import EmotionEvent, Event, Gap, SpeechEnded, SpeechStarted, StreamEnded
from streamser.outputs import open_writer
from streamser.plot import Mark, _ribbons, _rows, check_plot, save_timeline
from streamser.reference import read_reference

SECOND = 16_000
Pixels = set[tuple[int, int, int]]


def utterance(number: int, label: str, *, uncertain: bool = False, stream: str = "main") -> list[Event]:
    start, end = number * 4 * SECOND, (number * 4 + 3) * SECOND
    scores = {name: 0.6 if name == label else 0.2 for name in ("angry", "happy", "sad")}
    events: list[Event] = [SpeechStarted(stream=stream, utterance=number, start=start)]
    for seq, at in enumerate((start + SECOND, end)):
        events.append(
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
    return [*events, SpeechEnded(stream=stream, utterance=number, start=start, end=end)]


def drawn(path: Path) -> Pixels:
    image = pytest.importorskip("matplotlib.image", reason="needs the extra 'plot'")
    rgb = np.round(image.imread(path)[..., :3] * 255).astype(np.int64)
    packed = np.unique(rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2])
    return {(int(one) >> 16, int(one) >> 8 & 255, int(one) & 255) for one in packed}


def rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def test_every_class_has_its_color_in_the_picture(tmp_path: Path) -> None:
    audio = np.sin(np.arange(8 * SECOND) * 0.05).astype(np.float32)
    events = [*utterance(0, "happy"), Gap(start=3 * SECOND, length=SECOND // 2), *utterance(1, "sad", uncertain=True)]
    save_timeline(tmp_path / "out.png", events, samples=audio, title="two utterances")
    assert {rgb(COLORS[name]) for name in ("angry", "happy", "sad")} <= drawn(tmp_path / "out.png")


def test_an_uncertain_final_is_not_drawn_in_the_color_of_its_label(tmp_path: Path) -> None:
    guess = EmotionEvent(  # its scores lack "happy", so neither ribbon nor legend has this color
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
def test_a_stream_without_results_gives_an_empty_picture(tmp_path: Path, events: list[Event]) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra 'plot'")
    save_timeline(tmp_path / "out.svg", events)
    assert (tmp_path / "out.svg").read_text().count("<svg") == 1


def test_an_invalid_output_path_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"known are \.png, \.svg, \.pdf"):
        check_plot(tmp_path / "out.bmp")
    with pytest.raises(ConfigError, match="does not exist"):
        check_plot(tmp_path / "missing" / "out.png")


def test_a_picture_of_two_streams_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra 'plot'")
    with pytest.raises(ValueError, match="one stream, not a, b"):
        save_timeline(tmp_path / "out.png", [*utterance(0, "sad", stream="a"), *utterance(0, "sad", stream="b")])


def test_without_matplotlib_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"--plot needs the extra 'plot': pip install 'streamser\[plot\]'"):
        check_plot(tmp_path / "out.png")


def test_importing_plot_does_not_import_matplotlib() -> None:
    probe = "import sys, streamser.plot; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


def test_a_png_has_300_dots_per_inch_and_the_given_width(tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image", reason="needs the extra 'plot'")
    for width in (3.5, 7.0):
        save_timeline(tmp_path / "out.png", utterance(0, "sad"), width_inches=width)
        assert image.imread(tmp_path / "out.png").shape[1] == round(300 * width)
    with pytest.raises(ValueError, match=r"width_inches: within 2\.\.100, not 1"):
        save_timeline(tmp_path / "out.png", utterance(0, "sad"), width_inches=1)


def test_a_long_stream_is_drawn_in_several_rows_and_a_very_long_one_in_longer_rows() -> None:
    assert _rows(39.0, 10.0) == [(0.0, 39.0)]
    assert _rows(41.0, 10.0) == [(0.0, 40.0), (40.0, 80.0)]
    hour = _rows(3600.0, 10.0)
    assert len(hour) <= 12 and hour[-1][1] >= 3600.0
    assert all(before[1] == after[0] for before, after in pairwise(hour))


def test_an_utterance_that_crosses_the_end_of_a_row_is_drawn_in_both_rows(tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image", reason="needs the extra 'plot'")
    final = utterance(0, "happy")[2]
    assert isinstance(final, EmotionEvent)
    across = replace(final, start=37 * SECOND, end=43 * SECOND, scores={"sad": 1.0})
    save_timeline(tmp_path / "out.png", [across, StreamEnded(end=80 * SECOND)])
    pixels = np.round(image.imread(tmp_path / "out.png")[..., :3] * 255).astype(int)
    here = np.all(pixels == rgb(COLORS["happy"]), axis=-1).any(axis=1)
    assert np.count_nonzero(np.diff(here.astype(int)) == 1) == 2  # two separate bands of its color


def test_the_scores_of_an_utterance_are_drawn_from_its_first_result_on() -> None:
    start, first, final = utterance(0, "happy")[:3]
    (ribbon,) = _ribbons([start, first, final], ["angry", "happy", "sad"])
    assert isinstance(first, EmotionEvent) and isinstance(final, EmotionEvent)
    assert ribbon.times_s.tolist() == [first.end_s, final.end_s] and first.end_s > first.start_s


def test_reference_labels_have_their_own_lane_and_entries_in_the_legend(tmp_path: Path) -> None:
    events = utterance(0, "happy")
    save_timeline(tmp_path / "without.svg", events)
    save_timeline(tmp_path / "with.svg", events, reference=[Mark(0.5, 2.5, "sad"), Mark(3.0, 4.0, "disgust")])
    assert "reference" not in (tmp_path / "without.svg").read_text()
    drawn_text = (tmp_path / "with.svg").read_text()
    assert "<!-- reference -->" in drawn_text and "<!-- disgust -->" in drawn_text


SHORT = '''File type = "ooTextFile"
Object class = "TextGrid"

0
4
<exists>
2
"TextTier"
"clicks"
0
4
1
1.5
"here"
"IntervalTier"
"emotion"
0
4
3
0
1
""
1
2.5
"say ""sad"""
2.5
4
"happy"
'''


def test_textgrids_of_praat_and_of_streamser_are_read_as_reference(tmp_path: Path) -> None:
    audio = Path("talk.wav")
    (tmp_path / "praat.TextGrid").write_text(SHORT)
    assert read_reference(tmp_path / "praat.TextGrid", audio, 4.0) == [
        Mark(1.0, 2.5, 'say "sad"'),
        Mark(2.5, 4.0, "happy"),
    ]
    with open_writer(tmp_path / "ours.TextGrid") as writer:
        for event in [*utterance(0, "happy"), *utterance(1, "sad", uncertain=True)]:
            writer.write(event)
    assert read_reference(tmp_path / "ours.TextGrid", audio, 9.0) == [
        Mark(0.0, 3.0, "happy"),
        Mark(4.0, 7.0, "uncertain"),
    ]


@pytest.mark.parametrize(
    ("table", "marks"),
    [
        ("start_s,end_s,label\n0.5,1.5,sad\n2,3,happy\n", [Mark(0.5, 1.5, "sad"), Mark(2.0, 3.0, "happy")]),
        ("path,speaker,emotion\naudio/talk.wav,1,angry\naudio/other.wav,2,sad\n", [Mark(0.0, 9.0, "angry")]),
        ("file,start_s,end_s,label\ntalk.wav,1,2,sad\nother.wav,1,2,happy\n", [Mark(1.0, 2.0, "sad")]),
    ],
)
def test_tables_of_times_and_corpus_manifests_are_read_as_reference(
    tmp_path: Path, table: str, marks: list[Mark]
) -> None:
    (tmp_path / "truth.csv").write_text(table)
    assert read_reference(tmp_path / "truth.csv", Path("/anywhere/talk.wav"), 9.0) == marks


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "x", r"known are \.TextGrid and \.csv"),
        ("a.csv", "who,what\n1,2\n", "has columns who, what; needed are start_s, end_s, label or path, emotion"),
        ("a.csv", "path,emotion\nother.wav,sad\n", "has no label for talk.wav"),
        ("a.csv", "start_s,end_s,label\nnow,then,sad\n", r"a\.csv:2: start_s and end_s are seconds"),
        ("a.TextGrid", "Dear diary", "is not a readable TextGrid"),
        ("a.TextGrid", SHORT[:150], "is not a readable TextGrid"),
        ("a.TextGrid", None, "cannot be read"),
    ],
)
def test_an_invalid_reference_is_refused(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_reference(tmp_path / name, Path("talk.wav"), 4.0)
