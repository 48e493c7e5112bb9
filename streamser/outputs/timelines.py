"""Formats with one timeline, which hold one stream: WebVTT and Audacity labels; tiers.py has the others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from streamser.audio import SAMPLE_RATE
from streamser.colors import clock
from streamser.errors import ConfigError
from streamser.events import UNCERTAIN, EmotionEvent, Event
from streamser.outputs.files import Finals, Writer, known_suffixes, output_format, plain


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


def shown_label(event: EmotionEvent) -> str:
    """The label, or `uncertain`."""
    return plain(UNCERTAIN if event.uncertain else event.label)


def confidence_words(event: EmotionEvent) -> str:
    """As '0.86', or 'happy? 0.41' when uncertain."""
    return (f"{plain(event.label)}? " if event.uncertain else "") + f"{event.confidence:.2f}"


@output_format(".vtt", "WebVTT subtitles")
class WebVtt(Timeline):
    """Subtitles: for each final a cue with the label alone, and one of the same time with its confidence."""

    record_end: ClassVar[bytes] = b"\n\n"
    head_records: ClassVar[int] = 1
    entry: ClassVar[str] = "cue"

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
        time = f"{clock(start, 3)} --> {clock(end, 3)}"
        texts = (_escaped(words) for words in (shown_label(event), confidence_words(event)))
        self._append("".join(f"{time}\n{text}\n\n" for text in texts))


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class LabelTrack(Timeline):
    """A label track of Audacity: start, end and text, between tabs."""

    entry: ClassVar[str] = "label"

    def _is_ours(self, first_line: str, *, torn: bool) -> bool:
        whole, begun = r"\d+\.\d+\t\d+\.\d+\t", r"\d+(\.\d*(\t\d*(\.\d*(\t.*)?)?)?)?$"
        return re.match(begun if torn else whole, first_line) is not None

    def _resume(self) -> None:
        ends = re.findall(r"^\d+\.\d+\t(\d+\.\d+)\t", self._last_bytes(), re.MULTILINE)
        self.offset = round(float(ends[-1]) * SAMPLE_RATE) if ends else 0

    def _write_final(self, event: EmotionEvent) -> None:
        start_s, end_s = (self.offset + event.start) / SAMPLE_RATE, (self.offset + event.end) / SAMPLE_RATE
        self._append(f"{start_s:.6f}\t{end_s:.6f}\t{self._text(event)}\n")

    def _text(self, event: EmotionEvent) -> str:
        return confidence_words(event)


@output_format(".txt", "Audacity labels")
class AudacityLabels(LabelTrack):
    """A label track with the labels alone; NAME.confidence.txt beside it is a second track with their confidence."""

    def __init__(self, path: Path, labels: Sequence[str] = ()) -> None:
        super().__init__(path, labels)
        try:
            self._beside: Writer = _Confidences(path.with_stem(f"{path.stem}.confidence"))
        except BaseException:
            self._file.close()
            raise

    def write(self, event: Event) -> None:
        super().write(event)
        self._beside.write(event)

    def close(self) -> None:
        self._beside.close()
        super().close()

    def _text(self, event: EmotionEvent) -> str:
        return shown_label(event)


class _Confidences(LabelTrack):
    title = "Audacity labels"
