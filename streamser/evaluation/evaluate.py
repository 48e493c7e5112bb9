"""Measure a checkpoint on corpora with the Recognizer that users get, on speakers not used in its training."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamser.audio import read_audio
from streamser.bundle import NEUTRAL
from streamser.corpora.clips import Clip, Problem
from streamser.errors import CorpusError, MissingExtraError
from streamser.evaluation import metrics
from streamser.evaluation.degrade import DEGRADATIONS, recorded_noise
from streamser.evaluation.folds import FoldResult, load_folds, pool, save_fold
from streamser.evaluation.independence import Independence, part_of, training_noises, unseen_clips
from streamser.evaluation.metricset import MetricSet, compute_metrics, plain
from streamser.evaluation.predictions import BATCH, ClipProgress, Predictions, predict_clips
from streamser.recognizer import Recognizer

_MAP_CLIPS = 1500  # t-SNE takes half a minute for this many; more points would overlap


def measure_predictions(name: str, predictions: Predictions) -> MetricSet:
    """Every figure of a checkpoint's predictions."""
    return compute_metrics(
        name,
        predictions.labels,
        predictions.probabilities,
        predictions.targets,
        predictions.speakers,
        predictions.uncertain,
    )


def label_mapping(labels: Collection[str], extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Corpus label -> checkpoint label; `excited` becomes `happy`, as usual for IEMOCAP, in a checkpoint without it."""
    mapping = {label: label for label in labels}
    if "happy" in labels:
        mapping.setdefault("excited", "happy")
    for label, target in (extra or {}).items():
        if target not in labels:
            raise CorpusError(f"--map {label}={target}: the model has no label '{target}', only {', '.join(labels)}")
        mapping[label] = target
    return mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """What to measure, and on how many clips."""

    degrade: tuple[str, ...] = tuple(DEGRADATIONS)
    degrade_clips: int = 400
    """Number of degraded clips of each corpus, evenly over labels and speakers; 0 takes all."""
    clips: int = 0
    """Number of clips of each corpus that are scored; 0 takes all."""
    embed: bool = True
    """Compute the map of the embedding (t-SNE)."""
    seen: bool = False
    """Also score speakers seen in training, in a separate table."""
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.degrade if name not in DEGRADATIONS]
        if unknown:
            raise ValueError(f"degrade: unknown {', '.join(unknown)}; known are {', '.join(DEGRADATIONS)}")


@dataclass(frozen=True, slots=True)
class SpeakerRow:
    """One speaker's figures."""

    speaker: str
    clips: int
    ua: float
    wa: float
    abstained: float
    commonest: str
    """The most frequent prediction, with its share."""


@dataclass(frozen=True, slots=True)
class DegradedRow:
    """The same clips, clean and degraded."""

    title: str
    clean_ua: float
    measured: MetricSet
    unchanged: float
    """Share of predictions that did not change."""

    @property
    def lost_points(self) -> float:
        return 100 * (self.clean_ua - self.measured.ua.value)


@dataclass(frozen=True, slots=True)
class NoiseRow:
    """A checkpoint's predictions for one kind of audio without speech."""

    kind: str
    clips: int
    abstained: float
    commonest: str


@dataclass(frozen=True, slots=True)
class PlainSpeechRow:
    """A checkpoint's predictions for the plain speech of one source."""

    source: str
    clips: int
    neutral: float
    """Share that is classified as neutral."""
    emotional: float
    """Share that is classified as another label."""
    uncertain: float
    seen: bool
    """Whether the checkpoint was trained on these speakers."""


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingMap:
    """The embedding in two dimensions."""

    points: NDArray[np.float64]
    clips: tuple[Clip, ...]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Evaluation:
    """All results of an evaluation, for the report."""

    model: str
    variant: str
    independence: Independence
    dropped: Mapping[str, int]
    """Number of clips of each label that the checkpoint does not have."""
    problems: tuple[Problem, ...]
    threshold: float
    predictions: Predictions
    whole: MetricSet
    corpora: tuple[MetricSet, ...]
    speakers: tuple[SpeakerRow, ...]
    degraded: tuple[DegradedRow, ...]
    noise: tuple[NoiseRow, ...]
    noise_seen: tuple[str, ...]
    """Names of the noise collections used here that were used in training too."""
    plain: tuple[PlainSpeechRow, ...]
    seen: MetricSet | None
    embedding: EmbeddingMap | None
    seconds: float

    @property
    def mean_ua(self) -> float:
        """Mean UA over the corpora, each with the same weight."""
        return float(np.mean([one.ua.value for one in self.corpora]))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "model": self.model,
            "variant": self.variant,
            "speaker_independent": self.independence.kind == "independent",
            "independence": self.independence.text,
            "excluded": dict(self.independence.excluded),
            "dropped_labels": dict(self.dropped),
            "problems": [str(problem) for problem in self.problems],
            "threshold": self.threshold,
            "mean_ua": plain(self.mean_ua),
            "whole": self.whole.to_dict(),
            "corpora": {one.name: one.to_dict() for one in self.corpora},
            "per_speaker": [
                {"speaker": row.speaker, "clips": row.clips, "ua": plain(row.ua), "wa": plain(row.wa)}
                for row in self.speakers
            ],
            "degraded": {
                row.title: {**row.measured.to_dict(), "lost_points": round(row.lost_points, 3)} for row in self.degraded
            },
            "noise": {row.kind: {"clips": row.clips, "abstained": plain(row.abstained)} for row in self.noise},
            "noise_seen_in_training": list(self.noise_seen),
            "plain_speech": [
                {
                    "source": row.source,
                    "clips": row.clips,
                    "neutral": plain(row.neutral),
                    "emotional": plain(row.emotional),
                    "uncertain": plain(row.uncertain),
                    "seen_in_training": row.seen,
                }
                for row in self.plain
            ],
            "seen": self.seen.to_dict() if self.seen else None,
            "seconds": round(self.seconds, 1),
        }


def sample_clips(clips: Sequence[Clip], per_corpus: int, seed: int = 0) -> list[Clip]:
    """At most `per_corpus` clips of each corpus, taken from its speakers and labels in turn; 0 takes all."""
    if per_corpus <= 0:
        return list(clips)
    rng = np.random.default_rng(seed)
    kept: set[str] = set()
    for corpus in sorted({clip.corpus for clip in clips}):
        mine = [clip for clip in clips if clip.corpus == corpus]
        cells: dict[tuple[str, str], list[Clip]] = {}
        for i in rng.permutation(len(mine)):
            cells.setdefault((mine[i].label, mine[i].speaker), []).append(mine[i])
        # Every cell's first clip, then every cell's second, and so on; the cells are in random order.
        turns = [(turn, order, clip) for order, cell in enumerate(cells.values()) for turn, clip in enumerate(cell)]
        kept |= {clip.id for _, _, clip in sorted(turns, key=lambda one: one[:2])[:per_corpus]}
    return [clip for clip in clips if clip.id in kept]


def evaluate(
    recognizer: Recognizer,
    clips: Sequence[Clip],
    config: EvaluationConfig | None = None,
    *,
    dropped: Mapping[str, int] | None = None,
    noise: Sequence[Clip] = (),
    plain_speech: Sequence[Clip] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> Evaluation:
    """Evaluate a recognizer on clips that have its labels.

    `noise` are recordings without speech; `plain_speech` is speech without emotion, and needs no labels.
    `progress(what, done, of)` is called after every few clips.
    """
    config = config or EvaluationConfig()
    if config.embed and find_spec("sklearn") is None:
        raise MissingExtraError("the map of the embedding (EvaluationConfig.embed)", "torch")
    began = time.monotonic()
    unseen, independence = unseen_clips(recognizer.bundle, clips)
    scored = sample_clips(unseen, config.clips, config.seed)
    predictions = predict_clips(recognizer, scored, progress=_steps(progress, "clips", len(scored)))
    return Evaluation(
        model=recognizer.bundle.name,
        variant=recognizer.bundle.variant,
        independence=independence,
        dropped=dict(dropped or {}),
        problems=predictions.problems,
        threshold=recognizer.threshold,
        predictions=predictions,
        whole=measure_predictions("all", predictions),
        corpora=tuple(measure_predictions(name, part) for name, part in predictions.split(lambda clip: clip.corpus)),
        speakers=_speaker_rows(predictions),
        degraded=_degraded(recognizer, predictions, config, noise, progress),
        noise=_noise_rows(recognizer, noise, progress),
        noise_seen=tuple(sorted({clip.corpus for clip in noise} & training_noises(recognizer.bundle))),
        plain=_plain_speech_rows(recognizer, plain_speech, config, progress),
        seen=_seen(recognizer, clips, scored, config, progress),
        embedding=_embedding_map(recognizer, predictions, config, progress),
        seconds=time.monotonic() - began,
    )


def _steps(progress: Callable[[str, int, int], None] | None, what: str, of: int) -> ClipProgress | None:
    if progress is None:
        return None
    done = 0

    def step(more: int) -> None:
        nonlocal done
        done += more
        progress(what, done, of)

    return step


def _commonest(labels: Sequence[str], predicted: NDArray[np.int64]) -> str:
    counts = np.bincount(predicted, minlength=len(labels))
    return f"{labels[int(counts.argmax())]} {100 * counts.max() / max(1, len(predicted)):.0f} %"


def _speaker_rows(predictions: Predictions) -> tuple[SpeakerRow, ...]:
    rows = []
    for speaker, own in predictions.split(lambda clip: clip.speaker):
        matrix = metrics.confusion(own.targets, own.predicted, len(own.labels))
        rows.append(
            SpeakerRow(
                speaker,
                len(own.clips),
                float(metrics.ua(matrix)),
                float(metrics.wa(matrix)),
                float(own.uncertain.mean()),
                _commonest(own.labels, own.predicted),
            )
        )
    return tuple(rows)


def _degraded(
    recognizer: Recognizer,
    predictions: Predictions,
    config: EvaluationConfig,
    noise: Sequence[Clip],
    progress: Callable[[str, int, int], None] | None,
) -> tuple[DegradedRow, ...]:
    ways = [DEGRADATIONS[name] for name in DEGRADATIONS if name in config.degrade]
    if not ways:
        return ()
    if noise:
        ways.append(recorded_noise([read_audio(clip.path) for clip in noise[:: max(1, len(noise) // 100)]], 10))
    chosen = {clip.id for clip in sample_clips(predictions.clips, config.degrade_clips, config.seed)}
    clean = predictions.where(lambda clip: clip.id in chosen)
    clean_ua = measure_predictions("clean", clean).ua.value
    rows = []
    for way in ways:
        degraded = predict_clips(recognizer, clean.clips, way, _steps(progress, way.title, len(clean.clips)))
        same = float(np.mean(degraded.predicted == clean.predicted))
        rows.append(DegradedRow(way.title, clean_ua, measure_predictions(way.title, degraded), same))
    return tuple(rows)


def _noise_rows(
    recognizer: Recognizer, noise: Sequence[Clip], progress: Callable[[str, int, int], None] | None
) -> tuple[NoiseRow, ...]:
    """Results for each kind of audio, then for all: a mean could hide one kind that is always called happy."""
    if not noise:
        return ()
    classified = predict_clips(recognizer, noise, progress=_steps(progress, "recordings without speech", len(noise)))
    groups = classified.split(lambda clip: clip.label or clip.text_id or clip.corpus)
    return tuple(
        NoiseRow(kind, len(own.clips), float(own.uncertain.mean()), _commonest(own.labels, own.predicted))
        for kind, own in [*groups, ("all", classified)]
    )


def _plain_speech_rows(
    recognizer: Recognizer,
    clips: Sequence[Clip],
    config: EvaluationConfig,
    progress: Callable[[str, int, int], None] | None,
) -> tuple[PlainSpeechRow, ...]:
    """Results for each source; clips of speakers seen in training are left out, unless a source has no others."""
    if clips and NEUTRAL not in recognizer.labels:
        raise CorpusError(
            f"plain speech: the checkpoint '{recognizer.bundle.name}' has no label {NEUTRAL!r}; leave --plain out"
        )
    rows = []
    for source in sorted({clip.corpus for clip in clips}):
        unseen, independence = unseen_clips(recognizer.bundle, [clip for clip in clips if clip.corpus == source])
        chosen = sample_clips(unseen, config.clips, config.seed)
        step = _steps(progress, f"plain speech, {source}", len(chosen))
        classified = predict_clips(recognizer, chosen, progress=step)
        if not classified.clips:
            continue
        neutral = classified.predicted == recognizer.labels.index(NEUTRAL)
        certain = ~classified.uncertain
        rows.append(
            PlainSpeechRow(
                source,
                len(classified.clips),
                neutral=float((neutral & certain).mean()),
                emotional=float((~neutral & certain).mean()),
                uncertain=float(classified.uncertain.mean()),
                seen=independence.kind == "seen",
            )
        )
    return tuple(rows)


def _seen(
    recognizer: Recognizer,
    clips: Sequence[Clip],
    scored: Sequence[Clip],
    config: EvaluationConfig,
    progress: Callable[[str, int, int], None] | None,
) -> MetricSet | None:
    parts = part_of(recognizer.bundle)
    already = {clip.id for clip in scored}
    trained = [clip for clip in clips if parts.get(clip.speaker) == "train" and clip.id not in already]
    trained = sample_clips(trained, config.clips, config.seed)
    if not (config.seen and trained):
        return None
    classified = predict_clips(
        recognizer, trained, progress=_steps(progress, "speakers seen in training", len(trained))
    )
    return measure_predictions("speakers seen in training", classified)


def _embedding_map(
    recognizer: Recognizer,
    predictions: Predictions,
    config: EvaluationConfig,
    progress: Callable[[str, int, int], None] | None,
) -> EmbeddingMap | None:
    if not config.embed or len(predictions.clips) < 10:
        return None
    per_corpus = _MAP_CLIPS // len({clip.corpus for clip in predictions.clips})
    chosen = sample_clips(predictions.clips, per_corpus, config.seed)
    step = _steps(progress, "embedding", len(chosen))
    parts = []
    for first in range(0, len(chosen), BATCH):
        batch = chosen[first : first + BATCH]
        parts.append(recognizer.embed([read_audio(clip.path) for clip in batch]))
        if step:
            step(len(batch))
    return EmbeddingMap(tsne(np.concatenate(parts), config.seed), tuple(chosen))


def tsne(embedding: NDArray[np.float32], seed: int = 0) -> NDArray[np.float64]:
    """Vectors (N, D) as points in a plane, (N, 2): neighbours stay neighbours, distances mean little."""
    from sklearn.manifold import TSNE

    spread = embedding.std(axis=0)
    values = (embedding - embedding.mean(axis=0)) / np.where(spread > 0, spread, 1)
    perplexity = min(30.0, (len(values) - 1) / 3)
    plane = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(values)
    return np.asarray(plane, np.float64)


__all__ = [
    "DegradedRow",
    "EmbeddingMap",
    "Evaluation",
    "EvaluationConfig",
    "FoldResult",
    "NoiseRow",
    "PlainSpeechRow",
    "Predictions",
    "SpeakerRow",
    "evaluate",
    "label_mapping",
    "load_folds",
    "measure_predictions",
    "pool",
    "predict_clips",
    "sample_clips",
    "save_fold",
]
