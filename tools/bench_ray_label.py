#!/usr/bin/env python3
"""How much faster `streamser label --ray --jobs 2` labels than one process: interleaved rounds over the same files.

    python tools/bench_ray_label.py FOLDER [--files 240] [--skip 40] [--rounds 3] [--model whisper]

The rate counts from the row number `--skip` to the last one, so that the start of the cluster, which does not grow with
the archive, is left out; it is shown beside the rate.
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

from streamser.stream.soundfiles import find_audio


def measure(files: Path, out: Path, skip: int, of: int, options: list[str]) -> tuple[float, float]:
    """Files a second after the first `skip`, and the seconds before those."""
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
            at_skip_s, skipped = time.monotonic(), rows
        time.sleep(0.02)
    end_s = time.monotonic()
    if process.wait() != 0 or rows < of:
        raise SystemExit(f"streamser label has ended with {process.returncode} after {rows} of {of} files")
    return (of - skipped) / (end_s - at_skip_s), at_skip_s - began_s


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
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "files.txt"
        files.write_text("".join(f"{path.resolve()}\n" for path in chosen))
        tables = []
        for number in range(args.rounds):
            for way, options in ways.items():
                out = Path(folder) / f"{way}-{number}.jsonl"
                rate, start_s = measure(files, out, args.skip, len(chosen), ["--model", args.model, *options])
                rates[way].append(rate)
                tables.append(out.read_bytes())
                start = f"the first {args.skip} took {start_s:.1f} s"
                print(f"{way}: {rate:.2f} files/s; {start}; load {os.getloadavg()[0]:.1f}", flush=True)
        if len(set(tables)) != 1:
            raise SystemExit("the tables differ")
    one, two = (statistics.median(rates[way]) for way in ways)
    print(f"median {one:.2f} and {two:.2f} files/s: {two / one:.2f} times as fast; all tables are equal")


if __name__ == "__main__":
    main()
