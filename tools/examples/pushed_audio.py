"""Emotions for a program that has its own audio loop: push PCM as it arrives; no threads, no microphone.

ffmpeg -loglevel error -i talk.mp3 -f s16le -ar 48000 -ac 2 - | python pushed_audio.py --rate 48000 --channels 2
"""

from __future__ import annotations

import argparse
import sys

import streamser


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=int, default=16_000)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--model", default="whisper")
    args = parser.parse_args()
    stream = streamser.Stream(streamser.load(args.model))

    def show(events: list[streamser.Event]) -> None:
        for event in events:
            if isinstance(event, streamser.EmotionEvent) and event.final:
                print("uncertain" if event.uncertain else event.label, f"{event.confidence:.2f}", flush=True)

    while pcm := sys.stdin.buffer.read(3200):
        show(stream.push(pcm, args.rate, args.channels))
    show(stream.close())


if __name__ == "__main__":
    main()
