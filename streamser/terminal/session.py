"""The events of a stream so far, in the form that the terminal view needs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from pathlib import Path

from streamser.events import EmotionEvent, Event, Gap, SourceChanged, SpeechEnded, SpeechStarted, StreamEnded
from streamser.outputs import open_writer
from streamser.terminal.summary import Summary

Row = EmotionEvent | Gap | SourceChanged
"""The rows of the list of past utterances: finals, gaps, and losses of the microphone."""

# A session of days must not fill the memory: these hold the last hours of talk, about 30 MB at most.
_KEPT_EVENTS = 50_000
_KEPT_ROWS = 10_000


class Session:
    """All events, the open utterance, and whether the stream has ended."""

    def __init__(self, labels: Iterable[str] = ()) -> None:
        self.labels = tuple(labels)
        self.events: deque[Event] = deque(maxlen=_KEPT_EVENTS)
        self.rows: deque[Row] = deque(maxlen=_KEPT_ROWS)
        self.open: SpeechStarted | None = None
        """The utterance that has not ended yet."""
        self.shown: EmotionEvent | None = None
        """The newest result: of the open utterance, or of the one before it."""
        self.voice: EmotionEvent | None = None
        """The newest result of this speaker."""
        self.forgotten = False
        """True from a change of speaker to the new speaker's first result."""
        self.ended: StreamEnded | None = None
        self.rows_ever = 0
        self.events_ever = 0
        self.summary = Summary(self.labels)
        self._saved_utterances = 0
        self._newest = self._earlier_speakers = -1  # number of the last utterance: now, and at the change of speaker

    @property
    def before(self) -> bool:
        """True while `shown` belongs to the utterance before the open one."""
        return self.open is not None and self.shown is not None and self.shown.utterance != self.open.utterance

    @property
    def unsaved(self) -> bool:
        """True if there are finals that `save` has not written."""
        return self.summary.utterances > self._saved_utterances

    def take(self, event: Event) -> None:
        """Add one event."""
        self.events.append(event)
        self.summary.take(event)
        self.events_ever += 1
        if isinstance(event, SpeechStarted):
            self.open = event
            self._newest = event.utterance
        elif isinstance(event, SpeechEnded):
            self.open = None
        elif isinstance(event, StreamEnded):
            self.open, self.ended = None, event
        elif isinstance(event, EmotionEvent):
            self.shown = event
            self._newest = max(self._newest, event.utterance)
            if event.utterance > self._earlier_speakers:
                self.voice, self.forgotten = event, False
            self.labels = self.labels or tuple(event.scores)
        if isinstance(event, Gap | SourceChanged) or (isinstance(event, EmotionEvent) and event.final):
            self.rows.append(event)
            self.rows_ever += 1

    def forget_voice(self) -> None:
        """Another person speaks from the next utterance on; one that has begun belongs to the earlier speaker."""
        self.voice, self.forgotten = None, True
        self._earlier_speakers = self._newest

    def save(self, path: Path) -> str:
        """Write the events as JSON lines to a file, replacing an earlier save of this session; returns a message."""
        draft = path.with_name(f".{path.name}.part.jsonl")
        draft.unlink(missing_ok=True)
        with open_writer(draft) as writer:
            for event in self.events:
                writer.write(event)
        draft.replace(path)
        self._saved_utterances = self.summary.utterances
        lost = self.events_ever - len(self.events)
        return f"{'the last ' if lost else ''}{len(self.events)} events saved to {path}"
