"""The table of `streamser label`: JSON lines or CSV with complete rows only; an interrupted run can be resumed."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from streamser.errors import ConfigError
from streamser.events import UNCERTAIN
from streamser.filelock import try_lock

__all__ = ["LabelTable", "open_table"]


def open_table(path: Path, labels: Sequence[str], model: str, utterances: bool, overwrite: bool) -> LabelTable:
    """Create the table at `path`, or continue it; ConfigError if the file is another table."""
    kind = {".jsonl": _Jsonl, ".csv": _Csv}.get(path.suffix.lower())
    if kind is None:
        raise ConfigError(f"--out {path}: the extension selects the format; known extensions are .jsonl and .csv")
    try:
        return kind(path, labels, model, utterances, overwrite)
    except OSError as error:
        raise ConfigError(f"--out {path}: cannot be written ({error.strerror})") from error


class LabelTable:
    """Rows of files; all rows of a file are written at once, so that after a crash a file has all its rows or none."""

    def __init__(self, path: Path, labels: Sequence[str], model: str, utterances: bool, overwrite: bool) -> None:
        places = ("utterance", "start_s", "end_s") if utterances else ("duration_s",)
        scores = (f"p_{label}" for label in labels)
        # The columns of `replay --out x.csv`, so that one program reads both.
        self.columns = (
            "file",
            *places,
            "label",
            "uncertain",
            "likeliest",
            "confidence",
            *scores,
            "reason",
            "model",
            "error",
        )
        self.done: set[str] = set()
        """Files whose rows are in the table; files with an error are not included."""
        self._path, self._labels, self._model = path, tuple(labels), model
        self._file = path.open("r+b" if path.exists() else "x+b", buffering=0)
        try:
            if not try_lock(self._file):
                raise self._busy()
            kept = (
                b"" if overwrite else self._whole_rows(path.read_bytes())
            )  # a last row that a crash left incomplete is written again
            self._without_errors = self._take_up(kept.decode("utf-8", errors="surrogateescape"))
            self._file.truncate(len(kept))
            self._file.seek(0, os.SEEK_END)
            if not kept:
                self._put(self._header())
        except BaseException:
            self._file.close()
            raise

    def drop_errors(self) -> None:
        """Remove the rows of files with an error from earlier runs, because these files are tried again now."""
        if self._without_errors is not None:
            self._replace(self._without_errors.encode("utf-8", errors="surrogateescape"))
            self._without_errors = None

    def write(self, file: str, rows: Sequence[dict[str, Any]]) -> None:
        """Write all rows of one file; a file without speech gets one row without times and label."""
        nothing = {"file": file, "uncertain": True, "reason": "no speech", "model": self._model}
        self._put("".join(map(self._text, rows or [nothing])))
        self.done.add(file)

    def write_error(self, file: str, error: str) -> None:
        """Write the one row of a file that cannot be labelled; the next run tries the file again."""
        self._put(self._text({"file": file, "error": error, "model": self._model}))

    def close(self) -> None:
        self._file.close()

    def _replace(self, content: bytes) -> None:
        """Replace the whole content at once: after a crash, the table has either the old or the new content."""
        fresh = self._path.with_name(f".{self._path.name}.new")
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        self._file.close()  # Windows cannot replace an open file
        fresh.replace(self._path)
        self._file = self._path.open("r+b", buffering=0)
        if not try_lock(self._file):
            raise self._busy()
        self._file.seek(0, os.SEEK_END)

    def _busy(self) -> ConfigError:
        return ConfigError(
            f"--out {self._path}: another streamser is writing it; wait until it ends, or give another --out"
        )

    def _put(self, text: str) -> None:
        data, end = text.encode("utf-8", errors="surrogateescape"), self._file.tell()  # file names may not be UTF-8
        try:
            while data:  # one write, unless the disk fills up
                data = data[self._file.write(data) :]
        except OSError as error:
            self._file.truncate(end)
            raise ConfigError(
                f"--out {self._path}: cannot be written ({error.strerror}); free some disk space and run it again"
            ) from error

    def _whole_rows(self, content: bytes) -> bytes:
        return content[: content.rfind(b"\n") + 1]

    def _take_up(self, text: str) -> str | None:
        """Read which files are done; ConfigError if the file has other content than rows of labels.

        Returns the text without the rows of errors, or None if no row has an error.
        """
        raise NotImplementedError

    def _header(self) -> str:
        return ""

    def _text(self, row: dict[str, Any]) -> str:
        raise NotImplementedError

    def _refuse(self, why: str) -> ConfigError:
        return ConfigError(f"--out {self._path}: {why}; give another --out, or --overwrite")

    def _check_model(self, model: object) -> None:
        if model != self._model:
            raise self._refuse(f"has labels of the model {model!r}, not {self._model!r}")


class _Jsonl(LabelTable):
    def _take_up(self, text: str) -> str | None:
        lines = text.split("\n")[:-1]  # a file name may contain other line ends
        try:
            rows = [json.loads(line) for line in lines]
            self.done = {row["file"] for row in rows if "error" not in row}
            models = {row["model"] for row in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise self._refuse("has lines that are not labels") from error
        if any("utterance" in self.columns and "duration_s" in row for row in rows) or any(
            "utterance" not in self.columns and "utterance" in row for row in rows
        ):
            raise self._refuse(f"was made with{'' if 'duration_s' in self.columns else 'out'} --utterances")
        for model in models:
            self._check_model(model)
        kept = [line for line, row in zip(lines, rows, strict=True) if "error" not in row]
        return None if len(kept) == len(lines) else "".join(line + "\n" for line in kept)

    def _text(self, row: dict[str, Any]) -> str:
        return json.dumps(row, ensure_ascii=False) + "\n"


class _Csv(LabelTable):
    def _whole_rows(self, content: bytes) -> bytes:
        kept = super()._whole_rows(content)
        while kept.count(b'"') % 2:  # a file name may contain a line end, between quotes
            kept = super()._whole_rows(kept[:-1])
        return kept

    def _take_up(self, text: str) -> str | None:
        if text and not text.startswith(self._header()):
            raise self._refuse("has other columns")
        rows = list(csv.DictReader(io.StringIO(text)))
        self.done = {row["file"] for row in rows if not row["error"]}
        for model in {row["model"] for row in rows}:
            self._check_model(model)
        if len(self.done) == len({row["file"] for row in rows}):
            return None
        return self._header() + "".join(self._line(row) for row in rows if not row["error"])

    def _header(self) -> str:
        return ",".join(self.columns) + "\n"

    def _text(self, row: dict[str, Any]) -> str:
        if "error" in row:
            return self._line(row)
        flat = dict(row)
        flat["uncertain"] = str(flat["uncertain"]).lower()
        if "label" not in flat:
            flat["label"] = UNCERTAIN
        else:
            flat["likeliest"], flat["label"] = flat["label"], UNCERTAIN if row["uncertain"] else flat["label"]
            shares = {"confidence": flat["confidence"]} | {f"p_{k}": v for k, v in flat.pop("scores").items()}
            flat |= {name: f"{share:.4f}" for name, share in shares.items()}
            flat |= {name: f"{flat[name]:.4f}" for name in ("start_s", "end_s") if name in flat}
        return self._line(flat)

    def _line(self, flat: dict[str, Any]) -> str:
        out = io.StringIO()
        # The csv module quotes cells that contain a character of `lineterminator`: "\r\n" protects both in file names.
        csv.DictWriter(out, self.columns, lineterminator="\r\n").writerow(flat)
        return out.getvalue().removesuffix("\r\n") + "\n"
