"""`streamser train`: train checkpoints from a recipe or from a published variant, and report their scores."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamser.cli.oldoptions import add_old_option
from streamser.cli.rayoption import add_ray_option
from streamser.errors import ConfigError, MissingExtraError
from streamser.filelock import try_lock
from streamser.settings import parse_value
from streamser.training.recipe import Recipe, changed, load_recipe

if TYPE_CHECKING:
    from streamser.corpora.benchmarks import Benchmark
    from streamser.nets.variant import Variant
    from streamser.training.trainer import Trainer

log = logging.getLogger(__name__)

LOG = "train.log"

EPILOG = """\
examples:
  streamser train models/lightsernet/recipe.yaml --corpora-root ~/corpora --out runs/mine
  streamser train lightsernet-3s-ce --corpora ~/corpora/emodb           # a published variant, on its own corpus
  streamser train lightsernet-7s-ce --corpora ~/IEMOCAP --benchmark iemocap-improvised
  streamser train --paper sepconv --corpora ~/IEMOCAP --jobs 8          # all rows of a paper; repeat it to continue
  streamser train --paper sepconv --corpora ~/IEMOCAP --ray head:6379   # the same on a cluster, see docs/scale.md
  streamser train RECIPE --set protocol=leave-one-corpus-out --set epochs=10 --resume
  streamser train RECIPE --preview-augment preview/   # write augmented clips as WAV; train nothing
  python -m torch.distributed.run --nproc_per_node 2 -m streamser train RECIPE   # several processes
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument(
        "recipe", help="a recipe.yaml, or the name of a published variant (`--list` shows them)", nargs="?"
    )
    table = parser.add_argument_group("a paper's whole table")
    table.add_argument(
        "--paper",
        metavar="NAME",
        help="train every row of this paper that was published on these corpora: sepconv, ...",
    )
    table.add_argument(
        "--rows", metavar="PATTERN", default="*", help="only rows whose names match, for example 'sepconv-hop768-*'"
    )
    table.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="folds trained at a time (default: 1; with --ray: one for each CPU of the cluster); with --ray on GPUs, "
        "folds that share a GPU (default: 1)",
    )
    table.add_argument(
        "--minutes", type=float, default=0.0, metavar="M", help="stop after this time; repeat the command to continue"
    )
    add_ray_option(table.add_argument, "; each machine needs the corpora at the same path")
    parser.add_argument("--list", action="store_true", help="list the published variants and exit")
    parser.add_argument("--corpora", nargs="+", metavar="FOLDER", help="train on these corpora instead of the recipe's")
    parser.add_argument("--labels", help="comma-separated classes instead of the recipe's")
    parser.add_argument(
        "--benchmark", metavar="NAME",
        help="classes and part of the corpus, if a variant has several published figures (default: the first)",
    )  # fmt: skip
    parser.add_argument(
        "--corpora-root",
        type=Path,
        metavar="DIR",
        help="folder with the corpora (default: $STREAMSER_CORPORA or .)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="run folder (default: runs/NAME-PROTOCOL)")
    parser.add_argument("--resume", action="store_true", help="continue an existing run")
    parser.add_argument(
        "--folds", type=_numbers, metavar="N,N-N", help="train only these folds, counted from 0, such as 0,2 or 0-4"
    )
    parser.add_argument("--seeds", metavar="N,N", help="seeds instead of the recipe's")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe")
    parser.add_argument(
        "--compute", metavar="PROCESSOR", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)"
    )
    add_old_option(parser, "--device", "--compute")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all)")
    parser.add_argument("--workers", type=int, default=0, help="processes that compute features (default: all cores)")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="folder for computed features (default: runs/cache)")
    parser.add_argument(
        "--calibrate-from",
        type=Path,
        metavar="RUN",
        help="to publish a checkpoint: calibrate it on the predictions of this leave-one-corpus-out run",
    )
    parser.add_argument(
        "--save",
        type=Path,
        metavar="DIR",
        help="to publish a checkpoint: folder to write it to (default: in the run)",
    )
    parser.add_argument("--dry-run", action="store_true", help="read the corpora, check the splits, train nothing")
    parser.add_argument(
        "--preview-augment", type=Path, metavar="DIR", help="write each augmentation as WAV files, and stop"
    )
    add_old_option(parser, "--listen-augment", "--preview-augment", type=Path)


def _numbers(text: str) -> frozenset[int]:
    """Numbers and ranges, such as 0,2 or 0-4."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal()) or int(last) < int(first):
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 0,2 or 0-4")
        found.update(range(int(first), int(last) + 1))
    return frozenset(found)


def run(args: argparse.Namespace) -> int:
    if args.paper and args.recipe:
        raise ConfigError(f"--paper {args.paper} trains all rows of a paper; leave out {args.recipe}, or use --rows")
    if not args.recipe and not args.list and not args.paper:
        raise ConfigError("give a recipe.yaml or the name of a variant; `streamser train --list` shows the variants")
    if args.ray is not None:
        _check_ray(args)
    changes = _changes(args)
    # A recipe is checked before torch is imported: a mistake is reported at once, also without torch.
    recipe = load_recipe(Path(args.recipe), changes) if args.recipe and _is_file(args.recipe) else None
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("streamser train", "torch") from error
    if args.list:
        return _list()
    from streamser.training.workers import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(args.threads or torch.get_num_threads())
    root = (args.corpora_root or Path(os.environ.get("STREAMSER_CORPORA", "."))).expanduser()
    if args.paper:
        from streamser.cli.trainpaper import run_paper

        return run_paper(args, changes, root)
    recipe = recipe or _published(args, changes)
    if args.preview_augment:
        return _preview(recipe, root, args.preview_augment)
    return _train(args, recipe, root)


def _check_ray(args: argparse.Namespace) -> None:
    """MissingExtraError without Ray, ConfigError for options that cannot be used with it."""
    from streamser.cluster.start import require_ray

    if not args.paper:
        raise ConfigError("--ray: trains the folds of a paper's table; add --paper NAME, or leave --ray out")
    require_ray("streamser train --ray")
    if args.compute not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--compute {args.compute}: with --ray, which assigns the GPUs, use auto, cpu or cuda")
    if args.jobs is not None and args.jobs < 1:
        raise ConfigError(f"--jobs: must be at least 1, not {args.jobs}")


def _list() -> int:
    from streamser.nets.zoo import OWN_VARIANTS, VARIANTS

    for variant in [*OWN_VARIANTS.values(), *VARIANTS.values()]:
        print(f"{variant.name:34} {variant.paper:24} {variant.table}")
        for benchmark, figures in variant.published.items():
            print(f"    {benchmark:26} " + ", ".join(f"{key} {value:g}" for key, value in figures.items()))
    return 0


def _is_file(recipe: str) -> bool:
    return Path(recipe).suffix in (".yaml", ".yml") or Path(recipe).is_file()


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    """The options' changes to the recipe: dotted key -> value."""
    changes: dict[str, Any] = {}
    for pair in args.set:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair}: write KEY=VALUE")
        changes[key.strip()] = parse_value(value, f"--set {pair}")
    if args.corpora:
        changes["corpora"] = args.corpora
    if args.labels:
        changes["labels"] = args.labels.split(",")
    if args.seeds:
        changes["seeds"] = parse_value(f"[{args.seeds}]", f"--seeds {args.seeds}")
    return changes


def _published(args: argparse.Namespace, changes: dict[str, Any]) -> Recipe:
    """The recipe of a published variant."""
    from streamser.nets import zoo
    from streamser.training.material import recipe_of

    variant = zoo.get(args.recipe)
    if not args.corpora:
        raise ConfigError(f"{variant.name} is a published variant: give the --corpora to train it on")
    benchmark = _benchmark(variant, args.corpora, args.benchmark)
    recipe = changed(recipe_of(variant, benchmark, args.corpora), changes)
    if benchmark.name and args.out is None:
        args.out = Path("runs") / f"{recipe.name}-{benchmark.name}-{recipe.protocol.replace(':', '-')}"
    return recipe


def _benchmark(variant: Variant, folders: Sequence[str], name: str | None) -> Benchmark:
    """The benchmark of that name, or else the variant's first benchmark that fits the folders' names, or else four
    basic classes."""
    from streamser.corpora.benchmarks import BENCHMARKS, FOUR_LABELS, Benchmark

    if name and name not in BENCHMARKS:
        raise ConfigError(f"--benchmark {name}: no such benchmark; known: {', '.join(BENCHMARKS)}")
    if name:
        return BENCHMARKS[name]
    for own in variant.published:
        if all(BENCHMARKS[own].fits(Path(folder).name) for folder in folders):
            return BENCHMARKS[own]
    return Benchmark(name="", title="", corpus="", folder="", labels=FOUR_LABELS)


def _train(args: argparse.Namespace, recipe: Recipe, root: Path) -> int:
    protocol = recipe.protocol.replace(":", "-")
    folder = args.out or Path("runs") / f"{recipe.name}-{protocol}"
    if (folder / "recipe.json").exists() and not args.resume and not args.dry_run:
        raise ConfigError(f"{folder}: already contains a run; add --resume to continue it, or give another --out")
    rank = int(os.environ.get("RANK", 0))
    with nullcontext() if rank or args.dry_run else _alone_in(folder):
        return _train_in(folder, args, recipe, root, rank)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder: two processes would overwrite each other's checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG).open("ab") as file:
        if not try_lock(file):
            raise ConfigError(f"{folder}: another process is training there; wait until it ends, or give another --out")
        yield


def _train_in(folder: Path, args: argparse.Namespace, recipe: Recipe, root: Path, rank: int) -> int:
    import torch.distributed

    from streamser.training.material import gather, write_left_out, write_recipe
    from streamser.training.options import RunOptions
    from streamser.training.setup import processor
    from streamser.training.trainer import Trainer

    cache = args.cache or Path("runs") / "cache"
    device = processor(args.compute)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    _log_to(folder, quiet=args.dry_run)
    bar = _Bar(rank)
    cache.mkdir(parents=True, exist_ok=True)
    if rank:  # the first process reads the corpora and caches the features; the others wait for it
        torch.distributed.barrier()
    material = gather(recipe, root, cache)
    if rank == 0:
        for report in material.reports:
            log.info("%s", report.text())
        if not args.dry_run and (count := write_left_out(material, folder)):
            log.info("%d clips are left out; %s names them", count, folder / "left-out.csv")
        for label, count in material.dropped.items():
            log.info("%d clips labelled %s are not used for training", count, label)
    workers = args.workers or os.cpu_count() or 1
    options = RunOptions(cache=cache, device=device, workers=workers, on_epoch=bar.epoch, progress=bar.progress)
    trainer = Trainer(recipe, material, folder, options)
    if torch.distributed.is_initialized() and rank == 0:
        torch.distributed.barrier()
    if args.dry_run:
        for seed in trainer.recipe.seeds:
            for split in trainer.splits(seed):
                trainer.check_origin(split, seed)
                print(split.text())
        return 0
    if rank == 0:
        write_recipe(trainer.recipe, folder)
    return _run_all(args, trainer, bar, rank)


def _run_all(args: argparse.Namespace, trainer: Trainer, bar: _Bar, rank: int) -> int:
    from streamser.bundle import CARD
    from streamser.cli.models import headline
    from streamser.evaluation.folds import load_folds
    from streamser.evaluation.foldsummary import summarize

    recipe = trainer.recipe
    every = [(seed, split) for seed in recipe.seeds for split in trainer.splits(seed)]
    unknown = set(args.folds or ()) - {split.fold for _, split in every}
    if unknown:
        last = max(split.fold for _, split in every)
        raise ConfigError(f"--folds: there is no fold {min(unknown)}; this protocol has the folds 0 to {last}")
    todo = [(seed, split) for seed, split in every if args.folds is None or split.fold in args.folds]
    for seed, split in todo:  # checked before the first fold trains for hours
        trainer.check_origin(split, seed)
    for seed, split in todo:
        bar.start(f"{split.name} seed {seed}", recipe.epochs)
        if rank:  # the other processes only compute gradients; the first one writes the results
            trainer.fit(split, seed)
        elif recipe.protocol == "ship":
            target = args.save or trainer.folder / recipe.name
            bundle = trainer.ship(split, seed, target, args.calibrate_from)
            print(f"wrote {bundle.path}: {headline(bundle.scores)}; its {CARD} has all figures")
        else:
            trainer.run_split(split, seed)
    bar.close()
    if recipe.protocol != "ship" and rank == 0:
        summary = summarize(load_folds(trainer.folder))
        (trainer.folder / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
        print(json.dumps(summary, indent=1))
    return 0


def _preview(recipe: Recipe, root: Path, out: Path) -> int:
    from streamser.corpora.reader import read_corpora
    from streamser.nets import zoo
    from streamser.training.frozen import frozen_augment
    from streamser.training.material import features_of
    from streamser.training.preview import preview_augment

    clips, _ = read_corpora([root / name for name in recipe.corpora])
    step = max(1, len(clips) // 4)
    variant = zoo.get(recipe.variant)
    features = features_of(variant, recipe)
    if variant.build(len(recipe.labels)).needs_start:
        frozen_augment(recipe.feature_augment)  # refuses augmentations that such a network cannot use
    drawn, window_s = recipe.feature_augment, recipe.train_window_s
    augment = None if recipe.augment is None else recipe.augment.located(root)
    page = preview_augment(clips[::step][:4], out, features, augment, drawn, window_s=window_s, seed=recipe.seeds[0])
    print(f"open {page}: each change alone, then all together")
    return 0


def _log_to(folder: Path, *, quiet: bool) -> None:
    """Also write the log to a file in the run folder."""
    root = logging.getLogger("streamser")
    root.setLevel(logging.INFO)
    if quiet:
        return
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / LOG, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root.addHandler(handler)


class _Bar:
    """A progress bar on stderr; only the first process shows it."""

    def __init__(self, rank: int) -> None:
        from tqdm import tqdm

        self._make = tqdm
        self._rank = rank
        self._bar: Any = None

    def start(self, what: str, total: int) -> None:
        self.close()
        self._bar = self._make(
            total=total, desc=what, unit="epoch", dynamic_ncols=True, disable=self._rank > 0 or None, file=sys.stderr
        )

    def epoch(self, split: str, row: dict[str, float]) -> None:
        log.info("%s %s", split, json.dumps({key: float(f"{value:.5g}") for key, value in row.items()}))
        if self._bar is not None:
            self._bar.update(int(row["epoch"]) - self._bar.n)
            self._bar.set_postfix({key: f"{row[key]:.3f}" for key in ("loss", "val_ua") if key in row})

    def progress(self, what: str, done: int, of: int) -> None:
        if self._bar is None or self._bar.total != of:
            self.start(what, of)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
