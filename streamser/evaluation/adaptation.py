"""Choose a checkpoint's calibration and baseline constants on a leave-one-corpus-out run, and measure them there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamser.bundle import RELATIVE
from streamser.calibration import BaselineRule, Calibration
from streamser.engines.onnx import open_session
from streamser.errors import ProtocolError
from streamser.evaluation.calibration import Threshold, balanced_weights, fit_calibration
from streamser.evaluation.folds import FoldResult, folder_name, load_folds
from streamser.evaluation.streammetrics import plain_speech, stream_metrics
from streamser.evaluation.streams import MOST_CLIPS, LeftOutCorpus, choose_rule


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The folds of a run, divided into emotional corpora and plain speech."""

    corpora: tuple[LeftOutCorpus, ...]
    plain: tuple[FoldResult, ...]

    def calibration(self, risk: float, without: str = "") -> tuple[Calibration, Threshold]:
        """Calibration of the absolute head, fitted on plain speech and on every emotional corpus except `without`.

        It has no class bias: plain speech is all neutral, so a bias would make `neutral` more frequent. How frequent
        neutral speech is depends on the place of use, and is a setting (`recognizer.neutral_prior`).
        """
        folds = [one.fold for one in self.corpora if one.name != without] + list(self.plain)
        logits = np.concatenate([fold.logits for fold in folds])
        targets = np.concatenate([fold.targets for fold in folds])
        groups = [corpus for fold in folds for corpus in fold.corpora]
        return fit_calibration(logits, targets, risk=risk, weights=balanced_weights(targets, groups))

    def rule(self, calibration: Calibration, risk: float) -> BaselineRule:
        """The baseline's constants for the checkpoint, chosen on all emotional corpora together."""
        return choose_rule(self.corpora, calibration, risk)

    def metrics(self, calibration: Calibration, risk: float) -> dict[str, Any]:
        """The card's figures: each emotional corpus with constants chosen on the others, plain speech with
        `calibration`, the checkpoint's own.
        """

        def absolute(others: Sequence[LeftOutCorpus]) -> Calibration:
            (out,) = {one.name for one in self.corpora} - {one.name for one in others}
            return self.calibration(risk, without=out)[0]

        streams = stream_metrics(self.corpora, absolute, risk)
        plain = plain_speech(self.plain, calibration)
        return {
            "streams": {scenario: found.to_dict() for scenario, found in streams.items()},
            "plain_speech": {name: {key: round(share, 3) for key, share in row.items()} for name, row in plain.items()},
            "plain_speech_mood": round(float(np.mean([row["mood"] for row in plain.values()])), 3) if plain else None,
        }


def load_left_out(run: Path, folds: Sequence[FoldResult] | None = None) -> LeftOut:
    """A run's folds, read from disk unless given; ProtocolError if they have fewer than three emotional corpora."""
    found = list(folds or load_folds(run))
    plain = [fold for fold in found if is_plain(fold)]
    corpora = load_corpora(run, found)
    if len({one.name for one in corpora}) < 3:
        raise ProtocolError(
            f"{run}: streams need a leave-one-corpus-out run with `baseline: {{train: true}}` and three or more corpora"
        )
    return LeftOut(tuple(corpora), tuple(plain))


def load_corpora(run: Path, folds: Sequence[FoldResult], most: int = MOST_CLIPS) -> list[LeftOutCorpus]:
    """The folds of emotional corpora with a relative head; at most `most` clips of each are scored."""
    places = {folder_name(fold.fold, fold.seed): fold for fold in folds}
    return [
        LeftOutCorpus(fold, _relative(run / name / RELATIVE), most)
        for name, fold in sorted(places.items())
        if fold.embeddings is not None and not is_plain(fold) and (run / name / RELATIVE).is_file()
    ]


def is_plain(fold: FoldResult) -> bool:
    """Whether the fold tests plain speech, which has one label."""
    return len(set(fold.targets.tolist())) == 1


def _relative(path: Path) -> Any:
    session = open_session(path.read_bytes(), threads=1)

    def logits(
        embedding: NDArray[np.float32], total: NDArray[np.float32], weight: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        (found,) = session.run(None, {"embedding": embedding, "total": total, "weight": weight})
        return np.asarray(found, np.float32)

    return logits


__all__ = ["LeftOut", "is_plain", "load_corpora", "load_left_out"]
