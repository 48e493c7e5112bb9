"""Formats that are one timeline, hence hold one stream: WebVTT, Audacity labels and Praat's TextGrid."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import ClassVar

from streamser.audio import SAMPLE_RATE
from streamser.colors import caption, clock
from streamser.errors import ConfigError
from streamser.events import EmotionEvent, Event, StreamEnded
from streamser.outputs.files import Finals, known_suffixes, output_format, plain, read_bytes


def one_stream(path: Path, title: str) -> ConfigError:
    return ConfigError(
        f"{path}: {title} hold one stream's timeline; use {known_suffixes(several_streams=True)} for "
        f"several, or {path.with_stem('{stream}')} for a file each"
    )


class Timeline(Finals):
    """A format with one timeline, hence for one stream."""

    several_streams: ClassVar[bool] = False
    stream: str | None = None
    offset = 0
    """Samples in the file before this session's first."""

    def write(self, event: Event) -> None:
        if self.stream is None:
            self.stream = event.stream
        elif event.stream != self.stream:
            raise one_stream(self.path, self.title)
        super().write(event)


@output_format(".vtt", "WebVTT subtitles")
class WebVtt(Timeline):
    """Subtitles: a cue a final."""

    record_end: ClassVar[bytes] = b"\n\n"

    def _is_ours(self, first_line: str, *, torn: bool) -> bool:
        return "WEBVTT".startswith(first_line) if torn else re.match(r"WEBVTT(\s|$)", first_line) is not None

    def _fresh(self) -> None:
        self._append("WEBVTT\n\n")

    def _resume(self) -> None:
        ends = re.findall(r"--> (\d+):(\d\d):(\d\d)\.(\d{3})", self._last_bytes())
        if ends:
            hours, minutes, seconds, ms = map(int, ends[-1])
            self.offset = ((hours * 60 + minutes) * 60 + seconds) * SAMPLE_RATE + ms * SAMPLE_RATE // 1000

    def _write_final(self, event: EmotionEvent) -> None:
        start, end = self.offset + event.start, self.offset + event.end
        end = max(end, start + SAMPLE_RATE // 1000)  # a cue lasts a millisecond at least
        text = plain(caption(event)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        self._append(f"{clock(start, 3)} --> {clock(end, 3)}\n{text}\n\n")


@output_format(".txt", "Audacity labels")
class AudacityLabels(Timeline):
    """A label track: start, end and text, between tabs."""

    def _is_ours(self, first_line: str, *, torn: bool) -> bool:
        whole, begun = r"\d+\.\d+\t\d+\.\d+\t", r"\d+(\.\d*(\t\d*(\.\d*(\t.*)?)?)?)?$"
        return re.match(begun if torn else whole, first_line) is not None

    def _resume(self) -> None:
        ends = re.findall(r"^\d+\.\d+\t(\d+\.\d+)\t", self._last_bytes(), re.MULTILINE)
        self.offset = round(float(ends[-1]) * SAMPLE_RATE) if ends else 0

    def _write_final(self, event: EmotionEvent) -> None:
        start_s, end_s = (self.offset + event.start) / SAMPLE_RATE, (self.offset + event.end) / SAMPLE_RATE
        self._append(f"{start_s:.6f}\t{end_s:.6f}\t{plain(caption(event))}\n")


@output_format(".TextGrid", "Praat TextGrids")
class TextGrid(Timeline):
    """Praat's tier of intervals.

    Praat wants the number of intervals and the last time in the header. They stand there in fields of fixed
    width, so that they can be rewritten in place: new intervals are appended first, which a reader does not
    count yet, then one small write of the header makes them count.
    """

    _count = 0
    _end = 0
    """Sample up to which intervals reach."""
    _blank = False
    """True while the file holds nothing, or nothing but the interval that a tier must have."""

    def _is_ours(self, first_line: str, *, torn: bool) -> bool:
        whole = _textgrid_header(0, 0).partition("\n")[0]
        return whole.startswith(first_line) if torn else first_line == whole

    def _complete_length(self) -> int:
        """Bytes up to the end of the last interval that counts; learns how many do and how far they reach."""
        size = self._file.seek(0, io.SEEK_END)
        self._file.seek(0)
        data = read_bytes(self._file, size)
        header = _TEXTGRID_HEADER.match(data)
        if header is None:
            if _textgrid_header(1, 1).encode().startswith(data):  # torn while it was made, or empty
                return 0
            raise self._foreign()
        length = header.end()
        while self._count < int(header["count"]) and (found := _TEXTGRID_INTERVAL.match(data, length)):
            length, self._end = found.end(), round(float(found["end"]) * SAMPLE_RATE)
            self._count += 1
        return length if self._count else 0

    def _fresh(self) -> None:
        self._blank = True
        self._add([(0, 1, "")])  # one sample long, since Praat wants a tier to hold something that lasts
        self._blank = True

    def _resume(self) -> None:
        self._blank = self._end == 1
        self.offset = 0 if self._blank else self._end
        self._add([])

    def write(self, event: Event) -> None:
        super().write(event)
        if isinstance(event, StreamEnded):
            self._tell(self.offset + event.end, self.offset + event.end, "")

    def _write_final(self, event: EmotionEvent) -> None:
        self._tell(self.offset + event.start, self.offset + event.end, plain(caption(event)).replace('"', '""'))

    def _tell(self, start: int, end: int, text: str) -> None:
        """Add an interval and the silence before it; what overlaps the last one begins where that ended."""
        reached = 0 if self._blank else self._end
        start = max(start, reached)
        spans = [(reached, start, ""), (start, end, text)]
        self._add([span for span in spans if span[1] > span[0]])

    def _add(self, spans: list[tuple[int, int, str]]) -> None:
        first = self._blank and bool(spans)
        if first:
            self._count, self._blank = 0, False
        body = ""
        for start, end, text in spans:
            self._count, self._end = self._count + 1, end
            body += (
                f"        intervals [{self._count}]:\n            xmin = {start / SAMPLE_RATE:.6f} \n"
                f'            xmax = {end / SAMPLE_RATE:.6f} \n            text = "{text}" \n'
            )
        header = _textgrid_header(self._end, self._count)
        if first:  # these take the blank interval's place, all in one write
            header += body
        elif body:
            self._append(body)
        self._overwrite(header)


def _textgrid_header(end: int, count: int) -> str:
    end_s = f"{end / SAMPLE_RATE:.6f}"
    return (
        'File type = "ooTextFile"\nObject class = "TextGrid"\n\n'
        f"xmin = 0 \nxmax = {end_s:<16} \ntiers? <exists> \nsize = 1 \nitem []: \n"
        '    item [1]:\n        class = "IntervalTier" \n        name = "emotion" \n'
        f"        xmin = 0 \n        xmax = {end_s:<16} \n        intervals: size = {count:<10} \n"
    )


_TEXTGRID_HEADER = re.compile(
    re.escape(_textgrid_header(0, 0).encode())
    .replace(re.escape(f"{0:<16.6f}".encode()), rb"(?=.{16} \n)[\d.]+ *")
    .replace(re.escape(f"size = {0:<10}".encode()), rb"size = (?=.{10} \n)(?P<count>\d+) *")
)
_TEXTGRID_INTERVAL = re.compile(
    rb"        intervals \[\d+\]:\n            xmin = [\d.]+ \n            xmax = (?P<end>[\d.]+) \n"
    rb'            text = "(?:[^"]|"")*" \n'
)
