"""`streamser live`: print emotion events of a microphone until Ctrl-C. No audio is stored without --record."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from streamser import terminal
from streamser.cli.common import (
    Places,
    add_event_arguments,
    add_model_arguments,
    hushed,
    load_run_config,
    stopping,
)
from streamser.config import Config
from streamser.recognizer import Recognizer, open_recognizer
from streamser.stream.pipeline import Listener
from streamser.stream.recorder import RecordingSource
from streamser.stream.sources import MicSource, Source

_EPILOG = """examples:
  streamser live                                # the default microphone
  streamser live --device USB --profile anna    # a microphone with USB in its name, and a profile
  streamser live --jsonl -                      # for programs: one JSON object per line
  streamser live --out talk.vtt --plot talk.png # also write a file, and draw a picture at the end
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--device", metavar="MIC", help="microphone: number or part of its name (see streamser devices)"
    )
    add_model_arguments(parser)
    add_event_arguments(parser)
    parser.add_argument("--record", type=Path, metavar="DIR", help="also write the audio to a WAV file in this folder")


def run(args: argparse.Namespace) -> int:
    """Exit code 0, also after Ctrl-C, which ends the command. Errors are raised."""
    config = load_run_config(args)
    if args.device is not None:
        config = replace(config, source=replace(config.source, device=args.device))
    with hushed(args.debug):
        source: Source = MicSource(config.source)
        recognizer = open_recognizer(config.recognizer)
        with Places(args, recognizer) as places:
            if args.record is not None:
                source = RecordingSource(source, args.record)
                print(f"streamser: RECORDING to {source.recording}", file=sys.stderr)
            code = _listen(source, recognizer, config, places, args.plain)
            places.draw(title=source.description)
    return code


def _listen(source: Source, recognizer: Recognizer, config: Config, places: Places, plain: bool) -> int:
    listener = Listener(source, recognizer, config, on_event=places.write)
    if terminal.usable() and not plain and not places.machine:
        title = f"{source.description} · {recognizer.bundle.name}"
        code = terminal.run_terminal(listener, title=title, kept=places.kept, ask=True)
        return 0 if code == 130 else code
    view = terminal.PlainView(labels=recognizer.labels)
    if not places.machine:
        words = f"listening to {source.description} with {recognizer.bundle.name}; Ctrl-C ends"
        print(f"streamser: {words}", file=sys.stderr)
    with listener, stopping(listener.stop):
        for event in listener:
            if not places.machine:
                view.on_event(event)
    if not places.machine:
        view.finish(places.kept)
    return 0
