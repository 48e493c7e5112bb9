"""The `streamser` program: each command is a module, imported only when the command is called."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from contextlib import suppress

from streamser.cli.exits import (
    Terminated,
    explain_os_error,
    interruptible,
    leave_output,
    open_missing_streams,
    reader_has_left,
)
from streamser.cli.logs import add_log_arguments, set_up_logging
from streamser.cli.parsing import Parser
from streamser.errors import StreamserError
from streamser.printable import guarded_output

# command -> (module that has add_arguments(parser) and run(args) -> exit code, one line of help)
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("streamser.cli.demo", "play recorded voices and show their emotions"),
    "live": ("streamser.cli.live", "recognize emotions from a microphone"),
    "replay": ("streamser.cli.replay", "process audio files with the same pipeline as live"),
    "label": ("streamser.cli.label", "label every audio file in a folder"),
    "calibrate": ("streamser.cli.calibrate", "make a profile of your neutral voice, for --profile"),
    "profiles": ("streamser.cli.profiles", "list your profiles, or delete one"),
    "devices": ("streamser.cli.devices", "list microphones, or test one with a level meter"),
    "serve": ("streamser.cli.serve", "run a server: a page for the browser and a WebSocket for programs"),
    "wyoming": ("streamser.cli.wyoming", "run a Wyoming service for voice assistants"),
    "mqtt": ("streamser.cli.mqtt", "publish events to MQTT, with Home Assistant discovery"),
    "models": ("streamser.cli.models", "list the checkpoints, or show the card of one"),
    "train": ("streamser.cli.train", "train a checkpoint from a recipe"),
    "evaluate": ("streamser.cli.evaluate", "measure a checkpoint on corpora, or on composed streams"),
    "export": ("streamser.cli.export", "export a checkpoint's network to ONNX again"),
    "bench": ("streamser.cli.bench", "measure speed and latency on this machine"),
    "completion": ("streamser.cli.completion", "print a script that completes commands and options in your shell"),
    "help": ("streamser.cli.help", "show the help of a command"),
}


def version() -> str:
    """The installed version."""
    from importlib.metadata import version as installed

    return installed("streamser")


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser with the arguments of `command` only, so that no other command's module is imported."""
    parser = Parser(
        prog="streamser",
        description="Real-time speech emotion recognition on your own machine, with calibrated confidence.",
        epilog="streamser help COMMAND shows a command's options and examples. Start with: streamser demo.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and debug logs")
    add_log_arguments(parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, (module, summary) in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == command:
            importlib.import_module(module).add_arguments(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM."""
    open_missing_streams()
    with guarded_output():
        return _main(sys.argv[1:] if argv is None else argv)


def _main(argv: Sequence[str]) -> int:
    words = list(argv)
    command = next((word for word in words if word in COMMANDS), None)
    parser = build_parser(command)
    args = parser.parse_args(words)
    if args.version:
        print(f"streamser {version()}")
        return 0
    if args.command is None:
        parser.print_help()
        return 2
    set_up_logging(args)
    with interruptible():
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code; an error is reported in one line on standard error."""
    try:
        code = int(importlib.import_module(COMMANDS[args.command][0]).run(args) or 0)
        sys.stdout.flush()  # flush now: an error while Python exits could not be reported in one line
        return code
    except KeyboardInterrupt as stop:
        with suppress(OSError):
            print("streamser: stopped", file=sys.stderr)
        return stop.exit_code if isinstance(stop, Terminated) else 130
    except StreamserError as error:
        if args.debug:
            raise
        print(f"streamser: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if args.debug:
            raise
        leave_output()
        if reader_has_left(error):
            return 0
        with suppress(OSError):
            print(f"streamser: {explain_os_error(error)}", file=sys.stderr)
        return 1
