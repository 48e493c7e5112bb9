"""Add the folds of a corpus that was never used for training, without training them.

    streamser train models/sepconv/recipe.yaml --set protocol=leave-one-corpus-out --folds 0-4 --out RUN ...
    python tools/share_folds.py without-emovo casia RUN --corpora-root CORPORA

`judge_only` in a recipe names corpora that no fold trains on. The folds that leave them out differ only in the choice
of validation speakers, so one training serves them all: the checkpoints of the given fold classify the test clips of
the other corpus. A checkpoint that was trained on that corpus, or whose teacher was, is refused.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from students_gpu import some_of

from streamser.bundle import RELATIVE
from streamser.corpora.clips import Clip
from streamser.errors import ProtocolError, StreamserError
from streamser.evaluation.folds import FoldResult, fold_folders, folder_name, load_folds, save_fold
from streamser.recognizer import Recognizer, load
from streamser.training.material import gather
from streamser.training.recipe import load_recipe
from streamser.training.trainer import scored_clips


def scored(recognizer: Recognizer, trained: FoldResult, fold: str, clips: list[Clip]) -> FoldResult:
    """The fold of these clips, with the network of another fold; ProtocolError if it was trained on their corpus."""
    corpora = {clip.corpus for clip in clips}
    known = corpora & trained.train_corpora
    if known:
        raise ProtocolError(f"{trained.fold}, seed {trained.seed}: was trained on {', '.join(sorted(known))}")
    logits, embeddings = scored_clips(recognizer, clips)
    return replace(
        trained,
        fold=fold,
        targets=np.array([trained.labels.index(clip.label) for clip in clips], np.int64),
        logits=logits,
        embeddings=None if trained.embeddings is None else embeddings,
        speakers=tuple(clip.speaker for clip in clips),
        clips=tuple(clip.id for clip in clips),
        test_corpora=tuple(sorted(corpora)),
        figures={},
    )


def share(run: Path, fold: str, corpus: str, root: Path, cache: Path, most: int = 0) -> None:
    """Add the folds of a corpus to a run, one for each seed of the trained fold that does not have it yet."""
    recipe = load_recipe(run / "recipe.json", {"corpora": [corpus], "plain": {}, "judge_only": []})
    folders = fold_folders(run, fold)
    if not folders:
        raise ProtocolError(f"{run}: has no fold {fold}")
    clips = list(some_of(gather(recipe, root, cache), most).clips)
    for seed, folder in sorted(folders.items()):
        place = run / folder_name(f"without-{corpus}", seed)
        if (place / "fold.json").exists():
            print(f"{place}: is there already")
            continue
        result = scored(load(folder / "bundle"), load_folds(folder)[0], f"without-{corpus}", clips)
        place.mkdir(parents=True, exist_ok=True)
        if (folder / RELATIVE).exists():
            shutil.copy(folder / RELATIVE, place / RELATIVE)
        save_fold(place / "fold.json", result)
        print(f"{place}: {len(result.clips)} clips")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fold", help="the trained fold, such as without-emovo")
    parser.add_argument("corpus", help="the corpus to score with its checkpoints")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs that leave corpora out")
    parser.add_argument("--corpora-root", type=Path, required=True, help="folder that holds the corpora")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="as in streamser train")
    parser.add_argument("--clips", type=int, default=0, help="as given to students_gpu.py for these runs")
    args = parser.parse_args()
    try:
        for run in args.runs:
            share(run, args.fold, args.corpus, args.corpora_root, args.cache, args.clips)
    except StreamserError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
