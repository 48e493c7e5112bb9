"""The live terminal view: `run_terminal` on a terminal with keys and panes, `PlainView` everywhere else."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from streamser.terminal.plain import PlainView, count_words

if TYPE_CHECKING:
    from streamser.terminal.app import Watched

__all__ = ["PlainView", "run_terminal", "usable"]


def usable() -> bool:
    """Whether there is a terminal to show the view on and keys to steer it: else use PlainView."""
    return sys.stdout.isatty() and sys.stdin.isatty() and os.environ.get("TERM") != "dumb"


def run_terminal(listener: Watched, *, title: str, save: Path | None = None, exit_at_end: bool = False) -> int:
    """Show a listener's events until the user quits; the listener is closed then.

    `save` is the file, or the folder, for the key `s`; a name with the time in it, here, when None. Returns 0, 130
    after Ctrl-C, or 1 when the stream ended with an error, which is then told on standard error.
    """
    from streamser.terminal.app import TerminalApp  # textual, half a second to import, is for those who look
    from streamser.terminal.stderr import stderr_kept

    app = TerminalApp(listener, title=title, labels=listener.recognizer.labels, save=save, exit_at_end=exit_at_end)
    try:
        with stderr_kept() as complaints:
            app.run(mouse=False)  # the mouse stays the terminal's own, for marking and copying
    finally:
        listener.close()
    words = [f"{app.clock}  {count_words(app.session.utterances, app.session.uncertain)}"]
    words += [app.saved] if app.saved else []
    troubles = [f"what the sound system had to say is in {complaints.path}"] if complaints.path else []
    troubles += [app.error] if app.error else []
    with suppress(OSError):  # nobody is there to read it when the window was closed
        sys.stdout.write("; ".join(words) + "\n")
        sys.stderr.write("".join(f"streamser: {trouble}\n" for trouble in troubles))
    return app.exit_code
