"""Draw t-SNE maps of two runs' last hidden layers side by side, like figures 2 and 3 of Tripathi, Ramesh et al. 2019.

    python tools/embedding_pair.py RUN_S RUN_SC OUT.png --corpora-root CORPORA

Each run's checkpoint of the first fold embeds the same clips: at most 250 of each class, drawn at random by `--seed`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamser.audio import read_audio
from streamser.corpora.clips import Clip
from streamser.errors import ProtocolError
from streamser.evaluation.evaluate import tsne
from streamser.evaluation.folds import fold_folders, load_folds
from streamser.evaluation.plots import plot_embedding_pair
from streamser.recognizer import load
from streamser.training.material import gather
from streamser.training.recipe import recipe_from

MOST = 250
"""Clips per class, as in the paper."""


def chosen_clips(clips: Sequence[Clip], most: int, seed: int) -> list[Clip]:
    """Draw at most `most` clips of each label at random."""
    rng = np.random.default_rng(seed)
    found: list[Clip] = []
    for label in sorted({clip.label for clip in clips}):
        own = [clip for clip in clips if clip.label == label]
        found += [own[i] for i in rng.permutation(len(own))[:most]]
    return found


def embeddings(run: Path, fold: str, clips: Sequence[Clip]) -> NDArray[np.float32]:
    """Embed the clips with a fold's checkpoint (last hidden layer), (clips, D)."""
    places = fold_folders(run, fold)
    bundles = [places[seed] / "bundle" for seed in sorted(places) if (places[seed] / "bundle").is_dir()]
    if not bundles:
        raise ProtocolError(f"{run}: no checkpoint of {fold}; first train the row into this folder")
    recognizer = load(bundles[0], compute="cpu")
    return np.concatenate([recognizer.embed([read_audio(clip.path)]) for clip in clips])


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the picture; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN")
    parser.add_argument("out", type=Path, metavar="OUT.png")
    parser.add_argument("--corpora-root", type=Path, default=Path())
    parser.add_argument("--part", choices=("test", "all"), default="all", help="clips of the fold's test part, or all")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    values = json.loads((args.runs[0] / "recipe.json").read_text(encoding="utf-8"))
    recipe = recipe_from({key: value for key, value in values.items() if value is not None})
    material = gather(recipe, args.corpora_root, args.out.parent)
    first = load_folds(args.runs[0])[0]
    of_test = set(first.clips)
    clips = [clip for clip in material.clips if args.part == "all" or clip.id in of_test]
    clips = chosen_clips(clips, MOST, args.seed)
    maps = [tsne(embeddings(run, first.fold, clips), args.seed) for run in args.runs]
    plot_embedding_pair(maps, [clip.label for clip in clips], [run.name for run in args.runs], args.out)
    print(f"wrote {args.out}: {len(clips)} clips of {first.fold}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
