"""Streams composed of left-out clips, judged by the absolute head, by the relative head, and by both as a stream does.

A stream is what one speaker said before a clip: natural (most of it neutral), of all moods alike, or of the clip's own
mood only, which is the hardest for a baseline. Every clip is judged once for each kind and length of stream. Nothing
here knows the true labels but the draw of the stream and the final count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamser.bundle import BaselineRule
from streamser.evaluation.calibration import softmax
from streamser.bundle import Calibration

Values = NDArray[np.float64]
Relative = Callable[[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
"""(embedding (N, D), total (N, D), weight (N, 1)) -> logits (N, classes), as relative.onnx computes them."""

NATURAL_NEUTRAL = 0.7
"""Share of neutral utterances in a natural stream; the other labels share the rest."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What was said before the clip."""

    name: str
    kind: str
    """natural, mixed, one-mood, or enrolled: neutral utterances of the speaker with full weight."""
    before: int
    """Number of utterances before."""


SCENARIOS = (
    Scenario("natural, 1-4 before", "natural", 3),
    Scenario("natural, 5-9 before", "natural", 7),
    Scenario("natural, 10 before", "natural", 10),
    Scenario("natural, 30 before", "natural", 30),
    Scenario("mixed, 10 before", "mixed", 10),
    Scenario("one mood, 10 before", "one-mood", 10),
    Scenario("enrolled, 6 neutral", "enrolled", 6),
)


@dataclass(frozen=True, slots=True, eq=False)
class Strangers:
    """The clips of one corpus that was left out, as the net of that fold sees them."""

    name: str
    labels: tuple[str, ...]
    targets: NDArray[np.int64]
    speakers: tuple[str, ...]
    logits: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    relative: Relative


def histories(strangers: Strangers, scenario: Scenario, seed: int) -> list[NDArray[np.int64]]:
    """For each clip the clips of the same speaker that came before it; empty where the speaker has none to draw."""
    rng = np.random.default_rng(seed)
    neutral = strangers.labels.index("neutral")
    classes = len(strangers.labels)
    shares = np.full(classes, (1 - NATURAL_NEUTRAL) / (classes - 1))
    shares[neutral] = NATURAL_NEUTRAL
    speakers = np.array(strangers.speakers)
    found: list[NDArray[np.int64]] = [np.zeros(0, np.int64)] * len(speakers)
    for speaker in sorted(set(strangers.speakers)):
        own = np.flatnonzero(speakers == speaker)
        of_label = [own[strangers.targets[own] == label] for label in range(classes)]
        for clip in own:
            if scenario.kind == "natural":
                drawn = rng.choice(classes, scenario.before, p=shares)
            elif scenario.kind == "mixed":
                drawn = rng.integers(0, classes, scenario.before)
            else:
                drawn = np.full(
                    scenario.before, neutral if scenario.kind == "enrolled" else strangers.targets[clip]
                )
            before = []
            for label in drawn:
                others = of_label[label][of_label[label] != clip]
                if len(others):
                    before.append(int(rng.choice(others)))
            if scenario.kind == "enrolled":
                before = sorted(set(before))
            found[int(clip)] = np.array(before, np.int64)
    return found


def blended(
    strangers: Strangers,
    before: Sequence[NDArray[np.int64]],
    rule: BaselineRule,
    absolute: Calibration,
    enrolled: bool = False,
) -> tuple[Values, Values]:
    """Probabilities (N, classes) as a stream gives them after these utterances, and each clip's baseline weight (N,)."""
    own = softmax(strangers.logits, absolute)
    neutrality = own[:, strangers.labels.index("neutral")]
    keep = 1.0 - 1.0 / rule.memory
    total = np.zeros_like(strangers.embeddings, dtype=np.float64)
    weight = np.zeros((len(own), 1))
    for clip, earlier in enumerate(before):
        for other in earlier:
            share = 1.0 if enrolled else float(neutrality[other]) ** rule.exponent
            total[clip] = (total[clip] if enrolled else keep * total[clip]) + share * strangers.embeddings[other]
            weight[clip] = (weight[clip] if enrolled else keep * weight[clip]) + share
    logits = strangers.relative(
        strangers.embeddings.astype(np.float32), total.astype(np.float32), weight.astype(np.float32)
    )
    compared = softmax(logits, rule.calibration)
    a = weight / (weight + rule.half) if rule.half else (weight > 0).astype(float)
    return (1 - a) * own + a * compared, weight[:, 0]
