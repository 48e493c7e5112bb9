"""Screens over the live view: the keys and words, and the question before results are lost."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.events import Key
from textual.screen import ModalScreen
from textual.widgets import Static

_HELP = """\
[b]Keys[/b]
  p, space   pause, and go on
  s          save the events as JSON lines; those that follow are added at the end
  n          another person speaks: what was learned of the voice is forgotten
  ↑ ↓        look at earlier utterances; home: the newest
  ?          this page; any key leaves it
  q          quit; asks first when results would be lost
  Ctrl-C     quit at once

[b]Words[/b]
  so far     a guess about an utterance that goes on
  final      the word on the whole of it
  percent    calibrated: of all that is called with 80%, some 80% is right
  uncertain  the recognizer does not know; the name with a ? is a guess
  voice      how many utterances an answer was compared with
  latency    from a segment's end to its result; p95: 19 of 20 are faster
  dropped    partial results left out for lack of time; never a final
  gaps       sound that never arrived: unplugged, overflowed, paused

[b]Timeline[/b]
  ~ and ·    speech without a final result yet; no speech
  ‖ and ✕    paused; sound lost

What a voice sounds like is not what a person feels.
"""


class HelpScreen(ModalScreen[None]):
    """Keys and words, over the view."""

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help"):
            yield Static(_HELP)

    def on_key(self, event: Key) -> None:
        if event.key not in ("up", "down", "pageup", "pagedown"):
            event.stop()
            self.dismiss()


class QuitScreen(ModalScreen[str]):
    """Asked before results are lost; ends with "save", "quit" or "stay"."""

    def __init__(self, utterances: int) -> None:
        super().__init__()
        number = f"{utterances} utterance{'s are' if utterances != 1 else ' is'}"
        self._words = f"{number} not saved.\n\n  s  save and quit\n  q  quit without saving\n  any other key: go on\n"

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="ask"):
            yield Static(self._words)

    def on_key(self, event: Key) -> None:
        event.stop()
        self.dismiss({"s": "save", "q": "quit"}.get(event.key, "stay"))
