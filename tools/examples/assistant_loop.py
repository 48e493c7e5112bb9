"""An assistant's loop in plain Python: it answers by how something was said, and does not act on a guess.

python assistant_loop.py              # your microphone, until Ctrl-C
python assistant_loop.py talk.wav     # a file, as a microphone would hear it
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
    """What to say after an utterance; where the voice does not tell, the assistant does as if it had not looked."""
    return "All right." if event.uncertain else REPLIES.get(event.label, "All right.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", help="a sound file instead of the microphone")
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
                print(f"heard {label} ({event.confidence:.0%}): {reply(event)}", flush=True)


if __name__ == "__main__":
    main()
