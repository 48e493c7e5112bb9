"""The live view: level, the emotion of the current utterance, earlier utterances, and the stream's health."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Protocol

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.events import Resize
from textual.widgets import Footer, Static
from textual.worker import Worker

from streamser.audio import SAMPLE_RATE
from streamser.colors import clock
from streamser.errors import StreamserError
from streamser.events import Event, StreamEnded
from streamser.printable import printable
from streamser.stream.status import StreamStatus
from streamser.terminal import drawing
from streamser.terminal.screens import HelpScreen, QuitScreen
from streamser.terminal.session import Session

_TICK_S = 0.1
_LAST_EVENTS_S = 2.0  # the wait for the last events of a stream that was closed
_NUMBER_TICKS = 5  # the level's number changes twice a second: a faster one cannot be read
_SILENT_TICKS = 30  # three seconds below the noise of any open microphone: the microphone is muted
_FALL_DB = 2.0  # per tick: the meter rises at once and falls by 20 dB a second, as meters do


class _Labelled(Protocol):
    @property
    def labels(self) -> Sequence[str]: ...


class Watched(Protocol):
    """The part of a listener that the view uses."""

    @property
    def recognizer(self) -> _Labelled: ...
    def __iter__(self) -> Iterator[Event]: ...
    def status(self) -> StreamStatus: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    @property
    def adapts(self) -> bool: ...
    def new_speaker(self) -> None: ...
    def close(self) -> None: ...


class Part(Static):
    """A part of the screen that is painted again only if its content has changed."""

    _shown_text: Text | None = None

    @property
    def plain_text(self) -> str:
        """Its text without style."""
        return self._shown_text.plain if self._shown_text is not None else ""

    def show(self, text: Text) -> None:
        if text != self._shown_text:
            self._shown_text = text
            self.update(text)


class TerminalApp(App[int]):
    """Show the events of a listener; returns the exit code."""

    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p,space", "pause", "Pause", key_display="p"),
        Binding("p,space", "resume", "Resume", key_display="p"),
        Binding("s", "save", "Save"),
        Binding("n", "new_speaker", "New speaker"),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "leave", "Quit"),
        Binding("ctrl+c", "quit(130)", show=False, priority=True),
        Binding("ctrl+q", "leave", show=False),
        Binding("up", "look(-1)", show=False),
        Binding("down", "look(1)", show=False),
        Binding("pageup", "look(-10)", show=False),
        Binding("pagedown", "look(10)", show=False),
        Binding("home", "newest", show=False),
    ]
    CSS = """
    Screen { background: #121417; color: #E6E6E6; }
    Part { width: 1fr; height: auto; }
    #header { padding: 0 1; background: #22262C; }
    #level { padding: 0 1; }
    #panels { height: 1fr; }
    .panel { border: round #4A4E55; border-title-color: #B8BDC6; border-subtitle-color: #7D838C; padding: 0 1; }
    #now { width: 4fr; height: 1fr; }
    #list { width: 5fr; height: 1fr; }
    #headline { margin-bottom: 1; }
    #ribbon { padding: 0 1; height: 2; }
    #health { padding: 0 1; }
    Footer { background: #22262C; }
    .-stacked #panels { layout: vertical; }
    .-stacked #now, .-stacked #list { width: 1fr; }
    .-stacked .panel { border: none; border-top: solid #4A4E55; }
    .-stacked #headline { margin-bottom: 0; }
    .-no-ribbon #ribbon { display: none; }
    .-no-level #level { display: none; }
    .-short #headline { margin-bottom: 0; }
    .-tiny #list, .-tiny #health, .-tiny Footer { display: none; }
    .-tall #level, .-tall #ribbon { margin: 1 0; }
    .-tall #health { margin-bottom: 1; }
    ToastRack { margin-bottom: 4; }
    Toast { width: 70; max-width: 100%; background: #22262C; }
    HelpScreen, QuitScreen { align: center middle; background: #121417 70%; }
    #help, #ask { width: 84; max-width: 100%; height: auto; max-height: 100%; padding: 0 2;
            border: round #7D838C; background: #1A1D22; }
    #ask { width: 44; padding: 1 2 0 2; }
    """

    def __init__(
        self,
        listener: Watched,
        *,
        title: str,
        labels: Sequence[str] = (),
        save: Path | None = None,
        exit_at_end: bool = False,
        ask: bool = False,
    ) -> None:
        super().__init__()
        self.session = Session(labels)
        self.exit_code = 0
        self.error: str | None = None
        """The error that ended the stream."""
        self.saved_paths: list[str] = []
        """The files to which the key `s` has saved the session."""
        self._listener = listener
        names = ("header", "level", "headline", "bars", "rows", "ribbon", "health")
        self._parts = {name: Part(id=name) for name in names}
        self._now = Vertical(id="now", classes="panel")
        self._list = Vertical(id="list", classes="panel")
        self._title = title
        self._save_to = save
        self._exit_at_end = exit_at_end
        self._ask = ask
        self._reader: Worker[None] | None = None
        self._came: deque[Event] = deque()  # from the reading thread; emptied ten times a second
        self._saved_path: Path | None = None
        self._saved_until = ""
        self._ticks = 0
        self._db = self._shown_db = -100.0
        self._levels_db: deque[float] = deque([0.0], maxlen=_SILENT_TICKS)
        self._skip = 0
        self._quitting = False

    @property
    def clock(self) -> str:
        """Duration of the audio received."""
        return clock(round(self._listener.status().position_s * SAMPLE_RATE))

    def compose(self) -> ComposeResult:
        parts = self._parts
        yield parts["header"]
        yield parts["level"]
        with Horizontal(id="panels"):
            with self._now:
                yield parts["headline"]
                yield parts["bars"]
            with self._list:
                yield parts["rows"]
        yield parts["ribbon"]
        yield parts["health"]
        yield Footer(show_command_palette=False)

    def part(self, name: str) -> Part:
        """The part of this name: header, level, headline, bars, rows, ribbon or health."""
        return self._parts[name]

    # --- events in

    def on_mount(self) -> None:
        self._heed_signals()
        self._reader = self.run_worker(self._read, thread=True, exit_on_error=False)
        self.set_interval(_TICK_S, self.tick)
        self.call_after_refresh(self.tick)

    def _heed_signals(self) -> None:
        """A signal or a closed window ends the view like Ctrl-C: the terminal is restored."""
        if self.is_headless:
            return
        loop = asyncio.get_running_loop()
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            with contextlib.suppress(AttributeError, NotImplementedError, RuntimeError, ValueError):
                number = getattr(signal, name)
                loop.add_signal_handler(number, self.call_later, self.action_quit, 128 + number)

    def _read(self) -> None:
        """The reading thread: it ends with the listener."""
        try:
            self._came.extend(self._listener)
        except StreamserError as error:
            self.error = str(error)
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"

    def tick(self) -> None:
        """Process new events and paint the changed parts."""
        over = self.session.ended
        self._take()
        if self.session.ended is not over:
            self._on_end()
        self._paint()

    def _take(self) -> None:
        while self._came:
            event = self._came.popleft()
            rows, known = self.session.rows_ever, self.session.labels
            self.session.take(event)
            if self._skip:  # new rows must not move the list while the user reads older ones
                self._skip += self.session.rows_ever - rows
            if self.session.labels != known:
                self._arrange(*self.size)
        if self.error and self.session.ended is None:  # the listener failed before it could publish StreamEnded
            self.session.take(
                StreamEnded(end=round(self._listener.status().position_s * SAMPLE_RATE), error=self.error)
            )

    def _on_end(self) -> None:
        error = self.session.ended.error if self.session.ended else None
        if error:
            self.error = self.error or error
            self.exit_code = 1
            self.notify(printable(error), title="The stream has stopped", severity="error", timeout=3600, markup=False)
        if self._exit_at_end:
            self.call_later(self.action_quit, self.exit_code)

    # --- the picture

    def on_resize(self, event: Resize) -> None:
        self._arrange(*event.size)

    def _arrange(self, width: int, height: int) -> None:
        """Choose the layout: side by side, or stacked; hide the ribbon first, then the level."""
        stacked = width < 72
        self._set("stacked", stacked)
        self._set("no-ribbon", height < 17)
        self._set("short", height < 15)
        self._set("no-level", height < 11)
        self._set("tiny", height < 8)
        self._set("tall", height >= 30)
        # Rows that the other parts take at each of these heights.
        taken = 3 if height < 8 else 9 if height < 11 else 10 if height < 17 else 13
        needed = -(-len(self.session.labels) // 2) if width >= 46 else len(self.session.labels)
        rows = min(needed, max(1, height - taken))
        self._now.styles.height = rows + 2 if stacked else "1fr"
        self.call_after_refresh(self._paint)

    def _set(self, name: str, on: bool) -> None:
        self.screen_stack[0].set_class(on, f"-{name}")

    def _paint(self) -> None:
        if self._quitting:
            return
        status, session = self._listener.status(), self.session
        position = round(status.position_s * SAMPLE_RATE)
        self._ticks += 1
        self._db = max(status.level_db, self._db - _FALL_DB)
        self._levels_db.append(status.level_db)
        if self._ticks % _NUMBER_TICKS == 1:
            self._shown_db = status.level_db
        bar_rows = self._now.content_size.height - self._parts["headline"].outer_size.height
        list_rows = self._list.content_size.height
        self._show_part("header", lambda width: drawing.header(self._title, status, session, width))
        loudest_db = max(self._levels_db)
        self._show_part("level", lambda width: drawing.level(self._db, self._shown_db, loudest_db, status, width))
        self._show_part("headline", lambda width: drawing.headline(session, width))
        self._show_part("bars", lambda width: drawing.bars(session, width, bar_rows))
        self._show_part("rows", lambda width: drawing.utterances(session, width, list_rows, self._skip))
        self._show_part("ribbon", lambda width: drawing.ribbon(session, position, width))
        self._show_part("health", lambda width: drawing.health(status, width))
        self._entitle(self._now, *drawing.now_titles(session))
        back = f"{self._skip} newer above, home: newest" if self._skip else ""
        self._entitle(self._list, "utterances", back or drawing.voice_words(session))

    def _show_part(self, name: str, draw: Callable[[int], Text]) -> None:
        part = self._parts[name]
        if part.content_size.width > 0:
            part.show(draw(part.content_size.width))

    def _entitle(self, panel: Vertical, title: str, subtitle: str) -> None:
        if (panel.border_title, panel.border_subtitle) != (title, subtitle):
            panel.border_title, panel.border_subtitle = title, subtitle

    # --- keys

    def action_pause(self) -> None:
        if self.session.ended is None:
            self._listener.pause()
            self.refresh_bindings()  # the footer names what the key does next
            self._paint()

    def action_resume(self) -> None:
        if self.session.ended is None:
            self._listener.resume()
            self.refresh_bindings()
            self._paint()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Show the key for a new speaker only with a baseline; show either pause or resume, whichever has an effect."""
        if action in ("pause", "resume"):
            return self._listener.status().paused == (action == "resume")
        return action != "new_speaker" or self._listener.adapts

    def action_new_speaker(self) -> None:
        self._listener.new_speaker()
        self.session.forget_voice()
        self._paint()

    def action_look(self, rows: int) -> None:
        self._skip = max(0, min(self._skip + rows, len(self.session.rows) - 1))
        self._paint()

    def action_newest(self) -> None:
        self._skip = 0
        self._paint()

    def action_help(self) -> None:
        self.push_screen(HelpScreen())

    def action_save(self) -> None:
        """Save to the wanted place, and to the same place again at the next save."""
        try:
            self.notify(self._save(), markup=False)
        except (OSError, StreamserError) as error:
            self.notify(printable(str(error)), title="Not saved", severity="error", timeout=10, markup=False)

    def _save(self) -> str:
        """Save all events so far; returns a message."""
        self._saved_path = self._saved_path or free_path(self._save_to)
        message = self.session.save(self._saved_path)
        self.saved_paths, self._saved_until = [str(self._saved_path)], self.clock
        return message

    def _save_rest(self) -> None:
        """Save again at the end with later events; if this fails, the summary states how far the file goes."""
        try:
            self._save()
        except (OSError, StreamserError) as error:
            self.error = self.error or f"the last events are not saved: {error}"
            self.saved_paths = [f"{path} up to {self._saved_until}" for path in self.saved_paths]

    def action_leave(self) -> None:
        """Quit; ask first if the results are not saved."""
        self._take()
        if self.saved_paths and self.session.unsaved:
            self.action_save()
        if self._ask and self.session.unsaved:
            self.push_screen(QuitScreen(self.session.summary.utterances), self._answered)
        else:
            self.call_later(self.action_quit, 0)

    def _answered(self, answer: str | None) -> None:
        if answer == "save":
            self.action_save()
        if answer == "quit" or (answer == "save" and not self.session.unsaved):
            self.call_later(self.action_quit, 0)

    async def action_quit(self, code: int = 0) -> None:
        """Close the listener, which may take a second, then the view."""
        if self._quitting:
            return
        self._quitting = True
        await asyncio.to_thread(self._listener.close)
        if self._reader is not None:
            with contextlib.suppress(Exception):  # the reading thread may have the last events, or hang
                await asyncio.wait_for(self._reader.wait(), _LAST_EVENTS_S)
        self._take()
        if self.saved_paths:  # events after the last save, at least the stream's end
            self._save_rest()
        self.exit_code = self.exit_code or (1 if self.error else code)
        self.exit(self.exit_code)


def free_path(wanted: Path | None) -> Path:
    """The file to save to: the wanted one, or a new one in the wanted folder, but never an existing one."""
    path = wanted or Path.cwd()
    if path.is_dir():
        path = path / f"streamser-{datetime.now():%Y%m%d-%H%M%S}.jsonl"
    number = 1
    free = path
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free
