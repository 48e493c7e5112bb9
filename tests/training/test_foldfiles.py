"""The files of a fold are copied as a whole, and the file that marks a finished fold is written last."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamser.training.foldfiles import read_files, replace_files


def test_a_copied_folder_has_the_same_files_and_no_others(tmp_path: Path) -> None:
    files = {"fold.json": b"{}", "fold.npz": b"\0\1", "bundle/model.onnx": b"graph", "relative/log.jsonl": b""}
    replace_files(tmp_path / "run" / "fold-1", files)
    (tmp_path / "run" / "fold-1" / "last.part").write_bytes(b"incomplete")
    assert read_files(tmp_path / "run" / "fold-1") == files
    place = tmp_path / "copy"
    replace_files(place, {"last.pt": b"checkpoint", "log.jsonl": b"row"})
    replace_files(place, files)
    assert {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()} == {*files}


def test_a_folder_that_does_not_exist_has_no_files_and_none_is_made_for_no_files(tmp_path: Path) -> None:
    assert read_files(tmp_path / "run") == {}
    replace_files(tmp_path / "run", {})
    assert not (tmp_path / "run").exists()


def test_fold_json_is_written_after_all_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_files(tmp_path, {"last.pt": b"checkpoint"})
    written = Path.write_bytes

    def disk_full(path: Path, content: bytes) -> int:
        if content == b"graph":
            raise OSError(28, "No space left on device", str(path))
        return written(path, content)

    files = {"fold.json": b"{}", "fold.npz": b"numbers", "bundle/model.onnx": b"graph"}
    with monkeypatch.context() as context:
        context.setattr(Path, "write_bytes", disk_full)
        with pytest.raises(OSError, match="No space left"):
            replace_files(tmp_path, files)
    assert not (tmp_path / "fold.json").exists() and (tmp_path / "last.pt").exists()
    replace_files(tmp_path, files)
    assert read_files(tmp_path) == files
