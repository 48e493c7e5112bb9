"""`streamser profiles` lists the stored profiles of voices, and deletes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from makers import babble

from streamser.cli import main
from streamser.enrolment import enrol
from streamser.profile import find_profiles, profile_folder, profile_path
from streamser.recognizer import Recognizer


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XDG_CONFIG_HOME", "APPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    return tmp_path / "home"


def make(adaptive: Recognizer, name: str) -> Path:
    return enrol(adaptive, [babble(2.0, seed=seed) for seed in range(4)], name, least_speech_s=1.0).save(
        profile_path(name)
    )


def test_profiles_are_listed_with_their_folder(adaptive: Recognizer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profiles"]) == 0
    assert capsys.readouterr().out == f"0 in {profile_folder()}\n"
    make(adaptive, "anna")
    (profile_folder() / "bert.json").write_text('{"streamser_profile": 0}')
    assert main(["profiles"]) == 0
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("anna  for adaptive, 8 s of speech") and second.startswith("bert  cannot be used: ")
    assert last == f"2 in {profile_folder()}"


def test_one_command_deletes_profiles_and_their_partial_files_from_a_crash(
    adaptive: Recognizer, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("anna", "bert", "carl"):
        make(adaptive, name)
    (profile_folder() / "anna.json.123.part").write_text("{")
    assert main(["profiles", "--delete", "anna", "--delete", str(profile_path("carl"))]) == 0
    assert capsys.readouterr().out.startswith("profile 'anna' deleted\n")
    assert [path.name for path in profile_folder().iterdir()] == ["bert.json"]


@pytest.mark.parametrize("content", [b'{"streamser_profile": 0}', b'{\n "streamser_profile": 99, "name": "a"'])
def test_a_profile_that_cannot_be_used_can_still_be_deleted(home: Path, content: bytes) -> None:
    profile_folder().mkdir(parents=True)
    profile_path("old").write_bytes(content)
    assert main(["profiles", "--delete", "old"]) == 0
    assert not find_profiles()


def test_a_file_that_is_no_profile_is_not_deleted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home.mkdir()
    (home / "package.json").write_text('{"name": "mine"}')
    assert main(["profiles", "--delete", str(home / "package.json")]) == 1
    assert "not a streamser profile, so it is not deleted" in capsys.readouterr().err
    assert (home / "package.json").exists()
    assert main(["profiles", "--delete", "nobody"]) == 1
    assert "no such profile; known: none" in capsys.readouterr().err
