"""`streamser calibrate`: make a profile for --profile from half a minute of your neutral speech. No audio is stored."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from streamser.audio import SAMPLE_RATE, AudioBlock, Samples, Segment
from streamser.bundle import DEFAULT_MODEL
from streamser.cli.common import add_config_arguments, hushed, load_run_config
from streamser.cli.tables import refill, terminal_width
from streamser.config import Config
from streamser.enrolment import ENOUGH_SPEECH_S, LEAST_SPEECH_S, enrol
from streamser.errors import AudioError, ConfigError
from streamser.events import Gap, SpeechStarted
from streamser.profile import Profile, check_adaptable, check_name, find_profiles, load_profile, profile_path
from streamser.recognizer import Recognizer, open_recognizer
from streamser.stream.segmenter import Segmenter
from streamser.stream.sources import MicSource, Source, WavSource
from streamser.stream.vad import make_vad

_LONGEST = 3.0  # a microphone is recorded for at most this many times the wanted seconds of speech
_METER_DB = 60  # the left end of the meter, in dB below full scale
_METER_WIDTH = 20
_SILENT_DB = -80.0  # a microphone in a quiet room is louder than this; below it, it is muted or not connected
_SILENT_S = 3.0
_MARGIN_S = 1.0  # recorded in addition, because the silence at an utterance's end is cut off afterwards

_TEXT = """Speak in your normal, calm voice, at your usual distance and in your language. For example:

    Tomorrow it will be cloudy in the north and dry in the south. The train to the coast leaves at ten past nine
    from platform four and arrives a little before noon. There is a bakery opposite the station, and next to it a
    shop that sells paper and ink. The library opens at ten and closes at six; on Thursdays it stays open until
    eight. The road along the river is closed for repairs until the end of the month, so the bus takes the bridge.
"""

_EPILOG = """examples:
  streamser calibrate                          # from the default microphone, saved as "me"
  streamser calibrate speech.wav --name anna   # from a recording
  streamser live --profile anna
"""

_DOUBTFUL = 0.25
"""If the mean probability of neutral is below this, the user is asked to check the recording."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("files", nargs="*", type=Path, help="recordings of your neutral speech, instead of the microphone")
    add("--name", default="me", help="name of the profile (default: me)")
    add("--out", type=Path, metavar="PATH", help="write the profile to this file instead of to your profiles")
    add("--model", metavar="NAME", help=f"checkpoint that the profile is for (default: {DEFAULT_MODEL})")
    add("--device", metavar="MIC", help="microphone, by number or part of its name (see streamser devices)")
    add("--compute", metavar="PROCESSOR", help="auto, cpu, cuda or cuda:N (default: auto)")
    add(
        "--seconds",
        type=float,
        default=ENOUGH_SPEECH_S,
        metavar="S",
        help="seconds of speech to record (default: %(default).0f)",
    )
    add("--list", action="store_true", help="list your profiles and exit")
    add("--overwrite", action="store_true", help="replace an existing profile of that name")
    add("--json", action="store_true", help="print the result as JSON")
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Exit code 0; errors are raised."""
    if args.list:
        return _list()
    place = args.out or profile_path(args.name)
    _check(args, place)
    config = load_run_config(args)
    recognizer = open_recognizer(replace(config.recognizer, profile=None))
    check_adaptable(recognizer.bundle)  # checked before the recording starts
    source: Source = WavSource(args.files) if args.files else _microphone(args, config)
    if source.live:
        print(refill(_TEXT, terminal_width(sys.stderr)) + "\n", file=sys.stderr)
    with hushed(args.debug):
        recordings, arrived_s = collect(source, segmenter_for(recognizer, config), args.seconds)
    profile = enrol(recognizer, recordings, args.name)
    _report(args, recognizer, profile, recordings, arrived_s, profile.save(place))
    return 0


def _check(args: argparse.Namespace, place: Path) -> None:
    """Raise ConfigError for unusable options, before the recording starts."""
    if not args.seconds >= LEAST_SPEECH_S:
        raise ConfigError(
            f"--seconds: must be at least {LEAST_SPEECH_S:.0f}, the minimum for a profile, not {args.seconds:g}"
        )
    if args.files and args.device is not None:
        raise ConfigError("--device: cannot be used together with recordings; leave one of them out")
    try:
        check_name("name", args.name)
    except ValueError as error:
        raise ConfigError(f"--{error}") from error
    if place.exists() and not args.overwrite:
        raise ConfigError(f"{place}: already exists; replace it with --overwrite, or give another --name")


def _microphone(args: argparse.Namespace, config: Config) -> MicSource:
    return MicSource(config.source if args.device is None else replace(config.source, device=args.device))


def segmenter_for(recognizer: Recognizer, config: Config) -> Segmenter:
    """A segmenter as in live streams, but without partial results."""
    finals_only = replace(config.segmenter, hop_ms=0, speculate_ms=0)
    return Segmenter(finals_only, make_vad(config.vad), recognizer.features)


def collect(
    source: Source, segmenter: Segmenter, wanted_s: float, file: TextIO | None = None
) -> tuple[list[Samples], float]:
    """Record utterances; returns them and the total duration of the recording in seconds.

    A microphone is recorded until there is enough speech, but no longer than three times `wanted_s`.
    """
    meter = _Meter(sys.stderr if file is None else file, wanted_s)
    found: list[Samples] = []
    loudest_db = -float("inf")
    opened: int | None = None  # start of the utterance that is being spoken
    for item in source:
        if isinstance(item, AudioBlock):
            items = segmenter.feed(item)
        elif isinstance(item, Gap):
            items = segmenter.gap(item.start, item.length)
        else:
            continue
        for one in items:
            if isinstance(one, Segment) and one.final:
                found.append(one.samples)
            opened = one.start if isinstance(one, SpeechStarted) else None
        speaking = 0 if opened is None else segmenter.position - opened
        speech_s = (sum(map(len, found)) + speaking) / SAMPLE_RATE
        loudest_db = max(loudest_db, segmenter.level_db)
        silent = source.live and loudest_db < _SILENT_DB and segmenter.position > _SILENT_S * SAMPLE_RATE
        meter.show(segmenter.level_db, speech_s, silent)
        enough = speech_s >= wanted_s + _MARGIN_S
        if source.live and (enough or segmenter.position > _LONGEST * wanted_s * SAMPLE_RATE):
            break
    source.close()
    found += [one.samples for one in segmenter.flush() if isinstance(one, Segment) and one.final]
    meter.close()
    arrived_s = segmenter.position / SAMPLE_RATE
    if source.live and loudest_db < _SILENT_DB:
        raise AudioError(
            f"{source.description} gave no signal in {arrived_s:.0f} s: is it muted, or did you mean another one? "
            "Try it with: streamser devices --test"
        )
    return found, arrived_s


class _Meter:
    """Show the level and the amount of speech in one line on a terminal."""

    def __init__(self, file: TextIO, wanted_s: float) -> None:
        self._file, self._wanted_s = file, wanted_s
        self._shown = file.isatty()

    def show(self, level_db: float, speech_s: float, silent: bool) -> None:
        if self._shown:
            full = round(_METER_WIDTH * min(1.0, max(0.0, 1 + level_db / _METER_DB)))
            bar = "#" * full + "." * (_METER_WIDTH - full)
            self._file.write(
                f"\r\x1b[Klevel [{bar}] {level_db:5.0f} dB   speech {speech_s:4.1f} of {self._wanted_s:.0f} s"
                + ("   NO SIGNAL: muted?" if silent else "")
            )
            self._file.flush()

    def close(self) -> None:
        if self._shown:
            self._file.write("\n")
            self._file.flush()


def _report(
    args: argparse.Namespace,
    recognizer: Recognizer,
    profile: Profile,
    recordings: Sequence[Samples],
    arrived_s: float,
    place: Path,
) -> None:
    """Print the result: the mean predictions for the voice without and with the profile."""
    before = _shares(recognizer, recordings)
    after = _shares(recognizer.with_baseline(profile.baseline(recognizer.bundle)), recordings)
    if args.json:
        values = {"path": str(place), "arrived_s": round(arrived_s, 2), "speech_s": profile.speech_s}
        print(json.dumps({**values, "before": before, "after": after}, indent=2, ensure_ascii=False))
        return
    print(f"{profile.speech_s:.1f} s of speech found in {arrived_s:.1f} s, {len(recordings)} utterances.")
    if profile.speech_s < min(args.seconds, ENOUGH_SPEECH_S):
        print("This is little speech; more speech would make the profile more reliable.")
    print(f"Your voice without the profile:  {_words(before)}")
    print(f"Your voice with the profile:     {_words(after)}")
    if after["neutral"] < max(before["neutral"], _DOUBTFUL):
        print("The profile does not help here. If this was not your normal, calm voice, record again with --overwrite.")
    elif before["neutral"] < _DOUBTFUL:
        print(
            "Without the profile, the checkpoint does not classify this as neutral. If it was not your normal, calm "
            "voice, record again with --overwrite."
        )
    print(f"Saved to {place}; use it with --profile {args.out or profile.name}")


def _shares(recognizer: Recognizer, recordings: Sequence[Samples]) -> dict[str, float]:
    """Mean probability of each class over the utterances."""
    predictions = recognizer.predict(list(recordings))
    return {
        label: round(sum(one.scores[label] for one in predictions) / len(predictions), 4) for label in recognizer.labels
    }


def _words(shares: dict[str, float]) -> str:
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    return ", ".join(f"{label} {100 * share:.0f} %" for label, share in ordered)


def _list() -> int:
    for name in find_profiles():
        profile = load_profile(name)
        print(f"{name}  for {profile.model}, {profile.speech_s:.0f} s of speech")
    return 0


__all__ = ["add_arguments", "collect", "run", "segmenter_for"]
