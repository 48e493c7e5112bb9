from __future__ import annotations

from pathlib import Path

import pytest

from streamser.errors import ConfigError
from streamser.server.recording import RecordingFolder


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b\\c", "...", "CON: <x>|?", "ünïcode"])
def test_no_stream_name_leads_to_a_file_outside_the_recording_folder(tmp_path: Path, name: str) -> None:
    writer = RecordingFolder(str(tmp_path)).open(name)
    writer.close()
    assert writer.path.parent == tmp_path
    assert not set(writer.path.name) & set('/\\:<>|?"*')


def test_two_recordings_with_one_name_in_the_same_second_have_two_files(tmp_path: Path) -> None:
    folder = RecordingFolder(str(tmp_path))
    first, second = folder.open("same"), folder.open("same")
    first.close()
    second.close()
    assert first.path != second.path


def test_a_recording_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match=r"server\.record"):
        RecordingFolder(str(file))
