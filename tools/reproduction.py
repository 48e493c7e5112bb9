"""Write models/REPRODUCTION.md: every published row of the five papers, beside what was measured of it here.

    python tools/reproduction.py [RUN ...]

Rows come from the zoo, figures from the finished folds in the run folders of `streamser train VARIANT --out RUN`. A row
without a run says so, with the command that measures it; nothing is filled in by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from streamser.evaluation.folds import FoldResult, load_folds
from streamser.evaluation.foldsummary import summarize
from streamser.nets.variant import Variant
from streamser.nets.zoo import VARIANTS

TARGET = Path(__file__).parents[1] / "models" / "REPRODUCTION.md"

HEAD = """\
# Reproduction

Every published row of the five papers as a variant of the zoo, and what was measured of it here. Two protocols: `paper`
as published, so that readers can compare, and `honest`, in which the test speakers are in no other part and the epoch
is chosen on other speakers. A paper's own figure may have shared speakers, or have chosen its epoch on the test fold:
its protocol says which. This file is written by `tools/reproduction.py` from the folds of finished runs.
"""

OWN = """\
The recipes stand in `models/*/recipe.yaml` and `models/recipes/`: `streamser train RECIPE --corpora-root CORPORA`, for
the other column with `--set protocol=paper:lightsernet --set choose_by=wa --set validate_every=1` (moonshine-emodb:
`--set epochs=12` too). `moonshine-*` is no paper's net: what a frozen speech recognizer's ears make of the same
protocols. `losses-*` is one net on one corpus with the losses and the pooling of papers 1 to 3, two speakers left out
at a time. Where fewer folds are counted than the protocol has (10), the others were not run."""

SEVEN = "angry,boredom,disgust,fear,happy,neutral,sad"
CORPORA = {
    "iemocap": ("IEMOCAP", "angry,happy,neutral,sad"),
    "emodb": ("emodb", SEVEN),
    "asvp": ("ASVP-ESD", f"{SEVEN},disappointment,excited,pain,pleasure,surprise"),
}
"""Where a score's first word comes from: the folder, and its labels."""
LEARNT = 30.0
"""WA of a row that learnt anything, where chance is 14 %."""
COLUMNS = ("variant", "table", "corpus", "published", "`paper` here", "`honest` here")


def corpora_of(variant: Variant) -> list[str]:
    """The corpora that a row was published on, by the first word of its scores."""
    return sorted({key.split("_")[0] for key in variant.published} & set(CORPORA)) or ["iemocap"]


def published(variant: Variant, corpus: str) -> str:
    """`UA 94.15, WA 94.21`."""
    parts = [(key, value) for key, value in variant.published.items() if key.startswith(corpus)]
    return ", ".join(f"{key.removeprefix(corpus + '_').upper()} {value:g}" for key, value in parts) or "-"


def command(variant: Variant, corpus: str, protocol: str) -> str:
    """What measures the row."""
    folder, labels = CORPORA[corpus]
    words = f"streamser train {variant.name} --corpora {folder} --labels {labels} --set protocol={protocol}"
    return f"`{words}{' --set styles=[improvised]' if corpus == 'iemocap' and 'improvised' in variant.corpus else ''}`"


def family(fold: FoldResult) -> str:
    """`paper` or `honest`."""
    return fold.protocol.split(":")[0]


def measured(folds: Iterable[FoldResult], protocol: str, shorter: str = "") -> str:
    """UA and WA of the finished folds of one protocol, or nothing."""
    kept = [fold for fold in folds if family(fold) == protocol]
    if not kept:
        return "not measured"
    result = summarize(kept)
    count = f"{_some(result['folds'], 'fold')}, {_some(result['seeds'], 'seed')}"
    return f"UA {result['ua']:.1f}, WA {result['wa']:.1f} ({count}{shorter})"


def _some(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count > 1 else ''}"


def shortened(run: str, variant: Variant) -> str:
    """What a run spared of the published training, as `, 60 of 300 epochs, pieces of 3 s`."""
    recipe = json.loads((Path(run) / "recipe.json").read_text(encoding="utf-8"))
    spared = []
    if recipe["epochs"] != variant.recipe.epochs:
        spared.append(f", {recipe['epochs']} of {variant.recipe.epochs} epochs")
    if recipe["train_window_s"]:
        spared.append(f", learnt from pieces of {recipe['train_window_s']:g} s")
    return "".join(spared)


def cost_of_strangers(folds: list[FoldResult]) -> str:
    """What the published rows lose when the test speakers are strangers, where both columns were measured."""
    was = {family: by_name(folds, family) for family in ("paper", "honest")}
    both = [name for name in VARIANTS if was["paper"].get(name, 0.0) > LEARNT and name in was["honest"]]
    if not both:
        return ""
    pairs = [(was["paper"][name], was["honest"][name]) for name in both]
    paper, honest = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
    least, most = min(a - b for a, b in pairs), max(a - b for a, b in pairs)
    return (
        f"**What sharing speakers is worth:** over the {len(pairs)} published rows with both columns (and more than "
        f"{LEARNT:.0f} %), WA is {paper:.1f} % on average\nas published and {honest:.1f} % on strangers, "
        f"{paper - honest:.1f} points less ({least:.1f} to {most:.1f}). "
        "Most are of one fold: each alone is off by several points.\n"
    )


def by_name(folds: list[FoldResult], protocol: str) -> dict[str, float]:
    """WA of each recipe under one protocol."""
    kept = [fold for fold in folds if family(fold) == protocol]
    names = {fold.name for fold in kept}
    return {name: summarize([fold for fold in kept if fold.name == name])["wa"] for name in names}


def own_rows(folds: list[FoldResult]) -> list[str]:
    """The house's own recipes on the papers' corpora, and its ablations, from their finished folds."""
    names = dict.fromkeys((fold.name, "+".join(fold.test_corpora)) for fold in folds if fold.name not in VARIANTS)
    if not names:
        return []
    lines = [
        "\n## Recipes of the house\n",
        "| recipe | corpus | classes | `paper` here | `honest` here |",
        "|---" * 5 + "|",
    ]
    for name, corpus in names:
        done = [fold for fold in folds if fold.name == name and "+".join(fold.test_corpora) == corpus]
        cells = [name, corpus, str(len(done[0].labels)), measured(done, "paper"), measured(done, "honest")]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, "", OWN]


def main(runs: list[str]) -> int:
    """Write the file; returns the exit code."""
    of_run = {run: load_folds(run) for run in runs}
    folds = [fold for found in of_run.values() for fold in found]
    lines = [HEAD, cost_of_strangers(folds), *own_rows(folds)]
    for paper in dict.fromkeys(variant.paper for variant in VARIANTS.values()):
        lines += [f"\n## {paper}\n", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
        own = [variant for variant in VARIANTS.values() if variant.paper == paper]
        rows = [(variant, corpus) for variant in own for corpus in corpora_of(variant)]
        for variant, corpus in rows:
            cells = [variant.name, variant.table, variant.corpus, published(variant, corpus)]
            for protocol in ("paper", "honest"):
                done = [
                    (run, fold)
                    for run, found in of_run.items()
                    for fold in found
                    if fold.name == variant.name and corpus in fold.test_corpora and family(fold) == protocol
                ]
                shorter = shortened(done[0][0], variant) if done else ""
                cells.append(measured([fold for _, fold in done], protocol, shorter))
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("\nTo measure a row (`--set protocol=honest` for the other column):\n")
        lines += [f"- {command(variant, corpus, variant.recipe.protocol)}" for variant, corpus in rows]
    TARGET.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"wrote {TARGET}: {sum(line.startswith('| ') for line in lines)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
