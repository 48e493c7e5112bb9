"""`streamser bench`: what a checkpoint costs on this machine, from cold start to a minute of sound."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

from streamser.audio import SAMPLE_RATE, Samples
from streamser.bundle import DEFAULT_MODEL, Bundle, load_bundle
from streamser.cli.tables import table, terminal_width
from streamser.engines import cuda_is_likely
from streamser.errors import EngineError
from streamser.features import FeatureConfig, FrontEnd, extract
from streamser.recognizer import Recognizer, load

_MINUTE_S = 60
_BLOCK = 320  # 20 ms: what a microphone gives at a time
_COLD_STARTS = 3

# What the child of a cold start does: everything from nothing to the first score. Its one line ends the clock.
_CHILD = """
import sys, numpy, streamser
recognizer = streamser.load(sys.argv[1], sys.argv[2], engine=sys.argv[3], threads=int(sys.argv[4]))
recognizer.predict(numpy.ones(round(16_000 * recognizer.features.length_s), numpy.float32) * 0.1)
print(recognizer.metrics()["engine"], flush=True)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL, help=f"name or folder (default: {DEFAULT_MODEL})")
    parser.add_argument("--engine", choices=("all", "onnx", "torch", "cuda"), default="all")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the onnx engine (default: 1)")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each figure is measured (default: 3)")
    parser.add_argument("--json", action="store_true", help="machine-readable")


def run(args: argparse.Namespace) -> int:
    """0 when every engine that was asked for could be measured."""
    bundle = load_bundle(args.model)
    figures = {
        "model": bundle.name,
        "window_s": bundle.features.length_s,
        "window": [bundle.features.window_frames, bundle.features.bins],
        "machine": _machine(),
        "features": _features(bundle.features, args.seconds),
        "engines": [_engine(bundle, *which, args.threads, args.seconds) for which in _which(args.engine)],
    }
    print(json.dumps(figures, indent=2) if args.json else _report(figures))
    return 0


def _which(choice: str) -> list[tuple[str, str]]:
    """(engine, device) pairs: the one asked for, or all that this machine has."""
    pairs = {"onnx": ("onnx", "cpu"), "torch": ("torch", "cpu"), "cuda": ("torch", "cuda")}
    if choice != "all":
        return [pairs[choice]]
    has_torch = find_spec("torch") is not None and find_spec("safetensors") is not None
    there = {"onnx": True, "torch": has_torch, "cuda": has_torch and cuda_is_likely()}
    return [pair for name, pair in pairs.items() if there[name]]


def _features(config: FeatureConfig, seconds: float) -> dict[str, float]:
    """Milliseconds for a second of sound, all at once and in blocks as a microphone gives them."""
    sound = _sound(10.0)
    blocks = np.split(sound, range(_BLOCK, len(sound), _BLOCK))

    def stream() -> None:
        front_end = FrontEnd(config)
        for block in blocks:
            front_end.feed(block)

    whole = _timed(lambda: extract(sound, config), seconds / 2)
    streamed = _timed(stream, seconds / 2)
    return {"whole_ms_per_s": _percentile(whole, 50) / 10, "stream_ms_per_s": _percentile(streamed, 50) / 10}


def _engine(bundle: Bundle, engine: str, device: str, threads: int, seconds: float) -> dict[str, Any]:
    recognizer = load(bundle.path, device, engine=engine, threads=threads)
    config = recognizer.features
    window = _sound(config.length_s)
    frames = extract(window, config)[None, : config.window_frames]
    net = _timed(lambda: recognizer.engine.run(frames), seconds)
    sound = _timed(lambda: recognizer.predict(window), seconds)
    return {
        "engine": engine,
        "device": recognizer.engine.device,
        "threads": threads,
        "window_p50_ms": _percentile(net, 50),
        "window_p95_ms": _percentile(net, 95),
        "sound_p50_ms": _percentile(sound, 50),
        "sound_p95_ms": _percentile(sound, 95),
        "rtf": _rtf(recognizer),
        "cold_start_s": _cold_start(bundle, engine, device, threads),
    }


def _rtf(recognizer: Recognizer) -> float:
    """Seconds of work for a second of sound, on a minute of it."""
    minute = _sound(_MINUTE_S)
    started = time.perf_counter()
    recognizer.predict(minute)
    return (time.perf_counter() - started) / _MINUTE_S


def _cold_start(bundle: Bundle, engine: str, device: str, threads: int) -> float:
    """Seconds from the start of a process to its first score; the median of a few."""
    command = [sys.executable, "-c", _CHILD, str(bundle.path), device, engine, str(threads)]
    times = []
    for _ in range(_COLD_STARTS):
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            first_line = child.stdout.readline()
            times.append(time.perf_counter() - started)
            _, complaint = child.communicate()
        if not first_line:
            raise EngineError(f"cold start of the {engine} engine failed: {complaint.strip().splitlines()[-1:]}")
    return _percentile(times, 50)


def _timed(call: Callable[[], object], seconds: float) -> list[float]:
    """Milliseconds of each call, for so long and at least ten times, the first one not counted."""
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 10 or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        times.append((time.perf_counter() - started) * 1000)
    return times


def _percentile(values: list[float], percent: float) -> float:
    return float(np.percentile(values, percent))


def _sound(seconds: float) -> Samples:
    """A low voice with breath: never silent, and the same in every run."""
    rng = np.random.default_rng(0)
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    voice = sum(np.sin(2 * np.pi * 120 * k * t) / k for k in range(1, 20))
    return (0.05 * (voice + 0.2 * rng.standard_normal(len(t)))).astype(np.float32)


def _machine() -> dict[str, Any]:
    from streamser.ort import onnxruntime

    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def _report(figures: dict[str, Any]) -> str:
    machine, features, (frames, bins) = figures["machine"], figures["features"], figures["window"]
    rows = [
        (
            row["engine"],
            row["device"],
            f"{row['window_p50_ms']:.2f} / {row['window_p95_ms']:.2f} ms",
            f"{row['sound_p50_ms']:.2f} / {row['sound_p95_ms']:.2f} ms",
            f"{row['rtf']:.4f}",
            f"{row['cold_start_s']:.2f} s",
        )
        for row in figures["engines"]
    ]
    header = ("engine", "device", "window p50 / p95", "sound to score p50 / p95", "rtf", "cold start")
    return "\n".join(
        [
            f"{figures['model']}: windows of {figures['window_s']:g} s, {frames} frames x {bins} bins",
            f"{machine['system']}, {machine['cpus']} CPUs, Python {machine['python']}, NumPy {machine['numpy']}, "
            f"ONNX Runtime {machine['onnxruntime']}",
            f"features: {features['whole_ms_per_s']:.2f} ms a second of sound at once, "
            f"{features['stream_ms_per_s']:.2f} ms in 20 ms blocks",
            "",
            table(header, rows, terminal_width()),
            "",
            "window: the net alone, batch 1. rtf: work for a second of sound, on a minute in overlapping windows.",
            "cold start: process start to first score, disk cache warm.",
        ]
    )
