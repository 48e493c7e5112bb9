"""Trace the files and the types that a block of audio passes through, from the microphone to the event."""

from __future__ import annotations

import re
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from stream_parts import finals, two_utterances
from test_sources import Opener, ScriptedLine, chunks

import streamser
from streamser.audio import AudioBlock, Segment
from streamser.events import EmotionEvent
from streamser.recognizer import Prediction, Recognizer
from streamser.stream.pipeline import Listener
from streamser.stream.portaudio import Chunk
from streamser.stream.sources import MicSource, SourceConfig
from streamser.stream.worker import _Job

PACKAGE = Path(streamser.__file__).parent
CARRIERS = (Chunk, AudioBlock, Segment, _Job, Prediction, EmotionEvent)
"""The types that contain the audio or its results on the way."""
FIRST = "stream/portaudio.py"
"""The file of PortAudio's callback, which the test replaces by a list of chunks."""


class Trace:
    """A profile function: records the files whose functions get a carrier as argument, and the carriers' types."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.types: set[type] = set()

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(str(PACKAGE)):
            for value in frame.f_locals.values():
                for one in value if isinstance(value, list | tuple) and not isinstance(value, Chunk) else (value,):
                    if isinstance(one, CARRIERS):
                        self.files.add(Path(path).relative_to(PACKAGE).as_posix())
                        self.types.add(type(one))


def test_a_block_passes_through_the_documented_files_at_most_12(recognizer: Recognizer) -> None:
    trace = Trace()
    opener = Opener([ScriptedLine(chunks(two_utterances(), time.monotonic())), ScriptedLine([])])
    source = MicSource(SourceConfig(retry_first_ms=50), opener=opener)
    opener.source = source
    threading.setprofile(trace)
    sys.setprofile(trace)
    try:
        with Listener(source, recognizer) as listener:
            events = list(listener)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    assert finals(events), "no event arrived"
    trace.files.discard("audio.py")  # the file of AudioBlock and Segment, whose own properties were called
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    path = page.split("\n## The path of a block of audio\n", 1)[1].split("`streamser.Stream` takes", 1)[0]
    steps = path.split("\n\nThese are", 1)[0]
    assert trace.files | {FIRST} == set(re.findall(r"`streamser/([\w/]+\.py)`", steps))
    assert len(trace.files | {FIRST}) <= 12
    assert trace.types == set(CARRIERS)
