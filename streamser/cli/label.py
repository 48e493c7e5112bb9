"""`streamser label ARCHIVE`: label every file of an archive into one table; an interrupted run can be resumed."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from multiprocessing import active_children, get_context
from pathlib import Path

from streamser.cli.common import STREAM_SECTIONS, add_model_arguments, hushed, load_run_config
from streamser.cli.exits import ENDING_SIGNALS, SOME_FAILED
from streamser.cli.labeltable import LabelTable, open_table
from streamser.cli.progress import ProgressLine
from streamser.cli.rayoption import add_ray_option, address_of
from streamser.config import Config
from streamser.errors import ConfigError, EngineError
from streamser.labelling.archive import Archive, open_archive
from streamser.labelling.voices import ScoredFile, read_speakers
from streamser.labelling.worker import Labelled, Mode, Worker
from streamser.parent import end_with_parent
from streamser.profile import check_adaptable
from streamser.recognizer import open_recognizer
from streamser.stream.audiofiles import ffmpeg_notice

_EPILOG = """examples:
  streamser label recordings/                       # to labels.jsonl, one row per file
  streamser label recordings/ --out labels.csv --jobs 4
  streamser label files.txt                         # a list with one path per line
  streamser label talks/ --utterances               # one row per utterance, with its times
  streamser label anna/ --two-passes                # all files are Anna's: adapt to her voice
  streamser label archive/ --ray                    # on a new Ray cluster on this machine
  streamser label archive/ --ray head:6379          # on a running cluster, see docs/scale.md

Run the command again with the same --out to continue, to retry files that had an error, or to add new files.
exit code: 0 all files labelled, 3 some could not be read, 130 stopped by Ctrl-C
"""

_REPORT_S = 30.0  # time between progress lines, in a run on Ray without a terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add(
        "archive",
        type=Path,
        metavar="ARCHIVE",
        help="a folder, including its subfolders; or a list, for example files.txt",
    )
    add("--out", type=Path, default=Path("labels.jsonl"), metavar="FILE", help=".jsonl or .csv (default: %(default)s)")
    add("--jobs", type=int, metavar="N", help="processes (default: 1; with --ray: one for each CPU of the cluster)")
    add("--utterances", action="store_true", help="split each file into utterances, as in a live stream")
    add(
        "--two-passes",
        action="store_true",
        help="classify again with a baseline from all files, which must be of one speaker (or see --speakers)",
    )
    add(
        "--speakers",
        type=Path,
        metavar="CSV",
        help="for files of several speakers: a table with the columns file and speaker",
    )
    add("--overwrite", action="store_true", help="start again instead of continuing")
    add_ray_option(add)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Exit code: 0 when every file has a label, 3 when some have none. Other errors are raised."""
    if args.ray is not None:
        from streamser.cluster.start import require_ray

        require_ray("streamser label --ray")
    unused = ("server",) if args.utterances else ("server", *STREAM_SECTIONS)
    config = load_run_config(args, unused, "label classifies whole files; add --utterances")
    if args.no_adapt and not args.utterances:
        raise ConfigError("--no-adapt: only --utterances adapts; add --utterances, or leave --no-adapt out")
    _check_passes(args, config)
    if not args.archive.is_dir():
        open_archive(args.archive)  # report a wrong name first; a folder is searched later, as that may take long
    recognizer = open_recognizer(config.recognizer)  # a wrong model is reported before the folder is searched
    if args.two_passes:
        check_adaptable(recognizer.bundle, "--two-passes")
    archive = open_archive(args.archive)
    files = archive.files
    speakers = read_speakers(args.speakers, files) if args.speakers else None
    table = open_table(args.out, recognizer.labels, recognizer.bundle.name, args.utterances, args.overwrite)
    with hushed(args.debug), closing(table):
        todo = [file for file in files if file not in table.done]
        if args.two_passes and table.done:
            raise ConfigError(
                f"--two-passes: {args.out} already has rows, but all files are processed together; give another --out, "
                "or --overwrite"
            )
        table.drop_errors()
        mode: Mode = "utterances" if args.utterances else "score" if args.two_passes else "whole"
        worker = Worker(archive.root, recognizer, config, mode)
        collector = _Collector(table, len(files), len(files) - len(todo), report=args.ray is not None)
        collector.collect(_results(args, worker, archive, config, todo), speakers, worker)
    _summarize(args, archive, len(todo), collector)
    return SOME_FAILED if collector.failed or archive.needs_ffmpeg else 0


def _results(
    args: argparse.Namespace, worker: Worker, archive: Archive, config: Config, todo: Sequence[str]
) -> Iterator[Labelled]:
    """The files' results, computed here, in other processes or on a cluster."""
    settings = (archive.root, config, worker.mode)
    if args.ray is not None:
        from streamser.cluster.label import label_on_ray

        return label_on_ray(address_of(args.ray), args.jobs, settings, todo)
    if (args.jobs or 1) <= 1:
        return map(worker, todo)
    return _in_processes(args.jobs, settings, todo)


def _summarize(args: argparse.Namespace, archive: Archive, todo: int, collector: _Collector) -> None:
    """Print a summary."""
    files, needing = len(archive.files), archive.needs_ffmpeg
    if needing:
        print(f"streamser: skipped: {ffmpeg_notice(needing)}", file=sys.stderr)
    words = f"{files - collector.failed} of {files + len(needing)} files labelled in {args.out}"
    words += f", {files - todo} of them before this run" if todo < files else ""
    words += f"; {collector.rate()}" if collector.audio_s else ""
    if archive.others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in archive.others.most_common(3))
        more = ", ..." if len(archive.others) > 3 else ""
        words += f"; left out, because their extensions are not those of audio files: {kinds}{more}"
    print(f"streamser: {words}")


def _check_passes(args: argparse.Namespace, config: Config) -> None:
    """ConfigError for options that exclude each other."""
    if args.jobs is not None and args.jobs < 1:
        raise ConfigError(f"--jobs: must be at least 1, not {args.jobs}")
    if args.speakers and not args.two_passes:
        raise ConfigError("--speakers: needs --two-passes; add it, or leave --speakers out")
    if args.two_passes and args.utterances:
        raise ConfigError("--two-passes: cannot be used with --utterances; leave one of them out")
    if args.two_passes and config.recognizer.profile is not None:
        raise ConfigError("--two-passes: builds the baseline from the files themselves; leave the profile out")


class _Collector:
    """Write results into the table as they arrive, and show the progress and the speed."""

    def __init__(self, table: LabelTable, of: int, before: int, *, report: bool) -> None:
        self._table = table
        self._of = of
        self._done = before
        self._report = report and not sys.stderr.isatty()
        self._began_s = self._reported_s = time.monotonic()
        self.failed = 0
        self.audio_s = 0.0

    def collect(self, results: Iterator[Labelled], speakers: Mapping[str, str] | None, worker: Worker) -> None:
        """Write the results in order, then those of a second pass."""
        progress = ProgressLine()
        scored: list[ScoredFile] = []
        try:
            for labelled in results:
                self._done += 1
                self.audio_s += labelled.audio_s
                if labelled.scored is not None:
                    scored.append(labelled.scored)
                elif labelled.error is None:
                    self._table.write(labelled.file, labelled.rows)
                else:
                    self.failed += 1
                    self._table.write_error(labelled.file, labelled.error)
                    progress.close()
                    print(f"streamser: skipped: {labelled.error}", file=sys.stderr)
                progress("labelling", self._done, self._of, f"{self._speed():.0f} x real time")
                self._print_progress()
        finally:
            progress.close()
            if (close := getattr(results, "close", None)) is not None:
                close()  # ends the generator's workers now, not when the garbage collector runs
        for row in worker.second_pass(scored, speakers):
            self._table.write(row["file"], (row,))

    def rate(self) -> str:
        """How much audio was labelled, in what time, and how fast."""
        return (
            f"{self.audio_s / 60:.1f} minutes of audio in {time.monotonic() - self._began_s:.1f} s, "
            f"{self._speed():.1f} times real time"
        )

    def _speed(self) -> float:
        return self.audio_s / max(1e-9, time.monotonic() - self._began_s)

    def _print_progress(self) -> None:
        if self._report and time.monotonic() - self._reported_s >= _REPORT_S:
            self._reported_s = time.monotonic()
            print(f"streamser: {self._done} of {self._of} files; {self.rate()}", file=sys.stderr)


# --- several processes

_worker: Worker | None = None  # the worker of this process


def _begin(folder: Path, config: Config, mode: Mode) -> None:
    global _worker
    for number in (signal.SIGINT, *ENDING_SIGNALS):  # a terminal signals all processes; only the parent reacts
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
    _worker = Worker(folder, open_recognizer(config.recognizer), config, mode)


def _work(file: str) -> Labelled:
    assert _worker is not None
    return _worker(file)


def _in_processes(jobs: int, settings: tuple[Path, Config, Mode], files: Sequence[str]) -> Iterator[Labelled]:
    """Results in the order of the files; the workers are at most a few files ahead of the consumer."""
    others = set(active_children())
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_begin, initargs=settings)
    waiting: deque[Future[Labelled]] = deque()
    finished = False
    try:
        for file in files:
            waiting.append(pool.submit(_work, file))
            if len(waiting) > 4 * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
        finished = True
    except BrokenProcessPool as error:
        raise EngineError(
            "a worker process died, perhaps because the memory was full; run it again with fewer --jobs"
        ) from error
    finally:
        if not finished:  # the next run labels the files again that the workers have begun
            for worker in set(active_children()) - others:
                worker.kill()
        pool.shutdown(wait=True, cancel_futures=True)
