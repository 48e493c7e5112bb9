"""A session's summary: share of each emotion, timeline, lost audio, and saved files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from streamser.audio import SAMPLE_RATE
from streamser.colors import clock
from streamser.events import UNCERTAIN, EmotionEvent, Event, Gap, StreamEnded

_MOST_COLUMNS = 100  # a wider timeline is not easier to read
_BAR_COLUMNS = 24
_MARGIN = 12  # columns before the bars and the timeline
_QUIET, _LOST, _UNKNOWN = ".", "x", "?"


class Summary:
    """Collects a session's events, also of several streams one after another; its text is ASCII for any terminal.

    >>> summary = Summary(("happy", "sad"))
    >>> said = dict(utterance=0, seq=0, final=True, scores={"happy": 0.9}, confidence=0.9, uncertain=False)
    >>> summary.take(EmotionEvent(start=0, end=32_000, label="happy", **said))
    >>> summary.take(StreamEnded(end=64_000))
    >>> print(summary.text(60, kept=["talk.csv"]))
    00:00:04  1 utterance, 2.0 s of speech
      h happy      100 %  ########################
      s sad          0 %
      ? uncertain    0 %
      timeline  hhhhhhhhhhhhhhhhhhhhhhhh........................
      gaps      none
      saved     talk.csv
    """

    def __init__(self, labels: Iterable[str] = ()) -> None:
        self._labels = list(labels)
        self._spans: list[tuple[int, int, str]] = []
        """Utterances and gaps of all streams, one stream after another: start, end, name."""
        self._offset = 0
        self._end = 0
        self._gaps = self._lost = 0
        self._paused = 0

    @property
    def utterances(self) -> int:
        return sum(name != _LOST for _, _, name in self._spans)

    @property
    def uncertain(self) -> int:
        return sum(name == UNCERTAIN for _, _, name in self._spans)

    def take(self, event: Event) -> None:
        """Count one event."""
        if isinstance(event, EmotionEvent) and event.final:
            self._labels += [name for name in event.scores if name not in self._labels]
            self._add(event.start, event.end, UNCERTAIN if event.uncertain else event.label)
        elif isinstance(event, Gap):
            if event.reason == "paused":
                self._paused += event.length
            else:
                self._gaps += 1
                self._lost += event.length
            self._add(event.start, event.start + event.length, _LOST)
        elif isinstance(event, StreamEnded):
            self._end = max(self._end, self._offset + event.end)
            self._offset = self._end

    def _add(self, start: int, end: int, name: str) -> None:
        self._spans.append((self._offset + start, self._offset + end, name))
        self._end = max(self._end, self._offset + end)

    def text(self, width: int, kept: Sequence[str] = ()) -> str:
        """The summary for a terminal of `width` columns; `kept` are the places where the results were saved."""
        speech = Counter[str]()
        for start, end, name in self._spans:
            if name != _LOST:
                speech[name] += end - start
        whole = sum(speech.values())
        lines = [f"{clock(self._end)}  {count_words(self.utterances, self.uncertain)}"]
        if whole:
            lines[0] += f", {_duration(whole / SAMPLE_RATE)} of speech"
            letters = letters_of(self._labels)
            lines += [_share(name, letters[name], speech[name] / whole, width) for name in [*self._labels, UNCERTAIN]]
            lines.append(f"  {'timeline':{_MARGIN - 2}}{self._timeline(letters, width)}")
        lines.append(f"  {'gaps':{_MARGIN - 2}}{self._gap_words()}")
        saved = ", ".join(kept) or "nothing; --out FILE keeps the results"
        return "\n".join([*lines, f"  {'saved':{_MARGIN - 2}}{saved}"])

    def _gap_words(self) -> str:
        lost = f"{self._gaps}, {self._lost / SAMPLE_RATE:.1f} s of audio lost" if self._gaps else "none"
        return lost + (f"; {self._paused / SAMPLE_RATE:.1f} s paused" if self._paused else "")

    def _timeline(self, letters: dict[str, str], width: int) -> str:
        """One letter for each stretch of time: the initial of its most frequent label, or a dot without speech."""
        columns = max(10, min(_MOST_COLUMNS, width - _MARGIN))
        filled = [Counter[str]() for _ in range(columns)]
        step = max(1.0, self._end / columns)
        for start, end, name in self._spans:
            for column in range(int(start / step), min(columns, int(end / step) + 1)):
                overlap = min(end, (column + 1) * step) - max(start, column * step)
                filled[column][name] += round(max(0.0, overlap))
        return "".join(self._letter(counts, letters, step) for counts in filled)

    @staticmethod
    def _letter(counts: Counter[str], letters: dict[str, str], step: float) -> str:
        name, length = counts.most_common(1)[0] if counts else ("", 0)
        if length < step / 4:  # a small part of an utterance does not count
            return _QUIET
        return _LOST if name == _LOST else letters[name]


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def letters_of(labels: Sequence[str]) -> dict[str, str]:
    """A letter for each name: the first of its letters that no earlier name has.

    >>> letters_of(["sad", "surprised", "uncertain"])
    {'sad': 's', 'surprised': 'u', 'uncertain': '?'}
    """
    letters = {UNCERTAIN: _UNKNOWN}
    for name in labels:
        free = (letter for letter in [*name.lower(), *"0123456789"] if letter not in [*letters.values(), _LOST])
        letters[name] = letters.get(name) or next(free, "*")
    return {name: letters[name] for name in [*labels, *([] if UNCERTAIN in labels else [UNCERTAIN])]}


def _share(name: str, letter: str, share: float, width: int) -> str:
    bar = "#" * round(share * max(0, min(_BAR_COLUMNS, width - 22)))
    return f"  {letter} {name:10} {100 * share:3.0f} %  {bar}".rstrip()


def count_words(utterances: int, uncertain: int) -> str:
    """As '12 utterances, 3 of them uncertain'."""
    words = f"{utterances} utterance{'' if utterances == 1 else 's'}"
    return f"{words}, {uncertain} of them uncertain" if uncertain else words
