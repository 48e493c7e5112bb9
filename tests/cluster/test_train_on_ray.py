"""`streamser train --paper --ray` with two workers gives the folds of local processes, even if a worker dies."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clusters import command, family, lives, until
from corpus_maker import make_iemocap

from streamser.cli import main
from streamser.evaluation.folds import load_folds

pytest.importorskip("ray", reason="Ray is not installed (extra 'ray')")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

ONE_FOLD = ("--paper", "lightsernet-report", "--rows", "lightsernet-report-iemocap")
TWO_ROWS = ("--paper", "lightsernet-report", "--rows", "lightsernet-report-iemocap*")
NINE_FOLDS = ("--paper", "sepconv", "--rows", "sepconv-hop768-n1-wce")
RAY = ("--ray", "--jobs", "2")


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpora")
    make_iemocap(root / "IEMOCAP")
    return root


@pytest.fixture
def env() -> Iterator[dict[str, str]]:
    """Environment variables that name a new folder for temporary files; Ray's sockets need a short path."""
    folder = tempfile.mkdtemp(prefix="st")
    yield {**os.environ, "TMPDIR": folder}
    shutil.rmtree(folder, ignore_errors=True)


def train(corpora: Path, out: Path, *options: object, epochs: int = 1) -> list[str]:
    words = ["train", "--corpora", "IEMOCAP", "--corpora-root", corpora, "--cache", corpora / "cache", "--out", out]
    settings = ["--compute", "cpu", "--set", "features.length_s=1.2", "--set", f"epochs={epochs}"]
    return [*map(str, words), *settings, *map(str, options)]


def ended(process: subprocess.Popen[str], code: int, env: dict[str, str]) -> tuple[str, str]:
    """Wait until the command has ended with this code and has left neither a process nor a folder of a task."""
    started = list(family(process.pid))
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    until(lambda: not any(map(lives, started)), "the end of the cluster")
    assert not list(Path(env["TMPDIR"]).glob("streamser-*"))
    return out, err


def training(pid: int) -> list[int]:
    """The process IDs of the workers that train a fold."""
    return [one for one, name in family(pid).items() if name.startswith("ray::train_fold")]


def done(out: Path) -> dict[str, int]:
    """The times at which the finished folds were written."""
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in out.rglob("fold.json")}


def files(out: Path) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def test_folds_trained_on_ray_are_those_of_local_processes(
    corpora: Path, tmp_path: Path, env: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert main(train(corpora, alone, *TWO_ROWS, "--jobs", 2)) == 0
    words = capsys.readouterr().out
    with command(*train(corpora, together, *TWO_ROWS, *RAY), env=env) as process:
        out, err = ended(process, 0, env)
    assert files(together) == files(alone) and len(done(together)) == 2
    for ours, theirs in zip(load_folds(together), load_folds(alone), strict=True):
        assert ours.clips == theirs.clips and ours.figures == theirs.figures
        np.testing.assert_array_equal(ours.logits, theirs.logits)
    for path in (*together.rglob("summary.json"), *together.rglob("weights.safetensors")):
        assert path.read_bytes() == (alone / path.relative_to(together)).read_bytes()
    assert out.splitlines()[3:5] == words.splitlines()[3:5]  # the rows' figures
    assert sorted(re.findall(r"\d/2 \S+ 80-20 s0: done, \d+ s", err)) == sorted(err.splitlines()[1:])


def test_after_a_worker_is_killed_every_fold_is_finished_once(
    corpora: Path, tmp_path: Path, env: dict[str, str]
) -> None:
    out = tmp_path / "run"
    with command(*train(corpora, out, *NINE_FOLDS, *RAY, epochs=4), env=env) as process:
        until(lambda: done(out), "the first fold")
        until(lambda: training(process.pid), "a worker")
        os.kill(training(process.pid)[0], signal.SIGKILL)
        printed, err = ended(process, 0, env)
    ends = Counter(re.findall(r"(fold-\d-of-9) s0: (\w+)", err))
    assert ends == {(f"fold-{fold}-of-9", "done"): 1 for fold in range(1, 10)}
    assert len(load_folds(out)) == 9 and not list(out.rglob("last.pt"))
    assert "(9 folds)" in printed and "all done" in printed and "raylet" not in printed + err


def test_ctrl_c_keeps_the_finished_folds_and_the_same_command_trains_the_others(
    corpora: Path, tmp_path: Path, env: dict[str, str]
) -> None:
    out = tmp_path / "run"
    words = train(corpora, out, *NINE_FOLDS, *RAY)
    with command(*words, env=env) as process:
        until(lambda: len(done(out)) >= 2, "two folds")
        os.killpg(process.pid, signal.SIGINT)  # signal the whole process group, as a terminal does
        _, err = ended(process, 130, env)
    assert err.endswith("streamser: stopped\n")
    first = done(out)
    assert 2 <= len(first) < 9
    with command(*words, env=env) as process:
        printed, _ = ended(process, 0, env)
    assert f"{9 - len(first)} of 9 folds left" in printed and "all done" in printed
    assert len(done(out)) == 9 and first.items() <= done(out).items()


def test_a_fold_that_the_time_limit_stopped_continues_from_its_checkpoint(
    corpora: Path, tmp_path: Path, env: dict[str, str]
) -> None:
    out = tmp_path / "run"
    for minutes in (0.4, 0.8, 1.6):  # the start of the cluster takes an unknown time
        words = train(corpora, out, *ONE_FOLD, *RAY, "--minutes", minutes, epochs=100_000)
        with command(*words, env=env) as process:
            printed, err = ended(process, 2, env)
        assert "s0: out of time" in err and "1 folds are left (0 failed)" in printed
        if list(out.rglob("last.pt")):
            break
    (path,) = out.rglob("last.pt")
    state: dict[str, Any] = torch.load(path, weights_only=True)
    state["history"][0]["loss"] = 123.0  # to recognize the checkpoint in the log of the resumed run
    torch.save(state, path)
    with command(*train(corpora, out, *ONE_FOLD, *RAY, epochs=state["epoch"] + 2), env=env) as process:
        ended(process, 0, env)
    (log,) = out.rglob("log.jsonl")
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert [row["epoch"] for row in rows] == [*range(1, state["epoch"] + 3)] and rows[0]["loss"] == 123.0
    assert len(done(out)) == 1 and not list(out.rglob("last.pt"))


def test_a_fold_that_never_fits_into_the_memory_is_reported(corpora: Path, tmp_path: Path, env: dict[str, str]) -> None:
    env["RAY_memory_usage_threshold"] = "0.001"  # share of the machine's memory; above it, Ray kills workers
    with command(*train(corpora, tmp_path / "run", *ONE_FOLD, *RAY), env=env) as process:
        out, err = ended(process, 2, env)
    assert "s0: its machine ran out of memory in every try" in err
    assert "1 folds are left (1 failed); repeat the command to continue" in out


def test_a_machine_without_the_corpora_ends_the_run_with_the_name_of_a_file(
    corpora: Path, tmp_path: Path, env: dict[str, str]
) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(  # in Ray's workers, one file is not there
        "import pathlib\n"
        "if b'default_worker.py' in pathlib.Path('/proc/self/cmdline').read_bytes():\n"
        "    there = pathlib.Path.is_file\n"
        "    pathlib.Path.is_file = lambda path, **more: '_F003' not in path.name and there(path, **more)\n",
        encoding="utf-8",
    )
    env["PYTHONPATH"] = os.pathsep.join([str(hooks), *filter(None, [env.get("PYTHONPATH")])])
    with command(*train(corpora, tmp_path / "run", *ONE_FOLD, *RAY), env=env) as process:
        _, err = ended(process, 1, env)
    assert re.search(r"streamser: \S*_F003.wav: not found on \S+; with --ray, each machine needs the corpora", err)
    assert err.endswith("path\n")
