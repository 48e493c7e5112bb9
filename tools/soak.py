"""Run a server under load for hours, measure it, and plot the measurements.

    python tools/soak.py --minutes 60 --out soak/
    python tools/soak.py --minutes 2 --out soak/ --mic       # with a virtual microphone (tools/virtual_mic.sh)

A server and a Wyoming service run in separate processes. Clients of every kind come and go: one WebSocket stream that
lasts to the end, others that end, close early or abort the connection, Wyoming satellites, uploads, paced replays, and
a microphone. Their audio contains speech, silence, noise, clipping and level jumps, at several sample rates. Each final
is compared with the final of the same audio without a server. The exit code is 1 after any fault: a final that is
missing, wrong or repeated, memory that grows after the warm-up, a thread or a file handle that is left, a clock that
drifts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import soundfile
from soak_audio import Message, TestAudio, is_final, make_test_audio, plain
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient

import streamser
from streamser.samples import find_samples

BLOCK_S = 0.02
SAMPLE_S = 1.0  # time between two measurements of the processes
DEADLINE_S = 60.0
START_S = 300.0  # long, since a loaded machine imports slowly
GROWTH_MB = 24.0  # allowed growth of memory from the second to the last quarter: malloc arenas of a few more threads


# --- the record


@dataclass
class Record:
    """Everything that the soak counts and measures."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    rows: list[dict[str, float]] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    drift_s: float = 0.0

    def compare(self, kind: str, got: Sequence[Message], expected: Sequence[Message]) -> None:
        """Count the finals of a stream and compare them with the expected ones; a difference is a fault."""
        self.counts[f"{kind} streams"] += 1
        self.counts["finals"] += len(got)
        if kind in ("websocket", "wyoming"):  # only these clients send in real time to a server
            self.latencies_ms += [message["latency_ms"] for message in got]
        if [plain(message) for message in got] != list(expected):
            self.fault(f"{kind}: {len(got)} finals, which differ from the {len(expected)} that the audio gives")

    def check_order(self, kind: str, messages: Sequence[Message]) -> None:
        """For a stream whose finals are not known: each utterance that ended must have exactly one final, in order."""
        seen = [(m["type"], m["utterance"]) for m in messages if m["type"] in ("speech_started", "speech_ended")]
        ended = [number for what, number in seen if what == "speech_ended"]
        finals = [m["utterance"] for m in messages if is_final(m)]
        self.counts[f"{kind} utterances"] += len(ended)
        self.counts["finals"] += len(finals)
        if finals[: len(ended)] != ended or len(set(finals)) != len(finals):
            self.fault(f"{kind}: finals {finals[-5:]} for utterances {ended[-5:]}")

    def fault(self, text: str) -> None:
        self.faults.append(text)
        print(f"soak: FAULT {text}", file=sys.stderr, flush=True)


# --- clients


async def send_paced(send: Callable[[bytes], Awaitable[object]], audio: TestAudio, until_s: float = 1e9) -> None:
    """Send each block when its last sample is due, as a microphone does. Stop after `until_s` seconds of audio."""
    loop, size = asyncio.get_running_loop(), round(BLOCK_S * audio.rate) * 2 * audio.channels
    began = loop.time()
    for number, first in enumerate(range(0, len(audio.pcm), size), 1):
        if number * BLOCK_S > until_s:
            return
        await asyncio.sleep(max(0.0, began + number * BLOCK_S - loop.time()))
        await send(audio.pcm[first : first + size])


async def read_all(ws: aiohttp.ClientWebSocketResponse, messages: list[Message]) -> None:
    messages += [json.loads(raw.data) async for raw in ws if raw.type is aiohttp.WSMsgType.TEXT]


async def visit(session: aiohttp.ClientSession, url: str, audio: TestAudio, rng: random.Random, record: Record) -> None:
    """Run one WebSocket client, which ends its stream, closes the connection early or aborts it."""
    manner = rng.choices(["ends", "leaves", "vanishes"], [8, 1, 1])[0]
    async with session.ws_connect(url + "ws/stream") as ws:
        messages: list[Message] = []
        reading = asyncio.create_task(read_all(ws, messages))
        hello = {"type": "hello", "sample_rate": audio.rate, "channels": audio.channels}
        await ws.send_json({**hello, "partials": rng.random() < 0.7})
        await send_paced(ws.send_bytes, audio, 1e9 if manner == "ends" else rng.uniform(0.5, 4))
        if manner == "ends":
            await ws.send_json({"type": "end"})
            await asyncio.wait_for(reading, DEADLINE_S)
            record.compare("websocket", [message for message in messages if is_final(message)], audio.finals)
            return
        record.counts[f"clients that {manner}"] += 1
        if manner == "vanishes":
            assert ws._response.connection is not None and ws._response.connection.transport is not None
            ws._response.connection.transport.abort()
        reading.cancel()


async def stay(
    session: aiohttp.ClientSession, url: str, pieces: Sequence[TestAudio], stop: asyncio.Event, record: Record
) -> None:
    """Run one WebSocket client that stays to the end and sometimes reports a gap of 0.1 s."""
    rng, sent = random.Random(1), 0.0
    async with session.ws_connect(url + "ws/stream") as ws:
        messages: list[Message] = []
        reading = asyncio.create_task(read_all(ws, messages))
        await ws.send_json({"type": "hello", "sample_rate": 16_000, "stream": "steady", "status_ms": 5000})
        mono = [audio for audio in pieces if (audio.rate, audio.channels) == (16_000, 1)]
        while not stop.is_set():
            audio = rng.choice(mono)
            await send_paced(ws.send_bytes, audio)
            sent += audio.duration_s
            if rng.random() < 0.3:
                await ws.send_json({"type": "gap", "samples": 1600})
                sent += 0.1
        await ws.send_json({"type": "end"})
        await asyncio.wait_for(reading, DEADLINE_S)
    record.check_order("steady", messages)
    record.drift_s = messages[-1]["end_s"] - sent
    if messages[-1]["type"] != "stream_ended" or abs(record.drift_s) > 0.001:
        record.fault(f"steady: ended with {messages[-1]} after {sent:.3f} s of audio")


async def ask_wyoming(uri: str, audio: TestAudio, record: Record) -> None:
    """Run a Wyoming satellite, which sends one piece of audio from audio-start to audio-stop."""
    async with AsyncClient.from_uri(uri) as client:
        await client.write_event(AudioStart(audio.rate, 2, audio.channels).event())

        async def send(block: bytes) -> None:
            await client.write_event(AudioChunk(audio.rate, 2, audio.channels, block).event())

        await send_paced(send, audio)
        await client.write_event(AudioStop().event())
        received = []
        while (event := await asyncio.wait_for(client.read_event(), DEADLINE_S)) and event.type != "emotion-end":
            received.append(event.data)
        record.compare("wyoming", received, audio.finals)


async def upload(session: aiohttp.ClientSession, url: str, audio: TestAudio, record: Record) -> None:
    async with session.post(url + "v1/label", data=io.BytesIO(audio.wav())) as response:
        events = (await response.json())["events"]
        record.compare("upload", [event for event in events if is_final(event)], audio.finals)


async def replay(model: str, audio: TestAudio, folder: Path, record: Record) -> None:
    """Replay a piece of audio in real time, in a separate process."""
    path = folder / f"replay-{id(audio)}.wav"
    path.write_bytes(audio.wav())
    command = [sys.executable, "-m", "streamser", "replay", str(path), "--speed", "1", "--jsonl", "--model", model]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    out, _ = await process.communicate()
    events = [json.loads(line) for line in out.splitlines()]
    record.compare("replay", [event for event in events if is_final(event)], audio.finals)


async def listen(session: aiohttp.ClientSession, url: str, stop: asyncio.Event, record: Record) -> None:
    """Record the events of the server's own microphone, and check their order at the end."""
    messages: list[Message] = []
    async with session.ws_connect(url + "ws/events") as ws:
        reading = asyncio.create_task(read_all(ws, messages))
        await stop.wait()
        await ws.close()
        await reading
    started = next((m["utterance"] for m in messages if m["type"] == "speech_started"), 0)
    record.check_order("microphone", [m for m in messages if m.get("utterance", started) >= started])


# --- the processes


@dataclass
class Watched:
    """A process under load, with the address that it has logged."""

    name: str
    process: subprocess.Popen[str]
    address: str

    def look(self) -> dict[str, float]:
        """Memory, threads and file handles now."""
        root = Path(f"/proc/{self.process.pid}")
        status = dict(line.split(":", 1) for line in (root / "status").read_text().splitlines() if ":" in line)
        return {
            f"{self.name}_memory_mb": int(status["VmRSS"].split()[0]) / 1024,
            f"{self.name}_threads": int(status["Threads"]),
            f"{self.name}_handles": sum(1 for _ in (root / "fd").iterdir()),
        }


@contextlib.contextmanager
def started(name: str, folder: Path, *words: str, env: dict[str, str]) -> Iterator[Watched]:
    """Run a server process; at the end it gets SIGTERM and must exit with code 0."""
    log = folder / f"{name}.log"
    with log.open("w") as file:
        command = [sys.executable, "-m", "streamser", "--log-level", "info", "--log-json", *words]
        process = subprocess.Popen(command, stderr=file, stdout=subprocess.DEVNULL, text=True, env=env)
    try:
        deadline = time.monotonic() + START_S
        while not (found := re.search(r"serving \S+ at ([a-z]+://[^; ]+)", log.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield Watched(name, process, found[1])
        process.terminate()
        assert process.wait(30) == 0, f"{name} ended with {process.returncode}"
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def microphone(pieces: Sequence[TestAudio], folder: Path, wanted: bool) -> Iterator[dict[str, str]]:
    """Environment variables for a virtual microphone that repeats the pieces; the present ones if not `wanted`."""
    if not wanted:
        yield dict(os.environ)
        return
    tool = str(Path(__file__).parent / "virtual_mic.sh")
    place = tempfile.mkdtemp(prefix="vmic-")
    printed = subprocess.run(["bash", tool, "start", place], capture_output=True, text=True, check=True).stdout
    env = {**os.environ, **dict(word.split("=", 1) for word in printed.split()[1:])}
    path = folder / "microphone.wav"
    mono = [np.frombuffer(audio.pcm, "<i2") for audio in pieces if (audio.rate, audio.channels) == (16_000, 1)]
    soundfile.write(path, np.concatenate(mono), 16_000)
    loop = f'while :; do bash "{tool}" play "{place}" "{path}" stereo; done'
    player = subprocess.Popen(["bash", "-c", loop], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield env
    finally:
        player.kill()
        subprocess.run(["bash", tool, "stop", place], env=env, check=False, capture_output=True)


def server_gauges(url: str) -> dict[str, float]:
    """The numbers of waiting jobs, streams and clients, from /metrics."""
    with urllib.request.urlopen(url + "metrics", timeout=10) as response:
        text = response.read().decode()
    wanted = ("streamser_worker_waiting", "streamser_worker_streams", "streamser_clients")
    return {name: float(found[1]) for name in wanted if (found := re.search(rf"^{name} (\S+)$", text, re.MULTILINE))}


async def watch(processes: Sequence[Watched], stop: asyncio.Event, record: Record) -> None:
    began, url = time.monotonic(), processes[0].address
    while not stop.is_set():
        row = {"minute": (time.monotonic() - began) / 60, **await asyncio.to_thread(server_gauges, url)}
        for process in processes:
            row.update(process.look())
        record.rows.append(row)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), SAMPLE_S)


# --- the soak


async def keep_doing(
    name: str, job: Callable[[], Awaitable[None]], most_pause_s: float, stop: asyncio.Event, record: Record
) -> None:
    """Repeat a job with random pauses until `stop`; an error counts as a fault, and the soak continues."""
    rng = random.Random(name)
    while not stop.is_set():
        try:
            await job()
        except Exception as error:
            record.fault(f"{name}: {type(error).__name__}: {error}")
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), rng.uniform(0, most_pause_s))


async def soak(
    args: argparse.Namespace, pieces: Sequence[TestAudio], processes: Sequence[Watched], folder: Path
) -> Record:
    record, stop, rng = Record(), asyncio.Event(), random.Random(args.seed)
    url, uri = processes[0].address, processes[1].address
    async with aiohttp.ClientSession() as session:
        await asyncio.to_thread(server_gauges, url)
        jobs: list[tuple[str, Callable[[], Awaitable[None]], float]] = [
            *[("websocket", lambda: visit(session, url, rng.choice(pieces), rng, record), 2.0)] * args.clients,
            *[("wyoming", lambda: ask_wyoming(uri, rng.choice(pieces), record), 2.0)] * 2,
            ("upload", lambda: upload(session, url, rng.choice(pieces), record), 20.0),
            ("replay", lambda: replay(args.model, rng.choice(pieces), folder, record), 40.0),
        ]
        tasks = [asyncio.create_task(keep_doing(*job, stop, record)) for job in jobs]
        tasks.append(asyncio.create_task(stay(session, url, pieces, stop, record)))
        if args.mic:
            tasks.append(asyncio.create_task(listen(session, url, stop, record)))
        watching = asyncio.create_task(watch(processes, stop, record))
        await asyncio.sleep(60 * args.minutes)
        stop.set()
        await asyncio.gather(*tasks)
        await watching
    await asyncio.sleep(2)
    record.rows.append({"minute": args.minutes, **server_gauges(url)})
    for process in processes:
        record.rows[-1].update(process.look())
    return record


def figures_of(record: Record, processes: Sequence[Watched]) -> dict[str, Any]:
    """Compute the figures; memory that grew and anything that is left at the end become faults of the record."""
    figures: dict[str, Any] = {**record.counts, "drift_s": record.drift_s}
    rows, last = record.rows[:-1], record.rows[-1]
    quarter = max(1, len(rows) // 4)
    for process in processes:
        memory = [row[f"{process.name}_memory_mb"] for row in rows]
        early, late = np.median(memory[quarter : 2 * quarter]), np.median(memory[-quarter:])
        figures[f"{process.name}: memory in MB, second and last quarter"] = [round(early, 1), round(late, 1)]
        if late - early > GROWTH_MB:
            record.fault(f"{process.name}: memory grew from {early:.0f} to {late:.0f} MB")
        for what in ("threads", "handles"):
            values = [row[f"{process.name}_{what}"] for row in rows]
            figures[f"{process.name}: {what}, most and at the end"] = [max(values), last[f"{process.name}_{what}"]]
            if last[f"{process.name}_{what}"] > values[0] + (6 if what == "threads" else 1):
                record.fault(
                    f"{process.name}: {last[f'{process.name}_{what}']:.0f} {what} at the end, {values[0]:.0f} at first"
                )
    for name in ("streamser_worker_waiting", "streamser_worker_streams", "streamser_clients"):
        figures[f"{name}, most"] = max(row[name] for row in rows)
    if last["streamser_worker_waiting"] or last["streamser_clients"]:
        clients, jobs = last["streamser_clients"], last["streamser_worker_waiting"]
        record.fault(f"at the end {clients:.0f} clients and {jobs:.0f} jobs are left")
    if record.latencies_ms:
        figures["latency of finals in ms, p50 and p95"] = [
            round(float(np.percentile(record.latencies_ms, q))) for q in (50, 95)
        ]
    figures["faults"] = len(record.faults)
    return figures


def draw(record: Record, processes: Sequence[Watched], path: Path) -> None:
    """Plot the measurements over time."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = record.rows[:: max(1, len(record.rows) // 600)]  # about 600 points: the picture cannot show more
    minutes = [row["minute"] for row in rows]
    kinds = {"memory in MB": "memory_mb", "threads": "threads", "file handles": "handles"}
    figure, axes = pyplot.subplots(4, 1, figsize=(9, 9), sharex=True, layout="constrained")
    for axis, (title, what) in zip(axes, kinds.items(), strict=False):
        for process in processes:
            axis.plot(minutes, [row[f"{process.name}_{what}"] for row in rows], label=process.name)
        axis.set_ylabel(title)
        axis.set_ylim(bottom=0)
        axis.legend(loc="lower right")
    for name in ("streamser_worker_waiting", "streamser_clients"):
        axes[3].plot(minutes, [row[name] for row in rows], label=name.removeprefix("streamser_"))
    axes[3].set_ylabel("server")
    axes[3].set_xlabel("minutes")
    axes[3].legend(loc="upper right")
    figure.savefig(path, dpi=80)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the soak; returns exit code 0 if no fault was found, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--out", type=Path, required=True, help="folder for soak.json, soak.csv, soak.png and the logs")
    parser.add_argument("--model", default="lightsernet", help="checkpoint (default: lightsernet)")
    parser.add_argument("--clients", type=int, default=3, help="WebSocket clients that come and go (default: 3)")
    parser.add_argument("--mic", action="store_true", help="the server also listens to a virtual microphone")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that the servers are stopped too
    args.out.mkdir(parents=True, exist_ok=True)
    rng, recognizer = random.Random(args.seed), streamser.load(args.model)
    clips = [streamser.read_audio(sample.path) for sample in find_samples()]
    pieces = [make_test_audio(rng, clips, recognizer) for _ in range(24)]
    with contextlib.ExitStack() as stack:
        env = stack.enter_context(microphone(pieces, args.out, args.mic))
        model = ("--model", args.model)
        serve = ("serve", "--port", "0", *model, *(("--mic",) if args.mic else ()))
        wyoming = ("wyoming", "--uri", "tcp://127.0.0.1:0", *model)
        processes = [
            stack.enter_context(started("serve", args.out, *serve, env=env)),
            stack.enter_context(started("wyoming", args.out, *wyoming, env=env)),
        ]
        record = asyncio.run(soak(args, pieces, processes, args.out))
        figures = figures_of(record, processes)
    draw(record, processes, args.out / "soak.png")
    with (args.out / "soak.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, record.rows[0].keys())
        writer.writeheader()
        writer.writerows({key: round(value, 3) for key, value in row.items()} for row in record.rows)
    (args.out / "soak.json").write_text(
        json.dumps({"minutes": args.minutes, **figures, "said": record.faults}, indent=1)
    )
    print(json.dumps(figures, indent=1))
    return 1 if record.faults else 0


if __name__ == "__main__":
    sys.exit(main())
