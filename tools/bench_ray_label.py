#!/usr/bin/env python3
"""Measure how much faster `streamser label --ray --jobs 2` is than one process, in alternating runs on the same files.

    python tools/bench_ray_label.py FOLDER [--files 240] [--skip 40] [--rounds 3] [--model whisper]

The rate is measured from row `--skip` of the table to the last row. This leaves out the start of the cluster, whose
duration does not depend on the size of the archive; it is printed beside the rate. The CPU time of all processes over
the same rows is printed too (Linux only). On a machine with other work, estimate the speed-up on two idle cores as
twice the CPU time of one process, divided by the CPU time with Ray.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from streamser.stream.audiofiles import find_audio


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and all its descendants."""
    parents, spent = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
            spent[int(entry.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(spent.get(one, 0.0) for one in family)


def measure(files: Path, out: Path, skip: int, of: int, options: list[str]) -> tuple[float, float, float]:
    """Label the files once.

    Returns the files per second after the first `skip` files, the seconds until then, and the CPU milliseconds per file
    after the first `skip`.
    """
    began_s = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "streamser", "label", str(files), "--out", str(out), *options],
        stdout=subprocess.DEVNULL,
    )
    at_skip_s = 0.0
    rows = 0
    while process.poll() is None and rows < of:
        rows = out.read_bytes().count(b"\n") if out.exists() else 0
        if rows >= skip and not at_skip_s:
            at_skip_s, skipped, spent_s = time.monotonic(), rows, cpu_s(process.pid)
        time.sleep(0.02)
        if rows >= of:
            spent_s = cpu_s(process.pid) - spent_s
    end_s = time.monotonic()
    if process.wait() != 0 or rows < of:
        raise SystemExit(f"streamser label ended with exit code {process.returncode} after {rows} of {of} files")
    return (of - skipped) / (end_s - at_skip_s), at_skip_s - began_s, 1000 * spent_s / (of - skipped)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=240)
    parser.add_argument("--skip", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="whisper")
    args = parser.parse_args()
    found = find_audio(args.folder)
    chosen = found[:: max(1, len(found) // args.files)][: args.files]
    ways = {"one process": [], "two Ray workers": ["--ray", "--jobs", "2"]}
    rates: dict[str, list[float]] = {way: [] for way in ways}
    costs: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "files.txt"
        files.write_text("".join(f"{path.resolve()}\n" for path in chosen))
        tables = []
        for number in range(args.rounds):
            for way, options in ways.items():
                out = Path(folder) / f"{way}-{number}.jsonl"
                rate, start_s, cost_ms = measure(files, out, args.skip, len(chosen), ["--model", args.model, *options])
                rates[way].append(rate)
                tables.append(out.read_bytes())
                costs[way].append(cost_ms)
                start = f"{cost_ms:.1f} ms of CPU time per file; the first {args.skip} took {start_s:.1f} s"
                print(f"{way}: {rate:.2f} files/s; {start}; load {os.getloadavg()[0]:.1f}", flush=True)
        if len(set(tables)) != 1:
            raise SystemExit("the tables differ")
    one, two = (statistics.median(rates[way]) for way in ways)
    print(f"median {one:.2f} and {two:.2f} files/s: {two / one:.2f} times as fast; all tables are equal")
    one, two = (statistics.median(costs[way]) for way in ways)
    print(f"median {one:.1f} and {two:.1f} CPU ms per file: {2 * one / two:.2f} times as fast on two idle cores")


if __name__ == "__main__":
    main()
