#!/usr/bin/env python3
"""Fuzz streamser's inputs, guided by coverage (atheris): `tools/fuzz/fuzz.py all --seconds 60`.

Each target runs in its own process and begins with its seeds and regressions. An input that causes a fault is written
to tools/fuzz/crashes/. After fixing the fault, move the input to tools/fuzz/regressions/TARGET/; CI runs the files
there. Inputs that reach new code are kept in --corpus, outside the repository.
"""

from __future__ import annotations

import argparse
import logging
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
_DONE = re.compile(r"stat::number_of_executed_units: *(\d+)")
_RSS_MB, _HANG_S = 2048, 20


def main() -> int:
    """Fuzz the targets; returns 0 if no fault was found, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="+", help="names of targets, or all")
    parser.add_argument("--seconds", type=int, default=60, help="time for each target (default: %(default)s)")
    parser.add_argument("--corpus", type=Path, default=Path("/tmp/streamser-fuzz"), help="folder for new inputs")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        fuzz(args.targets[0], args.seconds, args.corpus)
    names = known_targets() if args.targets == ["all"] else args.targets
    total, found = 0, []
    for name in names:
        words = [
            sys.executable,
            __file__,
            name,
            "--child",
            "--seconds",
            str(args.seconds),
            "--corpus",
            str(args.corpus),
        ]
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
        runs = sum(map(int, _DONE.findall(done.stderr)))
        total += runs
        print(f"{name:20} {runs:>10,} inputs  {'ok' if done.returncode == 0 else 'FAULT FOUND'}", flush=True)
        if done.returncode:
            found.append(name)
            print("\n".join(done.stderr.splitlines()[-40:]), file=sys.stderr)
    print(f"{'all':20} {total:>10,} inputs")
    return 1 if found else 0


def known_targets() -> list[str]:
    """The names of the targets, read from the text of targets.py because importing it takes seconds."""
    return re.findall(r"^@target\ndef (\w+)", (HERE / "targets.py").read_text(encoding="utf-8"), re.M)


def fuzz(name: str, seconds: int, corpus: Path) -> None:
    """Fuzz one target; this function ends the process."""
    import atheris

    logging.disable(logging.CRITICAL)  # a warning for every input would take most of the time
    sys.path.insert(0, str(HERE))
    with atheris.instrument_imports(include=["streamser"]):
        import targets
    places = [corpus / name, HERE / "seeds" / name, HERE / "regressions" / name]
    crashes = HERE / "crashes"
    for place in (places[0], crashes):
        place.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-rss_limit_mb={_RSS_MB}",
        f"-timeout={_HANG_S}",
        f"-artifact_prefix={crashes}/{name}-",
        "-max_len=4096",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    atheris.Setup([sys.argv[0], *options, *(str(place) for place in places if place.is_dir())], targets.TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
