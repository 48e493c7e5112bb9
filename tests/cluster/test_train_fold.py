"""A task of `streamser train --ray`, without Ray: its checks of the machine, and the files of its fold."""

from __future__ import annotations

import re
import socket
import tempfile
from pathlib import Path

import pytest

from streamser.cluster.train import Settings, Task, check_machine, train_fold
from streamser.corpora.clips import Clip
from streamser.errors import ConfigError, CorpusError
from streamser.training.foldfiles import read_files, replace_files
from streamser.training.job import Job, JobEnd, JobRunner
from streamser.training.material import Material
from streamser.training.recipe import Recipe


def test_a_machine_without_the_corpora_or_the_cache_is_named(tmp_path: Path) -> None:
    clips = tuple(Clip(tmp_path / f"{name}.wav", "tiny", "tiny/s0", "sad") for name in ("here", "lost"))
    material = Material(clips, (), {})
    (tmp_path / "here.wav").write_bytes(b"")
    machine = re.escape(socket.gethostname())
    with pytest.raises(CorpusError, match=rf"lost\.wav: not found on {machine}; with --ray, each machine needs the"):
        check_machine(material, tmp_path / "cache")
    (tmp_path / "lost.wav").write_bytes(b"")
    check_machine(material, tmp_path / "cache")
    assert (tmp_path / "cache").is_dir()
    with pytest.raises(ConfigError, match=rf"--cache .*cannot be made on {machine} \(Not a directory\)"):
        check_machine(material, tmp_path / "here.wav" / "cache")


@pytest.mark.parametrize("killed", [False, True], ids=["first try", "after a worker was killed"])
def test_a_task_continues_from_the_newest_checkpoint_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, killed: bool
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen: list[dict[str, bytes]] = []

    def train(_: JobRunner, job: Job, material: Material) -> JobEnd:
        seen.append(read_files(job.place))
        replace_files(job.place, {"fold.json": b"{}", "bundle/model.onnx": b"graph"})
        return JobEnd(job, "done", 1.0)

    monkeypatch.setattr(JobRunner, "run", train)
    job = Job(Recipe(name="tiny", variant="lightsernet"), Path("elsewhere") / "run", "m", "fold-1-of-2", 0)
    if killed:
        replace_files(tmp_path / "scratch" / "run" / "fold-1-of-2-s0", {"last.pt": b"newer"})
    settings = Settings(tmp_path / "cache", "cpu", 0.0)
    end, files = train_fold(Task(job, "scratch"), Material((), (), {}), {"last.pt": b"older"}, settings)
    assert seen == [{"last.pt": b"newer" if killed else b"older"}]
    assert end.state == "done" and files == {"fold.json": b"{}", "bundle/model.onnx": b"graph"}
    assert not (tmp_path / "scratch").exists()
