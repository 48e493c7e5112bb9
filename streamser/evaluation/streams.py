"""Compose streams of left-out clips and classify them as a live stream does, with a baseline of earlier utterances.

The utterances before a clip are drawn by one of six rules (see `Scenario.kind`); the hardest for a baseline is the one
that draws only the clip's own label. Every clip is classified once in each scenario. True labels are used only to draw
utterances and to count correct predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from streamser.baseline import weighted_sum
from streamser.calibration import BaselineRule, Calibration
from streamser.evaluation.calibration import balanced_weights, choose_threshold, fit_temperature, softmax
from streamser.evaluation.folds import FoldResult
from streamser.evaluation.metrics import unweighted_accuracy

Values = NDArray[np.float64]
Relative = Callable[[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
"""Embeddings (N, D), baseline sums (N, D) and their weights (N, 1) to logits (N, classes), as relative.onnx does."""

NATURAL_NEUTRAL = 0.7
"""Share of neutral utterances in a natural stream; the other labels share the rest."""
MEMORY = 60
"""`BaselineRule.memory`, in utterances. It is fixed, because the streams here are too short to choose it."""
EXPONENTS = (1.0, 1.5, 2.0, 3.0)
HALVES = (0.0, 0.5, 1.0, 2.0)
MOST_CLIPS = 600
"""Largest number of clips of a corpus that are scored. Clips that are not scored may still be earlier utterances."""
_ONE_EMOTION_COST = 1.0
"""Points of UA that the chosen constants may lose in a stream of one emotion."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """The rule by which the utterances before a clip are drawn."""

    name: str
    kind: str
    """One of six rules:

    - natural: mostly neutral utterances of the speaker
    - mixed: all labels equally often
    - one-emotion: only the clip's own label
    - enrolled: neutral utterances, each with full weight
    - other-speaker: natural, but of another speaker
    - all: every other clip of the speaker, as `label --two-passes` uses them
    """
    before: int
    """Largest number of utterances before the clip; not used by the rule `all`."""


SCENARIOS = (
    Scenario("natural_3", "natural", 3),
    Scenario("natural_7", "natural", 7),
    Scenario("natural_10", "natural", 10),
    Scenario("natural_30", "natural", 30),
    Scenario("mixed_10", "mixed", 10),
    Scenario("one_mood_10", "one-emotion", 10),
    Scenario("enrolled_6", "enrolled", 6),
    Scenario("other_speaker_10", "other-speaker", 10),
    Scenario("two_passes", "all", 0),
)
_CHOSEN_ON, _GUARDED = "natural_10", "one_mood_10"


class LeftOutCorpus:
    """The clips of a corpus that was left out, as one fold's network scores them in every kind of stream."""

    def __init__(self, fold: FoldResult, relative: Relative, most: int = MOST_CLIPS) -> None:
        """At most `most` clips are scored."""
        if fold.embeddings is None:
            raise ValueError(f"fold {fold.fold}: has no embeddings; train it again with `baseline: {{train: true}}`")
        self.fold, self.relative = fold, relative
        self.name = fold.left_out
        self.neutral = fold.labels.index("neutral")
        order = np.random.default_rng(0).permutation(len(fold.clips))
        self.scored = np.sort(order[:most])
        self.targets = fold.targets[self.scored]
        self._embeddings: NDArray[np.float32] = fold.embeddings

    @cached_property
    def histories(self) -> dict[str, list[NDArray[np.int64]]]:
        """For each scenario and scored clip, the indexes of the clips before it."""
        return {scenario.name: self._drawn(scenario) for scenario in SCENARIOS}

    def own(self, calibration: Calibration) -> Values:
        """The absolute head's calibrated probabilities for the scored clips, (N, classes)."""
        return softmax(self.fold.logits[self.scored], calibration)

    def compared(self, scenario: str, exponent: float, calibration: Calibration) -> tuple[Values, Values]:
        """The relative head's logits (N, classes) after the scenario's utterances, and the baseline weights (N, 1)."""
        neutrality = softmax(self.fold.logits, calibration)[:, self.neutral]
        kind = next(one.kind for one in SCENARIOS if one.name == scenario)
        enrolled = kind == "enrolled"
        kept = 1.0 if kind in ("enrolled", "all") else 1.0 - 1.0 / MEMORY
        total = np.zeros((len(self.scored), self._embeddings.shape[1]), np.float32)
        weight = np.zeros((len(self.scored), 1), np.float32)
        for row, before in enumerate(self.histories[scenario]):
            if len(before):
                weights = np.ones(len(before)) if enrolled else neutrality[before] ** exponent
                total[row], weight[row] = weighted_sum(self._embeddings[before], weights, kept)
        logits = self.relative(self._embeddings[self.scored], total, weight)
        return logits.astype(np.float64), weight.astype(np.float64)

    def _drawn(self, scenario: Scenario) -> list[NDArray[np.int64]]:
        rng = np.random.default_rng(scenario.before)
        fold, classes = self.fold, len(self.fold.labels)
        speakers = np.array(fold.speakers)
        natural = np.full(classes, (1 - NATURAL_NEUTRAL) / (classes - 1))
        natural[self.neutral] = NATURAL_NEUTRAL
        of_speaker = {name: np.flatnonzero(speakers == name) for name in sorted(set(fold.speakers))}
        names = list(of_speaker)
        found = []
        for clip in self.scored:
            voice = fold.speakers[clip]
            if scenario.kind == "other-speaker":  # another speaker spoke before
                voice = names[(names.index(voice) + 1 + int(rng.integers(max(1, len(names) - 1)))) % len(names)]
            members = of_speaker[voice][of_speaker[voice] != clip]
            if scenario.kind == "all":
                found.append(members)
                continue
            if scenario.kind == "mixed":
                labels = rng.integers(0, classes, scenario.before)
            elif scenario.kind in ("natural", "other-speaker"):
                labels = rng.choice(classes, scenario.before, p=natural)
            else:
                label = self.neutral if scenario.kind == "enrolled" else fold.targets[clip]
                labels = np.full(scenario.before, label)
            pools = [members[fold.targets[members] == label] for label in range(classes)]
            before = [int(rng.choice(pools[label])) for label in labels if len(pools[label])]
            found.append(np.array(sorted(set(before)) if scenario.kind == "enrolled" else before, np.int64))
        return found


def blend(own: Values, compared: Values, weight: Values, rule: BaselineRule) -> Values:
    """Blend absolute probabilities `own` with relative logits `compared`, as a stream does; returns (N, classes)."""
    share = np.array([[rule.share_of(float(one))] for one in weight[:, 0]])
    return np.asarray((1 - share) * own + share * softmax(compared, rule.calibration))


def choose_rule(corpora: Sequence[LeftOutCorpus], absolute: Calibration, risk: float) -> BaselineRule:
    """The constants that are best in natural streams of these corpora and lose little UA in streams of one emotion."""
    found = []
    for exponent in EXPONENTS:
        predictions = {
            (one, name): one.compared(name, exponent, absolute) for one in corpora for name in (_CHOSEN_ON, _GUARDED)
        }
        for half in HALVES:
            rule = BaselineRule(
                exponent=exponent, full_s=1.0, memory=MEMORY, half=half, calibration=_calibration(corpora, predictions)
            )
            ua = {
                name: _mean_ua(corpora, [blend(one.own(absolute), *predictions[one, name], rule) for one in corpora])
                for name in (_CHOSEN_ON, _GUARDED)
            }
            found.append((ua[_CHOSEN_ON], ua[_GUARDED], rule))
    least = _mean_ua(corpora, [one.own(absolute) for one in corpora]) - _ONE_EMOTION_COST
    allowed = [one for one in found if one[1] >= least] or [max(found, key=lambda one: one[1])]
    rule = max(allowed, key=lambda one: one[0])[2]
    blended = [blend(one.own(absolute), *one.compared(_CHOSEN_ON, rule.exponent, absolute), rule) for one in corpora]
    targets, groups = _pooled(corpora)
    weights = balanced_weights(targets, groups)
    threshold = choose_threshold(np.concatenate(blended), targets, risk, weights)
    calibration = replace(rule.calibration, threshold=threshold.value, risk=threshold.risk)
    return replace(rule, calibration=calibration)


def _calibration(
    corpora: Sequence[LeftOutCorpus], predictions: dict[tuple[LeftOutCorpus, str], tuple[Values, Values]]
) -> Calibration:
    targets, groups = _pooled(corpora)
    logits = np.concatenate([predictions[one, _CHOSEN_ON][0] for one in corpora])
    return Calibration(temperature=fit_temperature(logits, targets, balanced_weights(targets, groups)))


def _pooled(corpora: Sequence[LeftOutCorpus]) -> tuple[NDArray[np.int64], list[str]]:
    targets = np.concatenate([one.targets for one in corpora])
    return targets, [one.name for one in corpora for _ in one.targets]


def _mean_ua(corpora: Sequence[LeftOutCorpus], predictions: Sequence[Values]) -> float:
    values = [_ua(one, table) for one, table in zip(corpora, predictions, strict=True)]
    return float(np.mean(values))


def _ua(one: LeftOutCorpus, table: Values) -> float:
    return 100 * unweighted_accuracy(one.targets, table.argmax(axis=1), len(one.fold.labels))


__all__ = ["SCENARIOS", "LeftOutCorpus", "Scenario", "blend", "choose_rule"]
