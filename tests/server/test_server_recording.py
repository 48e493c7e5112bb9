from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from makers import tone

from streamser.errors import ConfigError
from streamser.server.recording import Recording, check_folder


def test_a_recording_holds_the_sound_and_silence_where_sound_was_lost(tmp_path: Path) -> None:
    recording = Recording(tmp_path, "kitchen")
    recording.write(tone(duration_s=0.5))
    recording.skip(8000)
    recording.write(tone(duration_s=0.5))
    recording.close()
    sound, rate = soundfile.read(recording.path, dtype="float32")
    assert (rate, len(sound)) == (16000, 24000)
    assert np.abs(sound[8000:16000]).max() == 0
    assert np.abs(sound[:8000] - tone(duration_s=0.5)).max() < 1e-4


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b\\c", "...", "CON: <x>|?", "ünïcode"])
def test_a_streams_name_never_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    recording = Recording(tmp_path, name)
    recording.close()
    assert recording.path.parent == tmp_path
    assert not set(recording.path.name) & set('/\\:<>|?"*')


def test_two_recordings_of_one_second_have_two_files(tmp_path: Path) -> None:
    first, second = Recording(tmp_path, "same"), Recording(tmp_path, "same")
    first.close()
    second.close()
    assert first.path != second.path


def test_a_folder_that_cannot_be_one_is_said_at_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match=r"server\.record"):
        check_folder(str(file))
