"""The data that published figures were measured on: corpus, part of it, and labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

SEVEN = ("angry", "boredom", "disgust", "fear", "happy", "neutral", "sad")
FOUR_LABELS = ("angry", "happy", "neutral", "sad")
ALL_LABELS = ("all",)
"""Stands for every label that the clips have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """The clips of one corpus, and the labels, on which published figures were measured."""

    name: str
    """Name in commands."""
    title: str
    """Name in tables."""
    corpus: str
    """The corpus's name in its clips."""
    folder: str
    """The usual name of its folder, for a command."""
    labels: tuple[str, ...]
    label_map: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Corpus labels that are mapped to another label."""
    styles: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    """Only clips of these styles and sessions; empty takes all."""

    def fits(self, folder: str) -> bool:
        """Whether a folder has this corpus's name: `EMO-DB`, `IEMOCAP_full_release`."""
        return _plain(self.corpus) in _plain(folder)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(name="emodb", title="EMO-DB, 7 classes", corpus="emodb", folder="emodb", labels=SEVEN),
        Benchmark(
            name="iemocap",
            title="IEMOCAP, 4 classes, excited counted as happy",
            labels=FOUR_LABELS,
            label_map={"excited": "happy"},
            corpus="iemocap",
            folder="IEMOCAP",
        ),
        Benchmark(
            name="iemocap-improvised",
            title="IEMOCAP improvised, 4 classes, excited counted as happy",
            labels=FOUR_LABELS,
            label_map={"excited": "happy"},
            styles=("improvised",),
            corpus="iemocap",
            folder="IEMOCAP",
        ),
        Benchmark(
            name="iemocap-improvised-happy",
            title="IEMOCAP improvised, 4 classes, without excited",
            labels=FOUR_LABELS,
            styles=("improvised",),
            corpus="iemocap",
            folder="IEMOCAP",
        ),
        Benchmark(
            name="iemocap-session1",
            title="IEMOCAP, first session, all labels",
            labels=ALL_LABELS,
            sessions=("Ses01",),
            corpus="iemocap",
            folder="IEMOCAP",
        ),
        Benchmark(
            name="asvp-esd",
            title="ASVP-ESD, 12 classes",
            corpus="asvp-esd",
            folder="ASVP-ESD",
            labels=(*SEVEN, "disappointment", "excited", "pain", "pleasure", "surprise"),
        ),
    )
}
"""Every benchmark by name."""


@dataclass(frozen=True, slots=True)
class PublishedConfusion:
    """A confusion matrix as a paper prints it, in percent of each true class."""

    source: str
    labels: tuple[str, ...]
    percent: tuple[tuple[float, ...], ...]


_TABLE_LABELS = ("neutral", "happy", "sad", "angry")
CONFUSIONS: dict[str, PublishedConfusion] = {
    "focal-resnet-mfcc-softmax": PublishedConfusion(
        "Tripathi, Kumar et al. 2019, table 2",
        _TABLE_LABELS,
        ((89.1, 5.4, 3.7, 1.8), (70.5, 25.2, 4.3, 0.0), (24.6, 2.7, 70.5, 2.2), (48.7, 5.6, 2.9, 42.8)),
    ),
    "focal-resnet-mfcc-focal": PublishedConfusion(
        "Tripathi, Kumar et al. 2019, table 3",
        _TABLE_LABELS,
        ((80.2, 3.2, 15.2, 1.4), (34.7, 52.0, 8.5, 4.8), (16.4, 1.2, 81.6, 0.8), (39.4, 5.4, 2.3, 52.9)),
    ),
}
"""The papers' confusion matrices, by name of the variant."""


def benchmark_of(recipe: Mapping[str, Any], corpora: Sequence[str]) -> Benchmark | None:
    """The benchmark that a run's recipe.json and the corpora of its test clips match; None if there is none."""
    for one in BENCHMARKS.values():
        same_labels = one.labels == ALL_LABELS or set(one.labels) == set(recipe["labels"])
        if (
            tuple(corpora) == (one.corpus,)
            and same_labels
            and dict(one.label_map) == dict(recipe.get("label_map", {}))
            and one.styles == tuple(recipe.get("styles", ()))
            and one.sessions == tuple(recipe.get("sessions", ()))
        ):
            return one
    return None


__all__ = [
    "ALL_LABELS",
    "BENCHMARKS",
    "CONFUSIONS",
    "FOUR_LABELS",
    "SEVEN",
    "Benchmark",
    "PublishedConfusion",
    "benchmark_of",
]
