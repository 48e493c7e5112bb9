"""Microphones, files and pushed audio are one timeline; lost audio is reported as a `Gap`."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from makers import babble, silence, tone
from stream_parts import until

from streamser.audio import SAMPLE_RATE, AudioBlock, Samples, read_audio, resample
from streamser.errors import AudioError, DeviceError
from streamser.events import Gap, SourceChanged
from streamser.stream.clock import SampleClock
from streamser.stream.pcm import PcmConverter
from streamser.stream.portaudio import Chunk, find_device, list_devices
from streamser.stream.sources import (
    MicSource,
    PushSource,
    Source,
    SourceConfig,
    SourceItem,
    WavSource,
    find_audio,
)


def samples_of(items: list[SourceItem]) -> Samples:
    """Join the audio, and check that each item starts where the one before ends."""
    for before, after in pairwise(items):
        assert _end(before) == _start(after)
    return np.concatenate([np.zeros(0, np.float32), *(item.samples for item in items if isinstance(item, AudioBlock))])


def _start(item: SourceItem) -> int:
    return item.start if isinstance(item, AudioBlock) else item.start if isinstance(item, Gap) else item.at


def _end(item: SourceItem) -> int:
    return item.end if isinstance(item, AudioBlock) else _start(item) + (item.length if isinstance(item, Gap) else 0)


# --- PcmConverter


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", ["bytes", "int16", "float32", "columns"])
def test_pcm_in_pieces_of_any_size_gives_the_same_audio_as_the_whole(rate: int, channels: int, kind: str) -> None:
    rng = np.random.default_rng(3)
    frames = (tone(300, 0.3)[:, None] * np.linspace(1, 0.5, channels) * 32767).astype(np.int16)
    pcm: Any = {
        "bytes": frames.astype("<i2").tobytes(),
        "int16": frames.reshape(-1),
        "float32": frames.reshape(-1).astype(np.float32) / 32768,
        "columns": frames,
    }[kind]
    converter, crumbs, place = PcmConverter(rate, channels), [], 0
    while place < len(pcm):
        size = int(rng.integers(1, 700))
        crumbs.append(converter.feed(pcm[place : place + size]))
        place += size
    whole = frames.mean(axis=1, dtype=np.float32) / 32768
    expected = whole if rate == SAMPLE_RATE else resample(whole, rate)
    np.testing.assert_allclose(np.concatenate([*crumbs, converter.flush()]), expected, atol=1e-6)


def test_an_array_with_another_number_of_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="pcm: has 2 channels, but channels is 1"):
        PcmConverter().feed(np.zeros((4, 2), np.int16))


# --- WavSource


def write(path: Path, audio: Samples, rate: int = SAMPLE_RATE) -> Path:
    soundfile.write(path, audio, rate, subtype="FLOAT" if path.suffix == ".wav" else None)
    return path


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_file_source_gives_the_audio_of_read_audio_in_blocks_of_equal_length(tmp_path: Path, rate: int) -> None:
    file = write(tmp_path / "a.wav", tone(440, 2.51), rate)
    items = list(WavSource(file))
    np.testing.assert_array_equal(samples_of(items), read_audio(file))
    assert {len(item.samples) for item in items[:-1] if isinstance(item, AudioBlock)} == {3200}


def test_several_files_are_one_stream_with_silence_between_them_and_known_places(tmp_path: Path) -> None:
    files = [write(tmp_path / name, tone(hz, 0.3)) for name, hz in (("b.wav", 300), ("a.flac", 500))]
    source = WavSource(files, config=SourceConfig(between_files_ms=500))
    audio = samples_of(list(source))
    assert source.duration_s == pytest.approx(len(audio) / SAMPLE_RATE) == 1.1
    assert not audio[4800:12800].any() and audio[12800:].any()
    assert [(place.path.name, place.start) for place in source.places] == [("b.wav", 0), ("a.flac", 12_800)]
    found = [source.file_at(index) for index in (0, 12_799, 12_800)]
    assert [place.path.name for place in found if place] == ["b.wav", "b.wav", "a.flac"]
    assert source.description == "b.wav and 1 more"


def test_a_folder_is_searched_recursively_in_the_order_of_names_without_hidden_files(tmp_path: Path) -> None:
    (tmp_path / "b" / ".cache").mkdir(parents=True)
    for name in ("b/2.wav", "a.flac", "b/1.WAV", "b/.hidden.wav", "b/.cache/x.wav"):
        soundfile.write(tmp_path / name, tone(duration_s=0.1), SAMPLE_RATE, format="FLAC" if "flac" in name else "WAV")
    (tmp_path / "notes.txt").write_text("not audio")
    assert [file.relative_to(tmp_path).as_posix() for file in find_audio(tmp_path)] == ["a.flac", "b/1.WAV", "b/2.wav"]
    assert WavSource(tmp_path).files == tuple(find_audio(tmp_path))


@pytest.mark.parametrize("speed", [1.0, 4.0])
def test_a_file_replayed_at_a_speed_is_not_faster_than_this_speed(tmp_path: Path, speed: float) -> None:
    source = WavSource(write(tmp_path / "a.wav", tone(duration_s=0.4)), speed=speed)
    items = [item for item in source if isinstance(item, AudioBlock)]
    arrived = np.array([item.arrived_s for item in items])
    due = np.array([item.end for item in items]) / SAMPLE_RATE / speed
    assert np.all(arrived - arrived[0] >= due - due[0] - 1e-4)


def test_closing_a_slow_replay_ends_it_at_once(tmp_path: Path) -> None:
    source = WavSource(write(tmp_path / "a.wav", tone(duration_s=5)), speed=0.01)
    threading.Timer(0.05, source.close).start()
    began = time.monotonic()
    assert len(list(source)) <= 2
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("name", "data", "rule"),
    [
        ("none.wav", None, "no such file"),
        ("empty.wav", b"", r"the file is empty \(0 bytes\)"),
        ("text.wav", b"this is no sound at all", "not a readable audio file"),
    ],
)
def test_a_file_that_is_no_audio_is_refused_by_name_before_the_replay(
    tmp_path: Path, name: str, data: bytes | None, rule: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(AudioError, match=rule) as caught:
        WavSource(tmp_path / name)
    assert name in str(caught.value)


def test_a_file_without_samples_a_folder_without_files_and_an_empty_list_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="has no samples"):
        WavSource(write(tmp_path / "a.wav", silence(0)))
    (tmp_path / "folder").mkdir()
    with pytest.raises(AudioError, match="has no readable audio file"):
        WavSource(tmp_path / "folder")
    with pytest.raises(AudioError, match="no audio file to process"):
        WavSource([])


def test_a_file_with_nan_is_an_error_that_names_it(tmp_path: Path) -> None:
    audio = tone()
    audio[9000] = np.nan
    with pytest.raises(AudioError, match=r"a\.wav: 1 of .* NaN"):
        list(WavSource(write(tmp_path / "a.wav", audio)))


@pytest.mark.parametrize("speed", [0, -1, float("inf"), "fast"])
def test_an_invalid_replay_speed_is_refused(tmp_path: Path, speed: Any) -> None:
    with pytest.raises(ValueError, match="speed: a number above 0, or 'max'"):
        WavSource(tmp_path, speed=speed)


# --- PushSource


def test_audio_that_many_threads_push_is_complete() -> None:
    source = PushSource()
    chunk = np.full(1_000, 0.25, np.float32)
    threads = [threading.Thread(target=lambda: [source.push(chunk) for _ in range(50)]) for _ in range(4)]
    items: list[SourceItem] = []
    listener = threading.Thread(target=lambda: items.extend(source))
    for thread in (listener, *threads):
        thread.start()
    for thread in threads:
        thread.join(10)
    source.close()
    listener.join(10)
    np.testing.assert_array_equal(samples_of(items), np.full(200_000, 0.25, np.float32))


@pytest.mark.parametrize("seed", range(3))
def test_pushed_bytes_and_arrays_of_any_size_are_one_recording(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pcm = rng.integers(-32768, 32767, 40_000).astype("<i2")
    data, source, at = pcm.tobytes(), PushSource(config=SourceConfig(queue_s=10)), 0
    while at < len(data):
        size = int(rng.choice([1, 7, 320, 640, 640, 640, 1000, 5000]))
        if at % 2 == 0 and rng.random() < 0.2:
            source.push(pcm[at // 2 : at // 2 + size])
            size *= 2
        else:
            source.push(data[at : at + size])
        at += size
    source.close()
    items = list(source)
    assert all(isinstance(item, AudioBlock) for item in items)
    assert [item.start for item in items[1:]] == [item.end for item in items[:-1]]  # type: ignore[union-attr]
    np.testing.assert_array_equal(samples_of(items), pcm / np.float32(32768))


def test_a_live_push_never_waits_and_audio_that_does_not_fit_becomes_a_gap() -> None:
    source = PushSource(live=True, config=SourceConfig(queue_s=1.0))
    source.push(tone(duration_s=3.0))
    source.close()
    items = list(source)
    assert items[0] == Gap(start=0, length=32_000, reason="queue_full")
    np.testing.assert_array_equal(samples_of(items), tone(duration_s=3.0)[32_000:])


def test_a_push_that_waits_returns_when_the_source_is_closed() -> None:
    source = PushSource(config=SourceConfig(queue_s=0.5))
    pusher = threading.Thread(target=source.push, args=(tone(duration_s=3.0),), daemon=True)
    pusher.start()
    until(lambda: source._position > 8_000)
    source.close()
    pusher.join(2)
    assert not pusher.is_alive()


def test_a_push_into_a_closed_source_is_refused() -> None:
    source = PushSource()
    source.close()
    with pytest.raises(ValueError, match="push: the source is closed"):
        source.push(b"\0\0")


# --- SampleClock


def lost_by(clock: SampleClock, arrivals: Iterator[float] | list[float], chunk: int = 20) -> int:
    return sum(clock.arrived(chunk, at_s) for at_s in arrivals)


def test_a_steady_device_loses_nothing() -> None:
    jitter = np.random.default_rng(0).uniform(0, 0.015, 5_000)
    assert lost_by(SampleClock(1_000), [0.02 * i + jitter[i] for i in range(5_000)]) == 0


@pytest.mark.parametrize("drift", [-300e-6, 300e-6])
def test_a_device_with_a_drifting_clock_loses_nothing_in_an_hour(drift: float) -> None:
    assert lost_by(SampleClock(1_000), (0.02 * i * (1 + drift) for i in range(180_000))) == 0


def test_chunks_that_arrive_late_in_a_burst_are_no_loss() -> None:
    times = [0.02 * i if not 100 <= i < 130 else 0.02 * 130 + 0.001 * (i - 100) for i in range(300)]
    assert lost_by(SampleClock(1_000), times) == 0


def test_missing_audio_is_detected_within_two_seconds_and_measured_to_the_millisecond() -> None:
    times = [0.02 * i + (0.35 if i >= 150 else 0.0) for i in range(400)]
    clock = SampleClock(1_000)
    found = [(i, lost) for i, at_s in enumerate(times) if (lost := clock.arrived(20, at_s))]
    assert [lost for _, lost in found] == [350]
    assert found[0][0] * 0.02 < 150 * 0.02 + 2


def test_an_overflow_flag_accounts_for_the_loss_at_once() -> None:
    clock = SampleClock(1_000)
    assert lost_by(clock, [0.02 * i for i in range(100)]) == 0
    assert clock.arrived(20, 2.0 + 0.06, overflowed=True) == 60
    assert lost_by(clock, [2.06 + 0.02 * i for i in range(1, 200)]) == 0


def test_audio_that_the_queue_dropped_is_not_counted_as_lost_again() -> None:
    clock = SampleClock(1_000)
    lost_by(clock, [0.02 * i for i in range(100)])
    clock.skip(500)
    assert lost_by(clock, [2.5 + 0.02 * i for i in range(300)]) == 0


# --- MicSource, with replacements for PortAudio


@dataclass
class ScriptedLine:
    """An open microphone that delivers its chunks, and then dies or delivers nothing more."""

    chunks: list[Chunk]
    dies: bool = True
    dropped: int = 0
    rate: int = 16_000
    description: str = "scripted"
    alive: bool = True
    closed: bool = False

    def take(self, timeout_s: float) -> tuple[int, Chunk] | None:
        if self.chunks:
            dropped, self.dropped = self.dropped, 0
            return dropped, self.chunks.pop(0)
        self.alive = not self.dies
        return None

    def close(self) -> None:
        self.closed = True


@dataclass
class Opener:
    """Opens the lines in turn; an error in the list is raised, and opening the last line closes the source."""

    lines: list[ScriptedLine | DeviceError]
    source: MicSource | None = None
    opened: list[bool] = field(default_factory=list)

    def __call__(self, *_: Any, again: bool) -> ScriptedLine:
        self.opened.append(again)
        line = self.lines.pop(0)
        if not self.lines and self.source is not None:
            self.source.close()
        if isinstance(line, DeviceError):
            raise line
        return line


def chunks(audio: Samples, at_s: float, *, rate: int = 16_000, channels: int = 1) -> list[Chunk]:
    """Audio in chunks of 20 ms that arrive in real time after `at_s`."""
    size = rate // 50
    starts = range(0, len(audio), size)
    columns = np.repeat(audio[:, None], channels, axis=1)
    return [Chunk(columns[i : i + size], at_s + (i + size) / rate, False) for i in starts]


def microphone(*lines: ScriptedLine | DeviceError, **settings: Any) -> tuple[MicSource, Opener]:
    opener = Opener(list(lines))
    source = MicSource(SourceConfig(retry_first_ms=50, retry_max_ms=200, **settings), opener=opener)
    return source, opener


def played(source: MicSource, opener: Opener) -> list[SourceItem]:
    """All items of the source, which is closed when its last line is lost."""
    items: list[SourceItem] = []
    for item in source:
        items.append(item)
        if isinstance(item, SourceChanged) and item.state == "lost" and not opener.lines:
            source.close()
    return items


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 1), (48_000, 2)])
def test_a_microphone_of_any_rate_and_channels_gives_16_khz_mono(rate: int, channels: int) -> None:
    audio = tone(440, 0.5) if rate == 16_000 else resample(tone(440, 0.5), 16_000, rate)
    source, opener = microphone(ScriptedLine(chunks(audio, 100.0, rate=rate, channels=channels), rate=rate))
    expected = audio if rate == 16_000 else resample(audio, rate)
    np.testing.assert_allclose(samples_of(played(source, opener))[: len(expected)], expected, atol=1e-6)


def test_an_overflow_is_counted_and_its_lost_audio_is_a_gap() -> None:
    before, after = chunks(tone(duration_s=2.0), 10.0), chunks(tone(duration_s=0.5), 12.3)
    after[0] = after[0]._replace(overflowed=True)
    source, opener = microphone(ScriptedLine(before + after))
    items = played(source, opener)
    gaps = [item for item in items if isinstance(item, Gap) and item.reason == "overflow"]
    assert [(gap.start, gap.length) for gap in gaps] == [(32_000, 4_800)]
    assert source.overflows == 1
    assert len(samples_of(items)) == 40_000


def test_audio_that_the_queue_dropped_is_a_gap() -> None:
    source, opener = microphone(ScriptedLine(chunks(tone(duration_s=0.4), 10.0), dropped=1_600))
    items = played(source, opener)
    assert items[0] == Gap(start=0, length=1_600, reason="queue_full")
    assert len(samples_of(items)) == 6_400


def test_an_unplugged_microphone_is_reported_and_continues_at_its_true_time_when_it_is_back() -> None:
    now = time.monotonic()
    lines = (
        ScriptedLine(chunks(tone(duration_s=0.4), now - 0.4)),
        DeviceError("gone"),
        DeviceError("still gone"),
        ScriptedLine(chunks(tone(duration_s=0.4), now + 3.0)),
    )
    source, opener = microphone(*lines)
    items = played(source, opener)
    samples_of(items)
    changes = [(item.state, item.at) for item in items if isinstance(item, SourceChanged)]
    assert changes[:2] == [("lost", 6_400), ("back", 6_400 + 48_000)]
    gap = next(item for item in items if isinstance(item, Gap))
    assert (gap.start, gap.length, gap.reason) == (6_400, pytest.approx(48_000, abs=1), "unplugged")
    assert opener.opened == [False, True, True, True]
    assert isinstance(lines[0], ScriptedLine) and lines[0].closed


def test_a_source_that_continues_with_another_microphone_reports_this() -> None:
    now = time.monotonic()
    for second, another in (("scripted", False), ("USB", True)):
        lines = [
            ScriptedLine(chunks(tone(duration_s=0.4), now - 0.4)),
            ScriptedLine(chunks(tone(duration_s=0.4), now + 1.0), description=second),
        ]
        source, opener = microphone(*lines)
        changes = [item for item in played(source, opener) if isinstance(item, SourceChanged)]
        assert [(item.state, item.another) for item in changes[:2]] == [("lost", False), ("back", another)]


def test_a_microphone_that_delivers_no_more_audio_is_closed_and_reported_as_stalled() -> None:
    line = ScriptedLine(chunks(tone(duration_s=0.4), time.monotonic() - 0.4), dies=False)
    source, opener = microphone(line, stall_ms=300)
    items = played(source, opener)
    changed = next(item for item in items if isinstance(item, SourceChanged))
    assert (changed.state, changed.detail) == ("lost", "scripted: stalled")
    assert line.closed and source.state == "ended"


def test_closing_while_the_microphone_is_lost_reports_the_whole_gap() -> None:
    source, opener = microphone(ScriptedLine(chunks(tone(duration_s=0.4), time.monotonic() - 5.4)))
    items = played(source, opener)
    lost = sum(item.length for item in items if isinstance(item, Gap))
    assert lost == pytest.approx(5.0 * SAMPLE_RATE, rel=0.05)


def test_a_microphone_that_cannot_be_opened_at_first_is_an_error() -> None:
    source, _ = microphone(DeviceError("cannot open it"))
    with pytest.raises(DeviceError, match="cannot open it"):
        next(iter(source))


def test_each_source_has_the_attributes_that_a_listener_needs(tmp_path: Path) -> None:
    sources: list[Source] = [PushSource(), WavSource(write(tmp_path / "a.wav", babble(0.1))), microphone()[0]]
    assert [source.live for source in sources] == [False, False, True]
    assert all(source.description and source.state == "waiting" and source.overflows == 0 for source in sources)


# --- PortAudio, with a replacement for sounddevice


def fake_sounddevice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    (tmp_path / "sounddevice.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)


DEVICES = """
_initialized = 0
class PortAudioError(Exception): ...
NAMES = [("USB Mic", 1, 2), ("Speakers", 0, 0), ("Headset USB", 0, 1), ("USB Mic", 0, 2)]
def query_hostapis(): return [{"name": "WASAPI"}, {"name": "MME"}]
def query_devices(kind=None):
    rows = [{"name": n, "hostapi": h, "max_input_channels": c, "default_samplerate": 48000.0, "index": i}
            for i, (n, h, c) in enumerate(NAMES)]
    if kind and not rows: raise PortAudioError("Error querying device -1")
    return rows[2] if kind else rows
"""


def test_without_portaudio_the_error_is_one_line_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_sounddevice(monkeypatch, tmp_path, "raise OSError('PortAudio library not found')")
    for platform, command in (
        ("linux", "apt install libportaudio2"),
        ("darwin", "brew install"),
        ("win32", "pip install"),
    ):
        monkeypatch.setattr(sys, "platform", platform)
        with pytest.raises(DeviceError, match=command) as caught:
            list_devices()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "index"), [(None, 2), (0, 0), ("3", 3), ("headset", 2), ("usb mic", 3), ("mme", 0), ("USB Mic (M", 0)]
)
def test_a_microphone_is_found_by_its_index_its_name_or_a_part_of_the_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wanted: str | int | None, index: int
) -> None:
    fake_sounddevice(monkeypatch, tmp_path, DEVICES)
    assert find_device(wanted).index == index


def test_an_unknown_microphone_is_an_error_that_lists_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_sounddevice(monkeypatch, tmp_path, DEVICES)
    with pytest.raises(DeviceError, match="no microphone 'Blue Yeti'; there are: 0 USB Mic; 2 Headset USB; 3 USB Mic"):
        find_device("Blue Yeti")
    with pytest.raises(DeviceError, match="no microphone 1; there are"):
        find_device(1)


def test_without_a_microphone_the_error_suggests_to_replay_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_sounddevice(monkeypatch, tmp_path, DEVICES.replace("enumerate(NAMES)", "[]"))
    with pytest.raises(DeviceError, match="no microphone found; plug one in, or replay a file"):
        find_device(None)
    with pytest.raises(DeviceError, match="no microphone 'Nope', nor any other; plug one in"):
        find_device("Nope")
