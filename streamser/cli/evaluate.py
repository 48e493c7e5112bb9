"""`streamser evaluate`: measure a checkpoint on corpora or composed streams, or tabulate a training run's folds."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from streamser.cli.common import STREAM_SECTIONS, add_config_arguments, hushed, load_run_config
from streamser.cli.progress import ProgressLine
from streamser.config import Config
from streamser.corpora.clips import Clip
from streamser.corpora.reader import map_labels, read_corpora, read_corpus
from streamser.errors import CorpusError
from streamser.evaluation.degrade import DEGRADATIONS
from streamser.evaluation.evaluate import EvaluationConfig, evaluate, label_mapping
from streamser.evaluation.folds import load_folds
from streamser.evaluation.foldtable import tabulate
from streamser.evaluation.independence import unseen_clips
from streamser.recognizer import Recognizer, open_recognizer

_QUICK_CLIPS = 150  # of each corpus: takes about a minute; the interval is about five points wide
_QUICK_DEGRADE = ("noise-10", "reverb", "gain+20", "gain-20")

_EXAMPLES = """examples:
  streamser evaluate whisper corpora/emodb corpora/ravdess --out report
  streamser evaluate whisper corpora/ravdess --quick
  streamser evaluate whisper corpora/ravdess --noise corpora/noise_esc10 --degrade noise-10,reverb
  streamser evaluate whisper corpora/ravdess --plain corpora/librispeech_subset --degrade none
  streamser evaluate whisper corpora/ravdess --stream --minutes 30
  streamser evaluate --leave-one-corpus-out runs/whisper-loco --beside runs/egemaps-loco
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("model", nargs="?", help="name or folder of a checkpoint")
    add("corpora", nargs="*", metavar="corpus", help="corpus folders (or names below $STREAMSER_CORPORA)")
    add("--out", type=Path, metavar="DIR", help="folder for the report (default: evaluation/MODEL)")
    add(
        "--map",
        action="append",
        default=[],
        metavar="LABEL=MODEL_LABEL",
        help="count a label of the corpus as a label of the checkpoint",
    )
    add(
        "--degrade",
        default="all",
        metavar="LIST",
        help=f"degraded copies: all, none, or some of {','.join(DEGRADATIONS)}",
    )
    add(
        "--noise",
        action="append",
        default=[],
        metavar="CORPUS",
        help="recordings without speech; their results should be uncertain",
    )
    add(
        "--plain",
        action="append",
        default=[],
        metavar="CORPUS",
        help="speech without emotion, such as reading; it needs no labels, and should be neutral or uncertain",
    )
    add("--limit", type=int, default=0, metavar="N", help="largest number of clips per corpus, chosen evenly")
    add("--quick", action="store_true", help=f"{_QUICK_CLIPS} clips of each corpus, four degraded copies, no t-SNE")
    add("--seen", action="store_true", help="also report speakers seen in training, in a separate row")
    add("--profile", metavar="NAME|PATH", help='a profile of the voice, made by "streamser calibrate"')
    add("--compute", metavar="PROCESSOR", help="auto, cpu, cuda or cuda:N (default: auto)")
    add_config_arguments(parser)
    add(
        "--seed",
        type=int,
        default=0,
        help="seed for drawing clips and composing streams; the same seed gives the same report",
    )
    add("--json", action="store_true", help="print the figures as JSON instead of the summary")
    stream = parser.add_argument_group("streams")
    stream.add_argument("--stream", action="store_true", help="compose streams and score the whole pipeline's events")
    stream.add_argument("--minutes", type=float, default=20.0, metavar="M", help="minutes of audio to compose")
    add = parser.add_argument_group("training runs").add_argument
    add("--leave-one-corpus-out", type=Path, metavar="RUN_DIR", dest="folds", help="tabulate the folds of a run")
    add(
        "--beside",
        type=Path,
        metavar="RUN_DIR",
        action="append",
        default=[],
        help="show the UA of another run in the same table",
    )


def run(args: argparse.Namespace) -> int:
    """Exit code 0. Errors of files or checkpoints are raised."""
    if args.folds is not None:
        return _run_folds(args)
    if args.model is None or not args.corpora:
        raise CorpusError("give a model and at least one corpus: streamser evaluate MODEL CORPUS... (see --help)")
    unused = ("server",) if args.stream else ("server", *STREAM_SECTIONS)
    config = load_run_config(args, unused, "evaluate classifies whole clips; add --stream")
    for notice in _missing_pictures(args):
        print(f"streamser: {notice}", file=sys.stderr)
    recognizer = open_recognizer(config.recognizer)
    clips, reports = read_corpora(args.corpora)
    clips, dropped = map_labels(clips, label_mapping(recognizer.labels, _mapping(args.map)))
    for report in reports:
        if report.problems:
            print(report.text(), file=sys.stderr)
    if not clips:
        labels = ", ".join(dropped) or "none"
        raise CorpusError(
            f"no clip has a label of '{recognizer.bundle.name}' ({', '.join(recognizer.labels)}); "
            f"the labels of the corpora are {labels}; use --map to count one label as another"
        )
    noise = [clip for folder in args.noise for clip in read_corpus(folder, labelled=False)[0]]
    plain = read_corpora(args.plain, labelled=False)[0]
    with hushed(args.debug):
        if args.stream:
            return _run_stream(args, recognizer, clips, config)
        return _run_clips(args, recognizer, clips, dropped, noise, plain)


def _missing_pictures(args: argparse.Namespace) -> list[str]:
    """Warnings about parts of the report that need a missing library, given before minutes of computing."""
    if find_spec("matplotlib") is None:
        return ["matplotlib is not installed, so the report has no pictures: pip install 'streamser[plot]'"]
    if _wants_map(args) and find_spec("sklearn") is None:
        return ["sklearn is not installed, so the report has no map of the embeddings: pip install 'streamser[torch]'"]
    return []


def _wants_map(args: argparse.Namespace) -> bool:
    return not (args.quick or args.stream)


def _mapping(words: list[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    if any(not (label and equals and target) for label, equals, target in pairs):
        raise CorpusError(f"--map must be LABEL=MODEL_LABEL, for example calm=neutral, not {' '.join(words)}")
    return {label: target for label, _, target in pairs}


def _plan_of(args: argparse.Namespace) -> EvaluationConfig:
    if args.degrade == "all":
        ways = _QUICK_DEGRADE if args.quick else tuple(DEGRADATIONS)
    else:
        ways = () if args.degrade == "none" else tuple(args.degrade.split(","))
    embed = _wants_map(args) and all(find_spec(name) is not None for name in ("matplotlib", "sklearn"))
    limit = args.limit or (_QUICK_CLIPS if args.quick else 0)
    try:
        return EvaluationConfig(
            degrade=ways, clips=limit, embed=embed, seen=args.seen, seed=args.seed, degrade_clips=limit or 400
        )
    except ValueError as error:
        raise CorpusError(f"--{error}") from error


def _run_clips(
    args: argparse.Namespace,
    recognizer: Recognizer,
    clips: list[Clip],
    dropped: Mapping[str, int],
    noise: list[Clip],
    plain: list[Clip],
) -> int:
    from streamser.evaluation.report import markdown, summary, write_report

    progress = ProgressLine()
    try:
        evaluation = evaluate(
            recognizer,
            clips,
            _plan_of(args),
            dropped=dropped,
            noise=noise,
            plain_speech=plain,
            progress=progress,
        )
    finally:
        progress.close()
    report = write_report(evaluation, args.out or Path("evaluation") / recognizer.bundle.name)
    if args.json:
        _print_json(evaluation.to_dict())
    else:
        print(summary(evaluation) if not args.quick else markdown(evaluation))
        print(f"\nThe complete report: {report}")
    return 0


def _run_stream(args: argparse.Namespace, recognizer: Recognizer, clips: list[Clip], config: Config) -> int:
    from streamser.streambench import StreamPlan, measure_streams, stream_markdown, write_stream_report

    unseen, independence = unseen_clips(recognizer.bundle, clips)
    progress = ProgressLine()
    try:
        plan = StreamPlan(minutes=args.minutes, seed=args.seed)
        result = measure_streams(recognizer, unseen, plan, config, independence=independence.text, progress=progress)
    finally:
        progress.close()
    report = write_stream_report(result, args.out or Path("evaluation") / f"{recognizer.bundle.name}-stream")
    if args.json:
        _print_json(result.to_dict())
    else:
        print(stream_markdown(result))
        print(f"Written to {report}")
    return 0


def _run_folds(args: argparse.Namespace) -> int:
    from streamser.evaluation.report import fold_markdown, write_fold_report

    table = tabulate(load_folds(args.folds))
    beside = [tabulate(load_folds(folder)) for folder in args.beside]
    report = write_fold_report(table, args.out or args.folds, beside)
    if args.json:
        print((report.parent / "folds.json").read_text(encoding="utf-8"), end="")
    else:
        print(fold_markdown(table, beside))
        print(f"Written to {report}")
    return 0


def _print_json(values: dict[str, Any]) -> None:
    print(json.dumps(values, indent=2, ensure_ascii=False))


__all__ = ["add_arguments", "run"]
