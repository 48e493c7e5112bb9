"""`streamser devices`: list microphones, mark the default one, test one with a level meter. No audio is stored."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict, replace

import numpy as np

from streamser.audio import SAMPLE_RATE, AudioBlock
from streamser.cli.common import add_config_arguments, hushed, refuse_unused, stopping
from streamser.cli.tables import table
from streamser.config import load_config
from streamser.stream.sources import MicSource, Source, list_devices

_EPILOG = """examples:
  streamser devices                 # the list; * marks the default
  streamser devices --test          # speak for five seconds into the default microphone
  streamser devices --test USB      # test another one, by number or part of its name
"""

_METER_DB = 60  # the left end of the meter, in dB below full scale
_METER_WIDTH = 30
_SILENT_DB = -80.0  # below this a microphone is muted or not connected
_FAINT_DB = -45.0
_CLIPPED = 0.99


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--test", nargs="?", const="", metavar="MIC", help="show the level of a microphone (default: the default one)")
    add("--seconds", type=float, default=5.0, metavar="S", help="how long to test (default: %(default).0f)")
    add("--json", action="store_true", help="print the list, or the test's result, as JSON")
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Exit code: 0, or 1 if there is no microphone or the tested one gives no signal. Errors of devices are raised."""
    refuse_unused(args, ("server", "vad", "segmenter", "pipeline", "recognizer"))
    with hushed(args.debug):
        if args.test is None:
            return _list(args.json)
        config = load_config(args.config, args.set).source
        return measure(MicSource(replace(config, device=args.test) if args.test else config), args.seconds, args.json)


def _list(as_json: bool) -> int:
    devices = list_devices()
    if as_json:
        print(json.dumps([asdict(device) for device in devices], indent=2, ensure_ascii=False))
    elif devices:
        rows = [
            (str(d.index), "*" if d.is_default else "", d.name, d.host, str(d.channels), f"{d.sample_rate} Hz")
            for d in devices
        ]
        print(table(("", "", "microphone", "system", "channels", "rate"), rows))
    else:
        print("no microphone found; plug one in, or replay a file: streamser replay FILE", file=sys.stderr)
    return 0 if devices else 1


def measure(source: Source, seconds: float, as_json: bool) -> int:
    """Listen for the given time, show the level, and report whether it is good enough."""
    shown = sys.stderr.isatty() and not as_json
    peak, received = 0.0, 0
    with stopping(source.close):
        for item in source:
            if not isinstance(item, AudioBlock):
                continue
            samples = item.samples
            received += len(samples)
            peak = max(peak, float(np.abs(samples).max(initial=0.0)))
            if shown:
                sys.stderr.write(f"\r\x1b[K{source.description}  {_bar(float(np.sqrt(np.mean(samples**2))))}")
                sys.stderr.flush()
            if received >= seconds * SAMPLE_RATE:
                break
    source.close()
    if shown:
        sys.stderr.write("\n")
    peak_db = _db(peak)
    if as_json:
        result = {"device": source.description, "seconds": received / SAMPLE_RATE, "peak_db": round(peak_db, 1)}
        print(json.dumps({**result, "overflows": source.overflows, "verdict": verdict(peak)}, ensure_ascii=False))
    else:
        print(f"{source.description}: peak {peak_db:.0f} dB; {verdict(peak)}")
    return 0 if peak_db > _SILENT_DB else 1


def verdict(peak: float) -> str:
    """Advice for the user from the loudest sample of a test.

    >>> verdict(0.3), verdict(0.0)
    ('good', 'no signal: is it muted, or did you mean another microphone?')
    """
    if _db(peak) <= _SILENT_DB:
        return "no signal: is it muted, or did you mean another microphone?"
    if _db(peak) < _FAINT_DB:
        return "very quiet: raise its gain, or move closer"
    return "too loud, it clips: lower its gain" if peak >= _CLIPPED else "good"


def _bar(level: float) -> str:
    full = round(_METER_WIDTH * min(1.0, max(0.0, 1 + _db(level) / _METER_DB)))
    return f"[{'#' * full}{'.' * (_METER_WIDTH - full)}] {_db(level):4.0f} dB"


def _db(level: float) -> float:
    return 20 * math.log10(max(level, 1e-6))
