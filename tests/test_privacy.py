"""No command writes audio or connects to another machine without the option for it, as traces at run time show."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import aiohttp
import numpy as np
import pytest
import soundfile
from makers import babble, silence
from tracing import Trace, audited, read_audit, read_strace, strace_works, straced

import streamser
from streamser.bundle import Bundle
from streamser.stream.audiofiles import AUDIO_SUFFIXES

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")]

Command = Callable[..., list[str]]
KINDS = [
    pytest.param(audited, read_audit, id="audit hook"),
    pytest.param(
        straced,
        read_strace,
        id="strace",
        marks=pytest.mark.skipif(not strace_works(), reason="strace is not installed, or may not trace"),
    ),
]
AUDIO = np.concatenate([silence(0.4), babble(1.2, 1), silence(0.7)])


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "talk.wav"
    soundfile.write(path, AUDIO, 16_000)
    return path


def run(command: Sequence[str], client: Callable[[str], None] | None = None) -> None:
    """Run a command to its end. For a server, call the client with its first line, then stop the server."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    guard = threading.Timer(120, process.kill)
    guard.start()
    try:
        assert process.stderr is not None
        if client is not None:
            for line in process.stderr:
                if "serving" in line:
                    client(line)
                    break
            # strace does not forward signals to the traced process
            pid = process.pid if "strace" not in command[0] else int(_child_of(process.pid))
            os.kill(pid, signal.SIGTERM)
        stderr = process.stderr.read()
        assert process.wait() == 0, stderr
    finally:
        guard.cancel()
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def _child_of(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]


def speak_to_server(line: str) -> None:
    url = re.search(r"http://\S+/", line)
    assert url

    async def speak() -> None:
        data = (AUDIO * 32767).astype("<i2").tobytes()
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(url[0] + "ws/stream?sample_rate=16000") as ws:
                for first in range(0, len(data), 6400):
                    await ws.send_bytes(data[first : first + 6400])
                await ws.send_json({"type": "end"})
                assert [message async for message in ws]
            async with session.get(url[0]) as page:
                assert page.status == 200

    asyncio.run(speak())


def speak_to_wyoming(line: str) -> None:
    pytest.importorskip("wyoming", reason="the extra wyoming is not installed")
    from wyoming.audio import AudioChunk, AudioStop
    from wyoming.client import AsyncClient

    uri = re.search(r"tcp://[\d.:]+", line)
    assert uri

    async def speak() -> None:
        async with AsyncClient.from_uri(uri[0]) as client:
            await client.write_event(AudioChunk(16_000, 2, 1, (AUDIO * 32767).astype("<i2").tobytes()).event())
            await client.write_event(AudioStop().event())
            event = await client.read_event()
            assert event is not None and event.type == "emotion"

    asyncio.run(speak())


def audio_files(trace: Trace) -> list[Path]:
    return sorted(path for path in trace.written if path.suffix.lower() in (*AUDIO_SUFFIXES, ".raw", ".npy", ".npz"))


class Case(NamedTuple):
    """A command, the client that uses it, and the names of the files that it may write."""

    words: list[str]
    client: Callable[[str], None] | None
    writes: list[str]


@pytest.mark.parametrize(("command", "read"), KINDS)
@pytest.mark.parametrize(
    "case",
    [
        Case(["replay", "{talk}", "--plain"], None, []),
        Case(
            ["replay", "{talk}", "--jsonl", "{tmp}/out.jsonl", "--out", "{tmp}/out.vtt"], None, ["out.jsonl", "out.vtt"]
        ),
        Case(["label", "{tmp}/in", "--out", "{tmp}/labels.csv"], None, ["labels.csv"]),
        Case(["models"], None, []),
        Case(["serve", "--port", "0"], speak_to_server, []),
        Case(["wyoming", "--uri", "tcp://127.0.0.1:0"], speak_to_wyoming, []),
    ],
    ids=lambda case: case.words[0],
)
def test_a_command_writes_only_the_requested_files_and_connects_to_no_other_machine(
    command: Command,
    read: Callable[[Path], Trace],
    case: Case,
    bundle: Bundle,
    talk: Path,
    tmp_path: Path,
) -> None:
    words, client, writes = case
    filled = [word.format(talk=talk, tmp=tmp_path) for word in words]
    model = [] if words[0] == "models" else ["--model", str(bundle.path)]
    run(command(tmp_path, *filled, *model), client)
    trace = read(tmp_path)
    assert trace.connections == []
    assert audio_files(trace) == []
    stored = {path.name for path in trace.written if path.is_file() and path.name not in ("audit.jsonl", "strace.txt")}
    assert {name.removesuffix(".lock").strip(".") for name in stored} <= {*writes}
    for name in writes:
        assert (tmp_path / name).stat().st_size > 0


@pytest.mark.parametrize(("command", "read"), KINDS)
def test_the_trace_detects_a_requested_recording(
    command: Command, read: Callable[[Path], Trace], bundle: Bundle, tmp_path: Path
) -> None:
    words = ["serve", "--port", "0", "--model", str(bundle.path), "--record", str(tmp_path / "audio")]
    run(command(tmp_path, *words), speak_to_server)
    (path,) = audio_files(read(tmp_path))
    assert path.parent == tmp_path / "audio"


def test_onnx_runtime_stores_no_telemetry(bundle: Bundle, talk: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    away = {"HOME": str(home), "XDG_CACHE_HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_STATE_HOME": str(home)}
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    command = [sys.executable, "-m", "streamser", "replay", str(talk), "--plain", "--model", str(bundle.path)]
    subprocess.run(command, env={**environment, **away}, check=True, capture_output=True)
    assert list(home.rglob("*")) == []


def test_onnx_runtime_is_imported_in_one_file_only() -> None:
    package = Path(streamser.__file__).parent
    importing = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"^\s*(import|from) onnxruntime\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert importing == ["ort.py"]


def test_the_trace_detects_a_connection_to_another_machine(tmp_path: Path) -> None:
    (tmp_path / "strace.txt").write_text(
        '1 connect(3, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("192.0.2.1")}, 16) = -1 EINPROGRESS\n'
        '1 connect(3, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("127.0.0.1")}, 16) = 0\n'
        '1 openat(AT_FDCWD, "/tmp/x.wav", O_RDWR|O_CREAT|O_EXCL, 0600) = 4\n'
    )
    trace = read_strace(tmp_path)
    assert (trace.connections, trace.written) == (["192.0.2.1"], {Path("/tmp/x.wav")})
