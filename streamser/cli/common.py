"""Shared by the commands: options for model and configuration, output files, and a clean end on Ctrl-C."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from streamser.audio import Samples
from streamser.bundle import DEFAULT_MODEL
from streamser.cli.exits import ENDING_SIGNALS
from streamser.cli.oldoptions import add_gone_option
from streamser.config import Config, load_config, shipped_config
from streamser.errors import ConfigError
from streamser.events import Event
from streamser.outputs import Writer, known_suffixes, open_writer
from streamser.printable import guarded
from streamser.recognizer import Recognizer

if TYPE_CHECKING:
    from streamser.plot import Mark

__all__ = [
    "STREAM_SECTIONS",
    "Places",
    "add_config_arguments",
    "add_event_arguments",
    "add_model_arguments",
    "hushed",
    "load_run_config",
    "parse_speed",
    "refuse_unused",
    "stopping",
]


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options --config and --set."""
    add = parser.add_argument
    add("--config", metavar="FILE", help=f"settings in YAML; {shipped_config()} explains them all")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one setting, for example vad.mode=3; may be repeated",
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Options for the checkpoint, the processor and all other settings; read back with `load_run_config`."""
    add = parser.add_argument
    add("--model", metavar="NAME", help=f"name or folder of a checkpoint (default: {DEFAULT_MODEL})")
    add("--compute", metavar="PROCESSOR", help="auto, cpu, cuda or cuda:N (default: auto)")
    add("--profile", metavar="NAME", help='a profile of your voice, made by "streamser calibrate"')
    add(
        "--no-adapt",
        action="store_true",
        help="turn off the adaptation to the voice (comparison with earlier utterances)",
    )
    add_gone_option(parser, "--settle", "streams adapt to the voice by default now; --no-adapt turns it off")
    add_config_arguments(parser)


def add_event_arguments(parser: argparse.ArgumentParser) -> None:
    """The options for outputs of events; see `Places`."""
    add = parser.add_argument
    add(
        "--out",
        action="append",
        default=[],
        metavar="FILE",
        help=f"write the results to a {known_suffixes()} file; an existing file is continued; may be repeated",
    )
    add(
        "--jsonl",
        nargs="?",
        const="-",
        metavar="FILE",
        help="write all events as JSON lines; an existing file is continued; - is standard output",
    )
    add(
        "--plot",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="draw the timeline at the end as .png, .svg or .pdf; may be repeated",
    )
    add(
        "--plot-width",
        type=float,
        metavar="INCHES",
        help="width of the picture (default: 10); long streams are wrapped into rows",
    )
    add("--plain", action="store_true", help="print lines instead of the full-screen view")


STREAM_SECTIONS = ("source", "vad", "segmenter", "pipeline")
"""Sections of the configuration that apply to streams only, not to recordings that are scored whole."""


def load_run_config(args: argparse.Namespace, unused: Collection[str] = ("server",), way_out: str = "") -> Config:
    """The configuration of this run: file, then --set, then the options that have a name of their own.

    --set may not name a section in `unused`; `way_out` is the advice for a section that another mode uses.
    """
    refuse_unused(args, unused, way_out)
    config = load_config(args.config, args.set)
    named = {"model": "model", "compute": "compute", "profile": "profile"}
    given = {field: getattr(args, option, None) for option, field in named.items()}
    changes = {field: value for field, value in given.items() if value is not None}
    if getattr(args, "no_adapt", False):
        config = replace(config, pipeline=replace(config.pipeline, adapt=False))
    try:
        return replace(config, recognizer=replace(config.recognizer, **changes))
    except ValueError as error:
        field, _, rule = str(error).partition(":")
        option = next((option for option, name in named.items() if name == field), field)
        raise ConfigError(f"--{option}:{rule or error}") from error


def refuse_unused(args: argparse.Namespace, unused: Collection[str], way_out: str = "") -> None:
    """ConfigError for a --set that this run would ignore."""
    for text in args.set:
        section = text.partition(".")[0].strip()
        if section in unused:
            known = way_out and section in STREAM_SECTIONS
            raise ConfigError(
                f"--set {text}: {way_out if known else f'{args.command} does not use the section {section}'}"
            )


class Places:
    """All outputs for events, opened before any audio so that a mistake is reported at once."""

    def __init__(self, args: argparse.Namespace, recognizer: Recognizer, streams: int = 1) -> None:
        self.machine = args.jsonl == "-" or "-" in args.out
        """True when standard output is for a program, not for people."""
        self._plots: list[Path] = args.plot
        self._plot_width_inches: float | None = args.plot_width
        if args.plot_width is not None and not (args.plot and 2 <= args.plot_width <= 100):
            rule = "must be 2 to 100 inches" if args.plot else "there is no picture; give --plot too"
            raise ConfigError(f"--plot-width {args.plot_width:g}: {rule}")
        self._drawn: list[Event] = []
        if self._plots and streams > 1:
            raise ConfigError("--plot: a picture shows one file; replay the files one at a time")
        for picture in self._plots:
            from streamser.plot import check_plot

            check_plot(picture)
        self.kept: list[str] = []
        """The written files, for the summary; a continued file with the number of its earlier rows."""
        self._stack = ExitStack()
        self._writers: list[Writer] = []
        for path in [*args.out, *([args.jsonl] if args.jsonl else [])]:
            writer = open_writer(path, labels=recognizer.labels, streams=streams)
            self._writers.append(self._stack.enter_context(writer))
            if path != "-":
                self.kept.append(f"{path}{_continued(writer)}")

    def write(self, event: Event) -> None:
        """Write one event to every output."""
        for writer in self._writers:
            writer.write(event)
        if self._plots:
            self._drawn.append(event)

    def draw(self, samples: Samples | None = None, title: str = "", reference: Sequence[Mark] = ()) -> None:
        """Draw every requested timeline, with a lane for reference labels if there are any."""
        for picture in self._plots:
            from streamser.plot import save_timeline

            save_timeline(
                picture,
                self._drawn,
                samples=samples,
                title=title,
                width_inches=self._plot_width_inches,
                reference=reference,
            )
            print(f"streamser: timeline drawn in {picture}", file=sys.stderr)

    def __enter__(self) -> Places:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _continued(writer: Writer) -> str:
    """For example ' (continued after 12 rows)'; empty for a new file."""
    if not writer.before:
        return ""
    plural = "entries" if writer.entry == "entry" else f"{writer.entry}s"
    return f" (continued after {writer.before} {writer.entry if writer.before == 1 else plural})"


def parse_speed(text: str) -> float | Literal["max"]:
    """Parse an argument's value: a number above 0, or max."""
    if text == "max":
        return "max"
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, or max, not {text!r}")
    return speed


@contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[list[int]]:
    """A context in which the first Ctrl-C, SIGTERM or SIGHUP calls `stop`, and the second raises KeyboardInterrupt.

    It yields a list to which every signal is appended. A signal that is ignored (nohup) stays ignored.
    """
    came: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt
        stop()

    heeded = [number for number in (signal.SIGINT, *ENDING_SIGNALS) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heeded}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def hushed(debug: bool) -> Iterator[None]:
    """A context in which only Python's own output to standard error is shown, unless `debug`.

    PortAudio, ALSA and libmpg123 write to descriptor 2 about lost devices and damaged files; streamser reports both
    in its own words.
    """
    stderr = sys.stderr
    if debug or _descriptor(stderr) != 2:
        yield
        return
    stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    sys.stderr = guarded(os.fdopen(os.dup(kept), "w", encoding=stderr.encoding, errors="backslashreplace", buffering=1))
    logs = [h for h in logging.getLogger().handlers if isinstance(h, logging.StreamHandler) and h.stream is stderr]
    for handler in logs:
        handler.setStream(sys.stderr)
    try:
        yield
    finally:
        for handler in logs:
            handler.setStream(stderr)
        sys.stderr.close()
        sys.stderr = stderr
        os.dup2(kept, 2)
        os.close(kept)


def _descriptor(stream: Any) -> int:
    """The stream's file descriptor, or -1 if it has none."""
    try:
        return int(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return -1
