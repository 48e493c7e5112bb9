"""Draw the accuracy of the installed checkpoints on unknown voices against the size of their network.

    python tools/draw_sizes.py docs/sizes.png

The figures are those of the cards: UA on corpora that were left out, for the first utterance of a stream and after ten
utterances. Checkpoints without these figures are left out. The dashed lines are four points below the default.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamser.bundle import DEFAULT_MODEL, Bundle, find_models, load_bundle

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


def draw(sizes: list[Size], target: Path) -> None:
    """One point for each checkpoint and kind of stream."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for kind, text in SHOWN.items():
        (points,) = axes.plot([one.megabytes for one in sizes], [one.ua[kind] for one in sizes], "o", label=text)
        best = next((one.ua[kind] for one in sizes if one.name == DEFAULT_MODEL), None)
        if best is not None:
            axes.axhline(best - BEHIND, color=points.get_color(), linestyle="--", linewidth=1)
    for one in sizes:
        axes.annotate(one.name, (one.megabytes, max(one.ua.values())), (0, 6), textcoords="offset points", ha="center")
    axes.margins(0.15)
    axes.set_xlim(left=0)
    axes.set_xlabel("size of the ONNX file, MB")
    axes.set_ylabel("UA on left-out corpora, %")
    axes.legend(loc="lower right")
    figure.savefig(target, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, help="the PNG or SVG file to write")
    args = parser.parse_args()
    found = [size_of(load_bundle(path)) for path in find_models().values()]
    sizes = sorted((one for one in found if one is not None), key=lambda one: one.megabytes)
    for one in sizes:
        print(f"{one.name:20s} {one.megabytes:5.2f} MB " + ", ".join(f"{SHOWN[k]} {v:.1f}" for k, v in one.ua.items()))
    draw(sizes, args.target)


if __name__ == "__main__":
    main()
