"""`streamser replay FILE...`: process audio files with the same pipeline as live, with the same events."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from streamser import terminal
from streamser.audio import read_audio
from streamser.cli.common import (
    Places,
    add_event_arguments,
    add_model_arguments,
    hushed,
    load_run_config,
    parse_speed,
    stopping,
)
from streamser.cli.exits import SOME_FAILED
from streamser.cli.progress import ProgressLine
from streamser.config import Config
from streamser.errors import AudioError, ConfigError
from streamser.events import EmotionEvent
from streamser.recognizer import Recognizer, open_recognizer
from streamser.stream.audiofiles import duration_s, expand, ffmpeg_notice, search_folder
from streamser.stream.pipeline import Listener
from streamser.stream.sources import WavSource

if TYPE_CHECKING:
    from streamser.plot import Mark

_EPILOG = """examples:
  streamser replay talk.wav                     # as fast as possible
  streamser replay talk.wav --speed 1           # at the speed of a microphone
  streamser replay recordings/ --jsonl -        # all files of a folder, as JSON for programs
  streamser replay talk.wav --out talk.TextGrid --plot talk.png

Each file is a separate stream, named after the file. The events are the same at every speed. Of several files, those
that cannot be read are skipped.
exit code: 0 all files processed, 3 some could not be read, 130 stopped by Ctrl-C
"""

_LONG_S = 60.0  # a shorter file is done too soon for a progress line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("files", nargs="+", metavar="FILE", help="audio files, or folders of audio files")
    parser.add_argument(
        "--speed",
        type=parse_speed,
        default="max",
        metavar="S",
        help="1 is real time, 2 is twice as fast (default: max)",
    )
    add_model_arguments(parser)
    add_event_arguments(parser)
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="FILE",
        help="true labels for --plot: .TextGrid or .csv (docs/outputs.md)",
    )


def run(args: argparse.Namespace) -> int:
    """Exit code: 0, 3 if some of several files could not be read, 130 after Ctrl-C. Other errors are raised."""
    config = load_run_config(args)
    with hushed(args.debug):
        files, skipped = _readable(args.files)
        for folder in [Path(file) for file in args.files if Path(file).is_dir()]:
            if missing := search_folder(folder).needs_ffmpeg:
                print(f"streamser: {folder}: left out: {ffmpeg_notice(missing)}", file=sys.stderr)
        reference = _reference(args, files[0])
        recognizer = open_recognizer(config.recognizer)
        with Places(args, recognizer, streams=len(files)) as places:
            code = _play_all(args, files, recognizer, config, places)
            if code in (0, SOME_FAILED):
                audio = read_audio(files[0]) if args.plot else None
                places.draw(audio, title=files[0].name, reference=reference)
    return SOME_FAILED if skipped and not code else code


def _readable(paths: Sequence[str]) -> tuple[tuple[Path, ...], int]:
    """The files that can be opened, and the number of those that cannot; folders are searched.

    If there is only one file and it cannot be opened, its AudioError is raised.
    """
    files = [file for path in paths for file in expand(Path(path))]
    problems = {file: error for file in files if (error := _problem(file)) is not None}
    for error in problems.values():
        if len(files) == 1:
            raise error
        _report_skipped(error)
    good = tuple(file for file in files if file not in problems)
    if not good:
        raise AudioError(f"none of the {len(files)} files can be read")
    return good, len(problems)


def _problem(file: Path) -> AudioError | None:
    try:
        duration_s(file)
    except AudioError as error:
        return error
    return None


def _report_skipped(error: AudioError) -> None:
    print(f"streamser: skipped: {error}", file=sys.stderr)


def _reference(args: argparse.Namespace, file: Path) -> list[Mark]:
    """The labels of --reference, read before the first file is processed."""
    if args.reference is None:
        return []
    if not args.plot:
        raise ConfigError("--reference: needs --plot; give --plot too")
    from streamser.reference import read_reference

    return read_reference(args.reference, file, duration_s(file))


def _play_all(
    args: argparse.Namespace, files: tuple[Path, ...], recognizer: Recognizer, config: Config, places: Places
) -> int:
    view = None if places.machine else terminal.PlainView(labels=recognizer.labels, several=len(files) > 1)
    failed = 0
    for name, file in zip(stream_names(files), files, strict=True):
        source = WavSource(file, speed=args.speed, config=config.source)
        listener = Listener(source, recognizer, config, on_event=places.write, name=name)
        if terminal.usable() and not (args.plain or places.machine or args.speed == "max"):
            title = f"{name} · {recognizer.bundle.name}"
            code = terminal.run_terminal(listener, title=title, exit_at_end=file != files[-1], kept=places.kept)
            view = None  # each file's summary is shown when its view closes
        else:
            try:
                code = _play(listener, source, view)
            except AudioError as error:  # damaged in the middle: the events before the damage have been shown
                if len(files) == 1:
                    raise
                _report_skipped(error)
                code = 1
        if code > 1:
            break
        failed += code
    if view is not None:
        view.finish(places.kept)
    return code if code > 1 or len(files) == 1 else SOME_FAILED if failed else 0


def _play(listener: Listener, source: WavSource, view: terminal.PlainView | None) -> int:
    """Show the events as lines, and on a terminal the progress of a long file."""
    shown = sys.stderr.isatty() and source.duration_s >= _LONG_S
    progress = ProgressLine()
    with listener, stopping(listener.stop) as signals:
        for event in listener:
            partial = isinstance(event, EmotionEvent) and not event.final
            if view is not None and not (partial and source.speed == "max"):  # partials would change too fast to read
                if shown:
                    sys.stderr.write("\r\x1b[K")
                view.on_event(event)
            if shown:
                progress(source.description, round(listener.status().position_s), round(source.duration_s))
    progress.close()
    return 128 + signals[0] if signals else 0


def stream_names(files: tuple[Path, ...]) -> list[str]:
    """Each file's name without its suffix; if two names are equal, with their folders."""
    stems = Counter(file.stem for file in files)
    return [
        file.stem if stems[file.stem] == 1 else "_".join(file.with_suffix("").parts).strip("_/\\") for file in files
    ]
