"""Formats of rows that name their stream: JSON lines, CSV and RTTM."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from typing import ClassVar

from streamser.audio import SAMPLE_RATE
from streamser.errors import ConfigError
from streamser.events import UNCERTAIN, EmotionEvent, Event
from streamser.outputs.files import CHUNK_BYTES, FileWriter, Finals, Writer, json_line, output_format, plain, read_bytes


class Stdout(Writer):
    """JSON lines on standard output, for the next program in a pipe."""

    def write(self, event: Event) -> None:
        sys.stdout.write(json_line(event))
        sys.stdout.flush()

    def close(self) -> None:
        """Standard output stays open."""


@output_format(".jsonl", "JSON lines")
class Jsonl(FileWriter):
    """Every event, one JSON object a line."""

    entry: ClassVar[str] = "event"

    def write(self, event: Event) -> None:
        self._append(json_line(event))

    def _is_ours(self, first_line: str, *, torn: bool) -> bool:
        if torn:
            return first_line.startswith('{"v"'[: len(first_line)])
        try:
            event = json.loads(first_line)
        except ValueError:
            return False
        return isinstance(event, dict) and {"v", "type", "stream"} <= set(event)


@output_format(".csv", "CSV")
class Csv(Finals):
    """One row for each final, one column for each class."""

    head_records: ClassVar[int] = 1
    entry: ClassVar[str] = "row"
    columns: ClassVar = ("stream", "utterance", "start_s", "end_s", "label", "uncertain", "likeliest", "confidence")

    def _is_ours(self, first_line: str, *, torn: bool) -> bool:
        common = ",".join(self.columns)
        return common.startswith(first_line[: len(common)]) if torn else first_line.startswith(common)

    def _fresh(self) -> None:
        self._has_header = False
        if self.labels:
            self._write_header()

    def _resume(self) -> None:
        self._has_header = True
        self._file.seek(0)
        header = next(csv.reader([read_bytes(self._file, CHUNK_BYTES).decode("utf-8", "replace").splitlines()[0]]))
        wanted, self.labels = self.labels, tuple(name[len("p_") :] for name in header[len(self.columns) :])
        self._check_labels(wanted or self.labels)

    def _check_labels(self, labels: Sequence[str]) -> None:
        if set(labels) != set(self.labels):
            raise ConfigError(
                f"{self.path}: has columns for {', '.join(self.labels)}, but this model has "
                f"{', '.join(labels)}; choose another file"
            )

    def _write_header(self) -> None:
        self._write_row([*self.columns, *(f"p_{name}" for name in self.labels)])
        self._has_header = True

    def _write_final(self, event: EmotionEvent) -> None:
        if not self._has_header:
            self.labels = tuple(event.scores)
            self._write_header()
        self._check_labels(tuple(event.scores))
        fields = event.to_dict()
        shown = UNCERTAIN if event.uncertain else event.label
        row = [plain(event.stream), event.utterance, f"{fields['start_s']:.4f}", f"{fields['end_s']:.4f}", shown]
        row += [str(event.uncertain).lower(), event.label, f"{fields['confidence']:.4f}"]
        self._write_row([*row, *(f"{fields['scores'][name]:.4f}" for name in self.labels)])

    def _write_row(self, row: Sequence[object]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(row)
        self._append(line.getvalue())


@output_format(".rttm", "RTTM")
class Rttm(Finals):
    """NIST's rich transcription: the emotion is in the field for the speaker."""

    entry: ClassVar[str] = "row"

    def _is_ours(self, first_line: str, *, torn: bool) -> bool:
        return "SPEAKER ".startswith(first_line[:8]) if torn else first_line.startswith("SPEAKER ")

    def _write_final(self, event: EmotionEvent) -> None:
        start_s, duration_s = event.start / SAMPLE_RATE, (event.end - event.start) / SAMPLE_RATE
        name, known = (UNCERTAIN, "<NA>") if event.uncertain else (plain(event.label, "_"), f"{event.confidence:.4f}")
        file = plain(event.stream, "_") or "main"
        self._append(f"SPEAKER {file} 1 {start_s:.4f} {duration_s:.4f} <NA> <NA> {name} {known} <NA>\n")
