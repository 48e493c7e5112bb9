"""What `--settle` brings and costs on corpora that were left out, as Markdown tables.

    python tools/measure_settling.py RUN

RUN is the folder of a recipe trained with `--set protocol=leave-one-corpus-out`: its folds hold each net's answers on
the corpus it never heard. Every speaker is one stream, the clips in random order, each judged with what the clips
before it taught; temperature and drift come from the other left-out corpora. A stream is given in several mixes of
moods, because a stream that knows only one mood is what settling gets wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamser.bundle import Bundle, Calibration, Drift, load_bundle
from streamser.evaluation.calibration import softmax
from streamser.evaluation.drift import measure_drift
from streamser.evaluation.folds import FoldResult, load_folds
from streamser.evaluation.foldsummary import beside, calibration_of
from streamser.evaluation.metrics import by_speaker, ece, ua, ua_at_coverage, unweighted_accuracy
from streamser.settling import Settling

DRAWS = 500
STEPS = (0, 1, 5, 10, 20)
"""Utterances heard before: where a column begins."""


class Mix(NamedTuple):
    """How much of a stream is of one mood; the rest are the others, as they come."""

    label: str = ""
    share: float = 0.0

    def __str__(self) -> str:
        return f"{100 * self.share:.0f} % {self.label}" if self.label else "all clips"


MIXES = (Mix(), *(Mix("neutral", share) for share in (0.8, 1.0)), *(Mix(x, 1.0) for x in ("angry", "happy", "sad")))


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """The clips of one corpus that a mix takes, as two recognizers answered them."""

    targets: NDArray[np.int64]
    speakers: tuple[str, ...]
    before: NDArray[np.int64]
    """Utterances of the stream that came earlier."""
    plain: NDArray[np.float64]
    settled: NDArray[np.float64]


def left_out_knowledge(fold: FoldResult, folds: Sequence[FoldResult]) -> tuple[Calibration, Drift]:
    """Temperature and drift, as the folds that left other corpora out teach them."""
    others = beside(fold, folds)
    calibration = calibration_of(others)
    drift = measure_drift(others, calibration)
    if drift is None:
        raise SystemExit(f"{fold.fold}: the other corpora do not have every class; nothing can be settled with them")
    return calibration, drift


def taken(fold: FoldResult, speaker: str, mix: Mix, rng: np.random.Generator) -> NDArray[np.int64]:
    """A stream of one speaker: indexes of clips, in a random order."""
    own = rng.permutation(np.flatnonzero(np.array(fold.speakers) == speaker))
    if not mix.label:
        return own
    is_it = fold.targets[own] == fold.labels.index(mix.label)
    others = own[~is_it][: round(is_it.sum() * (1 - mix.share) / mix.share)]
    return rng.permutation(np.concatenate([own[is_it], others]))


def hear(fold: FoldResult, calibration: Calibration, bundle: Bundle, mix: Mix) -> Heard:
    """Every speaker's stream, judged as it comes."""
    plain, rng = softmax(fold.logits, calibration), np.random.default_rng(0)
    order, before, settled = [], [], []
    for speaker in sorted(set(fold.speakers)):
        settling = Settling(bundle)
        for count, clip in enumerate(taken(fold, speaker, mix, rng)):
            scores = dict(zip(fold.labels, plain[clip].tolist(), strict=True))
            settled.append(list(settling.settle(scores).values()))
            settling.hear(scores)
            order.append(clip)
            before.append(count)
    at = np.array(order)
    speakers = tuple(fold.speakers[clip] for clip in order)
    return Heard(fold.targets[at], speakers, np.array(before), plain[at], np.array(settled))


def gain(heard: Heard, draws: NDArray[np.float64]) -> tuple[float, float, NDArray[np.float64]]:
    """UA without and with settling, and the gain over redrawn speakers, in points."""
    classes = heard.plain.shape[1]
    matrices = [
        by_speaker(heard.targets, answers.argmax(axis=1), heard.speakers, classes)[1]
        for answers in (heard.plain, heard.settled)
    ]
    count = len(matrices[0])
    times = np.floor(draws[:, :count] * count).astype(np.int64)  # which speakers stand in each drawn set
    without, with_it = (100 * ua(matrix[times].sum(axis=1)) for matrix in matrices)
    return *(100 * float(ua(matrix.sum(axis=0))) for matrix in matrices), with_it - without  # type: ignore[return-value]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("run", metavar="RUN", help="a finished leave-one-corpus-out run")
    parser.add_argument("--model", default="moonshine", help="any checkpoint with the run's labels")
    parser.add_argument("--threshold", type=float, help="of the last lines (default: the checkpoint's own)")
    args = parser.parse_args(arguments)
    folds, shell = load_folds(args.run), load_bundle(args.model)
    threshold = shell.calibration.threshold if args.threshold is None else args.threshold
    draws = np.random.default_rng(0).random((DRAWS, max(len(set(fold.speakers)) for fold in folds)))
    corpora = sorted({fold.fold for fold in folds})
    rows, everything = [], []
    for mix in MIXES:
        of_corpus: dict[str, list[tuple[float, float, NDArray[np.float64]]]] = {name: [] for name in corpora}
        for fold in folds:
            calibration, drift = left_out_knowledge(fold, folds)
            heard = hear(fold, calibration, replace(shell, drift=drift), mix)
            of_corpus[fold.fold].append(gain(heard, draws))
            if not mix.label:
                everything.append(heard)
        means = {name: np.mean([row[:2] for row in found], axis=0) for name, found in of_corpus.items()}
        drawn = np.mean([np.mean([row[2] for row in found], axis=0) for found in of_corpus.values()], axis=0)
        without, with_it = np.mean(list(means.values()), axis=0)
        low, high = np.nanpercentile(drawn, [2.5, 97.5])
        cells = [f"{after:.1f} ({after - before:+.1f})" for before, after in means.values()]
        rows.append(
            [str(mix), f"{without:.1f}", f"{with_it:.1f}", f"{with_it - without:+.1f} [{low:+.1f}, {high:+.1f}]"]
        )
        rows[-1] += cells
        print(f"{mix}: {with_it - without:+.1f}", file=sys.stderr, flush=True)
    names = [name.removeprefix("without-") for name in corpora]
    print(table(["UA, mean of corpora", "without", "settled", "gain", *names], rows))
    print()
    steps = []
    for first, end in zip(STEPS, [*STEPS[1:], None], strict=True):
        scores = [_between(heard, first, end) for heard in everything]
        without, with_it = np.nanmean(scores, axis=0)  # NaN where no stream is so long
        heard_before = f"{first}" if end == first + 1 else f"{first} to {end - 1}" if end else f"{first} and more"
        steps.append([heard_before, f"{without:.1f}", f"{with_it:.1f}", f"{with_it - without:+.1f}"])
    print(table(["utterances heard before, all clips", "without", "settled", "gain"], steps))
    print()
    surest = [
        [100 * ua_at_coverage(answers, heard.targets, 0.7) for answers in (heard.plain, heard.settled)]
        for heard in everything
    ]
    errors = [[ece(answers, heard.targets) for answers in (heard.plain, heard.settled)] for heard in everything]
    (without, with_it), (error, settled_error) = np.mean(surest, axis=0), np.mean(errors, axis=0)
    print(f"Of the surest 70 % of each corpus's answers, all clips: UA {without:.1f} without, {with_it:.1f} settled.")
    answered = [[(answers.max(axis=1) >= threshold) for answers in (h.plain, h.settled)] for h in everything]
    right = [[answers.argmax(axis=1) == h.targets for answers in (h.plain, h.settled)] for h in everything]
    share = np.mean([[said.mean() for said in one] for one in answered], axis=0)
    risk = np.mean(
        [[1 - ok[said].mean() for said, ok in zip(*both, strict=True)] for both in zip(answered, right, strict=True)],
        axis=0,
    )
    for name, part, wrong in zip(("Without", "Settled"), share, risk, strict=True):
        print(f"{name}, {100 * part:.0f} % are answered above {threshold:.3f}, {100 * wrong:.0f} % of that wrongly.")
    print(f"Calibration error, mean of the corpora: {error:.3f} without, {settled_error:.3f} settled.")
    return 0


def _between(heard: Heard, first: int, end: int | None) -> tuple[float, float]:
    """UA without and with settling of the clips that so many came before."""
    chosen = (heard.before >= first) & (heard.before < (end or heard.before.max() + 1))
    targets = heard.targets[chosen]
    classes = heard.plain.shape[1]
    without, with_it = (
        100 * unweighted_accuracy(targets, answers[chosen].argmax(axis=1), classes)
        for answers in (heard.plain, heard.settled)
    )
    return without, with_it


if __name__ == "__main__":
    sys.exit(main())
