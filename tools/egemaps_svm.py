"""Measure a common alternative: openSMILE eGeMAPS functionals and a support vector machine.

    pip install -e . -r tools/egemaps_requirements.txt
    python tools/egemaps_svm.py ravdess --protocol honest --folds 6 --out runs/egemaps-ravdess
    python tools/egemaps_svm.py emodb ravdess nemo ased --labels four --protocol leave-one-corpus-out

The folds are those of `streamser train` for the same protocol and seed. The 88 functionals are standardized with the
mean and deviation of the training clips; C and kernel are chosen by UA on the validation speakers. `--out` gets
`result.json` and one file per fold, which `streamser evaluate` reads like the folds of networks.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import opensmile
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from streamser.audio import SAMPLE_RATE, read_audio
from streamser.corpora.clips import Clip
from streamser.corpora.protocols import HONEST, PAPERS, Split, make_splits
from streamser.corpora.reader import FOUR, AudioCheck, map_labels, read_corpora
from streamser.evaluation.calibration import fit_temperature
from streamser.evaluation.folds import FoldResult, save_fold
from streamser.evaluation.metrics import unweighted_accuracy, weighted_accuracy

# (kernel, C), from linear with strong regularization to RBF with weak regularization
CHOICES = [
    ("linear", 0.001),
    ("linear", 0.01),
    ("linear", 0.1),
    ("rbf", 0.3),
    ("rbf", 1.0),
    ("rbf", 3.0),
    ("rbf", 10.0),
]

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Table:
    """The functionals of clips, one row per clip."""

    rows: dict[str, int]
    """Row of each clip id."""
    values: Values  # (clips, 88)

    def of(self, clips: Sequence[Clip]) -> Values:
        return self.values[[self.rows[clip.id] for clip in clips]]


def extract(paths: Sequence[Path]) -> Values:
    """Compute the eGeMAPS functionals of files, (files, 88)."""
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    return np.concatenate([smile.process_signal(read_audio(path), SAMPLE_RATE).to_numpy(np.float64) for path in paths])


def table_of(clips: Sequence[Clip], cache: Path | None, workers: int) -> Table:
    """The functionals of all clips; functionals that the cache file contains are not computed again."""
    known: dict[str, Values] = {}
    if cache is not None and cache.is_file():
        with np.load(cache) as arrays:
            known = dict(zip(arrays["ids"].tolist(), arrays["values"], strict=True))
    new = [clip for clip in clips if clip.id not in known]
    jobs = [new[start : start + 50] for start in range(0, len(new), 50)]
    with ProcessPoolExecutor(workers) as pool:
        for job, values in zip(jobs, pool.map(extract, [[clip.path for clip in job] for job in jobs]), strict=True):
            known.update({clip.id: row for clip, row in zip(job, values, strict=True)})
    if cache is not None and new:
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cache, ids=np.array(list(known)), values=np.stack(list(known.values())))
    values = np.nan_to_num(np.stack([known[clip.id] for clip in clips]))
    return Table({clip.id: row for row, clip in enumerate(clips)}, values)


def speakers_own(table: Table, clips: Sequence[Clip]) -> Table:
    """Standardize the functionals by each speaker's mean and deviation; this needs all clips of a test speaker."""
    values = table.values.copy()
    for speaker in {clip.speaker for clip in clips}:
        rows = [table.rows[clip.id] for clip in clips if clip.speaker == speaker]
        own = values[rows]
        values[rows] = (own - own.mean(axis=0)) / np.maximum(own.std(axis=0), 1e-6)
    return Table(table.rows, values)


def machine(kernel: str, cost: float) -> Pipeline:
    return make_pipeline(StandardScaler(), SVC(kernel=kernel, C=cost, class_weight="balanced"))


def run_fold(split: Split, table: Table, labels: Sequence[str], name: str, seed: int) -> tuple[FoldResult, str]:
    """Train on the split, choose kernel and C on its validation speakers, and classify its test clips.

    Returns the fold's result and the choice as text.
    """

    def xy(clips: Sequence[Clip]) -> tuple[Values, NDArray[np.int64]]:
        return table.of(clips), np.array([labels.index(clip.label) for clip in clips], np.int64)

    x, y = xy(split.train)
    choosers = split.parts.get(split.choose_on, ())
    best, best_ua, choice = machine(*CHOICES[0]).fit(x, y), -1.0, CHOICES[0]
    for kernel, cost in CHOICES if choosers else ():
        model = machine(kernel, cost).fit(x, y)
        held, truth = xy(choosers)
        ua = unweighted_accuracy(truth, model.predict(held), len(labels))
        if ua > best_ua:
            best, best_ua, choice = model, ua, (kernel, cost)
    temperature = 1.0
    if choosers:
        held, truth = xy(choosers)
        temperature = fit_temperature(scores(best, held, len(labels)), truth)
    held, truth = xy(split.test)
    result = FoldResult(
        name=name,
        protocol=split.protocol,
        fold=split.name,
        seed=seed,
        labels=tuple(labels),
        targets=truth,
        logits=scores(best, held, len(labels)),
        speakers=tuple(clip.speaker for clip in split.test),
        clips=tuple(clip.id for clip in split.test),
        train_speakers=tuple(sorted({clip.speaker for clip in (*split.train, *split.validation)})),
        test_corpora=tuple(sorted({clip.corpus for clip in split.test})),
        temperature=temperature,
    )
    return result, f"{choice[0]} C={choice[1]:g}"


def scores(model: Pipeline, x: Values, n_labels: int) -> NDArray[np.float32]:
    """One score per label and clip, (clips, labels); a label that is not in the training set gets -10."""
    raw = model.decision_function(x)
    raw = np.stack([-raw, raw], axis=1) if raw.ndim == 1 else raw
    out = np.full((len(x), n_labels), -10.0, np.float32)
    out[:, model.classes_] = raw
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", nargs="+", help="corpus folders, or their names below $STREAMSER_CORPORA")
    parser.add_argument(
        "--labels", choices=["all", "four"], default="all", help="the corpora's own labels, or four classes"
    )
    parser.add_argument("--protocol", choices=[*HONEST[:3], *PAPERS], default="honest-loso")
    parser.add_argument("--folds", type=int, default=5, help="number of folds of the protocol 'honest' (default: 5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--validation-speakers", type=float, default=0.15, help="share of each corpus's speakers (default: 0.15)"
    )
    parser.add_argument(
        "--test-corpora", nargs="*", default=[], help="leave out only these corpora (leave-one-corpus-out)"
    )
    parser.add_argument("--speaker-norm", action="store_true", help="standardize by each speaker's mean and deviation")
    parser.add_argument("--cache", type=Path, help="an .npz file that keeps the functionals")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="folder for result.json and the fold files")
    args = parser.parse_args()

    clips, reports = read_corpora(args.corpora, check=AudioCheck())
    for report in reports:
        print(report.text())
    if args.labels == "four":
        clips, dropped = map_labels(clips, FOUR)
        print(f"left out: {dropped or 'nothing'}")
    labels = sorted({clip.label for clip in clips})
    started = time.monotonic()
    table = table_of(clips, args.cache, args.workers)
    print(f"{len(clips)} clips, eGeMAPS in {time.monotonic() - started:.0f} s")
    if args.speaker_norm:
        table = speakers_own(table, clips)

    name = "egemaps-svm" + ("-speaker-norm" if args.speaker_norm else "")
    splits = make_splits(
        args.protocol,
        clips,
        seed=args.seed,
        folds=args.folds,
        validation_speakers=args.validation_speakers,
        test_corpora=args.test_corpora,
    )
    folds = []
    rows = []
    for split in splits:
        fold, choice = run_fold(split, table, labels, name, args.seed)
        folds.append(fold)
        rows.append({"fold": split.name, "clips": len(fold.clips), "choice": choice, **figures([fold])})
        print("{fold:28} {clips:5d} clips  UA {ua:5.1f}  WA {wa:5.1f}  {choice}".format(**rows[-1]))
        if args.out is not None:
            save_fold(args.out / f"{split.name.replace('/', '-')}-seed{args.seed}.json", fold)
    pooled = figures(folds)
    mean = {key: float(np.mean([row[key] for row in rows])) for key in ("ua", "wa")}
    print(
        f"{name}, {args.protocol}, seed {args.seed}: UA {pooled['ua']:.1f} WA {pooled['wa']:.1f} over all test clips; "
        f"mean of folds UA {mean['ua']:.1f} WA {mean['wa']:.1f}"
    )
    if args.out is not None:
        summary = {
            "name": name,
            "protocol": args.protocol,
            "seed": args.seed,
            "labels": labels,
            "corpora": args.corpora,
        }
        summary |= {"pooled": pooled, "mean_of_folds": mean, "folds": rows}
        (args.out / "result.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


def figures(folds: Sequence[FoldResult]) -> dict[str, float]:
    """UA and WA in percent, over all clips of the folds."""
    truth = np.concatenate([fold.targets for fold in folds])
    predicted = np.concatenate([fold.logits.argmax(axis=1) for fold in folds])
    ua = 100 * unweighted_accuracy(truth, predicted, len(folds[0].labels))
    return {"ua": ua, "wa": 100 * weighted_accuracy(truth, predicted)}


if __name__ == "__main__":
    main()
