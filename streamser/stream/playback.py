"""Play a stream's sound through the loudspeaker while it is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from streamser.audio import Samples
from streamser.stream.sourcebase import Source, SourceItem, TimedBlock
from streamser.stream.status import SourceState

__all__ = ["Output", "PlayedSource"]


class Output(Protocol):
    """Something that plays 16 kHz sound and never waits."""

    def play(self, samples: Samples) -> None: ...
    def close(self) -> None: ...


class PlayedSource:
    """A source whose sound is played as it comes; the output, if any, is closed when the source ends.

    `describe` gives the description at any moment, for a source that shows what is being played.
    """

    def __init__(self, source: Source, output: Output | None, describe: Callable[[], str] | None = None) -> None:
        self._source = source
        self._output = output
        self._describe = describe

    @property
    def live(self) -> bool:
        return self._source.live

    @property
    def description(self) -> str:
        return self._describe() if self._describe else self._source.description

    @property
    def state(self) -> SourceState:
        return self._source.state

    @property
    def overflows(self) -> int:
        return self._source.overflows

    def close(self) -> None:
        self._source.close()

    def __iter__(self) -> Iterator[SourceItem]:
        try:
            for item in self._source:
                if isinstance(item, TimedBlock) and self._output is not None:
                    self._output.play(item.block.samples)
                yield item
        finally:
            if self._output is not None:
                self._output.close()
