"""`streamser label FOLDER`: label every file of a folder into one table; an interrupted run can be resumed."""

from __future__ import annotations

import argparse
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, Literal, TypeAlias

from streamser.audio import SAMPLE_RATE, read_audio
from streamser.cli.common import STREAM_SECTIONS, add_model_arguments, hushed, load_run_config
from streamser.cli.exits import ENDING_SIGNALS, SOME_FAILED, end_with_parent
from streamser.cli.labeltable import LabelTable, open_table
from streamser.cli.labelvoices import JudgedFile, adapt_to_voices, read_speakers
from streamser.cli.progress import ProgressLine
from streamser.config import Config
from streamser.errors import AudioError, ConfigError, EngineError
from streamser.media import MEDIA_SUFFIXES
from streamser.profile import check_adaptable
from streamser.recognizer import Recognizer, open_recognizer
from streamser.stream.pipeline import Stream
from streamser.stream.soundfiles import AUDIO_SUFFIXES, ffmpeg_notice, read_pieces, search_folder

_EPILOG = """examples:
  streamser label recordings/                       # to labels.jsonl, one row a file
  streamser label recordings/ --out labels.csv --jobs 4
  streamser label talks/ --utterances               # one row an utterance, with its times
  streamser label anna/ --two-passes                # all files are Anna's: know her voice first

Run it again with the same --out to go on where it stopped, or to add new files.
exit code: 0 all files labelled, 3 some could not be read, 130 stopped by Ctrl-C
"""

_SHORT_S = 0.1
"""A sound that could not be judged and is shorter than this was too short; a longer one is silent."""

Mode: TypeAlias = Literal["whole", "utterances", "judge"]
"""One row a file, one row an utterance, or no rows yet: the first of two passes."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """One file's rows, or why there are none."""

    file: str
    """Its path within the folder, with forward slashes."""
    rows: tuple[dict[str, Any], ...] = ()
    judged: JudgedFile | None = None
    """Instead of rows: what the first of two passes found."""
    error: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="searched with all its folders")
    add("--out", type=Path, default=Path("labels.jsonl"), metavar="FILE", help=".jsonl or .csv (default: %(default)s)")
    add("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")
    add("--utterances", action="store_true", help="cut each file into utterances, as a live stream would be")
    add("--two-passes", action="store_true", help="first learn the voice from all files, which are one speaker's")
    add(
        "--speakers",
        type=Path,
        metavar="CSV",
        help="for files of several speakers: a table with the columns file and speaker",
    )
    add("--overwrite", action="store_true", help="begin anew instead of going on")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """0 when every file has its label, 3 when some have not; an error in the world is raised."""
    if not args.folder.is_dir():
        raise AudioError(f"{args.folder}: is not a folder; label one file with: streamser replay {args.folder}")
    unused = ("server",) if args.utterances else ("server", *STREAM_SECTIONS)
    config = load_run_config(args, unused, "label judges whole files; add --utterances")
    if args.no_adapt and not args.utterances:
        raise ConfigError("--no-adapt: a file that is judged whole is no stream that adapts; add --utterances")
    _check_passes(args, config)
    recognizer = open_recognizer(config.recognizer)  # a wrong model is reported before the folder is searched
    if args.two_passes:
        check_adaptable(recognizer.bundle, "--two-passes")
    found = search_folder(args.folder)
    files = [path.relative_to(args.folder).as_posix() for path in found.sound]
    if not files:
        why = ffmpeg_notice(found.needs_ffmpeg) if found.needs_ffmpeg else ", ".join(AUDIO_SUFFIXES + MEDIA_SUFFIXES)
        raise AudioError(f"{args.folder}: holds no sound file that can be read ({why})")
    speakers = read_speakers(args.speakers, files) if args.speakers else None
    table = open_table(args.out, recognizer.labels, recognizer.bundle.name, args.utterances, args.overwrite)
    with hushed(args.debug), closing(table):
        todo = [file for file in files if file not in table.done]
        if args.two_passes and table.done:
            raise ConfigError(
                f"--two-passes: {args.out} holds rows already, but all files are judged together; give another --out, "
                "or --overwrite"
            )
        mode: Mode = "utterances" if args.utterances else "judge" if args.two_passes else "whole"
        worker = Worker(args.folder, recognizer, config, mode)
        results = map(worker, todo) if args.jobs <= 1 else _in_processes(args, config, mode, todo)
        failed = _collect(table, results, len(files), len(files) - len(todo), speakers, worker)
    if found.needs_ffmpeg:
        print(f"streamser: skipped: {ffmpeg_notice(found.needs_ffmpeg)}", file=sys.stderr)
    words = f"{len(files) - failed} of {len(files) + len(found.needs_ffmpeg)} files labelled in {args.out}"
    words += f", {len(files) - len(todo)} of them before" if len(todo) < len(files) else ""
    if found.others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in found.others.most_common(3))
        more = ", ..." if len(found.others) > 3 else ""
        words += f"; left out, for their names are not those of sound files: {kinds}{more}"
    print(f"streamser: {words}")
    return SOME_FAILED if failed or found.needs_ffmpeg else 0


def _check_passes(args: argparse.Namespace, config: Config) -> None:
    """ConfigError for options that exclude each other."""
    if args.jobs < 1:
        raise ConfigError(f"--jobs: is at least 1, not {args.jobs}")
    if args.speakers and not args.two_passes:
        raise ConfigError("--speakers: is for --two-passes; add it, or leave this out")
    if args.two_passes and args.utterances:
        raise ConfigError("--two-passes: judges whole files; leave out --utterances, whose streams adapt by themselves")
    if args.two_passes and config.recognizer.profile is not None:
        raise ConfigError("--two-passes: learns the voice from the files themselves; leave the profile out")


def _collect(
    table: LabelTable,
    results: Iterator[Labelled],
    of: int,
    before: int,
    speakers: Mapping[str, str] | None,
    worker: Worker,
) -> int:
    """Write results in order, and after them those of the second pass; returns the number of failed files."""
    progress, failed = ProgressLine(), 0
    judged: list[JudgedFile] = []
    try:
        for done, labelled in enumerate(results, start=before + 1):
            if labelled.judged is not None:
                judged.append(labelled.judged)
            elif labelled.error is None:
                table.write(labelled.file, labelled.rows)
            else:
                failed += 1
                progress.close()
                print(f"streamser: skipped: {labelled.error}", file=sys.stderr)
            progress("labelling", done, of)
    finally:
        progress.close()
    for row in worker.second_pass(judged, speakers):
        table.write(row["file"], (row,))
    return failed


class Worker:
    """Labels one file after the other with one recognizer."""

    def __init__(self, folder: Path, recognizer: Recognizer, config: Config, mode: Mode) -> None:
        self._folder = folder
        self._recognizer = recognizer
        self._config = config
        ways: dict[Mode, Callable[[str], Labelled]] = {
            "whole": self._whole,
            "utterances": self._utterances,
            "judge": self._judge,
        }
        self._label = ways[mode]

    def __call__(self, file: str) -> Labelled:
        try:
            return self._label(file)
        except AudioError as error:
            return Labelled(file, error=str(error))
        except MemoryError:
            return Labelled(file, error=f"{self._folder / file}: needs more memory than there is; split the file")

    def second_pass(self, judged: Sequence[JudgedFile], speakers: Mapping[str, str] | None) -> Iterator[dict[str, Any]]:
        """The rows of files that were judged in a first pass."""
        predictions = adapt_to_voices(self._recognizer, judged, speakers) if judged else []
        for one, prediction in zip(judged, predictions, strict=True):
            yield self._row(replace(one, prediction=prediction))

    def _judge(self, file: str) -> Labelled:
        sound = read_audio(self._folder / file)
        return Labelled(file, judged=JudgedFile(file, len(sound) / SAMPLE_RATE, self._recognizer.predict(sound)))

    def _whole(self, file: str) -> Labelled:
        judged = self._judge(file).judged
        assert judged is not None
        return Labelled(file, (self._row(judged),))

    def _utterances(self, file: str) -> Labelled:
        stream = Stream(self._recognizer, self._config, file)
        pieces = read_pieces(self._folder / file)  # an hour takes no more memory than a second
        events = [event for piece in pieces for event in stream.push(piece)] + stream.close()
        rows = [event.to_dict() for event in events if event.type == "emotion"]
        keys = ("utterance", "start_s", "end_s", "label", "confidence", "uncertain", "scores")
        model = self._recognizer.bundle.name
        finals = [row for row in rows if row["final"]]
        return Labelled(
            file, tuple({"file": file, **{key: row[key] for key in keys}, "model": model} for row in finals)
        )

    def _row(self, judged: JudgedFile) -> dict[str, Any]:
        prediction = judged.prediction
        place = {"file": judged.file, "duration_s": round(judged.duration_s, 3)}
        if not prediction.audible:  # scores of nothing are no guess
            why = "too short" if judged.duration_s < _SHORT_S else "no sound"
            return {**place, "uncertain": True, "reason": why, "model": self._recognizer.bundle.name}
        return {
            **place,
            "label": prediction.label,
            "confidence": round(prediction.confidence, 4),
            "uncertain": prediction.uncertain,
            "scores": {label: round(score, 4) for label, score in prediction.scores.items()},
            "model": self._recognizer.bundle.name,
        }


# --- several processes

_worker: Worker | None = None  # a process's own, made once


def _begin(folder: Path, config: Config, mode: Mode) -> None:
    global _worker
    for number in (signal.SIGINT, *ENDING_SIGNALS):  # sent to all processes by a terminal: only the parent handles them
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
    _worker = Worker(folder, open_recognizer(config.recognizer), config, mode)


def _work(file: str) -> Labelled:
    assert _worker is not None
    return _worker(file)


def _in_processes(args: argparse.Namespace, config: Config, mode: Mode, files: Sequence[str]) -> Iterator[Labelled]:
    """Results in the order of the files; only a few files ahead of what was taken, however many there are."""
    settings = (args.folder, config, mode)
    others = set(active_children())
    pool = ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn"), initializer=_begin, initargs=settings)
    waiting: deque[Future[Labelled]] = deque()
    finished = False
    try:
        for file in files:
            waiting.append(pool.submit(_work, file))
            if len(waiting) > 4 * args.jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
        finished = True
    except BrokenProcessPool as error:
        raise EngineError(
            "a worker process died, perhaps for want of memory; run it again with fewer --jobs"
        ) from error
    finally:
        if not finished:  # what the workers have begun is begun again next time
            for worker in set(active_children()) - others:
                worker.kill()
        pool.shutdown(wait=True, cancel_futures=True)
