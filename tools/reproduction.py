"""Write models/REPRODUCTION.md, which compares the published results of the five papers with ours.

    python tools/reproduction.py [RUN ...]

Each RUN is a run folder of `streamser train VARIANT`. The figures of its finished folds are added to
models/reproduction.json, from which the whole table is written: a row for each variant (`streamser train --list`). A
run with fewer folds or epochs never replaces a complete run. If a variant has no result, the file lists the command
that measures the variant. No figure is entered by hand.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from streamser.corpora.benchmarks import BENCHMARKS, Benchmark, benchmark_of
from streamser.evaluation.folds import FoldResult, folder_name, load_folds
from streamser.evaluation.foldsummary import summarize
from streamser.nets.variant import Variant
from streamser.nets.zoo import VARIANTS
from streamser.training.recipe import load_recipe

MODELS = Path(__file__).parents[1] / "models"
RECIPES = MODELS / "recipes"
TABLE, STORE = MODELS / "REPRODUCTION.md", MODELS / "reproduction.json"

HEAD = """\
# Reproduction

All published results of the five papers, and ours with the same networks. The column `paper` follows the protocol of
the paper, so that our figure can be compared with the published one; such a protocol may share speakers between
training and test, or choose the epoch on the test fold. In the column `honest`, the test speakers are in no other part,
and the epoch is chosen on other speakers. [docs/papers.md](../docs/papers.md) describes both protocols.
`tools/reproduction.py` writes this file from the folds of finished runs; `reproduction.json` has the same figures. F1
is the mean of the F1 of the classes, weighted by their frequency, as in the LightSERNet paper.
"""

OWN = """\
The recipes are in `models/*/recipe.yaml` and `models/recipes/`. `streamser train RECIPE --corpora-root CORPORA`
measures the column `honest` (with lightsernet-emodb-plain, the column `paper`). With the options
`--set protocol=paper:lightsernet --set choose_by=wa --set validate_every=1`, the command measures the column `paper`;
whisper-emodb also needs `--set epochs=12`. The rows `whisper-*` are from no paper: they use the frozen encoder of a
speech recognizer under the same protocols. The rows `losses-*` train one network on one corpus with the losses and the
pooling of papers 1 to 3; each fold leaves out two speakers."""

TRIED = """\
These variants were published on IEMOCAP, which may not be distributed. Each was trained on one fold of EMO-DB's
seven emotions, with fewer epochs than published, and tested on two speakers who were left out. The figures show only
that each network learns: UA at chance is 14.3. The variants `parallel-cnn-*-a` reconstruct their input and do not
classify. EMO-DB has no annotators' votes; without them, the losses `focal`, `focal-b1.5` and `soft` of `sepconv` equal
weighted cross entropy, so these variants give the same figures on a CPU if their networks and epochs are equal."""

FOLDS = {
    "paper:focal-resnet": 5,
    "paper:parallel-cnn": 5,
    "paper:cnn-blstm": 5,
    "paper:sepconv": 9,
    "paper:lightsernet": 10,
    "paper:lightsernet-report": 1,
    "honest-loso": 10,
}
"""Number of folds of each protocol; for `honest` the recipe decides."""
OLD = "before batch norm was estimated anew and last batches were trained"
"""Value of `measured` for figures of the trainer that OLD_NOTE describes."""
OLD_NOTE = """\
\\* measured with an earlier trainer, which did not re-estimate the statistics of batch norm before a validation, and
did not train on the last, partial batch of an epoch."""
PARTS = {"whole_wa": "whole corpus", "training_wa": "training part", "validation_wa": "validation part"}
"""Further accuracies that the report on LightSERNet prints. Its validation part is the test part of our protocol."""


@dataclass(frozen=True, slots=True)
class OwnRow:
    """A row of the table that is trained with a recipe of our own."""

    path: Path
    changes: Mapping[str, Any] = field(default_factory=dict)
    honest: str = ""
    """Protocol of the column `honest`; empty: the protocol of the recipe."""


_CHANGES: Mapping[str, Mapping[str, Any]] = {
    "softmax": {},
    "focal": {"loss": {"kind": "focal", "weighted": False, "label_smoothing": 0}},
    "margin": {"variant": "lightsernet-margin", "loss": {}},
    "centre": {"loss": {"centre": 0.01, "weighted": False, "label_smoothing": 0}},
    "reconstruction": {"variant": "lightsernet-reconstruction", "loss": {}},
    "spread": {"variant": "lightsernet-spread"},
    "attention": {"variant": "lightsernet-attention"},
    "combined": {"variant": "lightsernet-combined"},
}
"""Changes to models/recipes/losses.yaml; the comment at the top of that file lists these changes as commands."""
LOSSES = {f"losses-{name}": OwnRow(RECIPES / "losses.yaml", changes) for name, changes in _CHANGES.items()}
OWN_ROWS = {**LOSSES, "lightsernet-emodb-plain": OwnRow(RECIPES / "lightsernet-emodb-plain.yaml", honest="honest")}
"""Rows of our own that differ from the recipe whose name they have, or have no file of their own."""
COLUMNS = ("variant", "table", "published", "`paper`, ours", "`honest`, ours")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The content of one cell of the table: the figures of one row on one benchmark, in one column."""

    row: str
    """Name of a variant, or of a recipe of our own."""
    benchmark: str
    """Benchmark of a variant; for a recipe of our own, the corpora of its test clips."""
    column: str
    """`paper` or `honest`."""
    classes: int
    folds: int
    of_folds: int
    seeds: int
    figures: Mapping[str, float] = field(default_factory=dict)
    """ua, wa and f1 in percent, and further metrics of the folds."""
    spared: str = ""
    """How the training was shorter than the published one, as `60 of 300 epochs`; empty if it was not."""
    measured: str = ""
    """Day of the measurement; OLD for an earlier trainer, empty if the day was not recorded."""

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.row, self.benchmark, self.column)

    @property
    def whole(self) -> bool:
        """Whether all folds were trained, without shortening the training."""
        return self.folds >= self.of_folds and not self.spared

    def text(self) -> str:
        """The text of the cell, as `UA 94.3, WA 94.4, F1 94.2 (10 folds)`."""
        names = {"ua": "UA", "wa": "WA", "f1": "F1"}
        parts = [f"{name} {self.figures[key]:.1f}" for key, name in names.items() if key in self.figures]
        if "whole_wa" in printed_figures(self.row, self.benchmark):
            parts += [f"{name} {self.figures[key]:.1f}" for key, name in PARTS.items() if key in self.figures]
        if (
            "reconstruction_mse_e4" in self.figures and self.row in VARIANTS
        ):  # the MSE of our own recipes is on another scale of the input
            parts.append(f"MSE {self.figures['reconstruction_mse_e4']:.2f}e-4")
        count = f"{self.folds} of {self.of_folds} folds" if self.folds < self.of_folds else _count(self.folds, "fold")
        seeds = f"{self.seeds} seeds" if self.seeds > 1 else ""
        trained = f"({', '.join(filter(None, (count, seeds, self.spared)))})"
        return " ".join(filter(None, (", ".join(parts), trained))) + ("*" if self.measured == OLD else "")


def printed_figures(row: str, benchmark: str) -> Mapping[str, float]:
    """The figures that a paper gives for a row on a benchmark; empty for a recipe of our own."""
    variant = VARIANTS.get(row)
    return variant.published.get(benchmark, {}) if variant else {}


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count > 1 else ''}"


def column_of(fold: FoldResult) -> str:
    """The column of the table that a fold belongs to: `paper` or `honest`."""
    return fold.protocol.split(":")[0]


def load_store(store: Path) -> list[Measurement]:
    """The measurements in a file like models/reproduction.json."""
    return [Measurement(**one) for one in json.loads(store.read_text(encoding="utf-8"))]


def of_run(run: Path) -> list[Measurement]:
    """The measurements of a run folder, one for each column that its folds belong to; none if no row fits the run."""
    recipe = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    folds = load_folds(run)
    found = []
    for column in sorted({column_of(fold) for fold in folds}):
        own = [fold for fold in folds if column_of(fold) == column]
        benchmark = benchmark_of(recipe, own[0].test_corpora)
        variant = VARIANTS.get(recipe["name"])
        if variant is not None and benchmark is None:
            continue  # the run used a corpus on which the paper has no result
        summary = summarize(own)
        figures = {"ua": summary["ua"], "wa": summary["wa"], "f1": summary["weighted_f1"]}
        if variant is not None and not variant.loss.classification:
            figures = {}  # the network only reconstructs its input and predicts no class
        extra = ("training_wa", "whole_wa", "reconstruction_mse_e4")
        figures |= {name: summary[name] for name in extra if name in summary}
        found.append(
            Measurement(
                row=recipe["name"],
                benchmark=benchmark.name if variant and benchmark else "+".join(own[0].test_corpora),
                column=column,
                classes=len(own[0].labels),
                folds=summary["folds"],
                of_folds=max(FOLDS.get(recipe["protocol"], recipe["folds"]), summary["folds"]),
                seeds=summary["seeds"],
                figures=figures,
                spared=shortened(recipe, variant, [epochs_of(run, fold, recipe) for fold in own]),
                measured=date.today().isoformat(),
            )
        )
    return found


def epochs_of(run: Path, fold: FoldResult, recipe: Mapping[str, Any]) -> int:
    """Number of epochs that a fold was trained for, from the fold itself: another call may have changed recipe.json.

    A fold of an earlier version does not record it. Its log does, unless `patience` may have ended the training early.
    """
    log = run / folder_name(fold.fold, fold.seed) / "log.jsonl"
    if fold.epochs:
        return fold.epochs
    if recipe["patience"] or not log.exists():
        return int(recipe["epochs"])
    return len(log.read_text(encoding="utf-8").splitlines())


def shortened(recipe: Mapping[str, Any], variant: Variant | None, epochs: Sequence[int]) -> str:
    """How the training was shorter than the published one, or than our own recipe; `epochs` has a number for each fold.

    For example `60 of 300 epochs, learnt from pieces of 3 s`.
    """
    parts = []
    low, high = min(epochs), max(epochs)
    had = f"{low}" if low == high else f"{low} to {high}"
    if variant is not None and (low, high) != (variant.recipe.epochs, variant.recipe.epochs):
        parts.append(f"{had} of {variant.recipe.epochs} epochs")
    elif variant is None and low < (whole := own_epochs(recipe["name"])):
        parts.append(f"{had} of {whole} epochs")
    if variant is not None and recipe["train_window_s"]:
        parts.append(f"learnt from pieces of {recipe['train_window_s']:g} s")
    return ", ".join(parts)


def own_recipe(row: str) -> OwnRow | None:
    """How a row that is not a published variant is trained; None if no recipe has this name."""
    if row in VARIANTS or row in OWN_ROWS:
        return OWN_ROWS.get(row)
    files = (MODELS / row / "recipe.yaml", RECIPES / f"{row}.yaml")
    return next((OwnRow(path) for path in files if path.exists()), None)


def own_epochs(row: str) -> int:
    """Number of epochs in our own recipe for this row; 0 if there is none."""
    own = own_recipe(row)
    return 0 if own is None else load_recipe(own.path, own.changes).epochs


def merged(old: Iterable[Measurement], new: Iterable[Measurement]) -> list[Measurement]:
    """Old and new measurements. A new one replaces the old one of its cell, unless only the old one is complete."""
    kept = {one.key: one for one in old}
    for one in new:
        before = kept.get(one.key)
        if before is None or one.whole or not before.whole or before.measured == OLD:
            kept[one.key] = one
    return list(kept.values())


# ---- the table


def published(figures: Mapping[str, float]) -> str:
    """The text for published figures, as `UA 94.15, WA 94.21, F1 94.16`."""
    names = {"ua": "UA", "accuracy": "accuracy", "wa": "WA", "f1": "F1"}
    parts = [f"{name} {figures[key]:g}" for key, name in {**names, **PARTS}.items() if key in figures]
    if "mse_e4" in figures:
        parts.append(f"MSE {figures['mse_e4']:g}e-4")
    return ", ".join(parts)


def command(variant: Variant, benchmark: Benchmark, *, first: bool) -> str:
    """The command that trains a variant on a benchmark; the `first` benchmark of a corpus is the command's default."""
    named = "" if first else f" --benchmark {benchmark.name}"
    return f"`streamser train {variant.name} --corpora {benchmark.folder}{named}`"


def cost_of_unknown_speakers(found: Sequence[Measurement], seed: int = 0) -> str:
    """A sentence on the WA that variants lose if the test speakers are unknown; empty for fewer than two variants.

    Only variants that were measured completely in both columns count.
    """
    whole = {one.key: one.figures["wa"] for one in found if one.whole and one.row in VARIANTS and "wa" in one.figures}
    pairs = [
        (wa, whole[row, benchmark, "honest"])
        for (row, benchmark, column), wa in sorted(whole.items())
        if column == "paper" and (row, benchmark, "honest") in whole and _learns(row)
    ]
    if len(pairs) < 2:
        return ""
    paper, honest = np.array(pairs).T
    lost = paper - honest
    drawn = np.random.default_rng(seed).choice(lost, (10_000, len(lost))).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return (
        f"**The effect of sharing speakers:** over the {len(pairs)} variants that were measured completely in both "
        f"columns, our mean WA\n"
        f"is {paper.mean():.1f} % in the column `paper` and {honest.mean():.1f} % on unknown speakers, "
        f"{lost.mean():.1f} points less\n(95 % interval over variants: {low:.1f} to {high:.1f}).\n"
    )


def _learns(row: str) -> bool:
    """Whether a variant can learn: with the schedule that the report prints, a network cannot."""
    return "unable to learn" not in VARIANTS[row].table


def paper_rows(paper: str, found: Mapping[tuple[str, str, str], Measurement]) -> list[str]:
    """The section of a paper: its rows, and the commands for cells that are not measured."""
    rows, commands = [], []
    for variant in (one for one in VARIANTS.values() if one.paper == paper):
        folders: set[str] = set()
        for name, figures in variant.published.items():
            benchmark = BENCHMARKS[name]
            cells = {column: found.get((variant.name, name, column)) for column in ("paper", "honest")}
            texts = [one.text() if one else "not measured" for one in cells.values()]
            if benchmark.sessions:
                texts[1] = "- (two speakers are too few)"
            table = f"{variant.table}; {benchmark.title}"
            rows.append("| " + " | ".join((variant.name, table, published(figures), *texts)) + " |")
            if "not measured" in texts:
                commands.append(f"- {command(variant, benchmark, first=benchmark.folder not in folders)}")
            folders.add(benchmark.folder)
    lines = [f"\n## {paper}\n", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", *rows]
    if commands:
        lines += [
            "\nCommands that measure the missing cells (add `--set protocol=honest` for the column `honest`):\n",
            *commands,
        ]
    return lines


def tried_rows(found: Sequence[Measurement]) -> list[str]:
    """The section of variants that were not published on EMO-DB, but were trained on it."""
    tried = [
        one
        for one in found
        if one.benchmark == "emodb" and one.row in VARIANTS and "emodb" not in VARIANTS[one.row].published
    ]
    if not tried:
        return []
    lines = ["\n## Variants published on IEMOCAP, tried on EMO-DB\n", "| variant | ours |", "|---|---|"]
    return [*lines, *(f"| {one.row} | {one.text()} |" for one in tried), "", TRIED]


def own_rows(found: Sequence[Measurement]) -> list[str]:
    """The section of our own recipes and ablations."""
    own = {(one.row, one.benchmark): one.classes for one in found if one.row not in VARIANTS}
    if not own:
        return []
    by_key = {one.key: one for one in found}
    lines = [
        "\n## Our own recipes\n",
        "| recipe | corpus | classes | `paper` here | `honest` here |",
        "|---" * 5 + "|",
    ]
    for (row, benchmark), classes in own.items():
        cells = [by_key.get((row, benchmark, column)) for column in ("paper", "honest")]
        texts = [one.text() if one else "not measured" for one in cells]
        lines.append("| " + " | ".join((row, benchmark, str(classes), *texts)) + " |")
    return [*lines, "", OWN]


def write_table(found: Sequence[Measurement]) -> str:
    """The text of models/REPRODUCTION.md."""
    by_key = {one.key: one for one in found}
    lines = [HEAD, cost_of_unknown_speakers(found), *own_rows(found)]
    for paper in dict.fromkeys(variant.paper for variant in VARIANTS.values()):
        lines += paper_rows(paper, by_key)
    lines += tried_rows(found)
    if any(one.measured == OLD for one in found):
        lines += ["", OLD_NOTE]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write reproduction.json and REPRODUCTION.md; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folders whose figures are added")
    parser.add_argument(
        "--store", type=Path, default=STORE, help="JSON file that stores the figures (default: %(default)s)"
    )
    parser.add_argument("--table", type=Path, default=TABLE, help="Markdown file to write (default: %(default)s)")
    args = parser.parse_args(arguments)
    old = load_store(args.store) if args.store.is_file() else []
    found = merged(old, [one for run in args.runs for one in of_run(run)])
    order = [*VARIANTS]
    found.sort(key=lambda one: order.index(one.row) if one.row in order else -1)
    lines = ",\n".join(json.dumps(asdict(one)) for one in found)
    args.store.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    text = write_table(found)
    args.table.write_text(text, encoding="utf-8")
    print(f"wrote {args.table}: {text.count('not measured')} cells not measured, {len(found)} measured")
    return 0


if __name__ == "__main__":
    sys.exit(main())
