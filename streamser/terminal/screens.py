"""Screens over the live view: the keys and words, and the question before results are lost."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.events import Key
from textual.screen import ModalScreen
from textual.widgets import Static

_HELP = """\
[b]Keys[/b]
p, space   pause and resume
s          save the events as JSON lines; later events are added at the end
n          another person speaks: reset the baseline of the voice
↑ ↓        scroll through earlier utterances; home: the newest
?          this page; any key closes it
q          quit; asks first if results would be lost
  Ctrl-C     quit at once

[b]Words[/b]
so far     a partial result: the utterance has not ended
final      the result for the whole utterance
percent    calibrated: of the results with 80%, about 80% are right
uncertain  the confidence is too low; the name with a ? is a guess
voice      number of earlier utterances that a result was compared with
  latency    from a segment's end to its result; p95: 19 of 20 are faster
dropped    skipped partial results, and events that were read too late
gaps       lost audio (unplugged, overflow); pauses are not counted

[b]Timeline[/b]
  ~ and ·    speech without a final result yet; no speech
‖ and ✕    paused; audio lost

streamser classifies how a voice sounds, not what a person feels.
"""


class HelpScreen(ModalScreen[None]):
    """The page with the keys and words, over the view."""

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help"):
            yield Static(_HELP)

    def on_key(self, event: Key) -> None:
        if event.key not in ("up", "down", "pageup", "pagedown"):
            event.stop()
            self.dismiss()


class QuitScreen(ModalScreen[str]):
    """The question before results are lost; returns "save", "quit" or "stay"."""

    def __init__(self, utterances: int) -> None:
        super().__init__()
        number = f"{utterances} utterance{'s are' if utterances != 1 else ' is'}"
        keys = "  s  save and quit\n  q  quit without saving\n  any other key: continue\n"
        self._words = f"{number} not saved.\n\n{keys}"

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="ask"):
            yield Static(self._words)

    def on_key(self, event: Key) -> None:
        event.stop()
        self.dismiss({"s": "save", "q": "quit"}.get(event.key, "stay"))
