from __future__ import annotations

import signal
import stat
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile
from makers import tone

from streamser.errors import AudioError
from streamser.stream import wavfile
from streamser.stream.wavfile import WavWriter, repair_recordings

NAME = "20260101T000000-kitchen.wav"

# The header is written once a second, so the last half second is not in it when the program is killed.
WRITES_UNTIL_KILLED = """
import sys
from pathlib import Path
import numpy as np
from streamser.stream.wavfile import WavWriter
writer = WavWriter(Path(sys.argv[1]))
for _ in range(105):
    writer.write(np.full(1600, 0.25, np.float32))
print("written", flush=True)
sys.stdin.read()
"""


def test_16_bit_audio_is_written_exactly_and_lost_audio_becomes_silence(tmp_path: Path) -> None:
    audio = (np.arange(-20_000, 20_000, dtype=np.int16)).astype(np.float32) / 32768
    writer = WavWriter(tmp_path / NAME)
    writer.write(audio[:7])
    writer.skip(40_001)
    writer.write(audio[7:])
    writer.close()
    values, rate = soundfile.read(tmp_path / NAME, dtype="int16")
    assert rate == 16000
    expected = np.concatenate([audio[:7], np.zeros(40_001, np.float32), audio[7:]])
    assert np.array_equal(values, (expected * 32768).astype(np.int16))


def test_a_recording_clips_audio_over_full_scale(tmp_path: Path) -> None:
    writer = WavWriter(tmp_path / NAME)
    writer.write(np.array([2.0, -2.0, 1.0], np.float32))
    writer.close()
    assert soundfile.read(tmp_path / NAME, dtype="int16")[0].tolist() == [32767, -32768, 32767]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_only_the_owner_can_read_a_recording(tmp_path: Path) -> None:
    WavWriter(tmp_path / NAME).close()
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600


def test_an_unfinished_recording_can_be_read_up_to_its_last_second(tmp_path: Path) -> None:
    writer = WavWriter(tmp_path / NAME)
    for _ in range(25):
        writer.write(tone(duration_s=0.1))
        with wave.open(str(tmp_path / NAME)) as file:
            readable_s = file.getnframes() / 16000
            assert len(file.readframes(10**9)) == 2 * file.getnframes()
    assert readable_s >= 1.5
    writer.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_the_recording_of_a_killed_program_can_be_read_and_repaired_to_the_last_sample(tmp_path: Path) -> None:
    path = tmp_path / NAME
    command = [sys.executable, "-c", WRITES_UNTIL_KILLED, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        assert repair_recordings(tmp_path) == []  # the recording is still being written
        process.send_signal(signal.SIGKILL)
    assert len(soundfile.read(path)[0]) == 10 * 16000
    assert repair_recordings(tmp_path) == [path]
    audio, _ = soundfile.read(path)
    assert len(audio) == 105 * 1600
    assert np.all(audio == 0.25)
    assert repair_recordings(tmp_path) == []


@pytest.mark.parametrize("kept_bytes", [0, 3, 10, 43, 44, 45])
def test_a_recording_with_an_incomplete_header_is_repaired_as_an_empty_one(tmp_path: Path, kept_bytes: int) -> None:
    writer = WavWriter(tmp_path / NAME)
    writer.write(tone(duration_s=0.1))
    writer.close()
    (tmp_path / NAME).write_bytes((tmp_path / NAME).read_bytes()[:kept_bytes])
    assert repair_recordings(tmp_path) == [tmp_path / NAME]
    assert len(soundfile.read(tmp_path / NAME)[0]) == 0


def test_files_that_are_no_recordings_of_streamser_are_not_changed(tmp_path: Path) -> None:
    soundfile.write(
        tmp_path / "20260101T000000-a.wav", tone(), 44100, subtype="PCM_16"
    )  # named like a recording, but with another sample rate
    for name in ("song.wav", "20260101T000000-b.wav"):
        (tmp_path / name).write_bytes(b"RIFF\x10\0\0\0WAVErubbish")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert repair_recordings(tmp_path) == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_a_full_disk_is_an_error_with_the_reason_and_the_stored_audio_can_be_read(tmp_path: Path) -> None:
    code = f"""
import resource, numpy as np
from pathlib import Path
from streamser.errors import AudioError
from streamser.stream.wavfile import WavWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (100_001, 100_001))
writer = WavWriter(Path({str(tmp_path / NAME)!r}))
try:
    for _ in range(100):
        writer.write(np.full(1600, 0.25, np.float32))
except AudioError as error:
    print(error, writer.closed)
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "cannot be written (File too large)" in printed
    assert "True" in printed
    assert len(soundfile.read(tmp_path / NAME)[0]) == (100_001 - 44) // 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not let an open file be deleted")
def test_a_deleted_recording_file_is_an_error_within_a_second_of_audio(tmp_path: Path) -> None:
    writer = WavWriter(tmp_path / NAME)
    (tmp_path / NAME).unlink()
    with pytest.raises(AudioError, match="was deleted"):
        writer.skip(16_000)
    assert writer.closed


def test_a_missing_folder_for_recordings_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"kitchen\.wav: cannot be written \(No such file"):
        WavWriter(tmp_path / "gone" / NAME)


def test_a_recording_that_is_too_long_continues_in_further_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wavfile, "_MOST_BYTES", 100_000)
    writer = WavWriter(tmp_path / NAME)
    for _ in range(8):
        writer.write(tone(duration_s=1.0))
    writer.close()
    files = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert {path.stem for path in files} == {f"20260101T000000-kitchen{part}" for part in ("", "-part2", "-part3")}
    assert sum(len(soundfile.read(path)[0]) for path in files) == 8 * 16000
