"""`streamser label --ray` with two workers writes the same table as one process, even if a worker dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from clusters import command, family, lives, until
from makers import babble, noise, silence

from streamser.audio import SAMPLE_RATE
from streamser.bundle import Bundle
from streamser.cli import main

pytest.importorskip("ray", reason="Ray is not installed (extra 'ray')")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with forty audio files and a damaged one."""
    path = tmp_path / "talks"
    path.mkdir()
    for seed in range(40):
        audio = np.concatenate([silence(0.5), babble(1.0 + seed % 5 / 5, seed=seed), silence(0.5)])
        soundfile.write(path / f"{seed:02}.wav", audio + noise(len(audio) / SAMPLE_RATE, level=0.001), SAMPLE_RATE)
    (path / "bad.wav").write_bytes(b"RIFF no")
    return path


@pytest.fixture
def slow_reading(tmp_path: Path) -> dict[str, str]:
    """Environment variables that delay the opening of each file by 0.1 s; opening poison.wav kills the process."""
    place = tmp_path / "hooks"
    place.mkdir()
    (place / "sitecustomize.py").write_text(
        "import os, time, soundfile\n"
        "opened = soundfile.SoundFile.__init__\n"
        "def slowly(self, file, *rest, **named):\n"
        "    time.sleep(0.1)\n"
        "    if str(file).endswith('poison.wav'):\n"
        "        os.kill(os.getpid(), 9)\n"
        "    opened(self, file, *rest, **named)\n"
        "soundfile.SoundFile.__init__ = slowly\n",
        encoding="utf-8",
    )
    path = os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def workers_of(pid: int) -> list[int]:
    """The process IDs of the workers that label in the command's cluster."""
    return [one for one, name in family(pid).items() if name.startswith("ray::") and "RayWorker" in name]


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def label(folder: Path, bundle: Bundle, out: Path, *options: object) -> list[object]:
    return ["label", folder, "--model", bundle.path, "--out", out, *options]


def ended(process: subprocess.Popen[str], code: int) -> tuple[str, str]:
    """Wait until the command has ended with this code and without leaving a process; returns stdout and stderr."""
    started = list(family(process.pid))
    out, err = process.communicate(timeout=200)
    assert process.returncode == code, err
    until(lambda: not any(map(lives, started)), "the end of the cluster", 90)
    return out, err


def test_after_a_worker_is_killed_each_file_has_one_row_and_no_file_is_missing(
    folder: Path, bundle: Bundle, tmp_path: Path, slow_reading: dict[str, str]
) -> None:
    alone, together = tmp_path / "alone.jsonl", tmp_path / "together.jsonl"
    assert main(list(map(str, label(folder, bundle, alone)))) == 3
    soundfile.write(folder / "poison.wav", babble(0.5), SAMPLE_RATE)
    with command(*label(folder, bundle, together, "--ray", "--jobs", 2), env=slow_reading) as process:
        until(lambda: together.exists() and len(rows(together)) >= 4, "the first rows")
        labelling = workers_of(process.pid)
        assert len(labelling) == 2
        os.kill(labelling[0], signal.SIGKILL)
        out, err = ended(process, 3)
    assert "40 of 42 files labelled" in out and "times real time" in out
    assert "bad.wav: not a readable audio file" in err and "poison.wav: the process that read it died" in err
    table = rows(together)
    assert Counter(row["file"] for row in table).most_common(1)[0][1] == 1
    (poison,) = [row for row in table if row["file"] == "poison.wav"]
    assert "6 times" in poison["error"]
    by_file = {row["file"]: row for row in table if row is not poison}
    assert by_file == {row["file"]: row for row in rows(alone)}


def test_a_run_on_ray_continues_a_table_and_gives_the_table_of_one_process(
    folder: Path, bundle: Bundle, tmp_path: Path
) -> None:
    alone, together = tmp_path / "alone.csv", tmp_path / "together.csv"
    assert main(list(map(str, label(folder, bundle, alone, "--utterances")))) == 3
    whole = alone.read_bytes()
    together.write_bytes(b"".join(whole.splitlines(keepends=True)[:10]))
    with command(*label(folder, bundle, together, "--utterances", "--ray", "--jobs", 2)) as process:
        out, _ = ended(process, 3)
    assert "of them before" in out
    assert together.read_bytes() == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_a_signal_ends_leaves_no_process_and_complete_rows(
    folder: Path, bundle: Bundle, tmp_path: Path, slow_reading: dict[str, str], number: signal.Signals
) -> None:
    out = tmp_path / "labels.jsonl"
    with command(*label(folder, bundle, out, "--ray", "--jobs", 2), env=slow_reading) as process:
        until(lambda: out.exists() and len(rows(out)) >= 2, "the first rows")
        started = list(family(process.pid))
        if number == signal.SIGKILL:
            process.kill()
        else:
            os.killpg(process.pid, number)  # signal the whole process group, as a terminal does
        _, err = ended(process, {signal.SIGINT: 130, signal.SIGTERM: 143}.get(number, -9))
        assert number == signal.SIGKILL or err.endswith("streamser: stopped\n")
    until(lambda: not any(map(lives, started)), "the end of the cluster", 90)
    assert 2 <= len(rows(out)) < 41
