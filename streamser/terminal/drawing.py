"""Draw the parts of the screen as text of a given width: no widget, no clock, no state.

Information is never shown by color alone: a word or a number stands beside every color and bar.
"""

from __future__ import annotations

from rich.text import Text

from streamser.audio import SAMPLE_RATE
from streamser.colors import clock, color_of
from streamser.events import UNCERTAIN, EmotionEvent, Gap, SourceChanged
from streamser.stream.status import StreamStatus
from streamser.terminal.session import Row, Session

INK, FAINT, METER, ALARM = "#E6E6E6", "#7D838C", "#9FB3C8", "#FFB454"

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_FLOOR_DB = -60.0  # the left end of the meter: lower levels are silence for any microphone in a room
_CLIPPING_DB = -3.0  # most microphones distort a block this loud (RMS)
_SILENT_DB = -85.0  # any open microphone has more noise: this one is muted, or is the wrong device

_COLUMN_SAMPLES = SAMPLE_RATE // 2  # a column of the ribbon: an utterance of three seconds has room for most names
_TICK_COLUMNS = 10

VAD_WORDS = {"quiet": "○ quiet   ", "starting": "◐ starting", "speaking": "● speaking", "stopping": "◑ stopping"}


def bar(fraction: float, width: int) -> str:
    """A bar in steps of an eighth of a column.

    >>> bar(0.5, 5)
    '██▌  '
    """
    eighths = round(min(1.0, max(0.0, fraction)) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(width)


def percent(fraction: float) -> str:
    """A percentage in four columns: ' 86%'."""
    return f"{round(fraction * 100):3d}%"


def fit(text: str, width: int) -> str:
    """The text in exactly `width` columns: cut with an ellipsis, or padded."""
    return text.ljust(width) if len(text) <= width else text[: max(0, width - 1)] + "…" * (width > 0)


def spread(left: Text, right: Text, width: int) -> Text:
    """One line with a text at each end; if they do not fit, the left one is cut."""
    room = width - right.cell_len
    left = left.copy()
    left.truncate(max(0, room - 1), overflow="ellipsis", pad=False)
    return Text.assemble(left, " " * max(0, room - left.cell_len), right)


def state_words(status: StreamStatus, session: Session) -> tuple[str, str]:
    """The state of the stream in words, and the style of the words."""
    if session.ended is not None:
        return ("▲ stopped: q quits", f"bold {ALARM}") if session.ended.error else ("■ finished: q quits", "bold")
    if status.paused:
        return "‖ paused: p resumes", f"bold {ALARM}"
    if status.source_state == "lost":
        return "▲ microphone lost", f"bold {ALARM}"
    if status.source_state == "waiting":
        return "○ waiting for audio", FAINT
    return "● listening", "bold"


def header(title: str, status: StreamStatus, session: Session, width: int) -> Text:
    """Source and checkpoint on the left; recording, state and time on the right."""
    words, style = state_words(status, session)
    left = Text.assemble(("streamser ", "bold") if width >= 72 else "", (title, FAINT))
    right = Text()
    if status.recording:
        right.append(" ● REC ", "bold reverse")
        right.append("  ")
    right.append(words, style)
    right.append("  " + clock(round(status.position_s * SAMPLE_RATE)), INK)
    return spread(left, right, width)


def level(db: float, shown_db: float, loudest_db: float, status: StreamStatus, width: int) -> Text:
    """The meter shows `db`; the number shows `shown_db`, which changes seldom enough to be read.

    `loudest_db` is the highest level of the last seconds: if even that is silence, the microphone is muted. While the
    stream is paused, meter and number are empty.
    """
    hint = "too loud" if shown_db > _CLIPPING_DB else "no audio" if loudest_db < _SILENT_DB else ""
    number = " -inf dB" if shown_db < -99 else f"{shown_db:5.0f} dB"
    right = Text.assemble(number, "  ", (f"{hint:8}", f"bold {ALARM}"), "  ", VAD_WORDS[status.vad_state])
    if status.paused:  # no audio comes, so the last level is outdated
        db, right = _FLOOR_DB, Text(f"{'-':>5} dB".ljust(right.cell_len - 10) + "‖ paused  ", FAINT)
    room = max(0, width - right.cell_len - len("level ▕▏ "))
    meter = bar((db - _FLOOR_DB) / -_FLOOR_DB, room)
    return Text.assemble(("level ", FAINT), ("▕", FAINT), (meter, METER), ("▏", FAINT), " ", right)


def headline(session: Session, width: int) -> Text:
    """The utterance's emotion in one line; before its first result, the previous one's, or a note if there is none."""
    event = session.shown
    if event is None:
        return Text("…" if session.open else "no speech yet", FAINT)
    if session.before:
        words = f"previous: {f'{UNCERTAIN}, ' if event.uncertain else ''}{event.label}{'?' if event.uncertain else ''}"
        return spread(Text(words, FAINT), Text(percent(event.confidence), FAINT), width)
    if event.uncertain:
        guess = Text.assemble((f"{event.label}? ", FAINT), f"{percent(event.confidence)}")
        return spread(Text(UNCERTAIN, "bold italic"), guess, width)
    name = Text(event.label, f"bold {color_of(event.label)}")
    return spread(name, Text(percent(event.confidence), "bold"), width)


def now_titles(session: Session) -> tuple[str, str]:
    """Title and subtitle of the panel: the present or last utterance, and its length in seconds."""
    event = session.shown
    if event is None or session.before:
        return ("now" if session.open else "waiting for speech"), ""
    arrived_s = (event.end - (session.open.start if session.open else event.start)) / SAMPLE_RATE
    if event.final:
        return "last utterance", f"final, {arrived_s:.1f} s"
    return "now", f"so far, {arrived_s:.1f} s"


def voice_words(session: Session) -> str:
    """The baseline of the newest result in words; empty without a baseline."""
    if session.forgotten:
        return f"new speaker{' from the next utterance' if session.open else ': baseline reset'}"
    event = session.voice
    if event is None or event.baseline == "none":
        return ""
    known = f"voice: baseline of {event.baseline_utterances} utterance{'s' * (event.baseline_utterances != 1)}"
    return f"{known}, with a profile" if event.baseline == "profile" else known


def bars(session: Session, width: int, height: int) -> Text:
    """One bar per class, always in the same order; in two columns if the height is small."""
    labels = session.labels
    columns = 2 if height < len(labels) and width >= 44 else 1
    if not labels or height < 1:
        return Text()
    gap = 3
    each = (width - gap * (columns - 1)) // columns
    rows = min(height, -(-len(labels) // columns))
    kept = labels if rows * columns >= len(labels) else _likeliest(session, rows * columns)
    lines = []
    for row in range(rows):
        cells = [_bar_cell(session.shown, name, each, session.before) for name in kept[row::rows]]
        lines.append(Text(" " * gap).join(cells))
    airy = columns == 1 and height >= 2 * len(lines) - 1
    return Text("\n\n" if airy else "\n").join(lines)


def _likeliest(session: Session, count: int) -> tuple[str, ...]:
    """As many classes as there is room for, in their usual order."""
    if session.shown is None:
        return session.labels[:count]
    best = sorted(session.labels, key=lambda name: -session.shown.scores.get(name, 0.0) if session.shown else 0.0)
    return tuple(name for name in session.labels if name in best[:count])


def _bar_cell(event: EmotionEvent | None, name: str, width: int, before: bool) -> Text:
    """A class's name, bar and percent; all faint while they belong to the utterance before."""
    score = event.scores.get(name, 0.0) if event else 0.0
    first = event is not None and name == event.label
    mark = " " if not first else "?" if event is not None and event.uncertain else "▸"
    room = max(0, width - 18)
    name_width = min(10, max(0, width - 7))
    ink = FAINT if before else "bold" if first else INK
    return Text.assemble(
        (f"{mark} {fit(name, name_width)} ", ink),
        (bar(score, room), FAINT if before else color_of(name)),
        (f" {percent(score)}" if event else "    -", ink),
    )


def utterance_row(row: Row, width: int, hours: bool = True) -> Text:
    """One line of the list: start, duration, label, confidence."""
    at = clock(row.start if isinstance(row, EmotionEvent | Gap) else row.at)
    line = Text.assemble((at if hours else at[3:], FAINT), " ")
    if isinstance(row, Gap):
        mark, style = ("‖", FAINT) if row.reason == "paused" else ("✕", ALARM)
        line.append(f"{row.length / SAMPLE_RATE:5.1f}s  {mark} {_gap_words(row)}", style)
    elif isinstance(row, SourceChanged):
        line.append("        " + ("✕ microphone lost" if row.state == "lost" else "✓ microphone back"), ALARM)
    else:
        line.append(f"{(row.end - row.start) / SAMPLE_RATE:5.1f}s  ", INK)
        if row.uncertain:
            line.append(f"{UNCERTAIN:10} ", "italic")
        else:
            line.append(fit(row.label, 10) + " ", f"bold {color_of(row.label)}")
        room = width - line.cell_len - 5
        if row.uncertain:
            line.append(fit(f"{row.label}?", max(0, room)), FAINT)
        else:
            line.append(bar(row.confidence, max(0, min(room, 16))).ljust(max(0, room)), color_of(row.label))
        line.append(f" {percent(row.confidence)}", INK)
    line.truncate(width, overflow="ellipsis")
    return line


def _gap_words(gap: Gap) -> str:
    return "paused" if gap.reason == "paused" else f"audio lost ({gap.reason.replace('_', ' ')})"


def utterances(session: Session, width: int, height: int, skip: int) -> Text:
    """The list, newest first, from the `skip`th on."""
    count = len(session.rows)
    rows = [session.rows[count - 1 - i] for i in range(skip, min(count, skip + height))]
    if not rows:
        return Text("finished utterances appear here", FAINT)
    newest = session.rows[-1]
    hours = (newest.at if isinstance(newest, SourceChanged) else newest.start) >= 3600 * SAMPLE_RATE
    return Text("\n").join(utterance_row(row, width, hours) for row in rows)


def ribbon(session: Session, position: int, width: int) -> Text:
    """The last half minute or so as a band: each utterance is a field with its name in it.

    The band fills from left to right; when it is full, its older half is removed.
    """
    half = max(_TICK_COLUMNS, width // 2 // _TICK_COLUMNS * _TICK_COLUMNS)
    page = max(0, position // _COLUMN_SAMPLES // half - 1) * half
    received = min(width, position // _COLUMN_SAMPLES - page + 1)
    cells = [("·", FAINT)] * received + [(" ", "")] * (width - received)

    def put(start: int, end: int, words: str, fill: str, style: str) -> None:
        first = start // _COLUMN_SAMPLES - page
        last = min(width, max(first + 1, end // _COLUMN_SAMPLES - page))
        first = max(0, first)  # the name begins where the field can be seen
        for column, letter in zip(range(first, last), words.ljust(last - first, fill), strict=False):
            cells[column] = (letter, style)

    for row in session.rows:
        if isinstance(row, Gap):
            mark, style = ("‖", FAINT) if row.reason == "paused" else ("✕", ALARM)
            put(row.start, row.start + row.length, mark, mark, style)
        elif isinstance(row, EmotionEvent) and row.uncertain:
            put(row.start, row.end, "?", "?", f"{INK} on #4A4E55")
        elif isinstance(row, EmotionEvent):
            put(row.start, row.end, row.label, "─", f"{ink_on(color_of(row.label))} on {color_of(row.label)}")
    if session.open is not None:
        put(session.open.start, max(position, session.open.start), "~", "~", "bold")
    ticks = "".join(
        clock((page + column) * _COLUMN_SAMPLES)[3:].ljust(_TICK_COLUMNS) for column in range(0, width, _TICK_COLUMNS)
    )
    return Text.assemble(*cells, "\n", (ticks[:width], FAINT))


def ink_on(colour: str) -> str:
    """Black or white, whichever is easier to read on this color."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return "#000000" if 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 > 0.18 else "#FFFFFF"


def health(status: StreamStatus, width: int) -> Text:
    """Latency and losses in figures of fixed width, and the source, checkpoint and engine."""
    p50, p95, lost_s = f"{status.latency_p50_ms:4.0f}", f"{status.latency_p95_ms:4.0f}", status.lost_ms / 1000
    if not status.finals + status.partials:  # no result, so no latency
        p50 = p95 = "   -"
    latency = f"latency p50 {p50} ms  p95 {p95} ms" if width >= 72 else f"p50{p50} p95{p95} ms"
    figures = [
        (latency, False),
        (f"dropped {status.partials_dropped + status.events_dropped}", status.events_dropped > 0),
        (f"gaps {status.gaps} ({lost_s:.1f} s)", status.gaps > 0),
    ]
    if status.overflows:
        figures.append((f"overflows {status.overflows}", True))
    words = [Text(("! " if bad else "") + words_of, f"bold {ALARM}" if bad else INK) for words_of, bad in figures]
    first = Text("   " if width >= 72 else "  ").join(words)
    where = f"{status.device} · {status.model} · {status.engine}"
    if status.recording:
        where = f"recording to {status.recording} · {where}"
    if first.cell_len + len(where) + 4 <= width:
        return spread(first, Text(where, FAINT), width)
    first.truncate(width, overflow="ellipsis")
    return Text.assemble(first, "\n", (fit(where, width), FAINT))
