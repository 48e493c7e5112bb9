from __future__ import annotations

from pathlib import Path

import pytest

from streamser.errors import ConfigError
from streamser.server.recording import RecordingFolder


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b\\c", "...", "CON: <x>|?", "ünïcode"])
def test_a_streams_name_never_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    writer = RecordingFolder(str(tmp_path)).open(name)
    writer.close()
    assert writer.path.parent == tmp_path
    assert not set(writer.path.name) & set('/\\:<>|?"*')


def test_two_recordings_of_one_second_have_two_files(tmp_path: Path) -> None:
    folder = RecordingFolder(str(tmp_path))
    first, second = folder.open("same"), folder.open("same")
    first.close()
    second.close()
    assert first.path != second.path


def test_a_folder_that_cannot_be_one_is_reported_at_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match=r"server\.record"):
        RecordingFolder(str(file))
