"""Check and measure streamser on a CUDA device; see tools/gpu_check.sh.

The parts run in groups. Each group is a process with a time limit. If a part fails, its error is written to the JSON,
and the other parts still run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

GROUPS = {"equality": 85, "speed": 112, "training": 38}
"""Time limit of each group in seconds; together under four minutes."""
TOLERANCE = 1e-3
P99_MS = 50.0
GOAL_STREAMS = 20_000


class Check:
    """Shared by the parts of a group: device, size of the measurements, deadline and results."""

    def __init__(self, small: bool, limit_s: float, out: Path, only: str = "") -> None:
        self.small = small
        self.only = re.compile(only)
        self.device = "cpu" if small else "cuda"
        self.end_s = time.monotonic() + limit_s
        self.results: dict[str, Any] = {}
        self._out = out

    def attempt(self, name: str, call: Callable[..., dict[str, Any]], *args: Any, into: str = "") -> None:
        """Store the call's result or error under `name` (in the group of results `into`), and write the file.

        Parts that `only` does not match are left out.
        """
        if not self.only.search(f"{into} {name}".strip()):
            return
        place = self.results.setdefault(into, {}) if into else self.results
        started = time.monotonic()
        try:
            place[name] = call(*args)
        except BaseException as error:
            place[name] = failure(error)
        place[name]["took_s"] = round(time.monotonic() - started, 1)
        self._out.write_text(json.dumps(self.results))

    def left_s(self) -> float:
        return self.end_s - time.monotonic()

    def models(self) -> list[str]:
        from streamser.bundle import DEFAULT_MODEL

        return list(dict.fromkeys([DEFAULT_MODEL, "lightsernet"]))


def recordings(count: int = 6) -> list[np.ndarray]:
    """Synthetic voices of different lengths: harmonics of varying pitch, in noise."""
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        seconds = (0.4, 1.1, 2.7, 3.0, 4.6, 8.2)[seed % 6]
        t = np.arange(round(16_000 * seconds)) / 16_000
        phase = 2 * np.pi * np.cumsum(110 + 40 * seed + 30 * np.sin(2 * np.pi * (0.7 + 0.2 * seed) * t)) / 16_000
        voice = sum(np.sin(k * phase) / k for k in range(1, 20)) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t))
        found.append((0.05 * (voice + 0.3 * rng.standard_normal(len(t)))).astype(np.float32))
    return found


def percentiles(ms: Sequence[float]) -> dict[str, float]:
    return {f"p{q}_ms": round(float(np.percentile(ms, q)), 3) for q in (50, 95, 99)}


def timed(call: Callable[[], object], seconds: float) -> dict[str, float]:
    """Percentiles of the call's duration in milliseconds, after five calls that are not counted."""
    for _ in range(5):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 20 or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        times.append((time.perf_counter() - started) * 1000)
    return percentiles(times)


# --- group equality


def versions(check: Check) -> dict[str, Any]:
    import torch

    from streamser.ort import onnxruntime

    found: dict[str, Any] = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "cpus": os.cpu_count(),
    }
    if check.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {"device": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)}
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return found


def engines_agree(check: Check, name: str) -> dict[str, Any]:
    """Compare the logits of whole recordings: ONNX Runtime on the CPU with torch on the device."""
    from streamser.recognizer import load

    cpu, device = load(name, "cpu", engine="onnx"), load(name, check.device, engine="torch")
    expected, (logits, embeddings) = cpu.logits_and_embeddings(recordings()), device.logits_and_embeddings(recordings())
    worst = float(np.abs(expected[0] - logits).max())
    same_shape = expected[1].shape == embeddings.shape
    return {
        "logits_differ": worst,
        "embeddings_differ": float(np.abs(expected[1] - embeddings).max()) if same_shape else None,
        "logits_vary": float(np.ptp(expected[0], axis=0).max()),  # equality of constant logits would prove little
        "within_1e-3": worst <= TOLERANCE,
    }


def streams_agree(check: Check, name: str, tf32: bool) -> dict[str, Any]:
    """Compare the logits after every chunk: batched steps on the device with the CPU (step graph, or whole windows)."""
    from streamser.bundle import load_bundle
    from streamser.engines.devicestreams import DeviceStreams
    from streamser.engines.onnx import OnnxEngine
    from streamser.features import FrontEnd, cut_window

    bundle = load_bundle(name)
    config, engine, count = bundle.features, OnnxEngine(bundle), 12
    voices = [np.resize(recordings()[n % 6], 16_000 * 5) * np.float32(0.3 + 0.1 * n) for n in range(count)]
    many = DeviceStreams(bundle, check.device, count, sizes=(1, 8), tf32=tf32)
    slots = np.arange(count)
    many.begin(slots)
    tracks = [None if engine.steps is None else engine.steps.track() for _ in voices]
    front_ends = [FrontEnd(config) for _ in voices]
    windows = [np.zeros((0, config.bins), np.float32) for _ in voices]
    worst, given, fed = 0.0, 0, 0
    seen = []
    for step in range(4 if check.small else 14):
        chunk = many.chunks[min(step, 1)]
        at = given * config.hop_samples
        end = at + many.samples(chunk)
        logits, _ = many.step(slots, np.stack([voice[at:end] for voice in voices]))
        given += chunk
        for n, voice in enumerate(voices):
            frames, track = front_ends[n].feed(voice[fed:end]), tracks[n]
            if track is not None:
                track.feed(frames)
                expected = track.scores().logits[0]
            else:
                windows[n] = np.concatenate([windows[n], frames])[-config.window_frames :]
                expected = engine.run(cut_window(windows[n], 0, config)[None])[0][0]
            worst = max(worst, float(np.abs(expected - logits[n]).max()))
            seen.append(expected)
        fed = end
    vary = float(np.ptp(np.stack(seen), axis=0).max())
    return {"logits_differ": worst, "logits_vary": vary, "within_1e-3": worst <= TOLERANCE}


def falls_back(check: Check) -> dict[str, Any]:
    """With almost no memory left on the device, the recognizer must fall back to the CPU, with the same predictions."""
    from streamser.recognizer import load

    cpu = load("lightsernet", "cpu", engine="onnx")
    if check.small:
        return {"skipped": "needs a CUDA device"}
    import torch

    recognizer = load("lightsernet", "auto")
    before = recognizer.metrics()
    many = [np.resize(audio, 16_000 * 60) for audio in recordings()]
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.001)
    try:
        logits = recognizer.logits(many)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    after = recognizer.metrics()
    difference = float(np.abs(logits - cpu.logits(many)).max())
    fell = before["engine"] == "torch" and after["engine"] == "onnx" and after["fallback"] is not None
    return {"before": before, "after": after, "logits_differ": difference, "ok": fell and difference <= TOLERANCE}


# --- group speed


def latency(check: Check, name: str) -> dict[str, Any]:
    """Latency at batch size 1: a window on the CPU and on the device, and a chunk of a stream on the device."""
    from streamser.bundle import load_bundle
    from streamser.engines.devicestreams import DeviceStreams
    from streamser.recognizer import load

    seconds = 0.2 if check.small else 1.0
    bundle = load_bundle(name)
    cpu, device = load(name, "cpu", engine="onnx"), load(name, check.device, engine="torch")
    length_s = min(3.0, bundle.features.length_s) if check.small else bundle.features.length_s
    window = np.resize(recordings()[3], round(16_000 * length_s))
    found = {
        "window_onnx_cpu": timed(lambda: cpu.predict(window), seconds),
        f"window_torch_{check.device}": timed(lambda: device.predict(window), seconds),
    }
    many = DeviceStreams(bundle, check.device, 4, sizes=(1,))
    slot, audio = np.array([1]), np.resize(window, (1, many.samples(many.chunks[1]))).astype(np.float32)
    return {**found, f"chunk_{check.device}": timed(lambda: many.step(slot, audio), seconds)}


def kernels(check: Check, name: str) -> dict[str, Any]:
    """The device's kernels in a step of many streams, and the milliseconds that they take in one step."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from streamser.bundle import load_bundle
    from streamser.engines.devicestreams import DeviceStreams

    batch, rounds = (4, 2) if check.small else (1024, 5)
    many = DeviceStreams(load_bundle(name), check.device, batch, sizes=(batch,), takes="pcm16")
    slots, size = np.arange(batch), many.samples(many.chunks[1])
    audio = (np.resize(recordings()[3], (batch, size)) * 32767).astype(np.int16)
    many.step(slots, audio)
    kind = ProfilerActivity.CPU if check.small else ProfilerActivity.CUDA
    with profile(activities=[kind]) as measured:
        for _ in range(rounds):
            many.step(slots, audio)
        synchronize(torch.device(check.device))
    spent = {
        event.key[:120]: (event.self_cpu_time_total if check.small else event.self_device_time_total) / rounds / 1000
        for event in measured.key_averages()
    }
    slowest = sorted(spent.items(), key=lambda item: -item[1])[:25]
    return {
        "batch": batch,
        "all_ms": round(sum(spent.values()), 3),
        "slowest_ms": {key: round(ms, 3) for key, ms in slowest},
    }


def capacity(check: Check, name: str, tf32: bool, limit: int = 100_000) -> dict[str, Any]:
    """Find how many live streams a device serves at once with at most 50 ms (p99) from a chunk to its scores."""
    import torch

    from streamser.bundle import load_bundle
    from streamser.engines.devicestreams import DeviceStreams

    bundle = load_bundle(name)
    sizes = (1, 4) if check.small else (1, 64, 256, 512, 1024, 2048)
    probe = DeviceStreams(bundle, check.device, 1, sizes=(1,))
    each = probe.state_bytes
    del probe
    most = 16
    if check.device == "cuda":
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        most = int(min(limit, 0.5 * free / each))
    many = DeviceStreams(bundle, check.device, most, sizes=sizes, takes="pcm16", tf32=tf32)
    chunk = many.chunks[1]
    chunk_s = chunk * bundle.features.hop_s
    size = many.samples(chunk)
    voice = np.resize(np.concatenate(recordings()), (sizes[-1] + 64, size))
    pool = np.clip(voice * 32767, -32768, 32767).astype(np.int16)
    begun = np.arange(most)
    for first in range(0, most, 1024):
        many.begin(begun[first : first + 1024])
    per_size = {}
    for batch in sizes:  # the first launch of each size captures its CUDA graph
        slots = np.arange(batch) % most
        per_size[str(batch)] = timed(lambda b=batch, s=slots: many.launch(s, pool[:b]).result(), 0.2)
    full = min(sizes[-1], most)
    started, rounds = time.perf_counter(), 0
    pending = None
    while time.perf_counter() - started < (0.3 if check.small else 1.0):
        following = many.launch((np.arange(full) + rounds * full) % most, pool[:full])
        if pending is not None:
            pending.result()
        pending, rounds = following, rounds + 1
    if pending is not None:
        pending.result()
    per_s = rounds * full / (time.perf_counter() - started)
    estimate = int(per_s * chunk_s)
    result: dict[str, Any] = {
        "chunk_ms": round(chunk_s * 1000, 1),
        "state_bytes_per_stream": each,
        "room_for_streams": most,
        "step_by_batch": per_size,
        "chunks_per_s": round(per_s),
        "streams_by_throughput": estimate,
        "tried": {},
        "streams_at_p99_50ms": 0,
    }
    for share in (0.9, 0.75, 0.55, 0.35, 0.15):
        count = max(1, min(most, int(share * estimate)))
        if str(count) in result["tried"] or check.left_s() < 5:
            continue
        tried = simulate(many, pool, count, chunk_s, 0.6 if check.small else 2.0)
        result["tried"][str(count)] = tried
        if tried["p99_ms"] <= P99_MS:
            result["streams_at_p99_50ms"] = count
            break
    result["reaches_20000"] = result["streams_at_p99_50ms"] >= GOAL_STREAMS
    return result


def simulate(many: Any, pool: np.ndarray, count: int, chunk_s: float, seconds: float) -> dict[str, float]:
    """Serve `count` streams that all speak without pause, with chunks spread evenly over time.

    Returns percentiles of the milliseconds from the arrival of a chunk to its scores.
    """
    largest = many._sizes[-1]
    waits: list[np.ndarray] = []
    pending: tuple[Any, int, int] | None = None
    served = batches = 0
    started = time.perf_counter()

    def finish(entry: tuple[Any, int, int]) -> None:
        entry[0].result()
        now = time.perf_counter() - started
        if now > 0.2 * seconds:  # leave out the start, before the queue reaches its steady state
            waits.append((now - np.arange(entry[1] + 1, entry[2] + 1) / count * chunk_s) * 1000)

    while (now := time.perf_counter() - started) < seconds:
        due = int(now / chunk_s * count)
        if due > served:
            end = min(due, served + largest)
            entry = (many.launch(np.arange(served, end) % count, pool[: end - served]), served, end)
            served, batches = end, batches + 1
            if pending is not None:
                finish(pending)
            pending = entry
        elif pending is not None:
            finish(pending)
            pending = None
        else:
            time.sleep(min(0.0005, chunk_s / count))
    if pending is not None:
        finish(pending)
    return {**percentiles(np.concatenate(waits).tolist()), "batches": batches, "chunks": served}


# --- group training


def training(check: Check, name: str, precision: str) -> dict[str, Any]:
    """Clips per second of a training step, or of the encoder alone if it is frozen."""
    import torch
    from torch.nn import functional as F

    from streamser.bundle import load_bundle
    from streamser.nets import zoo

    device, bundle = torch.device(check.device), load_bundle(name)
    batch, seconds = (4, 0.3) if check.small else (256, 2.0)
    torch.manual_seed(0)
    net = zoo.build(bundle.variant, len(bundle.labels)).to(device).train()
    frames = torch.randn(batch, bundle.features.window_frames, bundle.features.bins, device=device)
    labels = torch.arange(batch, device=device) % len(bundle.labels)
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad])

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            if net.needs_start:
                with torch.inference_mode():
                    net.encode(frames)
                return
            loss = F.cross_entropy(net(frames).logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    kind = "ieee" if precision == "fp32" else "tf32"
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=True, deterministic=False, allow_tf32=kind == "tf32", fp32_precision=kind
    ):
        for _ in range(3):
            step()
        synchronize(device)
        started, steps = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            for _ in range(1 if check.small else 5):
                step()
                steps += 1
            synchronize(device)
        took = time.perf_counter() - started
    torch.set_float32_matmul_precision("highest")
    what = "frozen encoder" if net.needs_start else "training step"
    return {"what": what, "clips_per_s": round(steps * batch / took), "batch": batch}


def synchronize(device: Any) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


# --- running the groups


def run_group(group: str, check: Check) -> None:
    """Run the group's parts, the most important first."""
    precisions = ("fp32",) if check.small else ("fp32", "tf32")
    if group == "equality":
        from streamser.bundle import find_models

        check.attempt("versions", versions, check)
        for name in find_models():
            check.attempt(name, engines_agree, check, name, into="engines_agree")
        for name in check.models():
            for precision in precisions:
                label = f"{name} {precision}"
                check.attempt(label, streams_agree, check, name, precision == "tf32", into="streams_agree")
        check.attempt("falls_back", falls_back, check)
    elif group == "speed":
        for name in check.models():
            check.attempt(name, latency, check, name, into="latency")
            check.attempt(name, kernels, check, name, into="kernels")
        for name in check.models():
            for precision in precisions:
                label = f"{name} {precision}"
                check.attempt(label, capacity, check, name, precision == "tf32", into="streams")
                # Try again with fewer streams, which need less memory.
                if "error" in check.results.get("streams", {}).get(label, ()) and check.left_s() > 20:
                    args = (check, name, precision == "tf32", 8_000)
                    check.attempt(f"{label}, 8000 at most", capacity, *args, into="streams")
    else:
        for name in check.models():
            for precision in (*precisions, "bf16"):
                check.attempt(f"{name} {precision}", training, check, name, precision, into="training")


def failure(error: BaseException) -> dict[str, Any]:
    return {"error": f"{type(error).__name__}: {error}"[:2000], "trace": traceback.format_exc()[-3000:]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, default=Path("gpu_check.json"))
    parser.add_argument("--small", action="store_true", help="a short trial on the CPU")
    parser.add_argument("--group", choices=list(GROUPS), help="one group only, in this process")
    parser.add_argument(
        "--only", default="", metavar="REGEX", help="only the parts that match, as 'streams whisper fp32'"
    )
    args = parser.parse_args()
    if args.group:
        run_group(args.group, Check(args.small, GROUPS[args.group] - 8, args.out, args.only))
        return 0
    results: dict[str, Any] = {"small": args.small, "began": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    started = time.monotonic()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for group, limit_s in GROUPS.items():
        part_of = args.out.with_name(f".{args.out.name}.{group}")
        command = [sys.executable, __file__, str(part_of), "--group", group, "--only", args.only]
        command += ["--small"] if args.small else []
        reason = ""
        try:
            done = subprocess.run(command, timeout=limit_s, capture_output=True, text=True, check=False)
            reason = done.stderr[-2000:] if done.returncode else ""
        except subprocess.TimeoutExpired as error:
            reason = f"stopped after {limit_s} s; {(error.stderr or b'')[-1500:]!r}"
        results[group] = json.loads(part_of.read_text()) if part_of.exists() else {}
        part_of.unlink(missing_ok=True)
        if reason:
            results[group]["stopped"] = reason
        results["took_s"] = round(time.monotonic() - started, 1)
        args.out.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{group}: {results['took_s']} s", flush=True)
    print(args.out.read_text())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
