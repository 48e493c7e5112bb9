"""RealtimeSTT with emotions: print each text at once, and the emotion of an utterance as soon as it is final.

pip install RealtimeSTT[recommended] streamser
python with_realtimestt.py
"""

from __future__ import annotations

from typing import Any

from RealtimeSTT import AudioToTextRecorder
from turn_emotion import TurnEmotion

import streamser


def make_recorder(voice: TurnEmotion, **settings: Any) -> AudioToTextRecorder:
    """A recorder that also passes its microphone's audio to streamser; `settings` are RealtimeSTT's own."""
    return AudioToTextRecorder(on_recorded_chunk=voice.push, **settings)  # 16 kHz, mono, 16-bit


def show(event: streamser.EmotionEvent) -> None:
    label = "uncertain" if event.uncertain else event.label
    print(f"    {event.start_s:.1f} to {event.end_s:.1f} s: {label} {event.confidence:.2f}", flush=True)


def main() -> None:
    voice = TurnEmotion(streamser.load(), on_final=show)
    voice.consent = input("May this program predict emotions from your voice? [y/N] ").strip().lower() == "y"
    recorder = make_recorder(voice)
    print("Speak; Ctrl-C ends.")
    try:
        while True:
            print(recorder.text(), flush=True)  # printed at once; the emotion of the utterance follows
    except KeyboardInterrupt:
        recorder.shutdown()
        voice.close()


if __name__ == "__main__":
    main()
