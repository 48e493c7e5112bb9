"""The Recognizer: sound in, a calibrated prediction out, or an honest "uncertain".

A sound longer than the net's window is judged in overlapping windows whose logits are averaged; the average is
calibrated into probabilities; a best probability below the threshold makes the prediction `uncertain`. So does
sound in which nothing rises above the features' floor, and sound shorter than one frame (it is padded to one).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any, overload

import numpy as np

from streamser.audio import LOUDEST, SAMPLE_RATE, Samples, Segment, check_finite, to_mono
from streamser.bundle import DEFAULT_MODEL, Bundle, load_bundle
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
from streamser.engines.steps import StepEngine
from streamser.errors import AudioError, EngineError
from streamser.features import FeatureConfig, Frames, at_peak, trimmed

Sound = Samples | Segment
"""What can be judged: 16 kHz mono samples, or a Segment of a stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecognizerConfig:
    """Which checkpoint, computed by what, and how sure it must be."""

    model: str = DEFAULT_MODEL
    """A checkpoint's name, as `streamser models` lists them, or the path of its folder."""
    compute: str = "auto"
    """Where the network runs: auto, cpu, cuda or cuda:N."""
    engine: str = "auto"
    """auto, onnx or torch."""
    threads: int = 1
    """CPU threads for one window."""
    threshold: float | None = None
    """Confidence below which the answer is `uncertain`; None takes the checkpoint's own."""
    profile: str | None = None
    """A "your voice" profile to adapt to: its name or its file."""

    def __post_init__(self) -> None:
        check_choice(self.engine, self.compute)
        if not 1 <= self.threads <= MOST_THREADS:
            raise ValueError(f"threads: 1 to {MOST_THREADS}, not {self.threads}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold: within 0..1, not {self.threshold}")


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the voice in one sound carries."""

    label: str
    """The likeliest class, also when `uncertain`; act on it only when not."""
    scores: Mapping[str, float]
    """Calibrated probability of each class; they sum to 1."""
    confidence: float
    """Probability of `label`."""
    uncertain: bool
    windows: int
    """How many windows were averaged."""
    audible: bool = True
    """False for sound too short to be judged or without anything in it: `uncertain`, whatever its scores."""


@dataclass(frozen=True, slots=True, eq=False)
class Anchor:
    """Where one speaker's neutral speech lies among the embeddings: what is near it is the likelier neutral."""

    centre: Frames
    """(dimensions,)"""
    usual: float
    """How far neutral utterances of the speaker lie from it."""
    label: int
    """Index of the class that gains by nearness."""
    strength: float
    """What is added to that class's logit at the centre; as much is taken away at twice the usual distance."""

    def raised(self, logits: Frames, embeddings: Frames) -> Frames:
        """Utterances' logits (N, classes) after a look at where their embeddings (N, dimensions) are."""
        nearness = 1 - np.linalg.norm(embeddings - self.centre, axis=1) / self.usual
        changed = np.array(logits, np.float32)
        changed[:, self.label] += (self.strength * nearness).astype(np.float32)
        return changed


@dataclass(frozen=True, slots=True, eq=False)
class Adaptation:
    """What a speaker's profile changes: the logits are levelled, and neutral is where the speaker's own neutral is."""

    logit_bias: Frames
    """(classes,), added to the logits before calibration."""
    anchor: Anchor | None = None


class Recognizer:
    """A checkpoint on an engine; unchanging, so that many threads may share it."""

    def __init__(
        self, bundle: Bundle, engine: Engine, threshold: float | None = None, adaptation: Adaptation | None = None
    ) -> None:
        self.bundle = bundle
        self.engine = engine
        self.adaptation = _checked(adaptation, bundle)
        self._threshold = threshold
        self._offsets = np.array(bundle.calibration.bias or [0.0] * len(bundle.labels), np.float64)

    @property
    def labels(self) -> tuple[str, ...]:
        return self.bundle.labels

    @property
    def features(self) -> FeatureConfig:
        return self.bundle.features

    @property
    def steps(self) -> StepEngine | None:
        """The engine's step graph, for streams; None where the checkpoint or the engine has none."""
        return steps_of(self.engine)

    @property
    def threshold(self) -> float:
        """Confidence below which the answer is `uncertain`."""
        return self.bundle.calibration.threshold if self._threshold is None else self._threshold

    def with_adaptation(self, adaptation: Adaptation | None) -> Recognizer:
        """The same checkpoint on the same engine for one speaker, or for anyone again."""
        return Recognizer(self.bundle, self.engine, self._threshold, adaptation)

    @overload
    def predict(self, sound: Sound) -> Prediction: ...
    @overload
    def predict(self, sound: Sequence[Sound]) -> list[Prediction]: ...
    def predict(self, sound: Sound | Sequence[Sound]) -> Prediction | list[Prediction]:
        """Judge one sound, or several in one batch; AudioError for sound that is empty, NaN or infinite."""
        sounds, scores = self._score(sound)
        predictions = [
            self._prediction(logits, score, len(samples) < self._one_frame)
            for samples, score, logits in zip(sounds, scores, self._utterance_logits(scores), strict=True)
        ]
        return predictions[0] if isinstance(sound, np.ndarray | Segment) else predictions

    def check(self, sound: Sound) -> None:
        """AudioError or ValueError for sound that can't be judged: empty, NaN, infinite, or never scaled."""
        _samples(sound, "sound")

    def predict_frames(self, utterances: Sequence[Frames]) -> list[Prediction]:
        """Judge whole utterances whose features, (frames, bins) each, were computed as the sound came in."""
        for frames in utterances:
            if frames.ndim != 2 or frames.shape[1] != self.features.bins:
                raise ValueError(f"frames have shape (time, {self.features.bins}), not {frames.shape}")
        if not utterances:
            return []
        return self.predict_scores(run_frames(self.engine, utterances, self.features))

    def predict_scores(self, scores: Sequence[WindowScores]) -> list[Prediction]:
        """Predictions from the scores of whole utterances' windows, as a step graph gives them."""
        self._finite(scores)
        pairs = zip(self._utterance_logits(scores), scores, strict=True)
        return [self._prediction(logits, score, False) for logits, score in pairs]

    def logits_and_embeddings(self, sound: Sound | Sequence[Sound]) -> tuple[Frames, Frames]:
        """What `logits` and `embed` say of one sound or several, from one run of the net."""
        _, scores = self._score(sound)
        return self._utterance_logits(scores), _embeddings(scores)

    def logits(self, sound: Sound | Sequence[Sound]) -> Frames:
        """The net's answers before calibration, (sounds, classes): each the mean of its windows'."""
        _, scores = self._score(sound)
        return self._utterance_logits(scores)

    def embed(self, sound: Sound | Sequence[Sound]) -> Frames:
        """What the net's last hidden layer says, (sounds, dimensions): each the mean of its windows'."""
        _, scores = self._score(sound)
        if not scores:
            _, embedding = self.engine.run(np.zeros((0, self.features.window_frames, self.features.bins), np.float32))
            return embedding
        return _embeddings(scores)

    def calibrate(self, logits: Frames) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Logits (N, classes) to probabilities that mean what they say, (N, classes)."""
        scaled = (np.asarray(logits, np.float64) + self._offsets) / self.bundle.calibration.temperature
        weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))

    def metrics(self) -> dict[str, Any]:
        """What an operator wants to see of the model and its engine."""
        return {"model": self.bundle.name, **self.engine.metrics()}

    @property
    def _one_frame(self) -> int:
        """The fewest 16 kHz samples that give a frame."""
        config = self.features
        return -(-config.window_samples * SAMPLE_RATE // config.sample_rate)

    def _score(self, sound: Sound | Sequence[Sound]) -> tuple[list[Samples], Sequence[WindowScores]]:
        several = [sound] if isinstance(sound, np.ndarray | Segment) else list(sound)
        sounds = [_samples(one, f"sound {i}" if len(several) > 1 else "sound") for i, one in enumerate(several)]
        if not sounds:
            return [], []
        speech = [trimmed(at_peak(samples, self.features), self.features) for samples in sounds]
        padded = [np.pad(samples, (0, max(0, self._one_frame - len(samples)))) for samples in speech]
        return sounds, self._finite(run_audio(self.engine, padded, self.features))

    def _finite(self, scores: Sequence[WindowScores]) -> Sequence[WindowScores]:
        if not all(np.isfinite(score.logits).all() for score in scores):
            raise EngineError(f"{self.bundle.path}: the net gives NaN or infinite scores; the checkpoint is of no use")
        return scores

    def _utterance_logits(self, scores: Sequence[WindowScores]) -> Frames:
        if not scores:
            return np.zeros((0, len(self.labels)), np.float32)
        means = np.stack([score.logits.mean(axis=0) for score in scores])
        if self.adaptation is None:
            return means
        levelled: Frames = means + self.adaptation.logit_bias
        anchor = self.adaptation.anchor
        return levelled if anchor is None else anchor.raised(levelled, _embeddings(scores))

    def _prediction(self, logits: Frames, scores: WindowScores, too_short: bool) -> Prediction:
        probabilities = self.calibrate(logits[None])[0]
        best = int(probabilities.argmax())
        confidence = float(probabilities[best])
        audible = scores.audible and not too_short
        return Prediction(
            label=self.labels[best],
            scores=dict(zip(self.labels, probabilities.tolist(), strict=True)),
            confidence=confidence,
            uncertain=not (audible and confidence >= self.threshold),  # a confidence that is NaN is uncertain too
            windows=len(scores.logits),
            audible=audible,
        )


def load(name_or_path: str | PathLike[str] = DEFAULT_MODEL, compute: str | None = None, **options: Any) -> Recognizer:
    """Load a checkpoint that is ready to judge. `options` are the other fields of RecognizerConfig.

    `load()` takes the default checkpoint on the best device; `load("runs/mine", "cuda")` a folder on a GPU.
    """
    if "device" in options:
        warnings.warn("load(device=...) is now load(compute=...)", DeprecationWarning, stacklevel=2)
        compute = options.pop("device")
    return open_recognizer(RecognizerConfig(model=fspath(name_or_path), compute=compute or "auto", **options))


def open_recognizer(config: RecognizerConfig) -> Recognizer:
    """The recognizer that a configuration asks for."""
    bundle = load_bundle(config.model)
    engine = open_engine(bundle, config.engine, config.compute, config.threads)
    recognizer = Recognizer(bundle, engine, config.threshold)
    if config.profile is None:
        return recognizer
    # The one arrow that points up: whoever opens a recognizer by its configuration wants it whole.
    from streamser.profile import adapt

    return adapt(recognizer, config.profile)


def _samples(sound: Sound, what: str) -> Samples:
    """One sound's samples as float32, checked: usable sound, or an AudioError or ValueError that says why not."""
    samples = sound.samples if isinstance(sound, Segment) else sound
    if not isinstance(samples, np.ndarray) or samples.ndim != 1:
        shape = f"an array of shape {samples.shape}" if isinstance(samples, np.ndarray) else repr(type(sound).__name__)
        raise ValueError(
            f"{what}: 16 kHz mono samples in a one-dimensional array, or a Segment, not {shape}; "
            "streamser.read_audio(path) reads a file, streamser.audio.to_mono mixes channels"
        )
    if not len(samples):
        raise AudioError(f"{what}: holds no samples, and nothing can be said of nothing")
    mono = check_finite(to_mono(samples), what)
    peak = float(np.abs(mono).max())
    if peak > LOUDEST:
        raise AudioError(
            f"{what}: reaches {peak:g}, but float sound lies within [-1, 1]; divide 16-bit values by 32768"
        )
    return mono


def _embeddings(scores: Sequence[WindowScores]) -> Frames:
    """(sounds, dimensions)"""
    return np.stack([score.embedding.mean(axis=0) for score in scores])


def _checked(adaptation: Adaptation | None, bundle: Bundle) -> Adaptation | None:
    """The adaptation, or ValueError when it was made for another checkpoint."""
    if adaptation is None:
        return None
    bias, size = adaptation.logit_bias, len(bundle.labels)
    if np.shape(bias) != (size,) or not np.isfinite(bias).all():
        raise ValueError(f"adaptation.logit_bias holds {size} finite values for {bundle.name}, not {np.shape(bias)}")
    return Adaptation(np.asarray(bias, np.float32), adaptation.anchor)
