"""The live terminal view: `run_terminal` on a terminal with keys and panes, `PlainView` everywhere else."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from streamser.printable import printable
from streamser.terminal.plain import PlainView

if TYPE_CHECKING:
    from streamser.terminal.app import Watched

__all__ = ["PlainView", "run_terminal", "usable"]


def usable() -> bool:
    """Whether there is a terminal with a screen and keys for the view; if not, use PlainView."""
    return sys.stdout.isatty() and sys.stdin.isatty() and os.environ.get("TERM") != "dumb"


def run_terminal(
    listener: Watched,
    *,
    title: str,
    save: Path | None = None,
    exit_at_end: bool = False,
    kept: Sequence[str] = (),
    ask: bool = False,
) -> int:
    """Show a listener's events until the user quits; then close the listener, and print a summary.

    `save` is the file or folder to which the key `s` saves; None saves to a file named after the time, in the current
    folder. `kept` are the places where the events are being written. With `ask`, the key `q` asks before it discards
    results that are written nowhere.
    Returns 0, 130 after Ctrl-C, or 1 when the stream ended with an error, which then goes to standard error.
    """
    from streamser.terminal.app import TerminalApp  # textual takes half a second to import: only for the live view
    from streamser.terminal.stderr import stderr_kept

    labels = listener.recognizer.labels
    app = TerminalApp(
        listener, title=printable(title), labels=labels, save=save, exit_at_end=exit_at_end, ask=ask and not kept
    )
    try:
        with stderr_kept() as complaints:
            app.run(mouse=False)  # the mouse is left to the terminal, for selecting and copying
    finally:
        listener.close()
    summary = app.session.summary.text(shutil.get_terminal_size().columns, [*kept, *app.saved_paths])
    troubles = [f"messages of the sound system are in {complaints.path}"] if complaints.path else []
    troubles += [app.error] if app.error else []
    with suppress(OSError):  # the window may have been closed
        sys.stdout.write(summary + "\n")
        sys.stderr.write("".join(f"streamser: {trouble}\n" for trouble in troubles))
    return app.exit_code
