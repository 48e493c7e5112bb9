"""Log-mel, MFCC or plain samples as frames, in NumPy, whole or incremental: the reference for all other code.

A bundle contains one `FeatureConfig`, which defines all computation between 16 kHz samples and the network's
input. A frame depends on its own samples and on constants only, never on the window around it, so a frame
computed once is right in every window it later appears in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamser.audio import SAMPLE_RATE, Resampler, Samples

Frames = NDArray[np.float32]
"""Features, (frames, bins)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureConfig:
    """Everything between samples and a network's input; each of the five papers' front ends is one instance."""

    kind: Literal["mel", "samples"] = "mel"
    """`samples`: a frame is the next `hop_samples` samples unchanged, for a network that takes raw audio."""
    sample_rate: int = SAMPLE_RATE
    """Hz; 16 kHz audio is resampled if a paper uses another rate."""
    window: Literal["hann", "hamming"] = "hann"
    """Periodic, as in librosa and torch.stft."""
    window_samples: int = 1024
    hop_samples: int = 256
    fft_size: int = 1024
    """At least window_samples; a shorter window is centred in it, as in librosa."""
    center: bool = False
    """True pads half an FFT of zeros at both ends (librosa's default); False begins with the first sample."""
    n_mels: int = 64
    mel_min_hz: float = 80.0
    mel_max_hz: float = 7600.0
    mel_scale: Literal["slaney", "htk"] = "slaney"
    mel_norm: Literal["slaney", "none"] = "slaney"
    log: Literal["db", "ln"] = "db"
    """10 log10 or natural logarithm of the mel power, against the fixed reference."""
    floor: float = 1e-10
    """Lower limit of the mel power, which is also the value of digital silence."""
    reference: float = 1.0
    """Mel power at 0 dB; fixed, never a window's own maximum."""
    mfcc: int = 0
    """How many cepstral coefficients (orthonormal DCT-II); 0 keeps the log-mel."""
    clip: tuple[float, float] | None = None
    """Clamp the values to this range."""
    scale: Literal["none", "unit", "standard"] = "none"
    """`unit` maps `clip` to [0, 1]; `standard` subtracts `mean` and divides by `std`, bin by bin."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    """Constants of the training set, one a bin, for `standard`."""
    length_s: float = 3.0
    """The network's window."""
    short: Literal["zero", "tile", "keep"] = "tile"
    """Audio shorter than the window: add silent frames, repeat its own frames, or leave it short."""
    long: Literal["head", "middle", "windows", "pieces"] = "windows"
    """Audio longer than the window: its beginning, its middle, or all of it in overlapping windows; `pieces` leaves out
    a rest that is shorter than a window, and each piece is an example of its own in training."""
    stride_s: float = 1.0
    """Step between overlapping windows; the last window ends with the audio, except with `pieces`."""
    peak: bool = False
    """Scale a whole recording so that its largest sample is 1. In a stream, only a segment that is scored as a whole
    recording is scaled, by itself."""
    trim_db: float = 0.0
    """Trim leading and trailing parts that are this many dB quieter than the loud parts; 0 keeps everything.
    A stream's segmenter removes such parts anyway, but their length differs between corpora, and a network would learn
    to recognize a corpus by it."""

    def __post_init__(self) -> None:
        rules = {
            "kind must be mel or samples": self.kind in ("mel", "samples"),
            "kind 'samples' must have frames without overlap that are neither centred nor changed": (
                self.kind != "samples"
                or (
                    self.hop_samples == self.window_samples == self.fft_size
                    and (self.center, self.mfcc, self.clip, self.scale) == (False, 0, None, "none")
                )
            ),
            "sample_rate must be positive": self.sample_rate > 0,
            "1 <= hop_samples": self.hop_samples >= 1,
            "2 <= window_samples <= fft_size": 2 <= self.window_samples <= self.fft_size,
            "1 <= n_mels": self.n_mels >= 1,
            "0 <= mel_min_hz < mel_max_hz <= sample_rate / 2": (
                0 <= self.mel_min_hz < self.mel_max_hz <= self.sample_rate / 2
            ),
            "0 <= mfcc <= n_mels": 0 <= self.mfcc <= self.n_mels,
            "floor and reference must be positive": self.floor > 0 and self.reference > 0,
            "clip must be (low, high) with low < high": self.clip is None or self.clip[0] < self.clip[1],
            "scale 'unit' needs clip": self.scale != "unit" or self.clip is not None,
            "scale 'standard' needs mean and std, one value a bin, std positive": self.scale != "standard"
            or (len(self.mean) == len(self.std) == self.bins and min(self.std) > 0),
            "window must be hann or hamming": self.window in ("hann", "hamming"),
            "mel_scale must be slaney or htk": self.mel_scale in ("slaney", "htk"),
            "mel_norm must be slaney or none": self.mel_norm in ("slaney", "none"),
            "log must be db or ln": self.log in ("db", "ln"),
            "scale must be none, unit or standard": self.scale in ("none", "unit", "standard"),
            "short must be zero, tile or keep": self.short in ("zero", "tile", "keep"),
            "long must be head, middle, windows or pieces": self.long in ("head", "middle", "windows", "pieces"),
            "length_s and stride_s must be positive": self.length_s > 0 and self.stride_s > 0,
            "trim_db must be 0 or more": self.trim_db >= 0,
        }
        broken = [rule for rule, held in rules.items() if not held]
        if broken:
            raise ValueError("FeatureConfig: " + "; ".join(broken))

    @property
    def bins(self) -> int:
        """Values in a frame."""
        return self.hop_samples if self.kind == "samples" else self.mfcc or self.n_mels

    @property
    def window_frames(self) -> int:
        """Frames in the network's window of `length_s`."""
        return max(1, self.frames_in(round(self.length_s * self.sample_rate)))

    @property
    def stride_frames(self) -> int:
        return max(1, round(self.stride_s * self.sample_rate / self.hop_samples))

    @property
    def hop_s(self) -> float:
        return self.hop_samples / self.sample_rate

    def frames_in(self, samples: int) -> int:
        """Number of whole frames in this many samples (at `sample_rate`)."""
        if self.center:
            return 1 + samples // self.hop_samples if samples else 0
        return max(0, 1 + (samples - self.window_samples) // self.hop_samples)

    def samples_in(self, frames: int) -> int:
        """Smallest number of samples (at `sample_rate`) that gives this many frames, without centring."""
        return (frames - 1) * self.hop_samples + self.window_samples if frames > 0 else 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML and JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FeatureConfig:
        """The inverse of `to_dict`; ValueError for an unknown key or an impossible value."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"FeatureConfig: unknown keys {', '.join(unknown)}")
        try:
            given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            return cls(**given)
        except TypeError as error:
            raise ValueError(f"FeatureConfig: {error}") from error


def mel_hz(hz: NDArray[np.float64] | float, scale: str) -> NDArray[np.float64]:
    """Hertz to mel."""
    hz = np.asarray(hz, np.float64)
    if scale == "htk":
        return 2595.0 * np.log10(1.0 + hz / 700.0)
    # Slaney: linear below 1 kHz (15 mel there), logarithmic above, 27 steps from 1 to 6.4 kHz.
    with np.errstate(divide="ignore"):
        upper = 15.0 + 27.0 * np.log(hz / 1000.0) / math.log(6.4)
    return np.where(hz < 1000.0, hz * 3.0 / 200.0, upper)


def hz_mel(mel: NDArray[np.float64], scale: str) -> NDArray[np.float64]:
    """Mel to hertz."""
    if scale == "htk":
        return np.asarray(700.0 * (10.0 ** (mel / 2595.0) - 1.0))
    return np.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * np.exp((mel - 15.0) * math.log(6.4) / 27.0))


@lru_cache(maxsize=32)
def window_values(config: FeatureConfig) -> NDArray[np.float64]:
    """The periodic analysis window, centred in the FFT, (fft_size,)."""
    alpha = 0.5 if config.window == "hann" else 0.54
    phase = 2.0 * np.pi * np.arange(config.window_samples) / config.window_samples
    window = np.zeros(config.fft_size)
    left = (config.fft_size - config.window_samples) // 2
    window[left : left + config.window_samples] = alpha - (1.0 - alpha) * np.cos(phase)
    return window


def mel_corners(config: FeatureConfig) -> NDArray[np.float64]:
    """Hertz at which the triangles begin, peak and end, (n_mels + 2,)."""
    ends = mel_hz(np.array([config.mel_min_hz, config.mel_max_hz]), config.mel_scale)
    return hz_mel(np.linspace(ends[0], ends[1], config.n_mels + 2), config.mel_scale)


@lru_cache(maxsize=32)
def mel_matrix(config: FeatureConfig) -> Frames:
    """Triangular filters, (fft_size // 2 + 1, n_mels)."""
    corners = mel_corners(config)
    hz = np.fft.rfftfreq(config.fft_size, 1.0 / config.sample_rate)
    ramps = corners[:, None] - hz[None, :]
    widths = np.diff(corners)[:, None]
    weights = np.maximum(0.0, np.minimum(-ramps[:-2] / widths[:-1], ramps[2:] / widths[1:]))
    if config.mel_norm == "slaney":  # all triangles have the same area
        weights *= (2.0 / (corners[2:] - corners[:-2]))[:, None]
    return np.ascontiguousarray(weights.T, dtype=np.float32)


class MelBands(NamedTuple):
    """The mel filters as two weights for each FFT bin, which lies on the rising side of one triangle and on the falling
    side of another. Sums over the bins between two corners therefore replace a matrix product with many zeros."""

    rising: NDArray[np.float64]
    """Weight of each FFT bin on the rising side, (fft_size // 2 + 2,)."""
    falling: NDArray[np.float64]
    """Weight of each FFT bin on the falling side of the filter below, (fft_size // 2 + 2,)."""
    starts: NDArray[np.intp]
    """First FFT bin of each run between two corners, and the bin after the last run."""
    filled: NDArray[np.float64]
    """0 for a run without any bin, else 1."""


@lru_cache(maxsize=32)
def mel_bands(config: FeatureConfig) -> MelBands:
    """The filters of `mel_matrix` as `MelBands`."""
    weights = mel_matrix(config).astype(np.float64)
    bins, mels = weights.shape
    hz = np.fft.rfftfreq(config.fft_size, 1.0 / config.sample_rate)
    run = np.searchsorted(mel_corners(config), hz, side="right") - 1  # the run that each bin lies in, -1 .. mels + 1
    rising, falling = np.zeros(bins + 1), np.zeros(bins + 1)
    at = np.arange(bins)
    up, down = (run >= 0) & (run < mels), (run >= 1) & (run <= mels)
    rising[:bins][up] = weights[at[up], run[up]]
    falling[:bins][down] = weights[at[down], run[down] - 1]
    starts = np.searchsorted(run, np.arange(mels + 2))
    return MelBands(rising, falling, starts, (np.diff(starts) > 0).astype(np.float64))


@lru_cache(maxsize=32)
def dct_matrix(config: FeatureConfig) -> Frames:
    """Orthonormal DCT-II, (n_mels, mfcc)."""
    n = np.arange(config.n_mels)[:, None]
    k = np.arange(config.mfcc)[None, :]
    basis = np.cos(np.pi * k * (2 * n + 1) / (2 * config.n_mels)) * math.sqrt(2.0 / config.n_mels)
    basis[:, 0] /= math.sqrt(2.0)
    return basis.astype(np.float32)


def log_mel(power: Frames, config: FeatureConfig) -> Frames:
    """Mel power (frames, n_mels) to log-mel: dB or natural logarithm, relative to `reference`, at least `floor`."""
    reference = np.float32(math.log(max(config.reference, config.floor)))
    level: Frames = np.log(np.maximum(power, np.float32(config.floor))) - reference
    return level * np.float32(10.0 / math.log(10.0)) if config.log == "db" else level


@lru_cache(maxsize=32)
def _dct_matrix64(config: FeatureConfig) -> NDArray[np.float64]:
    """`dct_matrix` in float64: `einsum` would convert it at every call, which takes longer than the sums."""
    return dct_matrix(config).astype(np.float64)


@lru_cache(maxsize=32)
def _standard(config: FeatureConfig) -> tuple[Frames, Frames]:
    """Mean and standard deviation of each bin, (bins,) each."""
    return np.array(config.mean, np.float32), np.array(config.std, np.float32)


def from_log_mel(level: Frames, config: FeatureConfig) -> Frames:
    """Convert log-mel to the network's input: DCT, clipping and scaling by the config."""
    # In float64: the sum over a frame's levels exceeds 1000 dB, but most coefficients are only a few dB.
    cepstrum = np.einsum("...m,mk->...k", level.astype(np.float64), _dct_matrix64(config)) if config.mfcc else level
    values: Frames = cepstrum.astype(np.float32, copy=False)
    if config.clip is not None:
        values = np.clip(values, np.float32(config.clip[0]), np.float32(config.clip[1]))
    if config.scale == "unit":
        assert config.clip is not None
        values = (values - np.float32(config.clip[0])) / np.float32(config.clip[1] - config.clip[0])
    elif config.scale == "standard":
        mean, std = _standard(config)
        values = np.asarray((values - mean) / std, np.float32)
    return np.ascontiguousarray(values, np.float32)


# Frames for one FFT call: the arrays of 32 frames stay in the second-level cache.
_CHUNK_FRAMES = 32


def _mel_power(samples: Samples, config: FeatureConfig) -> Frames:
    """Mel power of every whole frame in samples that begin on a frame's edge, (frames, n_mels).

    No matrix product: its threads would busy-wait on a loaded machine, and its order of summation depends on the number
    of rows. Here a frame's bits do not depend on the frames that are computed with it.
    """
    n_frames = max(0, 1 + (len(samples) - config.fft_size) // config.hop_samples)
    out = np.empty((n_frames, config.n_mels), np.float32)
    if not n_frames:
        return out
    step = samples.strides[0]  # sliding_window_view would cost a tenth of the transform
    views = np.ndarray((n_frames, config.fft_size), samples.dtype, samples, strides=(step * config.hop_samples, step))
    window, bands = window_values(config), mel_bands(config)
    power = np.zeros((min(n_frames, _CHUNK_FRAMES), config.fft_size // 2 + 2))  # one silent bin past the end
    for first in range(0, n_frames, _CHUNK_FRAMES):
        # In float64: in float32, rounding errors of a full-scale tone exceed the floor of other bands.
        spectrum = np.fft.rfft(views[first : first + _CHUNK_FRAMES] * window)
        rows = len(spectrum)
        np.add(np.square(spectrum.real), np.square(spectrum.imag), power[:rows, :-1])
        up = np.add.reduceat(power[:rows] * bands.rising, bands.starts, axis=1)[:, :-1] * bands.filled
        down = np.add.reduceat(power[:rows] * bands.falling, bands.starts, axis=1)[:, :-1] * bands.filled
        out[first : first + rows] = up[:, :-1] + down[:, 1:]
    return out


class FrontEnd:
    """Computes frames incrementally: each only once, and the same for small pieces as for the whole signal.

    >>> import numpy as np
    >>> front_end = FrontEnd(FeatureConfig())
    >>> [front_end.feed(np.zeros(512, np.float32)).shape for _ in range(4)]
    [(0, 64), (1, 64), (2, 64), (2, 64)]
    """

    def __init__(self, config: FeatureConfig) -> None:
        self.config = config
        self._resampler = Resampler(SAMPLE_RATE, config.sample_rate)
        # A window shorter than its FFT is centred in it; these samples before the first one are silent.
        self._lead = config.fft_size // 2 if config.center else (config.fft_size - config.window_samples) // 2
        self._waiting: Samples = np.zeros(self._lead, np.float32)
        self._received = 0  # samples at the config's rate
        self._given = 0  # frames

    def feed(self, samples: Samples) -> Frames:
        """The frames that these 16 kHz samples complete, (new frames, bins)."""
        return self._advance(self._resampler.feed(samples))

    def flush(self) -> Frames:
        """The frames that only the end of the audio completes."""
        frames = [self._advance(self._resampler.flush())]
        missing = self.config.frames_in(self._received) - self._given
        if missing > 0:  # frames that reach past the end: centred ones, or those with an FFT longer than the window
            need = (missing - 1) * self.config.hop_samples + self.config.fft_size - len(self._waiting)
            received = self._received
            frames.append(self._advance(np.zeros(max(0, need), np.float32)))
            self._received = received
        return np.concatenate(frames)

    def _advance(self, samples: Samples) -> Frames:
        self._received += len(samples)
        self._waiting = np.concatenate([self._waiting, samples])
        frames = _whole_frames(self._waiting, self.config)
        self._waiting = self._waiting[len(frames) * self.config.hop_samples :]
        self._given += len(frames)
        return frames


def _whole_frames(samples: Samples, config: FeatureConfig) -> Frames:
    """Every whole frame in samples that begin on a frame's edge, (frames, bins)."""
    if config.kind == "mel":
        return from_log_mel(log_mel(_mel_power(samples, config), config), config)
    count = len(samples) // config.hop_samples
    # a copy: the caller may overwrite its array
    return np.array(samples[: count * config.hop_samples].reshape(count, config.bins), np.float32)


def extract(samples: Samples, config: FeatureConfig) -> Frames:
    """All frames of a whole 16 kHz signal, (frames, bins)."""
    front_end = FrontEnd(config)
    return np.concatenate([front_end.feed(np.ascontiguousarray(samples, np.float32)), front_end.flush()])


_PIECE = 256  # samples; 16 ms
_BESIDE = 12  # pieces kept on either side of the speech, about what a stream's segmenter leaves
_SILENT_PEAK = 1e-4  # -80 dBFS: the audio is silent
TRIM_BESIDE_S = _BESIDE * _PIECE / SAMPLE_RATE
"""Silence that is kept on either side of trimmed speech."""


def at_peak(samples: Samples, config: FeatureConfig) -> Samples:
    """Scale a whole recording to a peak of 1 (absolute value) if `config.peak`, unless its peak is below -80 dBFS."""
    peak = float(np.abs(samples).max(initial=0.0)) if config.peak else 0.0
    return samples if peak < _SILENT_PEAK else np.asarray(samples / np.float32(peak), np.float32)


def trimmed(samples: Samples, config: FeatureConfig) -> Samples:
    """A whole 16 kHz recording without the silence around its speech; all of it if the config does not trim.

    >>> quiet, loud = np.zeros(16_000, np.float32), np.ones(8_000, np.float32)
    >>> len(trimmed(np.concatenate([quiet, loud, quiet]), FeatureConfig(trim_db=25.0))) / 256
    56.0
    """
    first, end = speech_range(samples, config)
    return samples[first:end]


def speech_range(samples: Samples, config: FeatureConfig) -> tuple[int, int]:
    """First sample of the `trimmed` recording, a multiple of 256, and one past its last sample."""
    count = len(samples) // _PIECE
    if not config.trim_db or not count:
        return 0, len(samples)
    # the difference suppresses hum and rumble, which are not speech even if they are loud
    whole = samples[: count * _PIECE]
    bright = whole - np.float32(0.97) * np.concatenate([whole[:1], whole[:-1]])
    level_db = 10 * np.log10(np.square(bright, dtype=np.float64).reshape(count, _PIECE).mean(axis=1) + 1e-12)
    loud = np.flatnonzero(level_db >= np.quantile(level_db, 0.95) - config.trim_db)
    end = min(len(samples), (int(loud[-1]) + 1 + _BESIDE) * _PIECE)
    return max(0, int(loud[0]) - _BESIDE) * _PIECE, end


@lru_cache(maxsize=32)
def silent_frame(config: FeatureConfig) -> Frames:
    """The features of digital silence, (1, bins); read-only."""
    frame = np.zeros((1, config.bins), np.float32)
    if config.kind == "mel":
        frame = from_log_mel(log_mel(np.zeros((1, config.n_mels), np.float32), config), config)
    frame.flags.writeable = False
    return frame


def window_starts(n_frames: int, config: FeatureConfig) -> list[int]:
    """First frame of each window of a recording with this many frames; one window when it is short.

    >>> window_starts(400, FeatureConfig())  # 184-frame windows, one second (62 frames) apart
    [0, 62, 124, 186, 216]
    """
    spare = n_frames - config.window_frames
    if spare <= 0 or config.long == "head":
        return [0]
    if config.long == "middle":
        return [spare // 2]
    if config.long == "pieces":
        return list(range(0, spare + 1, config.stride_frames))
    starts = list(range(0, spare, config.stride_frames))
    return [*starts, spare]


def cut_window(frames: Frames, start: int, config: FeatureConfig) -> Frames:
    """One window of exactly `window_frames` frames (fewer only if `short` is "keep")."""
    window = frames[start : start + config.window_frames]
    missing = config.window_frames - len(window)
    if missing <= 0 or config.short == "keep":
        return window
    if config.short == "zero" or not len(window):
        return np.concatenate([window, np.repeat(silent_frame(config), missing, axis=0)])
    return np.ascontiguousarray(np.take(window, np.arange(config.window_frames) % len(window), axis=0))


def windows(frames: Frames, config: FeatureConfig) -> Frames:
    """The windows in which a recording is scored, (windows, window_frames, bins)."""
    return np.stack([cut_window(frames, start, config) for start in window_starts(len(frames), config)])
