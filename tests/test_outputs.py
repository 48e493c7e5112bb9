"""Each output format is read by strict readers, can be continued, and stays valid after a kill."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from streamser.errors import ConfigError
from streamser.events import EmotionEvent, Event, Gap, SpeechEnded, SpeechStarted, StreamEnded
from streamser.outputs import FORMATS, Timeline, known_suffixes, open_writer, output_format

LABELS = ("angry", "happy", "sad")
NAMES = ["out.jsonl", "out.csv", "out.vtt", "out.TextGrid", "out.eaf", "out.txt", "out.rttm"]
WHOLE = ["out.TextGrid", "out.eaf"]  # the whole file is written each time
SECOND = 16_000


def final(number: int, start_s: float, end_s: float, *, uncertain: bool = False, stream: str = "main") -> EmotionEvent:
    top = 0.41 if uncertain else 0.86
    return EmotionEvent(
        stream=stream,
        utterance=number,
        seq=1,
        start=round(start_s * SECOND),
        end=round(end_s * SECOND),
        final=True,
        label="happy",
        scores={"angry": (1 - top) / 2, "happy": top, "sad": (1 - top) / 2},
        confidence=top,
        uncertain=uncertain,
        latency_ms=12.5,
    )


def utterance(number: int, start_s: float, end_s: float, *, uncertain: bool = False) -> list[Event]:
    last = final(number, start_s, end_s, uncertain=uncertain)
    partial = EmotionEvent(
        utterance=number,
        seq=0,
        start=last.start,
        end=(last.start + last.end) // 2,
        final=False,
        label="sad",
        scores={"angry": 0.2, "happy": 0.3, "sad": 0.5},
        confidence=0.5,
        uncertain=False,
    )
    ended = SpeechEnded(utterance=number, start=last.start, end=last.end)
    return [SpeechStarted(utterance=number, start=last.start), partial, last, ended]


SESSION: list[Event] = [
    *utterance(0, 1.25, 3.0),
    Gap(start=4 * SECOND, length=SECOND // 4),
    *utterance(1, 5.0, 6.5, uncertain=True),
    StreamEnded(end=10 * SECOND),
]


def write(path: Path, events: list[Event]) -> None:
    with open_writer(path, labels=LABELS) as writer:
        for event in events:
            writer.write(event)


# Readers as strict as those of other programs: each returns (start_s, end_s, text) for every labelled span.
Spans = list[tuple[float, float, str]]


def read_jsonl(text: str) -> Spans:
    assert text.endswith("\n") or not text
    events = [json.loads(line) for line in text.splitlines()]
    finals = [event for event in events if event["type"] == "emotion" and event["final"]]
    return [(f["start_s"], f["end_s"], "uncertain" if f["uncertain"] else f["label"]) for f in finals]


def read_csv(text: str) -> Spans:
    rows = list(csv.DictReader(text.splitlines()))
    assert all(None not in row and None not in row.values() for row in rows)
    return [(float(row["start_s"]), float(row["end_s"]), row["label"]) for row in rows]


def read_vtt(text: str) -> Spans:
    """Of the two cues with the same times, the first is the label and the second the confidence."""
    assert text.endswith("\n\n")
    header, *blocks = text.removesuffix("\n\n").split("\n\n")
    assert header == "WEBVTT"
    spans: Spans = []
    for block in blocks:
        timing, words = block.split("\n")
        found = re.fullmatch(r"(\d{2,}):(\d\d):(\d\d\.\d{3}) --> (\d{2,}):(\d\d):(\d\d\.\d{3})", timing)
        assert found, timing
        start_s, end_s = (
            int(h) * 3600 + int(m) * 60 + float(s) for h, m, s in (found.groups()[:3], found.groups()[3:])
        )
        assert start_s < end_s
        assert not spans or spans[-1][0] <= start_s
        if spans and spans[-1][:2] == (start_s, end_s):
            assert re.fullmatch(r"(\w+\? )?0\.\d\d", words)
        else:
            spans.append((start_s, end_s, words))
    return spans


def read_textgrid(text: str) -> Spans:
    """Read as Praat does: only separate numbers and quoted strings count, in their order. The tiers must come last."""
    tokens: Iterator[str] = iter(re.findall(r'"(?:[^"]|"")*"|<exists>|(?<!\S)[\d.]+(?!\S)', text))
    assert [next(tokens), next(tokens)] == ['"ooTextFile"', '"TextGrid"']
    xmin, xmax, exists, tiers = (next(tokens) for _ in range(4))
    assert (xmin, exists, tiers) == ("0", "<exists>", "3")
    read = [_read_tier(tokens, name, xmin, xmax) for name in ("emotion", "likeliest", "confidence")]
    assert next(tokens, None) is None
    assert [span[:2] for span in read[0]] == [span[:2] for span in read[1]] == [span[:2] for span in read[2]]
    assert all(label in ("uncertain", guess) for (_, _, label), (_, _, guess) in zip(read[0], read[1], strict=True))
    assert all(0 < float(confidence) <= 1 for _, _, confidence in read[2])
    return read[0]


def _read_tier(tokens: Iterator[str], name: str, xmin: str, xmax: str) -> Spans:
    assert [next(tokens), next(tokens)] == ['"IntervalTier"', f'"{name}"']
    assert (next(tokens), next(tokens)) == (xmin, xmax)
    reached, spans = 0.0, []
    for _ in range(int(next(tokens))):
        start_s, end_s, label = float(next(tokens)), float(next(tokens)), next(tokens)[1:-1]
        assert start_s == reached < end_s
        reached = end_s
        if label:
            spans.append((start_s, end_s, label))
    assert reached == float(xmax)
    return spans


def read_eaf(text: str) -> Spans:
    root = ElementTree.fromstring(text)
    slots = {slot.attrib["TIME_SLOT_ID"]: int(slot.attrib["TIME_VALUE"]) for slot in root.iter("TIME_SLOT")}
    emotion, likeliest, confidence = tiers = root.findall("TIER")
    assert [tier.attrib["TIER_ID"] for tier in tiers] == ["emotion", "likeliest", "confidence"]
    spans: Spans = []
    ids = []
    for one in emotion.iter("ALIGNABLE_ANNOTATION"):
        ids.append(one.attrib["ANNOTATION_ID"])
        start, end = (slots[one.attrib[f"TIME_SLOT_REF{number}"]] for number in (1, 2))
        assert start < end and (not spans or spans[-1][1] <= start / 1000)
        spans.append((start / 1000, end / 1000, one.findtext("ANNOTATION_VALUE") or ""))
    for tier in (likeliest, confidence):
        assert tier.attrib["PARENT_REF"] == "emotion"
        assert [one.attrib["ANNOTATION_REF"] for one in tier.iter("REF_ANNOTATION")] == ids
    everything = [one.attrib["ANNOTATION_ID"] for one in root.iter() if "ANNOTATION_ID" in one.attrib]
    assert len(set(everything)) == len(everything)
    return spans


def read_labels(text: str) -> Spans:
    rows = [line.split("\t") for line in text.splitlines()]
    return [(float(start_s), float(end_s), label) for start_s, end_s, label in rows]


def read_rttm(text: str) -> Spans:
    spans = []
    for line in text.splitlines():
        kind, _file, channel, start_s, duration_s, ortho, stype, name, _confidence, lookahead = line.split(" ")
        assert (kind, channel, ortho, stype, lookahead) == ("SPEAKER", "1", "<NA>", "<NA>", "<NA>")
        spans.append((float(start_s), round(float(start_s) + float(duration_s), 4), name))
    return spans


READERS = dict(
    zip(NAMES, [read_jsonl, read_csv, read_vtt, read_textgrid, read_eaf, read_labels, read_rttm], strict=True)
)


def read(path: Path) -> Spans:
    return READERS[path.name](path.read_bytes().decode())


@pytest.mark.parametrize("name", NAMES)
def test_every_format_has_the_finals_and_marks_uncertain_ones(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, SESSION)
    (first_start, first_end, first), (second_start, second_end, second) = read(tmp_path / name)
    assert (first_start, first_end, second_start, second_end) == (1.25, 3.0, 5.0, 6.5)
    assert (first, second) == ("happy", "uncertain")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_without_events_is_valid(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, [])
    assert read(tmp_path / name) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_second_session_continues_the_file(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, SESSION)
    once = read(tmp_path / name)
    write(tmp_path / name, SESSION)
    twice = read(tmp_path / name)
    assert twice[: len(once)] == once
    assert [span[2] for span in twice] == [span[2] for span in once * 2]


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("out.jsonl", (10, "event")),
        ("out.csv", (2, "row")),
        ("out.vtt", (4, "cue")),
        ("out.TextGrid", (2, "utterance")),
        ("out.eaf", (2, "utterance")),
        ("out.txt", (2, "label")),
        ("out.rttm", (2, "row")),
    ],
)
def test_the_writer_of_a_continued_file_counts_its_earlier_entries(
    tmp_path: Path, name: str, before: tuple[int, str]
) -> None:
    with open_writer(tmp_path / name, labels=LABELS) as writer:
        assert writer.before == 0
        for event in SESSION:
            writer.write(event)
    with open_writer(tmp_path / name, labels=LABELS) as writer:
        assert (writer.before, writer.entry) == before


def test_a_continued_timeline_starts_after_its_earlier_end(tmp_path: Path) -> None:
    ends = {"out.vtt": 6.5, "out.txt": 6.5, "out.TextGrid": 10.0, "out.eaf": 10.0}
    for name, end_s in ends.items():
        write(tmp_path / name, SESSION)
        write(tmp_path / name, SESSION)
        assert read(tmp_path / name)[2][:2] == (end_s + 1.25, end_s + 3.0)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WHOLE])
def test_a_file_truncated_at_any_byte_is_repaired_and_continued(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, SESSION)
    whole = (tmp_path / name).read_bytes()
    spans = read(tmp_path / name)
    for length in range(0, len(whole), 1 if len(whole) < 400 else 7):
        (tmp_path / name).write_bytes(whole[:length])
        write(tmp_path / name, [final(7, 20.0, 21.0)])
        mended = read(tmp_path / name)
        assert mended[:-1] == spans[: len(mended) - 1], length
        assert mended[-1][2].startswith("happy")
        assert mended[-1][1] - mended[-1][0] == pytest.approx(1.0)


@pytest.mark.parametrize("name", WHOLE)
def test_a_truncated_file_with_tiers_is_refused_and_not_changed(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, SESSION)
    whole = (tmp_path / name).read_bytes()
    for length in range(1, len(whole), 41):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(ConfigError, match="was not written by streamser"):
            open_writer(tmp_path / name)
        assert (tmp_path / name).read_bytes() == whole[:length]


@pytest.mark.parametrize("name", WHOLE)
def test_labels_with_quotes_and_brackets_are_written_correctly_into_tiers(tmp_path: Path, name: str) -> None:
    odd = replace(final(0, 1, 2), label='a "b" <c> & d', scores={'a "b" <c> & d': 0.9})
    write(tmp_path / name, [odd])
    write(tmp_path / name, [odd])
    first, second = read(tmp_path / name)
    assert first[2] == second[2] and "b" in first[2]


ENDLESS = """
import sys
from tests.test_outputs import LABELS, NAMES, final
from streamser.outputs import open_writer
from pathlib import Path
writers = [open_writer(Path(sys.argv[1]) / name, labels=LABELS) for name in NAMES]
number = 0
while True:
    for writer in writers:
        writer.write(final(number, number * 2.0 + 0.5, number * 2.0 + 1.75, uncertain=number % 3 == 0))
    number += 1
    print(number, flush=True)
"""


def test_all_files_are_valid_after_kill_9_and_can_be_continued(tmp_path: Path) -> None:
    before = dict.fromkeys(NAMES, 0)
    for kill_after in (1, 57, 200):
        root = Path(__file__).parent.parent
        child = subprocess.Popen([sys.executable, "-c", ENDLESS, str(tmp_path)], stdout=subprocess.PIPE, cwd=root)
        assert child.stdout is not None
        for _ in range(kill_after):
            assert child.stdout.readline()
        child.kill()
        written_lines = kill_after + len(child.stdout.read().splitlines())  # the rows that the child has reported
        child.stdout.close()
        child.wait()
        for name in NAMES:
            now = len(read(tmp_path / name))
            # The child may have written one more row before it could report the row.
            assert before[name] + written_lines <= now <= before[name] + written_lines + 1, name
            before[name] = now
    write(tmp_path / "out.TextGrid", SESSION)
    assert read(tmp_path / "out.TextGrid")[-1][2] == "uncertain"
    leftovers = {path.name for path in tmp_path.iterdir()} - {*NAMES, "out.confidence.txt"}
    assert leftovers <= {f".{name}.part" for name in WHOLE}


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_leaves_a_valid_file_that_can_be_continued(tmp_path: Path, name: str) -> None:
    """RLIMIT_FSIZE simulates a full disk: a write across the limit is cut short, and the next write fails."""
    import resource

    path, usual = tmp_path / name, resource.getrlimit(resource.RLIMIT_FSIZE)
    whole = [final(number, 2 * number + 1, 2 * number + 2) for number in range(12)]
    write(tmp_path / f"all-{name}", [*whole])
    size = (tmp_path / f"all-{name}").stat().st_size
    for limit in range(1, size + 40, 67):
        for old in (path, path.with_stem("out.confidence")):
            old.unlink(missing_ok=True)
        message = ""
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, usual[1]))
        try:
            write(path, [*whole])
        except ConfigError as error:
            message = str(error)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        assert (limit >= size) == (not message) and ("free some disk space and run it again" in message or not message)
        content = path.read_text()
        kept = [] if not content else READERS[name](content)
        assert kept == READERS[name]((tmp_path / f"all-{name}").read_text())[: len(kept)]
        write(path, [*whole[len(kept) :]])  # timelines continue after their end, so only the number is checked
        assert len(READERS[name](path.read_text())) == len(whole)


@pytest.mark.parametrize("name", NAMES)
def test_a_second_writer_is_refused_until_the_first_one_has_closed_the_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with open_writer(path, labels=LABELS) as writer:
        for event in SESSION[:5]:
            writer.write(event)
        before = path.read_bytes()
        with pytest.raises(ConfigError, match="another streamser is writing it; wait for its end, or choose another"):
            open_writer(path, labels=LABELS)
        assert path.read_bytes() == before
    open_writer(path, labels=LABELS).close()


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which nobody may write")
@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_cannot_be_written_is_an_error_in_one_sentence(name: str) -> None:
    with pytest.raises(ConfigError, match=r"/proc/out.*: cannot be written \(.*\); choose another place"):
        open_writer(Path("/proc") / name)


def test_streams_whose_names_differ_only_in_replaced_characters_share_a_file(tmp_path: Path) -> None:
    with open_writer(tmp_path / "{stream}.jsonl") as writer:
        for stream in ("a/b", "a\\b"):
            writer.write(final(0, 1, 2, stream=stream))
        writer.write(StreamEnded(stream="a/b", end=SECOND))
        writer.write(StreamEnded(stream="a\\b", end=SECOND))
    assert len((tmp_path / "a_b.jsonl").read_text().splitlines()) == 4


def test_jsonl_has_every_event_unchanged(tmp_path: Path) -> None:
    write(tmp_path / "out.jsonl", SESSION)
    written_lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written_lines] == [event.to_dict() for event in SESSION]


def test_csv_has_a_column_for_each_class_and_one_for_the_likeliest_class(tmp_path: Path) -> None:
    write(tmp_path / "out.csv", SESSION)
    assert (tmp_path / "out.csv").read_text().splitlines() == [
        "stream,utterance,start_s,end_s,label,uncertain,likeliest,confidence,p_angry,p_happy,p_sad",
        "main,0,1.2500,3.0000,happy,false,happy,0.8600,0.0700,0.8600,0.0700",
        "main,1,5.0000,6.5000,uncertain,true,happy,0.4100,0.2950,0.4100,0.2950",
    ]


def test_csv_of_another_model_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "out.csv", SESSION)
    with pytest.raises(ConfigError, match="has columns for angry, happy, sad, but this model has happy, tired"):
        open_writer(tmp_path / "out.csv", labels=("happy", "tired"))


def test_without_labels_csv_takes_its_columns_from_the_first_final(tmp_path: Path) -> None:
    with open_writer(tmp_path / "out.csv") as writer:
        writer.write(final(0, 1, 2, stream='a "quoted", name'))
    (row,) = csv.DictReader((tmp_path / "out.csv").read_text().splitlines())
    assert (row["stream"], row["p_happy"]) == ('a "quoted", name', "0.8600")


def test_subtitles_of_long_streams_have_times_with_hours(tmp_path: Path) -> None:
    write(tmp_path / "out.vtt", [final(0, 3599.9999375, 3601.5), final(1, 100 * 3600, 100 * 3600 + 1.001)])
    text = (tmp_path / "out.vtt").read_text()
    assert "00:59:59.999 --> 01:00:01.500\nhappy\n\n00:59:59.999 --> 01:00:01.500\n0.86\n" in text
    assert "100:00:00.000 --> 100:00:01.001\n" in text
    write(tmp_path / "out.vtt", [final(0, 1, 2)])
    assert read(tmp_path / "out.vtt")[-1][0] == 100 * 3600 + 2.001


def test_a_textgrid_reaches_to_the_end_of_the_stream(tmp_path: Path) -> None:
    write(tmp_path / "out.TextGrid", SESSION)
    assert re.findall(r"\n *xmax = ([\d.]+)", (tmp_path / "out.TextGrid").read_text())[:2] == ["10.000000"] * 2


@pytest.mark.parametrize("name", WHOLE)
def test_overlapping_utterances_are_separated_in_tiers(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, [final(0, 0.0, 2.0), final(1, 1.9, 3.0), final(2, 2.5, 2.75)])
    assert [span[:2] for span in read(tmp_path / name)] == [(0.0, 2.0), (2.0, 3.0)]


def test_audacity_labels_have_a_second_file_for_the_confidence(tmp_path: Path) -> None:
    for _ in range(2):
        write(tmp_path / "out.txt", SESSION)
    labels, confidences = (read_labels((tmp_path / name).read_text()) for name in ("out.txt", "out.confidence.txt"))
    assert [span[:2] for span in labels] == [span[:2] for span in confidences] and len(labels) == 4
    assert [span[2] for span in labels] == ["happy", "uncertain"] * 2
    assert [span[2] for span in confidences] == ["0.86", "happy? 0.41"] * 2


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_stream_never_breaks_a_line_of_the_file(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, [final(0, 1, 2, stream="two words\nand a\ttab \udcff")])
    assert len(read(tmp_path / name)) == 1


@pytest.mark.parametrize("name", ["out.vtt", *WHOLE, "out.txt"])
def test_a_timeline_refuses_a_second_stream_and_names_a_solution(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"\{stream\}"):
        open_writer(tmp_path / name, streams=2)
    assert not (tmp_path / name).exists()
    with open_writer(tmp_path / name) as writer:
        writer.write(final(0, 1, 2, stream="a"))
        with pytest.raises(ConfigError, match="hold one stream's timeline"):
            writer.write(final(0, 1, 2, stream="b"))
    assert len(read(tmp_path / name)) == 1


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.rttm"])
def test_formats_with_rows_accept_several_streams_in_one_file(tmp_path: Path, name: str) -> None:
    with open_writer(tmp_path / name, streams=2) as writer:
        writer.write(final(0, 1, 2, stream="a.wav"))
        writer.write(final(0, 1, 2, stream="b.wav"))
    text = (tmp_path / name).read_text()
    assert len(read(tmp_path / name)) == 2
    assert "a.wav" in text
    assert "b.wav" in text


def test_a_file_name_with_stream_in_braces_gives_a_file_for_each_stream(tmp_path: Path) -> None:
    with open_writer(tmp_path / "events of {stream}.vtt", streams=2) as writer:
        for stream in ("a.wav", "../b.wav"):
            writer.write(final(0, 1, 2, stream=stream))
            writer.write(StreamEnded(stream=stream, end=SECOND * 3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events of a.wav.vtt", "events of b.wav.vtt"]
    assert read_vtt((tmp_path / "events of b.wav.vtt").read_text()) == [(1.0, 2.0, "happy")]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_another_program_is_refused_and_not_changed(tmp_path: Path, name: str) -> None:
    for content in (
        b"Dear diary,\ntoday",
        b"note",
        b"[1, 2]\n",
        b'File type = "ooTextFile"\nObject class = "Pitch 1"\n',
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match="was not written by streamser"):
            open_writer(tmp_path / name)
        assert (tmp_path / name).read_bytes() == content


def test_an_invalid_output_path_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"known are \.jsonl, \.csv"):
        open_writer(tmp_path / "out.srt")
    with pytest.raises(ConfigError, match=r"the folder .*missing does not exist"):
        open_writer(tmp_path / "missing" / "out.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ConfigError, match="is not a file"):
        open_writer(tmp_path / "folder.csv")


def test_the_output_path_dash_means_json_lines_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with open_writer("-") as writer:
        for event in SESSION:
            writer.write(event)
    assert read_jsonl(capsys.readouterr().out) == [(1.25, 3.0, "happy"), (5.0, 6.5, "uncertain")]


def test_file_extensions_are_case_insensitive(tmp_path: Path) -> None:
    write(tmp_path / "OUT.CSV", SESSION)
    assert len(read_csv((tmp_path / "OUT.CSV").read_text())) == 2
    assert set(FORMATS) == {Path(name).suffix.lower() for name in NAMES}


def test_a_format_is_added_by_one_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, ".srt", Timeline)  # so that the extension is removed after the test

    @output_format(".srt", "SubRip subtitles")
    class SubRip(Timeline):
        count = 0

        def _is_ours(self, first_line: str, *, torn: bool) -> bool:
            return first_line.startswith("1")

        def _write_final(self, event: EmotionEvent) -> None:
            self.count += 1
            self._append(f"{self.count}\n{event.start_s:.3f} --> {event.end_s:.3f}\n{event.label}\n\n")

    write(tmp_path / "out.srt", SESSION)
    assert (tmp_path / "out.srt").read_text().startswith("1\n1.250 --> 3.000\nhappy\n\n2\n")
    assert known_suffixes() == ".jsonl, .csv, .rttm, .vtt, .txt, .TextGrid, .eaf or .srt"
    with pytest.raises(ConfigError, match=r"SubRip subtitles hold one stream's timeline; use \.jsonl, \.csv or \.rttm"):
        open_writer(tmp_path / "more.srt", streams=2)


def test_praat_opens_the_textgrid(tmp_path: Path) -> None:
    parselmouth = pytest.importorskip("parselmouth", reason="praat-parselmouth is not installed")
    for events in ([], SESSION, SESSION):
        write(tmp_path / "out.TextGrid", events)
        grid = parselmouth.Data.read(str(tmp_path / "out.TextGrid"))
        assert grid.class_name == "TextGrid"
    call = parselmouth.praat.call
    names = [call(grid, "Get tier name", tier) for tier in (1, 2, 3)]
    assert names == ["emotion", "likeliest", "confidence"]
    count = int(call(grid, "Get number of intervals", 1))
    texts = [[call(grid, "Get label of interval", tier, i + 1) for i in range(count)] for tier in (1, 2, 3)]
    labels, likeliest, confidences = ([text for text in tier if text] for tier in texts)
    assert labels == ["happy", "uncertain"] * 2 and likeliest == ["happy"] * 4
    assert [float(text) for text in confidences] == [0.86, 0.41] * 2
    assert call(grid, "Get end time") == 20.0
    assert (
        call(grid, "Count intervals where", 1, "is equal to", "happy") == 2
    )  # matches, since the tier contains only labels


def test_pympi_opens_the_eaf(tmp_path: Path) -> None:
    elan = pytest.importorskip("pympi.Elan", reason="pympi-ling is not installed")
    for events in ([], SESSION, SESSION):
        write(tmp_path / "out.eaf", events)
        eaf = elan.Eaf(str(tmp_path / "out.eaf"))
    assert set(eaf.get_tier_names()) == {"emotion", "likeliest", "confidence"}
    spans = sorted(eaf.get_annotation_data_for_tier("emotion"))
    assert spans == [
        (1250, 3000, "happy"), (5000, 6500, "uncertain"), (11250, 13000, "happy"), (15000, 16500, "uncertain")
    ]  # fmt: skip
    of_first = eaf.get_ref_annotation_at_time("confidence", 2000)
    assert [(row[0], row[1], row[2]) for row in of_first] == [(1250, 3000, "0.86")]
