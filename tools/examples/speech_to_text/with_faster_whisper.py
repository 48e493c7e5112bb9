"""faster-whisper with emotions: print the words of a recording, and the emotion of the voice for each segment.

pip install faster-whisper streamser
python with_faster_whisper.py talk.wav
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from faster_whisper import WhisperModel
from faster_whisper.transcribe import Segment
from turn_emotion import Emotion, merge

import streamser


def transcribe(
    path: str, whisper: WhisperModel, recognizer: streamser.Recognizer, **options: Any
) -> Iterator[tuple[Segment, Emotion | None]]:
    """Yield each segment of faster-whisper with its emotion; `options` are those of `WhisperModel.transcribe`."""
    events = streamser.replay(path, model=recognizer)
    finals = [event for event in events if isinstance(event, streamser.EmotionEvent) and event.final]
    segments, _ = whisper.transcribe(path, **options)
    for segment in segments:
        yield segment, merge(finals, segment.start, segment.end)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--whisper", default="small", help="name of the faster-whisper model")
    args = parser.parse_args()
    for segment, emotion in transcribe(args.file, WhisperModel(args.whisper), streamser.load()):
        label = "" if emotion is None else "uncertain" if emotion["uncertain"] else emotion["emotion"]
        print(f"{segment.start:7.2f} {segment.end:7.2f}  {label:10} {segment.text.strip()}", flush=True)


if __name__ == "__main__":
    main()
