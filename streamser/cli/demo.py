"""`streamser demo`: play twenty seconds of recorded voices, classified like the audio of a microphone."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace

from streamser import terminal
from streamser.cli.common import add_model_arguments, hushed, load_run_config, parse_speed, stopping
from streamser.cli.tables import terminal_width
from streamser.config import Config
from streamser.errors import DeviceError
from streamser.events import UNCERTAIN, EmotionEvent, Event
from streamser.recognizer import Recognizer, open_recognizer
from streamser.samples import Sample, find_samples
from streamser.stream.pipeline import Listener
from streamser.stream.playback import PlayedSource
from streamser.stream.portaudio import Speaker
from streamser.stream.sources import Source, WavSource

_EPILOG = """The voices are actors of the corpus CREMA-D, who were asked to play an emotion. samples/README.md has the
terms of the recordings, and lists the speakers that the checkpoint was trained on.
"""

_NEXT = (
    ("streamser live", "recognize your own voice from the microphone"),
    ("streamser replay talk.wav --out talk.csv", "process a recording and write the results to a table"),
    ("streamser serve", "the same in the browser; install it first: pip install 'streamser[serve]'"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--mute", action="store_true", help="do not play the audio")
    parser.add_argument(
        "--speed", type=parse_speed, default=1.0, metavar="S", help="2 is twice as fast, without playback (default: 1)"
    )
    parser.add_argument("--plain", action="store_true", help="print lines instead of the full-screen view")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Exit code: 0, or 130 after Ctrl-C. Errors are raised."""
    config = load_run_config(args)
    config = replace(config, pipeline=replace(config.pipeline, adapt=False))  # every sentence has another speaker
    samples = find_samples()
    with hushed(args.debug):
        files = WavSource([sample.path for sample in samples], speed=args.speed, config=config.source)
        recognizer = open_recognizer(config.recognizer)
        speaker, words = (None, "muted") if args.mute or args.speed != 1 else _open_speaker()
        notice = f"{len(samples)} recorded sentences by actors, {files.duration_s:.0f} s, {words}"
        print(f"streamser: {notice}", file=sys.stderr, flush=True)
        source = PlayedSource(files, speaker, lambda: _now_playing(samples, len(files.places)))
        finals: list[EmotionEvent] = []
        code = _show(args, source, recognizer, config, finals)
    if code == 0:
        starts = [place.start for place in files.places]
        print("\n" + comparison(samples, starts, finals, terminal_width(sys.stdout)))
        print("\nNext:\n" + _next_steps(shutil.get_terminal_size().columns))
    return code


def _now_playing(samples: Sequence[Sample], begun: int) -> str:
    """For example '2 of 6, played happy'."""
    sample = samples[max(0, begun - 1)]
    return f"{max(1, begun)} of {len(samples)}, played {sample.label}"


def _open_speaker() -> tuple[Speaker | None, str]:
    """The loudspeaker, if there is one, and a text for the summary: on what the audio is played."""
    try:
        speaker = Speaker()
    except DeviceError as error:
        return None, f"without playback ({error})"
    return speaker, f"played on {speaker.description}"


def _show(
    args: argparse.Namespace, source: Source, recognizer: Recognizer, config: Config, finals: list[EmotionEvent]
) -> int:
    def keep(event: Event) -> None:
        if isinstance(event, EmotionEvent) and event.final:
            finals.append(event)

    listener = Listener(source, recognizer, config, on_event=keep, name="demo")
    kept = ("nothing; the demo can be repeated",)
    if terminal.usable() and not args.plain:
        return terminal.run_terminal(listener, title=f"demo · {recognizer.bundle.name}", exit_at_end=True, kept=kept)
    view = terminal.PlainView(labels=recognizer.labels)
    with listener, stopping(listener.stop) as signals:
        for event in listener:
            view.on_event(event)
    view.finish(kept)
    return 130 if signals else 0


def comparison(
    samples: Sequence[Sample], starts: Sequence[int], finals: Sequence[EmotionEvent], width: int | None = None
) -> str:
    """A table of the played and the recognized emotions; `starts` are the first sample indexes of the sentences.

    Sentences are wrapped if the terminal's `width` is known and too small.
    """
    rows = [("played", "recognized", "sentence")]
    ends = [*starts[1:], float("inf")]
    for sample, start, end in zip(samples, starts, ends, strict=False):
        own = [event for event in finals if start <= (event.start + event.end) / 2 < end]
        shown = ", ".join(UNCERTAIN if event.uncertain else event.label for event in own) or "no speech found"
        rows.append((sample.label, shown, sample.sentence))
    second = max(len(shown) for _, shown, _ in rows) + 2
    lines = []
    for label, shown, sentence in rows:
        first = f"  {label:10} {shown:{second}}"
        room = max(10, (width or 1000) - len(first) - 1)
        lines += textwrap.wrap(first + sentence, len(first) + room, subsequent_indent=" " * len(first))
    return "\n".join(lines)


def _next_steps(width: int) -> str:
    """Three commands, each with its description beside it, or below it on a narrow terminal."""
    column = max(len(command) for command, _ in _NEXT) + 4
    beside = column + max(len(words) for _, words in _NEXT) <= width
    return "\n".join(f"  {c:{column - 2}}{w}" if beside else f"  {c}\n      {w}" for c, w in _NEXT)


__all__ = ["add_arguments", "comparison", "run"]
