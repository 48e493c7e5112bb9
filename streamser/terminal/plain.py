"""Print events as plain lines, for pipes, logs and simple terminals."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import TextIO

from streamser.audio import SAMPLE_RATE
from streamser.colors import clock
from streamser.events import UNCERTAIN, EmotionEvent, Event, Gap, SourceChanged, SpeechEnded, SpeechStarted, StreamEnded
from streamser.terminal.summary import Summary, count_words


class PlainView:
    """One line for each final and, on a terminal, one line for the utterance in progress."""

    def __init__(self, stream: TextIO | None = None, labels: Sequence[str] = (), *, several: bool = False) -> None:
        """`several` names the first stream too; otherwise only a change of stream is named."""
        self._out = stream if stream is not None else sys.stdout
        self._live = self._out.isatty()
        self._name_width = max([len(UNCERTAIN), *map(len, labels)])
        self._shown = ""
        self._stream: str | None = None
        self._several = several
        self._summary = Summary(labels)
        self._count = Summary()

    def on_event(self, event: Event) -> None:
        """Show one event, if this view has a line for it."""
        self._summary.take(event)
        self._count.take(event)
        if event.stream != self._stream:
            if self._several or self._stream is not None:
                self._line(f"-- {event.stream}")
            self._stream = event.stream
        if isinstance(event, SpeechStarted):
            self._show(f"{clock(event.start, 2)}  ...")
        elif isinstance(event, EmotionEvent):
            self._emotion(event)
        elif isinstance(event, SpeechEnded):
            self._show("")
        elif isinstance(event, Gap):
            what = "paused" if event.reason == "paused" else f"audio lost ({event.reason.replace('_', ' ')})"
            self._line(f"{clock(event.start, 2)}  {event.length / SAMPLE_RATE:5.2f} s  {what}")
        elif isinstance(event, SourceChanged):
            what = "microphone lost" if event.state == "lost" else "microphone back"
            self._line(f"{clock(event.at, 2)}           {what}" + (f": {event.detail}" if event.detail else ""))
        elif isinstance(event, StreamEnded):
            self._ended(event)

    def _emotion(self, event: EmotionEvent) -> None:
        name = UNCERTAIN if event.uncertain else event.label
        guess = f"  ({event.label}?)" if event.uncertain else ""
        seconds = f"{(event.end - event.start) / SAMPLE_RATE:5.2f} s"
        words = f"{clock(event.start, 2)}  {seconds}  {name:{self._name_width}}  {event.confidence:.2f}{guess}"
        if not event.final:
            self._show(words + " ...")
            return
        self._line(words)

    def _ended(self, event: StreamEnded) -> None:
        self._line(f"{clock(event.end, 2)}  end: {count_words(self._count.utterances, self._count.uncertain)}")
        if event.error:
            self._line(f"stopped: {event.error}")
        self._count = Summary()

    def finish(self, kept: Sequence[str] = ()) -> None:
        """Show the summary of all streams; `kept` are the places where the results were saved."""
        self._line("\n" + self._summary.text(shutil.get_terminal_size().columns, kept))

    def _line(self, words: str) -> None:
        self._show("")
        self._write(words + "\n")

    def _show(self, words: str) -> None:
        """Replace the live line, without escape codes, which the simplest terminals do not know."""
        words = words[: shutil.get_terminal_size().columns - 1]
        if self._live and words != self._shown:
            self._write("\r" + words.ljust(len(self._shown)) + ("\r" if not words else ""))
            self._shown = words

    def _write(self, text: str) -> None:
        encoding = self._out.encoding or "utf-8"
        self._out.write(text.encode(encoding, "replace").decode(encoding))
        self._out.flush()
