"""Files with a tier for the label, one for the likeliest class and one for the confidence: TextGrid and EAF.

Tiers follow each other in the file, so a new final must be inserted in the middle. For each final a new file is written
beside the old one and replaces it in one step: the file is complete at any moment, also after a kill.
"""

from __future__ import annotations

import io
import os
import re
from abc import abstractmethod
from dataclasses import dataclass
from html import escape, unescape
from typing import ClassVar

from streamser.audio import SAMPLE_RATE
from streamser.events import EmotionEvent, Event, StreamEnded
from streamser.filelock import try_lock
from streamser.outputs.files import output_format, plain, read_bytes, write_text
from streamser.outputs.timelines import Timeline, shown_label

TIERS = ("emotion", "likeliest", "confidence")
"""The label or `uncertain`; the likeliest class, also when uncertain; its probability."""


@dataclass(frozen=True, slots=True)
class Span:
    """One final on the file's own timeline."""

    start: int
    end: int
    """Samples since the file's beginning."""
    texts: tuple[str, str, str]
    """The text in each of `TIERS`."""


class TieredFile(Timeline):
    """A file that is rendered whole from its spans."""

    entry: ClassVar[str] = "utterance"

    def _begin(self) -> None:
        """Read the spans of an existing file, or write an empty one."""
        size = self._file.seek(0, io.SEEK_END)
        self._file.seek(0)
        text = read_bytes(self._file, size).decode("utf-8", "replace")
        self._spans: list[Span] = []
        self._end = 0
        if text:
            self._spans, self._end = self._parse(text)
            if self._render(self._spans, self._end) != text:  # true also if the end of `text` is missing
                raise self._foreign()
            self.offset, self.before = self._end, len(self._spans)
        else:
            self._store([], 0)

    def write(self, event: Event) -> None:
        super().write(event)
        if isinstance(event, StreamEnded) and self.offset + event.end > self._end:
            self._store(self._spans, self.offset + event.end)

    def _write_final(self, event: EmotionEvent) -> None:
        """Add a span; if it overlaps the span before it, it starts where that one ends."""
        start = max(self.offset + event.start, self._spans[-1].end if self._spans else 0)
        end = self.offset + event.end
        if end > start:
            texts = (shown_label(event), plain(event.label), f"{event.confidence:.2f}")
            self._store([*self._spans, Span(start, end, texts)], max(self._end, end))

    def _store(self, spans: list[Span], end: int) -> None:
        """Replace the content; if the new content cannot be written, the old one stays."""
        text = self._render(spans, end)
        if os.name == "nt":  # an open file cannot be replaced there
            self._overwrite(text)
            self._file.truncate(len(text.encode("utf-8", "replace")))
        else:
            self._replace(text)
        self._spans, self._end = spans, end

    def _replace(self, text: str) -> None:
        target = self.path.resolve()
        part = target.with_name(f".{target.name}.part")
        try:
            file = part.open("w+b", buffering=0)
        except OSError as error:
            raise self._full(error) from error
        try:
            try_lock(file)  # before the file has its final name
            write_text(file, text)
            part.replace(target)
        except OSError as error:
            file.close()
            part.unlink(missing_ok=True)
            raise self._full(error) from error
        self._file.close()
        self._file = file

    def _is_ours(self, first_line: str, *, torn: bool) -> bool:
        return not torn and first_line == self._render([], 0).partition("\n")[0]

    @abstractmethod
    def _render(self, spans: list[Span], end: int) -> str:
        """The whole file."""

    @abstractmethod
    def _parse(self, text: str) -> tuple[list[Span], int]:
        """The spans and the end of a file that this class wrote; undefined for any other file."""


@output_format(".TextGrid", "Praat TextGrids")
class TextGrid(TieredFile):
    """Praat's interval tiers, which cover the whole time: between two finals is an empty interval."""

    def _render(self, spans: list[Span], end: int) -> str:
        end = max(end, 1)  # Praat requires an interval longer than 0
        end_s = f"{end / SAMPLE_RATE:.6f}"
        covered = list(_with_silence(spans, end))
        text = (
            'File type = "ooTextFile"\nObject class = "TextGrid"\n\n'
            f"xmin = 0 \nxmax = {end_s} \ntiers? <exists> \nsize = {len(TIERS)} \nitem []: \n"
        )
        for tier, name in enumerate(TIERS):
            text += (
                f'    item [{tier + 1}]:\n        class = "IntervalTier" \n        name = "{name}" \n'
                f"        xmin = 0 \n        xmax = {end_s} \n        intervals: size = {len(covered)} \n"
            )
            text += "".join(
                f"        intervals [{number}]:\n            xmin = {span.start / SAMPLE_RATE:.6f} \n"
                f"            xmax = {span.end / SAMPLE_RATE:.6f} \n"
                f'            text = "{span.texts[tier].replace(chr(34), chr(34) * 2)}" \n'
                for number, span in enumerate(covered, start=1)
            )
        return text

    def _parse(self, text: str) -> tuple[list[Span], int]:
        interval = re.compile(r'xmin = ([\d.]+) \n +xmax = ([\d.]+) \n +text = "((?:[^"]|"")*)" \n')
        tiers = [interval.findall(part) for part in re.split(r"    item \[\d+\]:\n", text)[1:]]
        if len(tiers) != len(TIERS):
            raise self._foreign()
        spans = [
            Span(_samples(one[0]), _samples(one[1]), (_unquoted(one[2]), _unquoted(two[2]), _unquoted(three[2])))
            for one, two, three in zip(*tiers, strict=False)
        ]
        end = spans[-1].end if spans else 0
        return [span for span in spans if any(span.texts)], 0 if end == 1 else end


def _with_silence(spans: list[Span], end: int) -> list[Span]:
    """The spans, with an empty one for each time without speech."""
    covered, reached = [], 0
    for span in [*spans, Span(end, end, ("", "", ""))]:
        if span.start > reached:
            covered.append(Span(reached, span.start, ("", "", "")))
        if span.end > span.start:
            covered.append(span)
        reached = max(reached, span.end)
    return covered


def _samples(seconds: str) -> int:
    return round(float(seconds) * SAMPLE_RATE)


def _unquoted(text: str) -> str:
    return text.replace('""', '"')


_MS = SAMPLE_RATE // 1000


@output_format(".eaf", "ELAN annotations")
class Eaf(TieredFile):
    """ELAN's annotation format: the label's tier is aligned in time, the two others refer to its annotations."""

    def _render(self, spans: list[Span], end: int) -> str:
        times = [time for span in spans for time in _milliseconds(span)]
        slots = "".join(
            f'        <TIME_SLOT TIME_SLOT_ID="ts{number}" TIME_VALUE="{time}"/>\n'
            for number, time in enumerate(times, start=1)
        )
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<ANNOTATION_DOCUMENT AUTHOR="streamser" DATE="1970-01-01T00:00:00+00:00" FORMAT="3.0" VERSION="3.0"'
            ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
            ' xsi:noNamespaceSchemaLocation="http://www.mpi.nl/tools/elan/EAFv3.0.xsd">\n'
            '    <HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">\n'
            f'        <PROPERTY NAME="lastUsedAnnotationId">{len(spans) * len(TIERS)}</PROPERTY>\n'
            f'        <PROPERTY NAME="streamser.end_ms">{-(-end // _MS)}</PROPERTY>\n'
            "    </HEADER>\n"
            f"    <TIME_ORDER>\n{slots}    </TIME_ORDER>\n"
            + "".join(_eaf_tier(tier, spans) for tier in range(len(TIERS)))
            + '    <LINGUISTIC_TYPE GRAPHIC_REFERENCES="false" LINGUISTIC_TYPE_ID="emotion" TIME_ALIGNABLE="true"/>\n'
            '    <LINGUISTIC_TYPE CONSTRAINTS="Symbolic_Association" GRAPHIC_REFERENCES="false"'
            ' LINGUISTIC_TYPE_ID="of the emotion" TIME_ALIGNABLE="false"/>\n'
            '    <CONSTRAINT DESCRIPTION="1-1 association with a parent annotation"'
            ' STEREOTYPE="Symbolic_Association"/>\n'
            "</ANNOTATION_DOCUMENT>\n"
        )

    def _parse(self, text: str) -> tuple[list[Span], int]:
        times = [int(time) * _MS for time in re.findall(r'TIME_VALUE="(\d+)"', text)]
        values = [unescape(value) for value in re.findall(r"<ANNOTATION_VALUE>([^<]*)</ANNOTATION_VALUE>", text)]
        count = len(times) // 2
        end = re.search(r'"streamser\.end_ms">(\d+)<', text)
        if len(values) != count * len(TIERS) or end is None:
            raise self._foreign()
        labels, likeliest, confidences = values[:count], values[count : 2 * count], values[2 * count :]
        bounds = zip(times[::2], times[1::2], strict=False)
        texts = zip(labels, likeliest, confidences, strict=True)
        return [Span(*bound, text) for bound, text in zip(bounds, texts, strict=True)], int(end[1]) * _MS


def _milliseconds(span: Span) -> tuple[int, int]:
    start = round(span.start / _MS)
    return start, max(start + 1, round(span.end / _MS))


def _eaf_tier(tier: int, spans: list[Span]) -> str:
    """The first tier refers to time slots, the others to the annotations of the first."""
    first = tier == 0
    kind = 'LINGUISTIC_TYPE_REF="emotion"' if first else 'LINGUISTIC_TYPE_REF="of the emotion" PARENT_REF="emotion"'
    if not spans:
        return f'    <TIER {kind} TIER_ID="{TIERS[tier]}"/>\n'
    lines = [f'    <TIER {kind} TIER_ID="{TIERS[tier]}">\n']
    for number, span in enumerate(spans):
        name = "ALIGNABLE_ANNOTATION" if first else "REF_ANNOTATION"
        where = (
            f'TIME_SLOT_REF1="ts{2 * number + 1}" TIME_SLOT_REF2="ts{2 * number + 2}"'
            if first
            else f'ANNOTATION_REF="a{number + 1}"'
        )
        lines.append(
            f'        <ANNOTATION>\n            <{name} ANNOTATION_ID="a{tier * len(spans) + number + 1}" {where}>\n'
            f"                <ANNOTATION_VALUE>{escape(span.texts[tier], quote=False)}</ANNOTATION_VALUE>\n"
            f"            </{name}>\n        </ANNOTATION>\n"
        )
    return "".join([*lines, "    </TIER>\n"])
