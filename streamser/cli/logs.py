"""Log lines on standard error: for people, or as JSON for a log collector."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from datetime import datetime, timezone

__all__ = ["JsonFormatter", "PlainFormatter", "add_log_arguments", "announce", "set_up_logging"]

LEVELS = ("debug", "info", "warning", "error")


def add_log_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options --log-level and --log-json."""
    add = parser.add_argument
    add("--log-level", choices=LEVELS, help="lowest level of log lines to write (default: warning)")
    add("--log-json", action="store_true", help="write each log line as one JSON object")


def set_up_logging(args: argparse.Namespace) -> None:
    """Send the log lines of this process to standard error; the log settings of a host program are not changed."""
    level = "debug" if args.debug and args.log_level is None else args.log_level or "warning"
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if args.log_json else PlainFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def announce(text: str) -> None:
    """Write a line in the format of the log, at any log level."""
    handlers = logging.getLogger().handlers
    if any(isinstance(handler.formatter, JsonFormatter) for handler in handlers):
        record = logging.LogRecord("streamser", logging.INFO, __file__, 0, "%s", (text,), None)
        text = JsonFormatter().format(record)
    else:
        text = f"streamser: {text}"
    print(text, file=sys.stderr, flush=True)


class PlainFormatter(logging.Formatter):
    """`streamser: WARNING: message`, in which control characters are escaped."""

    def __init__(self) -> None:
        super().__init__("streamser: %(levelname)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class names it
        return printable(super().formatMessage(record))


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC), level, logger, message, the record's `fields`, and a traceback, if any."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, timezone.utc)
        line = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def printable(text: str) -> str:
    r"""The text with control characters escaped.

    >>> print(printable("name\nstreamser: ERROR: forged \x1b[31m"))
    name\nstreamser: ERROR: forged \x1b[31m
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
