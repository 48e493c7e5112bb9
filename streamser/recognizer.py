"""The Recognizer: classify audio into a calibrated prediction, or `uncertain`.

A recording longer than the network's window is scored in overlapping windows whose logits are averaged; the average is
calibrated into probabilities; a best probability below the threshold makes the prediction `uncertain`. A recording is
also `uncertain` if all of it is digital silence, if it is shorter than one frame (it is then padded), or if it is
heavily clipped.

This is the absolute prediction. If there is a baseline of the speaker and the checkpoint has a relative head, the
relative prediction is mixed in: p = (1 - a) p_absolute + a p_relative, where a grows with the baseline's weight.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike, fspath
from typing import Any, Literal, TypeAlias, overload

import numpy as np

from streamser.audio import LOUDEST, SAMPLE_RATE, Samples, Segment, check_finite, is_clipped, to_mono
from streamser.baseline import Baseline
from streamser.bundle import DEFAULT_MODEL, NEUTRAL, Bundle, load_bundle
from streamser.calibration import Calibration, check_prior
from streamser.engines import (
    MOST_THREADS,
    Engine,
    WindowScores,
    check_choice,
    open_engine,
    run_audio,
    run_frames,
    steps_of,
)
from streamser.engines.relative import RelativeHead, open_relative
from streamser.engines.steps import StepEngine
from streamser.errors import AudioError, BundleError, ConfigError, EngineError
from streamser.features import FeatureConfig, Frames, at_peak, trimmed
from streamser.profile import load_profile

Audio = Samples | Segment
"""Audio that can be scored: 16 kHz mono samples, or a Segment of a stream."""

Baselines: TypeAlias = Baseline | Sequence[Baseline | None] | None
"""One baseline for all recordings, one for each, or none."""

Problem: TypeAlias = Literal["", "no sound", "too short", "clipped"]
"""Why audio is `uncertain` whatever its scores: digital silence, less than a frame, heavy clipping; "" if it is not."""

Probabilities: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecognizerConfig:
    """How to open a recognizer: checkpoint, engine, processor, threads, threshold, prior of neutral and profile."""

    model: str = DEFAULT_MODEL
    """Name of a checkpoint, as `streamser models` lists them, or the path of its folder."""
    compute: str = "auto"
    """Processor that runs the network: auto, cpu, cuda or cuda:N."""
    engine: str = "auto"
    """auto, onnx, onnx-int8 (for checkpoints that also have 8-bit weights) or torch."""
    threads: int = 1
    """CPU threads for one window."""
    threshold: float | None = None
    """Confidence below which a result is `uncertain`; None uses the checkpoint's own threshold."""
    neutral_prior: float | None = None
    """Expected share of neutral speech, above 0 and below 1; None uses the checkpoint's own assumption."""
    profile: str | None = None
    """Profile of a voice to adapt to, made by `streamser calibrate`: its name or its file."""

    def __post_init__(self) -> None:
        check_choice(self.engine, self.compute)
        if not 1 <= self.threads <= MOST_THREADS:
            raise ValueError(f"threads: must be 1 to {MOST_THREADS}, not {self.threads}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold: must be 0 to 1, not {self.threshold}")
        check_prior("neutral_prior: must be", self.neutral_prior)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The emotion of the voice in one recording."""

    label: str
    """The likeliest class. Do not use it if `uncertain` is true."""
    scores: Mapping[str, float]
    """Calibrated probability of each class; they sum to 1."""
    confidence: float
    """Probability of `label`."""
    uncertain: bool
    windows: int
    """Number of windows that were averaged."""
    problem: Problem = ""
    """`no sound`, `too short` or `clipped` for audio that is `uncertain` whatever its scores, otherwise empty."""
    threshold: float = field(default=0.0, repr=False)
    """Confidence below which this prediction is `uncertain`."""
    neutrality: float = field(default=0.0, repr=False)
    """The absolute prediction's probability of neutral; it decides the weight in a baseline. 0 without such a class."""
    embedding: Frames | None = field(default=None, repr=False, compare=False)
    """(dimensions,), the vector from which baselines are computed."""

    def with_scores(self, scores: Mapping[str, float], threshold: float | None = None) -> Prediction:
        """The same recording's prediction with other scores; label, confidence and `uncertain` follow from them."""
        threshold = self.threshold if threshold is None else threshold
        best = max(scores, key=scores.__getitem__)
        uncertain = bool(self.problem) or not scores[best] >= threshold  # `not >=`: NaN is uncertain too
        return Prediction(  # replace() would take three times as long
            best, scores, scores[best], uncertain, self.windows, self.problem, threshold, self.neutrality,
            self.embedding,
        )  # fmt: skip

    def marked_if_clipped(self, samples: Samples) -> Prediction:
        """The same prediction, with the problem `clipped` if it has none and the samples are heavily clipped."""
        if self.problem or not is_clipped(samples):
            return self
        return replace(self, uncertain=True, problem="clipped")


class Recognizer:
    """A checkpoint on an engine; immutable, so that several threads may share it."""

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        threshold: float | None = None,
        *,
        neutral_prior: float | None = None,
        baseline: Baseline | None = None,
        relative: RelativeHead | None = None,
    ) -> None:
        """`baseline` is the first baseline of streams and predictions, None for an unknown speaker.

        `relative` is the bundle's relative head if it is already open.
        """
        self.bundle = bundle
        self.engine = engine
        self.relative = open_relative(bundle) if relative is None else relative
        self.baseline = self._checked(baseline)
        self._threshold = threshold
        self._neutral_prior = neutral_prior
        if neutral_prior is not None and NEUTRAL not in bundle.labels:
            raise ConfigError(
                f"recognizer.neutral_prior: the checkpoint '{bundle.name}' has no label {NEUTRAL!r}; leave it out"
            )

    @property
    def labels(self) -> tuple[str, ...]:
        return self.bundle.labels

    @property
    def features(self) -> FeatureConfig:
        return self.bundle.features

    @property
    def steps(self) -> StepEngine | None:
        """The engine's step graph, for streams; None if the checkpoint or the engine has none."""
        return steps_of(self.engine)

    @property
    def threshold(self) -> float:
        """Confidence below which the prediction is `uncertain`."""
        return self.bundle.calibration.threshold if self._threshold is None else self._threshold

    def with_baseline(self, baseline: Baseline | None) -> Recognizer:
        """The same checkpoint on the same engine with a speaker's baseline, or without one (None)."""
        return Recognizer(
            self.bundle,
            self.engine,
            self._threshold,
            neutral_prior=self._neutral_prior,
            baseline=baseline,
            relative=self.relative,
        )

    def with_profile(self, name_or_path: str | PathLike[str]) -> Recognizer:
        """The same checkpoint on the same engine for the speaker of a profile."""
        return self.with_baseline(load_profile(name_or_path).baseline(self.bundle))

    @overload
    def predict(self, audio: Audio, baseline: Baselines = None) -> Prediction: ...
    @overload
    def predict(self, audio: Sequence[Audio], baseline: Baselines = None) -> list[Prediction]: ...
    def predict(self, audio: Audio | Sequence[Audio], baseline: Baselines = None) -> Prediction | list[Prediction]:
        """Score one recording, or several in one batch; AudioError for audio that is empty, NaN or infinite.

        Without `baseline` the recognizer's own is used, if it has one.
        """
        recordings, scores = self._score(audio)
        absolute = [
            self._absolute(one, len(samples) < self._one_frame).marked_if_clipped(samples)
            for samples, one in zip(recordings, scores, strict=True)
        ]
        predictions = self._adapted(absolute, baseline)
        return predictions[0] if isinstance(audio, np.ndarray | Segment) else predictions

    def check(self, audio: Audio) -> None:
        """AudioError or ValueError for audio that cannot be scored: empty, NaN, infinite, or not scaled to -1..1."""
        _samples(audio, "audio")

    def check_embedding(self, embedding: Frames) -> None:
        """BundleError if the relative head needs embeddings of another size than D; `embedding` is (N, D)."""
        if self.relative is not None and embedding.shape[1] != self.relative.size:
            raise BundleError(
                f"{self.bundle.relative_path}: takes embeddings of {self.relative.size} values, "
                f"but the network gives {embedding.shape[1]}; export the checkpoint again"
            )

    def predict_frames(self, utterances: Sequence[Frames], baseline: Baselines = None) -> list[Prediction]:
        """Score whole utterances whose features, (frames, bins) each, were computed as the audio came in."""
        for frames in utterances:
            if frames.ndim != 2 or frames.shape[1] != self.features.bins:
                raise ValueError(f"frames must have shape (time, {self.features.bins}), not {frames.shape}")
        if not utterances:
            return []
        return self.predict_scores(run_frames(self.engine, utterances, self.features), baseline)

    def predict_scores(self, scores: Sequence[WindowScores], baseline: Baselines = None) -> list[Prediction]:
        """Predictions from the logits and embeddings of whole utterances' windows, which a step graph computes."""
        return self._adapted([self._absolute(score, False) for score in self._finite(scores)], baseline)

    def adapted(self, prediction: Prediction, baseline: Baseline | None) -> Prediction:
        """An absolute prediction mixed with the relative one; unchanged without a baseline or a relative head."""
        rule = self.bundle.baseline
        share = 0.0 if rule is None or baseline is None else rule.share_of(baseline.weight)
        if rule is None or baseline is None or self.relative is None or share == 0.0 or prediction.embedding is None:
            return prediction
        logits = self.relative.run(prediction.embedding, baseline.total, baseline.weight).tolist()
        if not all(map(math.isfinite, logits)):
            raise EngineError(f"{self.bundle.relative_path}: gives NaN or infinite logits; use another checkpoint")
        relative = self._probabilities(logits, rule.calibration)
        absolute = prediction.scores.values()
        mixed = [(1.0 - share) * one + share * other for one, other in zip(absolute, relative, strict=True)]
        threshold = self._threshold
        if threshold is None:
            threshold = (1.0 - share) * self.bundle.calibration.threshold + share * rule.calibration.threshold
        return prediction.with_scores(dict(zip(self.labels, mixed, strict=True)), threshold)

    def logits_and_embeddings(self, audio: Audio | Sequence[Audio]) -> tuple[Frames, Frames]:
        """The results of `logits` and `embed` for one recording or several, from one run of the network."""
        _, scores = self._score(audio)
        return self._utterance_logits(scores), _embeddings(scores)

    def logits(self, audio: Audio | Sequence[Audio]) -> Frames:
        """The network's logits before calibration, (recordings, classes): the mean over each recording's windows."""
        _, scores = self._score(audio)
        return self._utterance_logits(scores)

    def embed(self, audio: Audio | Sequence[Audio]) -> Frames:
        """The network's last hidden layer, (recordings, dimensions): the mean over each recording's windows."""
        _, scores = self._score(audio)
        if not scores:
            _, embedding = self.engine.run(np.zeros((0, self.features.window_frames, self.features.bins), np.float32))
            return embedding
        return _embeddings(scores)

    def calibrate(self, logits: Frames) -> Probabilities:
        """The absolute head's logits (N, classes) to calibrated probabilities, (N, classes)."""
        rows = [self._probabilities(row, self.bundle.calibration) for row in np.asarray(logits).tolist()]
        return np.array(rows, np.float64).reshape(len(rows), len(self.labels))

    def metrics(self) -> dict[str, Any]:
        """Operating figures of the checkpoint and its engine."""
        return {"model": self.bundle.name, **self.engine.metrics()}

    @property
    def _one_frame(self) -> int:
        """The smallest number of 16 kHz samples that gives a frame."""
        config = self.features
        return -(-config.window_samples * SAMPLE_RATE // config.sample_rate)

    def _score(self, audio: Audio | Sequence[Audio]) -> tuple[list[Samples], Sequence[WindowScores]]:
        several = [audio] if isinstance(audio, np.ndarray | Segment) else list(audio)
        recordings = [_samples(one, f"audio {i}" if len(several) > 1 else "audio") for i, one in enumerate(several)]
        if not recordings:
            return [], []
        speech = [trimmed(at_peak(samples, self.features), self.features) for samples in recordings]
        padded = [np.pad(samples, (0, max(0, self._one_frame - len(samples)))) for samples in speech]
        return recordings, self._finite(run_audio(self.engine, padded, self.features))

    def _finite(self, scores: Sequence[WindowScores]) -> Sequence[WindowScores]:
        used = [score.logits for score in scores]
        if self.relative is not None:
            used += [score.embedding for score in scores]
        if not all(np.isfinite(values).all() for values in used):
            raise EngineError(f"{self.bundle.path}: the network gives NaN or infinite logits; use another checkpoint")
        for score in scores:
            self.check_embedding(score.embedding)
        return scores

    def _utterance_logits(self, scores: Sequence[WindowScores]) -> Frames:
        if not scores:
            return np.zeros((0, len(self.labels)), np.float32)
        return np.stack([_mean(score.logits) for score in scores])

    def _absolute(self, scores: WindowScores, too_short: bool) -> Prediction:
        """The prediction for a recording without a baseline of its speaker."""
        probabilities = self._probabilities(_mean(scores.logits).tolist(), self.bundle.calibration)
        by_label = dict(zip(self.labels, probabilities, strict=True))
        audio = Prediction(
            label="",
            scores={},
            confidence=0.0,
            uncertain=True,
            windows=len(scores.logits),
            problem="too short" if too_short else "" if scores.audible else "no sound",
            neutrality=by_label.get(NEUTRAL, 0.0),
            embedding=_mean(scores.embedding),
        )
        return audio.with_scores(by_label, self.threshold)

    def _adapted(self, predictions: list[Prediction], baseline: Baselines) -> list[Prediction]:
        if baseline is None:
            baseline = self.baseline
        if baseline is None:
            return predictions
        each = [baseline] * len(predictions) if isinstance(baseline, Baseline) else baseline
        return [self.adapted(*pair) for pair in zip(predictions, map(self._checked, each), strict=True)]

    def _checked(self, baseline: Baseline | None) -> Baseline | None:
        """The baseline, or None if the checkpoint has no relative head; ValueError if it is another checkpoint's."""
        if baseline is None or self.relative is None:
            return None
        if baseline.total.shape != (self.relative.size,):
            raise ValueError(
                f"baseline.total must have {self.relative.size} values for {self.bundle.name}, "
                f"not shape {baseline.total.shape}"
            )
        return baseline

    def _probabilities(self, logits: list[float], calibration: Calibration) -> list[float]:
        """One recording's logits to probabilities: softmax((logits + bias) / temperature + prior).

        Computed with Python floats: for few classes, NumPy calls take several times as long.
        """
        offsets = calibration.bias or (0.0,) * len(logits)
        scaled = [(logit + offset) / calibration.temperature for logit, offset in zip(logits, offsets, strict=True)]
        prior = calibration.neutral_prior if self._neutral_prior is None else self._neutral_prior
        if prior is not None:
            others = len(self.labels) - 1
            scaled[self.labels.index(NEUTRAL)] += math.log(prior / (1.0 - prior) * others)
        most = max(scaled)
        weights = [math.exp(value - most) for value in scaled]
        total = sum(weights)
        return [weight / total for weight in weights]


def load(name_or_path: str | PathLike[str] = DEFAULT_MODEL, compute: str | None = None, **options: Any) -> Recognizer:
    """Load a checkpoint that is ready to score. `options` are the other fields of RecognizerConfig.

    `load()` takes the default checkpoint on the best processor; `load("runs/mine", "cuda")` a folder on a GPU.
    """
    if "device" in options:
        warnings.warn("load(device=...) is now load(compute=...)", DeprecationWarning, stacklevel=2)
        compute = options.pop("device")
    return open_recognizer(RecognizerConfig(model=fspath(name_or_path), compute=compute or "auto", **options))


def open_recognizer(config: RecognizerConfig) -> Recognizer:
    """Open the recognizer that a configuration names."""
    bundle = load_bundle(config.model, verify=False)  # each file is verified when it is opened, and read once
    engine = open_engine(bundle, config.engine, config.compute, config.threads)
    recognizer = Recognizer(bundle, engine, config.threshold, neutral_prior=config.neutral_prior)
    if bundle.step_path is None:  # else `embed` would open the whole ONNX graph; predictions are checked later
        recognizer.check_embedding(recognizer.embed([]))
    return recognizer if config.profile is None else recognizer.with_profile(config.profile)


def _samples(audio: Audio, what: str) -> Samples:
    """One recording's samples as float32, checked: usable audio, or an AudioError or ValueError with the reason."""
    samples = audio.samples if isinstance(audio, Segment) else audio
    if not isinstance(samples, np.ndarray) or samples.ndim != 1:
        shape = f"an array of shape {samples.shape}" if isinstance(samples, np.ndarray) else repr(type(audio).__name__)
        raise ValueError(
            f"{what}: must be 16 kHz mono samples in a one-dimensional array, or a Segment, not {shape}; "
            "streamser.read_audio(path) reads a file, streamser.audio.to_mono mixes channels"
        )
    if not len(samples):
        raise AudioError(f"{what}: has no samples; give at least one")
    mono = check_finite(to_mono(samples), what)
    peak = float(np.abs(mono).max())
    if peak > LOUDEST:
        raise AudioError(
            f"{what}: reaches {peak:g}, but float audio must be within [-1, 1]; divide 16-bit values by 32768"
        )
    return mono


def _embeddings(scores: Sequence[WindowScores]) -> Frames:
    """(recordings, dimensions)"""
    return np.stack([_mean(score.embedding) for score in scores])


def _mean(windows: Frames) -> Frames:
    """The mean over windows, (windows, values) to (values,); a single window, as in a stream, is returned unchanged."""
    return windows[0] if len(windows) == 1 else np.asarray(windows.mean(axis=0))
