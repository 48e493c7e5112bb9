from __future__ import annotations

import json
import logging
import sys
from argparse import ArgumentParser

import pytest

from streamser.cli import build_parser, logs
from streamser.cli.logs import JsonFormatter, PlainFormatter


def record_of(message: str, *args: object, **extra: object) -> logging.LogRecord:
    record = logging.LogRecord("streamser.x", logging.WARNING, __file__, 1, message, args, None)
    record.__dict__.update(extra)
    return record


def test_a_json_log_line_is_one_object_with_utc_time_and_the_callers_fields() -> None:
    line = JsonFormatter().format(record_of("stream %s ended", "a\nb", fields={"stream": "a\nb", "finals": 3}))
    assert "\n" not in line
    words = json.loads(line)
    assert words["time"].endswith("Z")
    assert {key: words[key] for key in ("level", "logger", "message", "stream", "finals")} == {
        "level": "warning",
        "logger": "streamser.x",
        "message": "stream a\nb ended",
        "stream": "a\nb",
        "finals": 3,
    }


def test_a_traceback_is_a_field_of_its_json_log_line() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        record = record_of("failed")
        record.exc_info = sys.exc_info()
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert "ValueError: broken" in json.loads(line)["traceback"]


def test_quoted_text_cannot_forge_a_second_log_line() -> None:
    line = PlainFormatter().format(record_of("path %s", "x\nstreamser: ERROR: forged\x1b]52;c;AA\x07"))
    assert "\n" not in line and "\x1b" not in line
    assert line.startswith("streamser: WARNING: path x\\n")


@pytest.mark.parametrize(
    ("words", "level", "kind"),
    [
        ([], logging.WARNING, PlainFormatter),
        (["--debug"], logging.DEBUG, PlainFormatter),
        (["--log-level", "info", "--log-json"], logging.INFO, JsonFormatter),
        (["--debug", "--log-level", "error"], logging.ERROR, PlainFormatter),
    ],
)
def test_the_options_choose_the_log_level_and_format(
    words: list[str], level: int, kind: type[logging.Formatter], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.Logger("root")
    monkeypatch.setattr(logging, "root", root)
    logs.set_up_logging(build_parser().parse_args(words))
    (handler,) = root.handlers
    assert isinstance(handler.formatter, kind)
    assert root.level == level


def test_an_unknown_log_level_is_refused() -> None:
    parser = ArgumentParser()
    logs.add_log_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--log-level", "loud"])
