"""Play a stream's audio through the loudspeaker while it is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from streamser.audio import AudioBlock, Samples
from streamser.stream.sourcebase import Source, SourceItem, WrappedSource

__all__ = ["Output", "PlayedSource"]


class Output(Protocol):
    """Interface of an output that plays 16 kHz audio and never waits."""

    def play(self, samples: Samples) -> None: ...
    def close(self) -> None: ...


class PlayedSource(WrappedSource):
    """A source whose audio is played as it arrives; the output, if any, is closed when the source ends.

    `describe` gives the description at any moment, for a source that shows what is being played.
    """

    def __init__(self, source: Source, output: Output | None, describe: Callable[[], str] | None = None) -> None:
        super().__init__(source)
        self._output = output
        self._describe = describe

    @property
    def description(self) -> str:
        return self._describe() if self._describe else self.inner.description

    def __iter__(self) -> Iterator[SourceItem]:
        try:
            for item in self.inner:
                if isinstance(item, AudioBlock) and self._output is not None:
                    self._output.play(item.samples)
                yield item
        finally:
            if self._output is not None:
                self._output.close()
