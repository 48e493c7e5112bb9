"""Draw a report's pictures (reliability, risk against coverage, confusion, embedding) and learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from streamser.colors import color_of
from streamser.errors import MissingExtraError
from streamser.evaluation import metrics
from streamser.evaluation.metricset import COVERAGE, MetricSet

if TYPE_CHECKING:
    from streamser.evaluation.evaluate import EmbeddingMap, Predictions

# Colors of corpora, distinguishable with normal and impaired color vision (Okabe and Ito).
_PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")


def can_draw() -> bool:
    """Whether matplotlib is installed: without it a report is written without its pictures."""
    return find_spec("matplotlib") is not None


def figure(width: float, height: float, columns: int = 1) -> tuple[Any, list[Any]]:
    """An empty figure and its axes; no window, no global state."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("drawing pictures", "plot") from error
    drawn = Figure(figsize=(width, height), layout="constrained")
    axes = drawn.subplots(1, columns, squeeze=False)
    return drawn, list(axes[0])


def plot_reliability(predictions: Predictions, path: Path) -> None:
    """Plot the accuracy of the predictions by their confidence, and their number."""
    correct = predictions.predicted == predictions.targets
    bins = [b for b in metrics.reliability(predictions.confidence, correct) if b.count]
    drawn, (axes,) = figure(4.5, 4.2)
    most = max(b.count for b in bins)
    axes.bar(
        [b.low for b in bins], [b.count / most * 0.3 for b in bins], 1 / metrics.ECE_BINS, align="edge",
        color="#D9D9D9", label=f"predictions (most: {most})",
    )  # fmt: skip
    axes.plot([0, 1], [0, 1], color="#8C8C8C", linewidth=1, linestyle="--", label="calibrated")
    axes.plot([b.confidence for b in bins], [b.accuracy for b in bins], "o-", color=_PALETTE[0], label="measured")
    error = metrics.ece(predictions.probabilities, predictions.targets)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share right", title=f"Reliability, ECE {error:.3f}")
    axes.legend(loc="upper left", frameon=False)
    drawn.savefig(path, dpi=120)


def plot_risk_coverage(predictions: Predictions, path: Path) -> None:
    """Risk against coverage when the least confident predictions are left out, overall and for each corpus."""
    drawn, (axes,) = figure(5.2, 4.2)
    parts = predictions.split(lambda clip: clip.corpus)
    named = [("all", predictions), *(parts if len(parts) > 1 else [])]
    for i, (name, part) in enumerate(named):
        curve = metrics.risk_coverage(part.confidence, part.predicted == part.targets)
        style = {"color": "black", "linewidth": 2} if i == 0 else {"color": _PALETTE[(i - 1) % len(_PALETTE)]}
        axes.plot(curve.coverage, curve.risk, label=f"{name} (AURC {curve.aurc:.3f})", **style)
    axes.axvline(COVERAGE, color="#8C8C8C", linewidth=1, linestyle=":")
    axes.set(xlim=(0, 1), ylim=(0, None), xlabel="coverage: share not uncertain", ylabel="risk: share of them wrong")
    axes.set_title("Risk against coverage")
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    drawn.savefig(path, dpi=120)


def plot_confusion(measured: MetricSet, path: Path) -> None:
    """The confusion matrix in row percent."""
    plot_confusions([(f"{measured.name}: row percent", measured.labels, measured.matrix)], path)


def plot_confusions(panels: Sequence[tuple[str, Sequence[str], Any]], path: Path) -> None:
    """Confusion matrices side by side, each in row percent: (title, labels, counts or percent)."""
    classes = max(len(labels) for _, labels, _ in panels)
    drawn, all_axes = figure((1.6 + 0.75 * classes) * len(panels), 1.2 + 0.65 * classes, len(panels))
    for axes, (title, labels, matrix) in zip(all_axes, panels, strict=True):
        values = np.asarray(matrix, np.float64)
        total = values.sum(axis=1, keepdims=True)
        share = values / np.where(total > 0, total, 1.0)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for row in range(len(labels)):
            for column in range(len(labels)):
                dark = share[row, column] > 0.55
                text = f"{100 * share[row, column]:.0f}"
                axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black")
        axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
        axes.set_yticks(range(len(labels)), labels)
        axes.set(xlabel="predicted", ylabel="true", title=title)
    drawn.savefig(path, dpi=120)


def plot_embedding_pair(maps: Sequence[Any], labels: Sequence[str], titles: Sequence[str], path: Path) -> None:
    """Plot maps of the same clips by several networks, (N, 2) points each, side by side and colored by label."""
    drawn, all_axes = figure(5.0 * len(maps), 4.8, columns=len(maps))
    colors = {label: color_of(label) for label in set(labels)}
    for axes, points, title in zip(all_axes, maps, titles, strict=True):
        _scatter(axes, points, labels, colors, title)
    drawn.savefig(path, dpi=120)


def plot_embedding(embedding: EmbeddingMap, path: Path) -> None:
    """Plot the same points twice: colored by emotion, which should form groups, and by corpus, which should not."""
    drawn, axes = figure(10, 4.8, columns=2)
    labels = [clip.label for clip in embedding.clips]
    corpora = [clip.corpus for clip in embedding.clips]
    palette = {name: _PALETTE[i % len(_PALETTE)] for i, name in enumerate(sorted(set(corpora)))}
    _scatter(axes[0], embedding.points, labels, {label: color_of(label) for label in set(labels)}, "by emotion")
    _scatter(axes[1], embedding.points, corpora, palette, "by corpus")
    drawn.suptitle("t-SNE of the embedding: neighbours mean something, distances and shapes do not")
    drawn.savefig(path, dpi=120)


def _scatter(axes: Any, points: Any, groups: Sequence[str], colours: dict[str, str], title: str) -> None:
    names = np.array(groups)
    for name in sorted(colours):
        own = points[names == name]
        axes.scatter(own[:, 0], own[:, 1], s=9, color=colours[name], label=name, linewidths=0, alpha=0.8)
    axes.set(title=title, xticks=[], yticks=[])
    axes.legend(frameon=False, fontsize=8, markerscale=2)


def plot_bars(names: Sequence[str], values: Sequence[float], line: float, title: str, path: Path) -> None:
    """Plot one bar for each condition, in percent; `line` is the value for clean speech."""
    drawn, (axes,) = figure(7, 0.9 + 0.36 * len(names))
    order = range(len(names))[::-1]
    axes.barh(list(order), values, color=_PALETTE[0])
    axes.axvline(line, color="black", linewidth=1, linestyle="--")
    for place, value in zip(order, values, strict=True):
        axes.text(value + 0.5, place, f"{value:.1f}", va="center", fontsize=8)
    axes.set_yticks(list(order), names, fontsize=8)
    axes.set(xlim=(0, 100), title=title)
    drawn.savefig(path, dpi=120)


def plot_seconds(points: Sequence[tuple[float, float, int]], final: float, path: Path) -> None:
    """Plot the accuracy of partials against the seconds of speech so far: (seconds, accuracy, number of partials)."""
    drawn, (axes,) = figure(5.2, 4.0)
    axes.plot([p[0] for p in points], [100 * p[1] for p in points], "o-", color=_PALETTE[0], label="partials")
    axes.axhline(100 * final, color="black", linewidth=1, linestyle="--", label="finals")
    axes.set(xlabel="seconds of the utterance so far", ylabel="right, %", ylim=(0, 100), title="Accuracy against time")
    axes.legend(frameon=False)
    drawn.savefig(path, dpi=120)


def plot_curves(history: Sequence[Mapping[str, float]], best_epoch: int, title: str, path: Path) -> None:
    """Learning curves: training loss, validation loss and validation recall for each epoch.

    Training loss includes augmentation, dropout and weighting: compare the shapes of the losses, not their values.
    """
    drawn, (left, right) = figure(9, 3.6, columns=2)
    for axes, values in (
        (left, {"loss": "training", "val_loss": "validation"}),
        (right, {"val_ua": "UA", "val_wa": "WA"}),
    ):
        for number, (key, name) in enumerate(values.items()):
            rows = [row for row in history if key in row]
            scale = 1.0 if "loss" in key else 100.0
            style = "o-" if len(rows) < 12 else "-"
            axes.plot(
                [row["epoch"] for row in rows], [scale * row[key] for row in rows], style, color=_PALETTE[number],
                markersize=3, label=name,
            )  # fmt: skip
        if best_epoch > 0:
            axes.axvline(best_epoch, color="#8C8C8C", linewidth=1, linestyle=":", label=f"kept: epoch {best_epoch}")
        axes.set(xlabel="epoch")
        axes.legend(frameon=False, fontsize=8)
    left.set_title(f"{title}: loss", parse_math=False)
    right.set(title="validation, %", ylim=(0, 100))
    drawn.savefig(path, dpi=120)


__all__ = [
    "can_draw",
    "figure",
    "plot_bars",
    "plot_confusion",
    "plot_curves",
    "plot_embedding",
    "plot_reliability",
    "plot_risk_coverage",
    "plot_seconds",
]
