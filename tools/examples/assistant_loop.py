"""An assistant's loop in plain Python: its reply depends on the emotion of the voice, and it ignores uncertain results.

python assistant_loop.py              # your microphone, until Ctrl-C
python assistant_loop.py talk.wav     # a file, in real time
"""

from __future__ import annotations

import argparse

import streamser

REPLIES = {
    "angry": "I am sorry. Shall I get a person for you?",
    "sad": "That does not sound easy. Take your time.",
    "happy": "That sounds good! What comes next?",
}


def reply(event: streamser.EmotionEvent) -> str:
    """The reply to an utterance: neutral if the emotion is uncertain."""
    return "All right." if event.uncertain else REPLIES.get(event.label, "All right.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", help="an audio file instead of the microphone")
    parser.add_argument("--model", default="whisper")
    args = parser.parse_args()
    voice = (
        streamser.replay(args.file, speed=1.0, model=args.model) if args.file else streamser.listen(model=args.model)
    )
    with voice as events:
        for event in events:
            if isinstance(event, streamser.SpeechStarted):
                print("(you speak)")
            elif isinstance(event, streamser.EmotionEvent) and event.final:
                label = "uncertain" if event.uncertain else event.label
                print(f"recognized {label} ({event.confidence:.0%}): {reply(event)}", flush=True)


if __name__ == "__main__":
    main()
