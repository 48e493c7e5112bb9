"""`streamser bench`: measure the cost of a live stream on this machine, also compared with other programs."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from streamser.bench.many import LATE_MS, largest, try_streams
from streamser.bench.peers import installed_peers
from streamser.bench.run import Contender, measure
from streamser.bench.speech import compose
from streamser.bundle import DEFAULT_MODEL, find_models, load_bundle
from streamser.cli.oldoptions import add_old_option
from streamser.cli.tables import table, terminal_width
from streamser.engines import cuda_is_likely
from streamser.errors import ConfigError
from streamser.recognizer import load

_EPILOG = """examples:
  streamser bench                          all installed checkpoints and engines
  streamser bench lightsernet --vs         one checkpoint, compared with other programs on the same windows
  streamser bench whisper --streams        how many live streams one process serves

The audio is speech composed of the recordings that come with streamser, or the file of --audio. Each contender runs in
a separate process with one thread. They take turns, and each figure is the median of the rounds. tools/bench_peers has
the programs that --vs needs.
"""
_TRIAL_S = 12.0
_MOST_STREAMS = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("model", nargs="*", help="names or folders of checkpoints (default: all installed ones)")
    parser.add_argument(
        "--engine",
        choices=("all", "onnx", "onnx-int8", "torch", "cuda"),
        default="all",
        help="engine to measure (default: all)",
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the onnx engine (default: 1)")
    parser.add_argument(
        "--audio", type=Path, metavar="FILE", help="recording of speech to measure with, repeated as needed"
    )
    add_old_option(parser, "--sound", "--audio", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes of audio (default: 10)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; each uses a part of the audio (default: 3)")
    parser.add_argument("--vs", action="store_true", help="also measure the other installed programs")
    parser.add_argument(
        "--streams", nargs="?", type=int, const=_MOST_STREAMS, metavar="MOST",
        help="instead, find how many streams one process serves in real time (at most MOST)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Exit code 0 if everything could be measured."""
    if args.rounds < 1 or not args.minutes > 0:
        raise ConfigError(f"--rounds must be at least 1 and --minutes above 0, not {args.rounds} and {args.minutes:g}")
    audio = compose(args.minutes, args.audio)
    if args.streams is not None:
        return _many(args, audio)
    bundles = [load_bundle(model, verify=False) for model in args.model or map(str, find_models().values())]
    contenders = [
        Contender(str(bundle.path), engine, compute)
        for bundle in bundles
        for engine, compute in _engines(args.engine, bundle.has_int8)
    ]
    if args.vs:
        contenders += [Contender(contenders[0].model, peer=peer) for peer in installed_peers()]
    parts = np.array_split(audio, args.rounds)
    progress = partial(print, file=sys.stderr, flush=True)
    rows = measure(contenders, parts, threads=args.threads, progress=progress)
    figures = {"machine": _machine(), "minutes": args.minutes, "rounds": args.rounds, "rows": rows}
    print(json.dumps(figures, indent=2) if args.json else _report(figures))
    return 0


def _engines(choice: str, int8: bool = False) -> list[tuple[str, str]]:
    """(engine, processor) pairs: the chosen one, or all that this machine and the checkpoint have."""
    pairs = {
        "onnx": ("onnx", "cpu"),
        "onnx-int8": ("onnx-int8", "cpu"),
        "torch": ("torch", "cpu"),
        "cuda": ("torch", "cuda"),
    }
    if choice != "all":
        return [pairs[choice]]
    has_torch = find_spec("torch") is not None and find_spec("safetensors") is not None
    there = {"onnx": True, "onnx-int8": int8, "torch": has_torch, "cuda": has_torch and cuda_is_likely()}
    return [pair for name, pair in pairs.items() if there[name]]


def _many(args: argparse.Namespace, audio: np.ndarray[Any, np.dtype[np.float32]]) -> int:
    engine, compute = ("auto", "auto") if args.engine == "all" else _engines(args.engine)[0]
    found = {}
    for model in args.model or [DEFAULT_MODEL]:
        recognizer = load(model, compute, engine=engine, threads=args.threads)
        attempt = partial(try_streams, recognizer, audio, seconds=_TRIAL_S)
        result = largest(attempt, args.streams)
        found[recognizer.bundle.name] = {"compute": recognizer.engine.compute, **result}
    print(json.dumps({"machine": _machine(), "models": found}, indent=2) if args.json else _many_report(found))
    return 0


def _many_report(found: dict[str, Any]) -> str:
    parts = []
    for model, result in found.items():
        rows = [
            (
                str(trial["streams"]),
                f"{trial['partial_p95_ms']:.0f} ms",
                str(trial["partials_dropped"]),
                f"{trial['slowest_final_ms']:.0f} ms",
                f"{trial['behind_ms']:.0f} ms",
                f"{trial['cpu_cores']:.2f}",
            )
            for trial in result["tried"]
        ]
        header = ("streams", "partial p95", "skipped", "slowest final", "audio behind", "cores busy")
        parts.append(
            f"{model} on {result['compute']}: {result['streams']} live streams in one process\n\n"
            + table(header, rows, terminal_width())
        )
    return "\n\n".join([*parts, f"A number of streams is in time if no time in its row exceeds {LATE_MS:.0f} ms."])


def _machine() -> dict[str, Any]:
    from streamser.ort import onnxruntime

    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": onnxruntime.__version__,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _report(figures: dict[str, Any]) -> str:
    machine, rows = figures["machine"], figures["rows"]
    first = rows[0]
    streams = [
        (
            row["title"],
            f"{row['cpu_ms_per_s']:.1f}",
            f"{row['streams_per_core']:.0f}",
            f"{row['partial_ms']['p50']:.1f} / {row['partial_ms']['p95']:.1f}",
            " / ".join(f"{row['final_ms'][p]:.1f}" for p in ("p50", "p95", "p99")),
            f"{row['final_total_ms']['p50']:.0f}",
            f"{row['cold_start_s']:.2f} ({row['cold_start_cpu_s']:.2f}) s",
            "" if row["peak_mb"] is None else f"{row['peak_mb']:.0f} MB",
            f"{row['scores_differ']:.0e}",
        )
        for row in rows
        if not row["peer"]
    ]
    header = (
        "one live stream", "CPU ms/s", "streams/core", "partial ms p50/95", "final ms p50/95/99", "silence + final",
        "cold start (CPU)", "memory", "differ",
    )  # fmt: skip
    text = [
        f"{figures['minutes']:g} minutes of speech in {figures['rounds']} rounds; {machine['system']}, "
        f"{machine['cpus']} CPUs, load {machine['load']:.1f}, Python {machine['python']}, NumPy {machine['numpy']}, "
        f"ONNX Runtime {machine['onnxruntime']}"
        if machine["load"] is not None
        else f"{figures['minutes']:g} minutes of speech in {figures['rounds']} rounds; {machine['system']}",
        "",
        table(header, streams, terminal_width()),
    ]
    peers = [
        (
            row["title"],
            *(
                (
                    f"{row['window_ms']:.1f}",
                    f"{row['cpu_ms_per_s']:.1f}",
                    f"{_ratio(row, first):.1f}",
                    f"{row['scores_differ']:.0e}" if "scores_differ" in row else "-",
                )
                if "error" not in row
                else ("-", "-", row["error"], "-")
            ),
        )
        for row in rows
        if row["peer"]
    ]
    if peers:
        text += [
            "",
            table(
                ("the same windows by", "ms per window", "CPU ms/s", f"relative to {first['title']}", "differ"),
                peers,
                terminal_width(),
            ),
        ]
    return "\n".join(
        [
            *text,
            "",
            "CPU ms/s: CPU time of the whole process per second of audio. partial, final: time from",
            "the last audio that is needed to the result; silence + final: from the end of speech. cold start: from",
            "the process's start to a stream's first result. differ: largest difference of a score from that of the",
            "same window computed as a whole; of another program, from streamser's score of the window (-: it computes",
            "something else). All times are longer under high load.",
        ]
    )


def _ratio(row: dict[str, Any], first: dict[str, Any]) -> float:
    return float(row["cpu_ms_per_s"] / first["cpu_ms_per_s"])
