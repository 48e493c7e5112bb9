"""Write the report of an evaluation: Markdown and pictures for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from streamser.corpora.benchmarks import CONFUSIONS
from streamser.evaluation.evaluate import Evaluation
from streamser.evaluation.foldtable import FoldRow, FoldTable
from streamser.evaluation.metrics import recalls
from streamser.evaluation.metricset import COVERAGE, MetricSet

REPORT = "report.md"
NUMBERS = "report.json"

_WARNING = {"independent": "", "seen": "**WARNING** ", "unknown": "**CAUTION** "}


def md_table(header: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> str:
    """A Markdown table; `align` has l or r for each column (default: the first l, the rest r).

    >>> print(md_table(("a", "b"), [("x", "1")]))
    | a | b |
    |:--|--:|
    | x | 1 |
    """
    align = align or "l" + "r" * (len(header) - 1)
    rule = "|" + "|".join("--:" if a == "r" else ":--" for a in align) + "|"
    return "\n".join([_row(header), rule, *(_row(cells) for cells in rows)])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def percent(share: float, places: int = 1) -> str:
    """A share in percent; a dash for NaN."""
    return "-" if np.isnan(share) else f"{100 * share:.{places}f}"


_FIGURES = ("clips", "speakers", "UA", "WA", "macro-F1", "ECE", f"UA at {100 * COVERAGE:.0f} %", "uncertain", "risk")


def _figures(one: MetricSet) -> tuple[str, ...]:
    return (
        str(one.clips),
        str(one.speakers),
        str(one.ua),
        str(one.wa),
        str(one.macro_f1),
        f"{one.ece:.3f}",
        percent(one.ua_at_70),
        percent(one.abstained),
        percent(one.risk),
    )


_LEGEND = (
    "UA is the mean recall over the classes that occur, WA the share of correct predictions; in brackets the 95 % "
    "bootstrap interval over speakers. ECE has 15 bins. `UA at 70 %` is the UA of the 70 % of the predictions with the "
    "highest confidence. `uncertain` is the share of predictions below the checkpoint's threshold, `risk` the share of "
    "wrong predictions among the rest."
)


def confusion_table(one: MetricSet) -> str:
    """Counts, and in brackets the percent of the row."""
    matrix, found = one.matrix, recalls(one.matrix)
    rows = []
    for i, label in enumerate(one.labels):
        total = max(1, int(matrix[i].sum()))
        cells = [f"{n} ({100 * n / total:.0f})" for n in matrix[i]]
        rows.append((f"**{label}**", *cells, percent(found[i])))
    return md_table(("true \\ predicted", *one.labels, "recall %"), rows)


def summary(evaluation: Evaluation) -> str:
    """The main figures, for a terminal and for the beginning of the report."""
    e = evaluation
    lines = [f"{_WARNING[e.independence.kind]}{e.independence.text}", ""]
    if e.independence.excluded:
        parts = ", ".join(f"{n} clips of {part} speakers" for part, n in sorted(e.independence.excluded.items()))
        left = "scored nevertheless, since there are no others" if e.independence.kind == "seen" else "left out below"
        lines += [f"Seen in training: {parts}; {left}.", ""]
    rows = [(one.name, *_figures(one)) for one in e.corpora]
    if len(e.corpora) > 1:
        rows.append(("all clips", *_figures(e.whole)))
    if e.seen:
        rows.append((f"_{e.seen.name}_", *_figures(e.seen)))
    lines.append(md_table(("corpus", *_FIGURES), rows))
    if len(e.corpora) > 1:
        lines += ["", f"Mean UA over the {len(e.corpora)} corpora: **{percent(e.mean_ua)}**."]
    return "\n".join(lines)


def markdown(evaluation: Evaluation, pictures: Sequence[str] = ()) -> str:
    """The whole report."""
    e = evaluation
    parts = [f"# {e.model} ({e.variant}), measured", summary(e), _LEGEND, _left_out(e)]
    parts += ["## Confusion", confusion_table(e.whole), _predicted_labels(e), *_shown("confusion.png", pictures)]
    if len(e.corpora) > 1:
        parts += [f"### {one.name}\n\n{confusion_table(one)}" for one in e.corpora]
    parts += ["## Confidence", _confidence(e)]
    parts += [*_shown("reliability.png", pictures), *_shown("risk_coverage.png", pictures)]
    if e.degraded:
        parts += ["## Degraded copies of the same clips", _degraded(e), *_shown("degraded.png", pictures)]
    if e.noise:
        rows = [(row.kind, str(row.clips), percent(row.abstained, 0), row.commonest) for row in e.noise]
        header = ("kind", "recordings", "uncertain %", "most frequent prediction")
        parts += ["## Recordings without speech", _noise_words(e), md_table(header, rows, "lrrl")]
    if e.plain:
        parts += ["## Plain speech", _plain_speech(e)]
    if _shown("embedding.png", pictures):
        parts += ["## Embedding", *_shown("embedding.png", pictures)]
    parts += ["## Speakers", _speakers(e)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _shown(name: str, pictures: Sequence[str]) -> list[str]:
    return [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})"] if name in pictures else []


def _left_out(e: Evaluation) -> str:
    lines = []
    if e.dropped:
        names = ", ".join(f"{label} {n}" for label, n in e.dropped.items())
        lines.append(f"Left out because the model has no such label: {names}.")
    if e.problems:
        lines.append(f"{len(e.problems)} clips could not be read: " + "; ".join(map(str, e.problems[:5])) + ".")
    return "\n\n".join(lines)


def _predicted_labels(e: Evaluation) -> str:
    shares = ", ".join(f"{label} {percent(share, 0)} %" for label, share in e.whole.predicted_shares.items())
    return f"Predictions: {shares}."


def _confidence(e: Evaluation) -> str:
    gain = 100 * (e.whole.ua_at_70 - e.whole.ua.value)
    return (
        f"ECE {e.whole.ece:.3f}, negative log-likelihood {e.whole.nll:.3f}, AURC {e.whole.aurc:.3f}. Leaving out the "
        f"least confident 30 % changes UA by {gain:+.1f} points, to {percent(e.whole.ua_at_70)}. At the threshold "
        f"{e.threshold:.3f}, {percent(e.whole.abstained)} % are uncertain and {percent(e.whole.risk)} % of the other "
        "predictions are wrong."
    )


def _plain_speech(e: Evaluation) -> str:
    rows = [
        (
            row.source + (" (**seen in training**)" if row.seen else ""),
            str(row.clips),
            *(percent(share) for share in (row.neutral, row.emotional, row.uncertain)),
        )
        for row in e.plain
    ]
    if len(e.plain) > 1:
        shares = [(row.neutral, row.emotional, row.uncertain) for row in e.plain]
        rows.append(("mean", "", *(percent(float(share)) for share in np.mean(shares, axis=0))))
    return (
        "Speech without emotion, such as reading and broadcasts. Another label than `neutral` is wrong here.\n\n"
        + md_table(("source", "clips", "neutral %", "another label %", "uncertain %"), rows)
    )


def _noise_words(e: Evaluation) -> str:
    words = "Their predictions should be `uncertain`."
    if e.noise_seen:
        words += (
            f" **CAUTION** {', '.join(e.noise_seen)} was mixed into the training: these recordings, and recorded noise "
            "above, are not new to the checkpoint."
        )
    return words


def _degraded(e: Evaluation) -> str:
    first = e.degraded[0]
    rows = [("clean", percent(first.clean_ua), "", "", "", "")]
    for row in e.degraded:
        m = row.measured
        lost = f"{-row.lost_points:+.1f}"
        rows.append((row.title, str(m.ua), lost, percent(row.unchanged, 0), f"{m.ece:.3f}", percent(m.abstained)))
    header = ("copy", "UA", "points", "same prediction %", "ECE", "uncertain %")
    return f"{first.measured.clips} clips.\n\n" + md_table(header, rows)


def _speakers(e: Evaluation) -> str:
    rows = [
        (row.speaker, str(row.clips), percent(row.ua), percent(row.wa), percent(row.abstained, 0), row.commonest)
        for row in sorted(e.speakers, key=lambda row: row.ua)
    ]
    header = ("speaker", "clips", "UA", "WA", "uncertain %", "most frequent prediction")
    return "The hardest first.\n\n" + md_table(header, rows, "lrrrrl")


def write_report(evaluation: Evaluation, out: Path) -> Path:
    """Write Markdown, JSON and, if matplotlib is installed, pictures into a folder; returns the Markdown file."""
    out.mkdir(parents=True, exist_ok=True)
    e = evaluation
    pictures = _draw(e, out)
    (out / NUMBERS).write_text(json.dumps(e.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    report = out / REPORT
    report.write_text(markdown(e, pictures), encoding="utf-8")
    return report


def _draw(e: Evaluation, out: Path) -> list[str]:
    """Draw the report's pictures; returns their names, none without matplotlib."""
    from streamser.evaluation import plots

    if not plots.can_draw():
        return []
    plots.plot_confusion(e.whole, out / "confusion.png")
    plots.plot_reliability(e.predictions, out / "reliability.png")
    plots.plot_risk_coverage(e.predictions, out / "risk_coverage.png")
    pictures = ["confusion.png", "reliability.png", "risk_coverage.png"]
    if e.degraded:
        names = [row.title for row in e.degraded]
        values = [100 * row.measured.ua.value for row in e.degraded]
        title = "UA of degraded copies; dashed: clean"
        plots.plot_bars(names, values, 100 * e.degraded[0].clean_ua, title, out / "degraded.png")
        pictures.append("degraded.png")
    if e.embedding:
        plots.plot_embedding(e.embedding, out / "embedding.png")
        pictures.append("embedding.png")
    return pictures


# ---- folds


def _mean_spread(row: FoldRow, figure: str) -> str:
    spread = f" ± {percent(row.spread(figure))}" if len(row.measured) > 1 else ""
    return percent(row.mean(figure)) + spread


def _beside(row: FoldRow, other: FoldTable) -> str:
    """Another run's UA on the same fold, and that run's number of clips if this differs."""
    rows = [*other.rows, *([other.whole] if other.whole else [])]
    same = next((one for one in rows if one.name == row.name), None)
    if same is None:
        return "-"
    clips = same.measured[0].clips
    return _mean_spread(same, "ua") + ("" if clips == row.measured[0].clips else f" ({clips} clips)")


def fold_markdown(table: FoldTable, beside: Sequence[FoldTable] = ()) -> str:
    """A run's folds as a table, with other runs' UA beside: results on corpora or speakers left out of training."""
    labels = table.rows[0].measured[0].labels
    others = tuple(f"UA {other.name}" for other in beside)
    figures = ("WA", "macro-F1", "ECE", "ECE (T of the others)", "UA at 70 %")
    header = ("left out", "clips", "UA", *others, *figures, *labels)
    rows = []
    for row in [*table.rows, *([table.whole] if table.whole else [])]:
        found = np.mean([recalls(one.matrix) for one in row.measured], axis=0)
        moved = "-" if np.isnan(row.transferred_ece) else f"{row.transferred_ece:.3f}"
        theirs = tuple(_beside(row, other) for other in beside)
        own = (_mean_spread(row, "wa"), _mean_spread(row, "macro_f1"), f"{row.mean('ece'):.3f}", moved)
        tail = (_mean_spread(row, "ua_at_70"), *(percent(r, 0) for r in found))
        rows.append((row.name, str(row.measured[0].clips), _mean_spread(row, "ua"), *theirs, *own, *tail))
    several = f"seeds {', '.join(map(str, table.seeds))}; mean ± standard deviation"
    mean = f"Mean UA over the {len(table.rows)} folds: **{percent(table.mean_ua)}**"
    mean += "".join(f", {other.name} {percent(other.mean_ua)}" for other in beside)
    lines = [
        f"# {table.name}: {table.protocol}",
        *([_shared_warning(table)] if table.shared else []),
        f"{mean} ({several if len(table.seeds) > 1 else 'one seed'}).",
        md_table(header, rows),
        "The last columns are the recalls of the classes in percent. `ECE (T of the others)` uses the temperature that "
        "was fitted on the other folds' test clips: expect it for a checkpoint of this recipe on a new corpus.",
    ]
    return "\n\n".join(lines) + "\n"


def _shared_warning(table: FoldTable) -> str:
    shown = ", ".join(table.shared[:5])
    return f"**WARNING** not speaker-independent: {len(table.shared)} speakers are in training and test ({shown} ...)."


def write_fold_report(table: FoldTable, out: Path, beside: Sequence[FoldTable] = ()) -> Path:
    """Write the fold table as Markdown and JSON into a folder; returns the Markdown file."""
    out.mkdir(parents=True, exist_ok=True)
    values = {
        "name": table.name,
        "protocol": table.protocol,
        "seeds": list(table.seeds),
        "speaker_independent": not table.shared,
        "mean_ua": round(table.mean_ua, 5),
        "folds": {row.name: [one.to_dict() for one in row.measured] for row in table.rows},
        "pooled": [one.to_dict() for one in table.whole.measured] if table.whole else None,
        "beside": {other.name: round(other.mean_ua, 5) for other in beside},
    }
    (out / "folds.json").write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    picture = _draw_fold_confusion(table, out)
    report = out / "folds.md"
    report.write_text(fold_markdown(table, beside) + picture, encoding="utf-8")
    return report


def _draw_fold_confusion(table: FoldTable, out: Path) -> str:
    """Draw the confusion matrix over all folds and seeds, beside the paper's if it prints one; returns Markdown."""
    from streamser.evaluation import plots

    if not plots.can_draw():
        return ""
    labels = table.rows[0].measured[0].labels
    counts = np.sum([one.matrix for row in table.rows for one in row.measured], axis=0)
    published = CONFUSIONS.get(table.name)
    panels = []
    if published is not None and set(published.labels) == set(labels):
        at = [labels.index(label) for label in published.labels]  # in the paper's order
        labels, counts = published.labels, counts[np.ix_(at, at)]
        panels.append((f"{published.source}, row percent", published.labels, published.percent))
    plots.plot_confusions([("all folds here, row percent", labels, counts), *panels], out / "confusion.png")
    return "\n## Confusion\n\n![confusion](confusion.png)\n"


__all__ = [
    "confusion_table",
    "fold_markdown",
    "markdown",
    "md_table",
    "percent",
    "summary",
    "write_fold_report",
    "write_report",
]
