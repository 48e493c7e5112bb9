"""Continue a stream over a new connection: which audio to send again, and where its events are in the whole stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from streamser.audio import SAMPLE_RATE
from streamser.events import EmotionEvent, Event, Gap, SourceChanged, SpeechEnded, SpeechStarted, StreamEnded

__all__ = ["Continuity", "Lost", "NewSpeaker", "Piece"]

_MOST_BYTES = 16_000_000  # more than eight minutes at 16 kHz; every utterance ends long before


@dataclass(frozen=True, slots=True)
class Lost:
    """The client reported this many lost frames."""

    frames: int


@dataclass(frozen=True, slots=True)
class NewSpeaker:
    """The client reported that another person speaks."""


Piece: TypeAlias = bytes | Lost | NewSpeaker


class Continuity:
    """Combines the connections of one stream into one timeline, from the pieces sent and the events received.

    A server's stream begins at zero, so events of a later connection are shifted by the place where it began: the end
    of the last utterance that has its final. The audio after it is sent again, and the utterance that was open is
    computed again, under its old number.

    >>> continuity = Continuity(sample_rate=16_000, channels=1)
    >>> continuity.send(bytes(64_000))
    >>> [len(piece) for piece in continuity.restart()]
    [64000]
    """

    def __init__(self, *, sample_rate: int, channels: int) -> None:
        self._rate = sample_rate
        self._frame_bytes = 2 * channels
        self._pieces: deque[tuple[int, Piece]] = deque()  # (first frame, piece) of what was sent
        self._bytes = 0
        self._frames = 0
        self._settled = 0  # frame up to which every utterance has its end
        self._silent: int | None = None  # frame of the last status without speech
        self._name: str | None = None
        self._offset = 0  # samples at 16 kHz before the present connection
        self._first = 0  # number of the present connection's first utterance
        self._next = 0  # number of the first utterance without an end
        self._started = -1  # the last utterance whose start was passed on
        self._final = -1  # the last utterance whose final was passed on
        self._seqs: tuple[int, int] = (-1, 0)  # an utterance, and how many emotion events it had
        self._base_seq: tuple[int, int] = (-1, 0)  # `_seqs` when the present connection began
        self._gaps_until = 0

    def send(self, piece: Piece) -> None:
        """Record the next piece that is sent to the server."""
        self._pieces.append((self._frames, piece))
        if isinstance(piece, bytes):
            self._frames += len(piece) // self._frame_bytes
            self._bytes += len(piece)
        elif isinstance(piece, Lost):
            self._frames += piece.frames
        self._forget()

    def status(self, position_s: float, silent: bool) -> None:
        """Take a status of the server: in silence, audio before the previous status need not be sent again."""
        if silent and self._started < self._next:
            if self._silent is not None:
                self._settle(self._silent)
            self._silent = round(position_s * self._rate) + self._offset * self._rate // SAMPLE_RATE
        else:
            self._silent = None

    def restart(self) -> list[Piece]:
        """Begin a new connection; returns the pieces that must be sent on it first."""
        self._forget()
        begin = max(self._settled, self._pieces[0][0]) if self._pieces else self._frames
        again = list(self._from(begin))
        self._offset = round(begin * SAMPLE_RATE / self._rate)
        self._first = self._next
        self._base_seq = self._seqs if self._seqs[0] == self._next else (-1, 0)
        self._silent = None
        return again

    def event(self, event: Event) -> Event | None:
        """An event of the present connection as one of the whole stream; None when it was passed on before."""
        self._name = event.stream if self._name is None else self._name
        event = replace(event, stream=self._name)
        if isinstance(event, SpeechStarted | EmotionEvent | SpeechEnded):
            event = replace(event, utterance=event.utterance + self._first)
        if isinstance(event, SpeechStarted):
            known, self._started = event.utterance <= self._started, max(event.utterance, self._started)
            return None if known else replace(event, start=event.start + self._offset)
        if isinstance(event, EmotionEvent):
            return self._emotion(event)
        if isinstance(event, SpeechEnded):
            ended = replace(event, start=event.start + self._offset, end=event.end + self._offset)
            self._next = event.utterance + 1
            self._settle(ended.end * self._rate // SAMPLE_RATE)
            return ended
        if isinstance(event, Gap):
            gap = replace(event, start=event.start + self._offset)
            known, self._gaps_until = gap.end <= self._gaps_until, max(gap.end, self._gaps_until)
            return None if known else gap
        if isinstance(event, SourceChanged):
            return replace(event, at=event.at + self._offset)
        assert isinstance(event, StreamEnded)
        return replace(event, end=event.end + self._offset)

    def _emotion(self, event: EmotionEvent) -> EmotionEvent | None:
        if event.utterance <= self._final:
            return None  # the connection was lost between the utterance's final and its end
        before = self._base_seq[1] if self._base_seq[0] == event.utterance else 0
        if event.final:
            self._final = event.utterance
        self._seqs = (event.utterance, event.seq + before + 1)
        shift = self._offset
        return replace(event, seq=event.seq + before, start=event.start + shift, end=event.end + shift)

    def _settle(self, frame: int) -> None:
        self._settled = max(self._settled, frame)
        self._forget()

    def _forget(self) -> None:
        """Drop pieces before the settled frame, and the oldest ones when there are too many."""
        while len(self._pieces) > 1 and (self._pieces[1][0] <= self._settled or self._bytes > _MOST_BYTES):
            _, piece = self._pieces.popleft()
            self._bytes -= len(piece) if isinstance(piece, bytes) else 0

    def _from(self, frame: int) -> Iterator[Piece]:
        """All pieces from this frame on, the first one cut."""
        for begin, piece in self._pieces:
            skipped = max(0, frame - begin)
            if isinstance(piece, bytes):
                if rest := piece[skipped * self._frame_bytes :]:
                    yield rest
            elif isinstance(piece, Lost):
                if skipped < piece.frames:
                    yield Lost(piece.frames - skipped)
            elif begin >= frame:
                yield piece
