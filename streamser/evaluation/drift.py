"""How voices and rooms move a recipe's answers: what `settling` starts from, measured on left-out corpora."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamser.bundle import Calibration, Drift
from streamser.evaluation.calibration import softmax
from streamser.evaluation.folds import FoldResult, by_seed
from streamser.settling import ratios

Values = NDArray[np.float64]


def measure_drift(folds: Sequence[FoldResult], calibration: Calibration) -> Drift | None:
    """The mean over seeds; None where no two corpora have every class, and speakers with all of them.

    Each fold's net is a stranger to the corpus it is tested on; a corpus that lacks a class cannot say how all move.
    All answers of a corpus are apart from everybody's by its rooms and language, and a speaker's by the voice:
    `between` is the sum of both covariances. `within` holds what is left, and how unlike its neighbours a class moves.
    """
    tables = [_of_seed(of_seed, calibration) for of_seed in by_seed(folds).values()]
    known = [table for table in tables if table is not None]
    if not known:
        return None
    means, within, between = (np.mean(part, axis=0) for part in zip(*known, strict=True))
    return Drift(_plain(means), _plain(within), _plain(between))


def _plain(table: Values) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(round(float(value), 5) for value in row) for row in table)


def _of_seed(folds: Sequence[FoldResult], calibration: Calibration) -> tuple[Values, Values, Values] | None:
    classes = len(folds[0].labels)
    whole = [fold for fold in folds if len(set(fold.targets.tolist())) == classes]
    if len(whole) < 2:
        return None
    of_corpus = [(ratios(softmax(fold.logits, calibration)), fold.targets, np.array(fold.speakers)) for fold in whole]
    tables = np.array([_class_means(answers, targets, classes) for answers, targets, _ in of_corpus])
    means = tables.mean(axis=0)  # of (corpora, C, C - 1)
    rooms = (tables - means).mean(axis=1)  # what a corpus adds to all classes
    apart = (tables - means - rooms[:, None]).reshape(-1, classes - 1)  # and to one more than to another
    voices, left = [], []
    for (answers, targets, speakers), table in zip(of_corpus, tables, strict=True):
        for speaker in sorted(set(speakers)):
            his = speakers == speaker
            if len(set(targets[his].tolist())) < classes:
                continue
            of_class = _class_means(answers[his], targets[his], classes)
            voices.append((of_class - table).mean(axis=0))
            counts = np.bincount(targets[his], minlength=classes)[targets[his]]
            enough = counts > 1  # one answer lies on its own mean
            spread = (answers[his] - of_class[targets[his]])[enough]
            left.append(spread * np.sqrt(counts / np.maximum(counts - 1, 1))[enough, None])
    if len(voices) < 2 or not sum(map(len, left)):
        return None
    within = _second_moment(np.concatenate(left)) + _second_moment(apart)
    between = np.cov(rooms.T) + _second_moment(np.array(voices))
    size = classes - 1
    tiny = 1e-4 * np.eye(size)  # few corpora span few directions
    return means, within + tiny, between.reshape(size, size) + tiny


def _class_means(answers: Values, targets: NDArray[np.int64], classes: int) -> Values:
    """(C, C - 1)"""
    return np.stack([answers[targets == label].mean(axis=0) for label in range(classes)])


def _second_moment(values: Values) -> Values:
    return np.asarray(values.T @ values / len(values), np.float64)
