"""Draw the accuracy of networks on unknown voices against their size.

    python tools/draw_sizes.py docs/sizes.png
    python tools/draw_sizes.py docs/sizes-lightsernet.png --runs runs/students/size-*

Without `--runs`, the picture has the installed checkpoints, with the figures of their cards: UA on corpora that were
left out, for the first utterance of a stream and after ten utterances. Checkpoints without these figures are left out.
The dashed lines are four points below the default.

With `--runs`, it has UA of runs that left corpora out, on the folds that all of them have, against the multiplications
that their network needs for a window, with 95 % intervals over speakers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compare_runs import compare

from streamser.bundle import DEFAULT_MODEL, Bundle, find_models, load_bundle
from streamser.nets import zoo

SHOWN = {"first": "first utterance", "natural_10": "after ten utterances"}
BEHIND = 4.0


@dataclass(frozen=True, slots=True)
class Size:
    """One checkpoint in the picture."""

    name: str
    megabytes: float
    ua: dict[str, float]


def size_of(bundle: Bundle) -> Size | None:
    """Size of the ONNX file and UA by kind of stream; None if the card has no left-out figures."""
    streams: Any = bundle.scores.get("streams")
    if not isinstance(streams, dict):
        return None
    return Size(bundle.name, bundle.size_bytes / 1e6, {kind: float(streams[kind]["ua"]) for kind in SHOWN})


def multiplications(run: Path) -> float:
    """Multiplications of the run's network for one window, in millions."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    bundle = load_bundle(next(run.glob("*/bundle")))
    net, features = zoo.restore(bundle), bundle.features
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, features.window_frames, features.bins))
    return float(counter.get_total_flops()) / 2e6  # a multiplication and an addition count as two


def draw_checkpoints(axes: Any, sizes: Sequence[Size]) -> None:
    """One point for each checkpoint and kind of stream."""
    for kind, text in SHOWN.items():
        (points,) = axes.plot([one.megabytes for one in sizes], [one.ua[kind] for one in sizes], "o", label=text)
        best = next((one.ua[kind] for one in sizes if one.name == DEFAULT_MODEL), None)
        if best is not None:
            axes.axhline(best - BEHIND, color=points.get_color(), linestyle="--", linewidth=1)
    for one in sizes:
        axes.annotate(one.name, (one.megabytes, max(one.ua.values())), (0, 6), textcoords="offset points", ha="center")
    axes.margins(0.15)
    axes.set_xlim(left=0)
    axes.set_title("the shipped checkpoints")
    axes.set_xlabel("size of the ONNX file, MB")
    axes.set_ylabel("UA on left-out corpora, %")
    axes.legend(loc="lower right")


def draw_runs(axes: Any, runs: Sequence[Path]) -> None:
    """One point for each run, with its interval."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    for run, row in zip(runs, compare(runs), strict=True):
        million = multiplications(run)
        low, high = row.interval
        print(f"{row.name:28s} {million:6.1f} M multiplications, UA {row.mean:.1f} [{low:.1f}, {high:.1f}]")
        axes.errorbar(million, row.mean, [[row.mean - low], [high - row.mean]], fmt="o", color="C0", capsize=3)
        name = row.name.removeprefix("size-")
        axes.annotate(name, (million, row.mean), (6, 4), textcoords="offset points")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(0.2)
    axes.set_title("other sizes of LightSERNet")
    axes.set_xlabel("multiplications for 3 s, millions")
    axes.set_ylabel("UA on left-out corpora, first utterance, %")


def main() -> None:
    from matplotlib.figure import Figure

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, help="the PNG or SVG file to write")
    parser.add_argument(
        "--runs", type=Path, nargs="+", default=[], metavar="RUN", help="draw these runs, not the checkpoints"
    )
    args = parser.parse_args()
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    if args.runs:
        draw_runs(axes, args.runs)
    else:
        found = [size_of(load_bundle(path)) for path in find_models().values()]
        sizes = sorted((one for one in found if one is not None), key=lambda one: one.megabytes)
        for one in sizes:
            values = ", ".join(f"{SHOWN[kind]} {value:.1f}" for kind, value in one.ua.items())
            print(f"{one.name:20s} {one.megabytes:5.2f} MB {values}")
        draw_checkpoints(axes, sizes)
    figure.savefig(args.target, dpi=110)


if __name__ == "__main__":
    main()
