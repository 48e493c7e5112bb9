"""The view shows the results or says that there are none. It reacts to its keys and restores the terminal."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from streamser.errors import DeviceError
from streamser.events import EmotionEvent, Event, Gap, SourceChanged, SpeechEnded, SpeechStarted, StreamEnded
from streamser.stream.status import StreamStatus, Tally
from streamser.terminal import PlainView, drawing
from streamser.terminal.app import Part, TerminalApp, free_path
from streamser.terminal.screens import QuitScreen
from streamser.terminal.session import Session
from streamser.terminal.summary import Summary

SECOND = 16_000
LABELS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
STATUS = StreamStatus(
    stream="main",
    position_s=12.0,
    level_db=-24.0,
    vad_state="speaking",
    source_state="open",
    device="USB microphone",
    model="lightsernet",
    engine="onnx on cpu",
    finals=2,
    partials=7,
    partials_dropped=3,
    events_dropped=0,
    latency_p50_ms=12.3,
    latency_p95_ms=31.8,
    final_latency_p50_ms=430.0,
    gaps=0,
    lost_ms=0.0,
    overflows=0,
    paused=False,
    recording=None,
)


def emotion(
    number: int, start_s: float, end_s: float, label: str = "happy", top: float = 0.86, *, final: bool = True
) -> EmotionEvent:
    return EmotionEvent(
        utterance=number,
        seq=0,
        start=round(start_s * SECOND),
        end=round(end_s * SECOND),
        final=final,
        label=label,
        scores={name: top if name == label else (1 - top) / 7 for name in LABELS},
        confidence=top,
        uncertain=top < 0.5,
    )


def utterance(number: int, start_s: float, end_s: float, label: str = "happy", top: float = 0.86) -> list[Event]:
    final = emotion(number, start_s, end_s, label, top)
    started = SpeechStarted(utterance=number, start=final.start)
    return [
        started,
        replace(final, final=False),
        final,
        SpeechEnded(utterance=number, start=final.start, end=final.end),
    ]


TALK: list[Event] = [
    *utterance(0, 1.0, 3.0),
    Gap(start=4 * SECOND, length=SECOND // 4),
    *utterance(1, 5.0, 8.5, "sad", 0.41),
]
END = StreamEnded(end=12 * SECOND)


PARTS = ("header", "level", "headline", "bars", "rows", "ribbon", "health")


class Model:
    labels: Sequence[str] = LABELS


class FakeListener:
    """Gives a list of events, then waits to be closed, as a microphone would."""

    def __init__(self, events: Sequence[Event], status: StreamStatus = STATUS, error: Exception | None = None) -> None:
        self.recognizer = Model()
        self.events, self.state, self.error = list(events), status, error
        self.closed = threading.Event()
        self.adapts = True
        self.new_speakers = 0

    def new_speaker(self) -> None:
        self.new_speakers += 1

    def __iter__(self) -> Iterator[Event]:
        yield from self.events
        if self.error:
            raise self.error
        if not (self.events and isinstance(self.events[-1], StreamEnded)):
            self.closed.wait(20)

    def status(self) -> StreamStatus:
        return self.state

    def pause(self) -> None:
        self.state = replace(self.state, paused=True)

    def resume(self) -> None:
        self.state = replace(self.state, paused=False)

    def close(self) -> None:
        self.closed.set()


@asynccontextmanager
async def running(
    listener: FakeListener, app: TerminalApp, size: tuple[int, int] = (80, 24)
) -> AsyncIterator[Pilot[int]]:
    """The view on a virtual screen; the listener is closed also when the test fails."""
    async with app.run_test(size=size, notifications=True) as pilot:
        try:
            yield pilot
        finally:
            listener.close()


async def until(pilot: Pilot[int], true: Callable[[], object]) -> None:
    """Wait for something that the view's own threads and timers do."""
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, "the expected state did not come within 20 s"
        await pilot.pause(0.02)


def words(app: TerminalApp) -> str:
    return "\n".join(app.part(name).plain_text for name in PARTS)


def make(events: Sequence[Event] = TALK, **how: object) -> tuple[FakeListener, TerminalApp]:
    listener = FakeListener(events, **how)  # type: ignore[arg-type]
    return listener, TerminalApp(listener, title="live: test", labels=LABELS)


SIZES = [(80, 24), (120, 35), (60, 18), (50, 14), (40, 10), (30, 7)]


@pytest.mark.parametrize("size", SIZES)
async def test_the_emotion_and_the_state_are_shown_at_every_size(size: tuple[int, int]) -> None:
    listener, app = make()
    async with running(listener, app, size) as pilot:
        await until(pilot, lambda: app.session.summary.utterances == 2 and "41%" in app.part("headline").plain_text)
        assert "uncertain" in app.part("headline").plain_text
        assert "sad?" in app.part("headline").plain_text
        assert "listening" in app.part("header").plain_text
        await until(pilot, lambda: all(fits(app.part(name), size) for name in PARTS))


def fits(part: Part, size: tuple[int, int]) -> bool:
    """Whether the whole text of the part is visible."""
    lines = part.plain_text.splitlines()
    inside = part.region.bottom <= size[1] and len(lines) <= max(1, part.container_size.height)
    return not part.display or (inside and all(len(line) <= size[0] for line in lines))


async def test_past_utterances_gaps_and_health_are_listed() -> None:
    listener, app = make(status=replace(STATUS, gaps=1, lost_ms=250.0))
    async with running(listener, app, (80, 24)) as pilot:
        await until(pilot, lambda: "41%" in app.part("rows").plain_text)
        newest, gap, oldest = app.part("rows").plain_text.splitlines()
        assert newest.split() == ["00:05", "3.5s", "uncertain", "sad?", "41%"]
        assert "audio lost (overflow)" in gap
        assert oldest.split()[:3] == ["00:01", "2.0s", "happy"]
        assert oldest.endswith(" 86%")
        assert "p50   12 ms  p95   32 ms   dropped 3   ! gaps 1 (0.2 s)" in app.part("health").plain_text
        assert "USB microphone · lightsernet · onnx on cpu" in app.part("health").plain_text


async def test_an_uncertain_emotion_is_never_shown_like_a_certain_one() -> None:
    listener, app = make(utterance(0, 1, 2, "angry", 0.4))
    async with running(listener, app, (80, 24)) as pilot:
        await until(pilot, lambda: app.part("rows").plain_text.endswith("40%"))
        assert re.findall(r"angry\??", app.part("headline").plain_text + app.part("rows").plain_text) == [
            "angry?",
            "angry?",
        ]
        assert "? angry" in app.part("bars").plain_text
        assert "▸" not in app.part("bars").plain_text
        assert "angry" not in app.part("ribbon").plain_text


async def test_the_screen_is_not_painted_again_while_nothing_changes() -> None:
    listener, app = make()
    async with running(listener, app, (80, 24)) as pilot:
        await until(pilot, lambda: app.session.summary.utterances == 2)
        painted: list[str] = []
        for part in app.query(Part):
            part.update = lambda *_, **__: painted.append("again")  # type: ignore[method-assign]

        def calm() -> bool:
            painted.clear()
            for _ in range(50):
                app.tick()
            return not painted

        await until(pilot, calm)  # as soon as the panes have their final sizes


async def test_the_p_key_pauses_and_resumes_and_the_screen_shows_the_state() -> None:
    listener, app = make()
    async with running(listener, app) as pilot:
        await pilot.press("p")
        assert listener.state.paused
        assert "paused" in app.part("header").plain_text
        assert app.active_bindings["p"].binding.description == "Resume"
        await pilot.press("space")
        assert not listener.state.paused
        assert "listening" in app.part("header").plain_text
        assert app.active_bindings["p"].binding.description == "Pause"


def test_the_level_is_empty_while_paused() -> None:
    loud = drawing.level(-10.0, -10.0, -10.0, STATUS, 80).plain
    paused = drawing.level(-10.0, -10.0, -10.0, replace(STATUS, paused=True), 80).plain
    assert "█" in loud and "-10 dB" in loud and "speaking" in loud
    assert "█" not in paused and "-10 dB" not in paused and "‖ paused" in paused and "speaking" not in paused
    assert len(paused) == len(loud)


def test_a_pause_by_the_user_is_listed_but_not_as_lost_audio() -> None:
    paused = Gap(start=SECOND, length=SECOND, reason="paused")
    row = drawing.utterance_row(paused, 60)
    assert "‖ paused" in row.plain and "✕" not in row.plain
    assert not any(drawing.ALARM in str(span.style) for span in row.spans)
    tally = Tally()
    tally.count(paused)
    assert (tally.gaps, tally.lost_ms) == (0, 0.0)
    tally.count(replace(paused, reason="overflow"))
    assert (tally.gaps, tally.lost_ms) == (1, 1000.0)


def test_before_the_first_result_no_latency_is_shown() -> None:
    fresh = replace(STATUS, finals=0, partials=0, latency_p50_ms=0.0, latency_p95_ms=0.0)
    assert "p50    - ms  p95    - ms" in drawing.health(fresh, 80).plain
    assert "p50   12 ms  p95   32 ms" in drawing.health(STATUS, 80).plain


async def test_the_n_key_starts_a_new_speaker_if_the_stream_adapts() -> None:
    known = replace(emotion(2, 9.0, 11.0), baseline="own", baseline_utterances=7)
    listener = FakeListener([*TALK, known])
    app = TerminalApp(listener, title="test")
    async with running(listener, app) as pilot:
        subtitle = "voice: baseline of 7 utterances"
        await until(pilot, lambda: app.query_one("#list").border_subtitle == subtitle)
        await pilot.press("n")
        assert listener.new_speakers == 1
        await until(pilot, lambda: app.query_one("#list").border_subtitle == "new speaker: baseline reset")
        assert not app.query("Toast")  # a pop-up message would cover the lines at the bottom
        assert "New speaker" in {active.binding.description for active in app.active_bindings.values()}
        listener.adapts = False
        await pilot.press("n")
        assert listener.new_speakers == 1


def test_a_new_speaker_during_an_utterance_is_shown_until_the_next_utterance_has_a_result() -> None:
    session = Session(LABELS)
    for event in utterance(0, 1.0, 3.0):
        session.take(event)
    session.take(SpeechStarted(utterance=1, start=4 * SECOND))
    open_partial = replace(emotion(1, 4.0, 5.0, final=False), baseline="own", baseline_utterances=1)
    session.take(open_partial)
    session.forget_voice()
    assert drawing.voice_words(session) == "new speaker from the next utterance"
    session.take(replace(open_partial, seq=1))  # this result still belongs to the earlier speaker
    assert drawing.voice_words(session) == "new speaker from the next utterance"
    session.take(replace(open_partial, seq=2, final=True))
    session.take(SpeechEnded(utterance=1, start=4 * SECOND, end=5 * SECOND))
    assert drawing.voice_words(session) == "new speaker: baseline reset"
    session.take(replace(open_partial, utterance=2))
    assert drawing.voice_words(session) == "voice: baseline of 1 utterance"


def test_the_baseline_is_shown_only_if_the_stream_has_one() -> None:
    session = Session(LABELS)
    assert drawing.voice_words(session) == ""
    for baseline, utterances, words in (
        ("none", 0, ""),
        ("own", 1, "voice: baseline of 1 utterance"),
        ("profile", 9, "voice: baseline of 9 utterances, with a profile"),
    ):
        session.take(replace(emotion(0, 0.0, 1.0), baseline=baseline, baseline_utterances=utterances))
        assert drawing.voice_words(session) == words


async def test_the_s_key_saves_all_events_and_later_presses_write_the_same_file(tmp_path: Path) -> None:
    listener = FakeListener(TALK)
    app = TerminalApp(listener, title="test", save=tmp_path)
    async with running(listener, app) as pilot:
        await until(pilot, lambda: app.session.summary.utterances == 2)
        await pilot.press("s")
        (saved,) = tmp_path.iterdir()
        assert re.fullmatch(r"streamser-\d{8}-\d{6}\.jsonl", saved.name)
        assert [json.loads(line) for line in saved.read_text().splitlines()] == [event.to_dict() for event in TALK]
        assert app.saved_paths == [str(saved)]
        await pilot.press("s")
        assert list(tmp_path.iterdir()) == [saved]
        assert len(saved.read_text().splitlines()) == len(TALK)


async def test_a_message_covers_neither_the_health_nor_the_keys() -> None:
    listener, app = make()
    async with running(listener, app, (80, 24)) as pilot:
        app.notify("a message")
        await until(pilot, lambda: bool(app.screen.query("Toast")) and app.screen.query_one("Toast").region.height > 0)
        assert app.screen.query_one("Toast").region.bottom <= app.part("health").region.y


async def test_a_failed_save_does_not_end_the_view(tmp_path: Path) -> None:
    listener = FakeListener(TALK)
    app = TerminalApp(listener, title="test", save=tmp_path / "missing" / "out.jsonl")
    async with running(listener, app) as pilot:
        await pilot.press("s")
        assert app.saved_paths == []
        assert app.is_running


def test_an_existing_file_is_never_overwritten_by_a_save(tmp_path: Path) -> None:
    wanted = tmp_path / "session.jsonl"
    assert free_path(wanted) == wanted
    wanted.write_text("mine\n")
    assert free_path(wanted) == tmp_path / "session-2.jsonl"


@pytest.mark.parametrize(("key", "code"), [("q", 0), ("ctrl+c", 130), ("ctrl+q", 0)])
async def test_quitting_closes_the_listener(key: str, code: int) -> None:
    listener, app = make()
    async with running(listener, app) as pilot:
        await pilot.press(key)
        await until(pilot, lambda: app.return_value is not None)
    assert app.return_value == app.exit_code == code
    assert listener.closed.is_set()


async def test_the_q_key_asks_before_unsaved_results_are_lost() -> None:
    listener = FakeListener(TALK)
    app = TerminalApp(listener, title="test", ask=True)
    async with running(listener, app) as pilot:
        await until(pilot, lambda: app.session.summary.utterances == 2)
        await pilot.press("q")
        await until(pilot, lambda: isinstance(app.screen, QuitScreen))
        await pilot.press("x")  # any other key continues
        await until(pilot, lambda: not isinstance(app.screen, QuitScreen))
        assert app.is_running and not listener.closed.is_set()
        await pilot.press("q")
        await until(pilot, lambda: isinstance(app.screen, QuitScreen))
        await pilot.press("q")
        await until(pilot, lambda: app.return_value is not None)
    assert listener.closed.is_set() and app.return_value == 0 and app.saved_paths == []


async def test_the_s_key_at_the_quit_question_saves_and_quits(tmp_path: Path) -> None:
    listener = FakeListener(TALK)
    app = TerminalApp(listener, title="test", save=tmp_path / "out.jsonl", ask=True)
    async with running(listener, app) as pilot:
        await until(pilot, lambda: app.session.summary.utterances == 2)
        await pilot.press("q")
        await until(pilot, lambda: isinstance(app.screen, QuitScreen))
        await pilot.press("s")
        await until(pilot, lambda: app.return_value is not None)
    assert app.saved_paths == [str(tmp_path / "out.jsonl")]
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == len(TALK)


class Ending(FakeListener):
    """Gives one more utterance when it is closed, like a listener with an unfinished utterance."""

    def __init__(self, events: Sequence[Event]) -> None:
        super().__init__(events)
        self.over = threading.Event()

    def __iter__(self) -> Iterator[Event]:
        yield from self.events
        self.closed.wait(20)
        yield from utterance(2, 10.0, 11.0, "sad")
        self.over.set()

    def close(self) -> None:
        self.closed.set()
        self.over.wait(20)


async def test_saving_at_the_quit_question_includes_the_final_of_the_last_open_utterance(tmp_path: Path) -> None:
    listener = Ending(TALK)
    app = TerminalApp(listener, title="test", save=tmp_path / "out.jsonl", ask=True)
    async with running(listener, app) as pilot:
        await until(pilot, lambda: app.session.summary.utterances == 2)
        await pilot.press("q")
        await until(pilot, lambda: isinstance(app.screen, QuitScreen))
        await pilot.press("s")
        await until(pilot, lambda: app.return_value is not None)
    assert app.session.summary.utterances == 3
    saved = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sum(event.get("final", False) for event in saved) == 3


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
async def test_events_after_the_s_key_are_saved_at_the_end(tmp_path: Path, key: str) -> None:
    listener = Ending(TALK)
    app = TerminalApp(listener, title="test", save=tmp_path / "out.jsonl", ask=True)
    async with running(listener, app) as pilot:
        await until(pilot, lambda: app.session.summary.utterances == 2)
        await pilot.press("s", key)
        await until(pilot, lambda: app.return_value is not None)
    saved = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sum(event.get("final", False) for event in saved) == 3
    assert app.saved_paths == [str(tmp_path / "out.jsonl")] and app.error is None


async def test_if_the_last_events_cannot_be_saved_the_summary_gives_the_last_saved_time(tmp_path: Path) -> None:
    listener = Ending(TALK)
    folder = tmp_path / "folder"
    folder.mkdir()
    app = TerminalApp(listener, title="test", save=folder / "out.jsonl")
    async with running(listener, app) as pilot:
        await until(pilot, lambda: app.session.summary.utterances == 2)
        await pilot.press("s")
        folder.rename(tmp_path / "gone")
        await pilot.press("ctrl+c")
        await until(pilot, lambda: app.return_value is not None)
    assert app.saved_paths == [f"{folder / 'out.jsonl'} up to 00:00:12"]
    assert app.error is not None and app.error.startswith("the last events are not saved")


async def test_a_failed_save_at_the_quit_question_does_not_quit(tmp_path: Path) -> None:
    listener = FakeListener(TALK)
    app = TerminalApp(listener, title="test", save=tmp_path / "missing" / "out.jsonl", ask=True)
    async with running(listener, app) as pilot:
        await until(pilot, lambda: app.session.summary.utterances == 2)
        await pilot.press("q")
        await until(pilot, lambda: isinstance(app.screen, QuitScreen))
        await pilot.press("s")
        await until(pilot, lambda: not isinstance(app.screen, QuitScreen))
        assert app.is_running and not listener.closed.is_set()


async def test_the_q_key_does_not_ask_if_no_results_would_be_lost(tmp_path: Path) -> None:
    quiet = FakeListener([])
    app = TerminalApp(quiet, title="test", ask=True)
    async with running(quiet, app) as pilot:
        await pilot.press("q")
        await until(pilot, lambda: app.return_value is not None)
    listener = FakeListener(TALK)
    saved = TerminalApp(listener, title="test", save=tmp_path, ask=True)
    async with running(listener, saved) as pilot:
        await until(pilot, lambda: saved.session.summary.utterances == 2)
        await pilot.press("s", "q")
        await until(pilot, lambda: saved.return_value is not None)


def test_the_last_result_stays_dimmed_until_the_first_partial_of_the_next_utterance() -> None:
    session = Session(LABELS)
    for event in utterance(0, 1.0, 3.0):
        session.take(event)
    assert not session.before
    session.take(SpeechStarted(utterance=1, start=5 * SECOND))
    headline, bars = drawing.headline(session, 40), drawing.bars(session, 40, 8)
    assert headline.plain.startswith("previous: happy") and "86%" in headline.plain
    assert "86%" in bars.plain and drawing.now_titles(session) == ("now", "")
    assert {str(span.style) for text in (headline, bars) for span in text.spans} == {drawing.FAINT}
    session.take(emotion(1, 5.0, 6.0, "sad", final=False))
    assert drawing.headline(session, 40).plain.startswith("sad")
    assert "previous" not in drawing.headline(session, 40).plain


def test_a_summary_gives_the_shares_of_time_the_gaps_and_the_saved_file() -> None:
    summary = Summary(LABELS)
    events = [*utterance(0, 0.0, 3.0), *utterance(1, 4.0, 5.0, "sad", 0.4), *utterance(2, 6.0, 10.0, "sad")]
    for event in [*events, Gap(start=5 * SECOND, length=SECOND), StreamEnded(end=12 * SECOND)]:
        summary.take(event)
    lines = summary.text(60, ["talk.csv"]).splitlines()
    assert lines[0] == "00:00:12  3 utterances, 1 of them uncertain, 8.0 s of speech"
    shares = {line.split()[1]: int(line.split()[2]) for line in lines if "%" in line}
    assert shares == {name: {"happy": 38, "sad": 50, "uncertain": 12}.get(name, 0) for name in (*LABELS, "uncertain")}
    (timeline,) = [line.split()[1] for line in lines if line.startswith("  timeline")]
    assert timeline == "h" * 12 + "." * 4 + "????" + "xxxx" + "s" * 16 + "." * 8
    assert lines[-2:] == ["  gaps      1, 1.0 s of audio lost", "  saved     talk.csv"]
    assert "nothing; --out FILE" in summary.text(60)


@pytest.mark.parametrize("width", [52, 80, 100, 140])
def test_a_summary_is_no_wider_than_the_terminal(width: int) -> None:
    summary = Summary(LABELS)
    for event in [*utterance(0, 0.0, 3.0), *utterance(1, 3600.0, 7200.0, "sad"), StreamEnded(end=7200 * SECOND)]:
        summary.take(event)
    assert max(map(len, summary.text(width).splitlines())) <= width


def test_a_summary_of_several_streams_joins_their_timelines() -> None:
    summary = Summary(LABELS)
    for _ in range(2):
        for event in [*utterance(0, 0.0, 1.0), StreamEnded(end=2 * SECOND)]:
            summary.take(event)
    assert summary.text(52).splitlines()[0].startswith("00:00:04  2 utterances, 2.0 s")
    assert "  timeline  " + ("h" * 10 + "." * 10) * 2 in summary.text(52)


async def test_a_finished_replay_stays_on_the_screen_until_the_q_key() -> None:
    listener, app = make([*TALK, END])
    async with running(listener, app) as pilot:
        await until(pilot, lambda: "finished" in app.part("header").plain_text)
        assert "uncertain" in app.part("headline").plain_text
        assert app.return_value is None
        await pilot.press("p")  # has no effect any more
        await pilot.press("q")
        await until(pilot, lambda: app.return_value is not None)
    assert app.exit_code == 0


async def test_with_exit_at_end_the_view_closes_when_the_replay_ends() -> None:
    listener = FakeListener([*TALK, END])
    app = TerminalApp(listener, title="test", exit_at_end=True)
    async with running(listener, app) as pilot:
        await until(pilot, lambda: app.return_value is not None)
    assert (app.return_value, app.session.summary.utterances) == (0, 2)


async def test_a_failed_stream_gives_the_reason_and_exit_code_1() -> None:
    failed = replace(END, error="the device is gone")
    listener, app = make([*TALK, failed], error=DeviceError("USB microphone: the device is gone"))
    async with running(listener, app) as pilot:
        await until(pilot, lambda: "stopped" in app.part("header").plain_text)
        await pilot.press("q")
        await until(pilot, lambda: app.return_value is not None)
    assert app.return_value == 1
    assert app.error is not None
    assert "the device is gone" in app.error


async def test_a_listener_that_fails_without_an_event_is_shown_as_stopped() -> None:
    listener, app = make(TALK, error=RuntimeError("a bug"))
    async with running(listener, app) as pilot:
        await until(pilot, lambda: "stopped" in app.part("header").plain_text)
        await pilot.press("q")
        await until(pilot, lambda: app.return_value is not None)
    assert (app.return_value, app.error) == (1, "RuntimeError: a bug")


async def test_important_states_are_shown_in_words_and_not_only_in_color() -> None:
    lost: list[Event] = [*TALK, SourceChanged(state="lost", at=9 * SECOND)]
    status = replace(STATUS, source_state="lost", recording="talk.wav", level_db=-120.0, vad_state="quiet")
    listener, app = make(lost, status=status)
    async with running(listener, app, (100, 24)) as pilot:
        await until(pilot, lambda: "microphone lost" in app.part("rows").plain_text)
        for _ in range(30):  # three seconds of silence, longer than a pause for breath
            app.tick()
        for word in ("REC", "▲ microphone lost", "no audio", "quiet", "recording to talk.wav"):
            assert word in words(app)
        assert "·happ·" in app.part("ribbon").plain_text
        assert "???????" in app.part("ribbon").plain_text


async def test_new_rows_do_not_move_a_list_that_was_scrolled_back() -> None:
    talk = [event for number in range(40) for event in utterance(number, number * 4, number * 4 + 2)]
    listener, app = make(talk)
    async with running(listener, app, (80, 24)) as pilot:
        await until(pilot, lambda: app.session.summary.utterances == 40)
        await pilot.press("down", "down", "pagedown")
        seen = app.part("rows").plain_text
        assert seen.startswith("01:48")  # the thirteenth newest utterance began at 27 * 4 s
        app._came.extend(utterance(40, 160, 162))
        app.tick()
        assert app.part("rows").plain_text == seen
        await pilot.press("home")
        assert app.part("rows").plain_text.startswith("02:40")


async def test_the_help_opens_and_any_key_closes_it() -> None:
    listener, app = make()
    async with running(listener, app) as pilot:
        await pilot.press("question_mark")
        assert len(app.screen_stack) == 2
        shown = str(app.screen.query_one("#help Static", Static).render())
        assert all(f"{mark} " in shown for mark in "~·‖✕")  # every mark of the timeline is explained
        app.tick()
        await pilot.press("q")
        assert len(app.screen_stack) == 1
        assert app.return_value is None


async def test_the_panes_follow_the_size_of_the_terminal() -> None:
    listener, app = make()
    async with running(listener, app, (80, 24)) as pilot:
        assert app.screen.has_class("-stacked") is False
        await pilot.resize_terminal(60, 18)
        await until(pilot, lambda: app.screen.has_class("-stacked"))
        await until(pilot, lambda: len(app.part("bars").plain_text.splitlines()) == 4)
        await pilot.resize_terminal(120, 35)
        await until(pilot, lambda: not app.screen.has_class("-stacked"))
        await until(pilot, lambda: len(app.part("bars").plain_text.splitlines()) == 15)


def test_every_row_of_the_list_is_as_wide_as_the_others() -> None:
    rows = [emotion(0, 3661, 3663), emotion(1, 1, 99.9, "surprised", 1.0), emotion(2, 0, 0.5, "sad", 0.05)]
    for width in (30, 40, 60, 120):
        assert {drawing.utterance_row(row, width).cell_len for row in rows} == {width}


def test_the_timeline_stays_in_place_and_fills_from_left_to_right() -> None:
    session = Session(LABELS)
    for event in TALK:
        session.take(event)
    before, after = (drawing.ribbon(session, position, 60).plain for position in (12 * SECOND, 14 * SECOND))
    band = before.splitlines()[0].rstrip()
    assert band == "··happ··✕·???????········"
    assert after.startswith(band + "····")
    assert after.splitlines()[1] == before.splitlines()[1]
    late = drawing.ribbon(session, 40 * SECOND, 60).plain
    assert late.splitlines()[1].startswith("00:15")


def test_a_session_keeps_a_limited_number_of_events_and_rows() -> None:
    session = Session(LABELS)
    for number in range(60_000):
        session.take(Gap(start=number, length=1))
    assert (len(session.events), len(session.rows), session.events_ever) == (50_000, 10_000, 60_000)


class Screen(io.StringIO):
    """A terminal that keeps the written text."""

    encoding = "ascii"

    def isatty(self) -> bool:
        return True


def test_plain_output_to_a_pipe_has_one_line_for_each_final() -> None:
    out = io.StringIO()
    view = PlainView(out, LABELS)
    for event in [*TALK, SourceChanged(state="lost", at=9 * SECOND, detail="USB mic"), END]:
        view.on_event(event)
    assert out.getvalue().splitlines() == [
        "00:00:01.00   2.00 s  happy      0.86",
        "00:00:04.00   0.25 s  audio lost (overflow)",
        "00:00:05.00   3.50 s  uncertain  0.41  (sad?)",
        "00:00:09.00           microphone lost: USB mic",
        "00:00:12.00  end: 2 utterances, 1 of them uncertain",
    ]


def test_plain_output_on_a_terminal_has_one_changing_line_and_no_escape_codes() -> None:
    out = Screen()
    view = PlainView(out, LABELS)
    for event in utterance(0, 1.0, 3.0):
        view.on_event(event)
    plain_text = out.getvalue()
    assert "\x1b" not in plain_text
    assert plain_text.isascii()
    lines = [line for line in plain_text.split("\r") if line.strip()]
    assert lines == ["00:00:01.00  ...", lines[1], "00:00:01.00   2.00 s  happy      0.86\n"]
    assert lines[1].startswith("00:00:01.00   2.00 s  happy      0.86 ...")


def test_plain_output_names_the_stream_when_a_second_stream_begins() -> None:
    out = io.StringIO()
    view = PlainView(out)
    for stream in ("a.wav", "b\u00fc.wav"):
        view.on_event(replace(emotion(0, 1, 2), stream=stream))
    assert [line.split()[0] for line in out.getvalue().splitlines()] == ["00:00:01.00", "--", "00:00:01.00"]


ON_A_TERMINAL = """
import logging, os, sys
from tests.test_terminal import TALK, FakeListener
from streamser.terminal import run_terminal, usable
class Noisy(FakeListener):
    def __iter__(self):
        os.write(2, b"ALSA lib pcm.c:8545: underrun occurred\\n")
        logging.warning("a warning")
        yield from super().__iter__()
assert usable()
if sys.argv[1] == "apart":  # as `streamser live` does: Python's standard error gets another descriptor than 2
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
logging.basicConfig()
sys.exit(run_terminal(Noisy(TALK), title="live: test"))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("key", "code", "stderr"), [(b"q", 0, "one"), (b"\x03", 130, "apart")])
def test_messages_of_c_libraries_go_to_the_log_and_the_terminal_is_restored(
    tmp_path: Path, key: bytes, code: int, stderr: str
) -> None:
    import pty
    import termios

    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80)) if hasattr(termios, "tcsetwinsize") else None
    before = termios.tcgetattr(theirs)
    root = Path(__file__).parent.parent
    environment = {**os.environ, "TERM": "xterm-256color", "TMPDIR": str(tmp_path), "COLUMNS": "80", "LINES": "24"}
    child = subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL, stderr],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=root,
        env=environment,
    )
    screen = read_until(ours, b"sad?")
    os.write(ours, key)
    after = read_until(ours, b".log")
    assert child.wait(20) == code
    assert termios.tcgetattr(theirs) == before
    os.close(theirs)
    os.close(ours)
    assert b"ALSA" not in screen + after
    assert b"a warning" not in screen + after
    assert b"\x1b[?1049l" in after  # back from the alternate screen
    assert b"2 utterances, 1 of them uncertain" in after
    (log,) = tmp_path.glob("streamser-*.log")
    assert log.read_text() == "ALSA lib pcm.c:8545: underrun occurred\nWARNING:root:a warning\n"


def read_until(terminal: int, end: bytes) -> bytes:
    """Return all written bytes up to and including `end`, with the escape codes."""
    import select

    plain_text, deadline = b"", time.monotonic() + 30
    while end not in plain_text:
        assert time.monotonic() < deadline, plain_text[-500:]
        if select.select([terminal], [], [], 0.5)[0]:
            plain_text += os.read(terminal, 65_536)
    return plain_text


def test_importing_the_terminal_package_does_not_import_textual() -> None:
    probe = "import sys, streamser.terminal; sys.exit('textual' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
