"""Sound as streamser knows it: 16 kHz mono float32, read from files or resampled from streams."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from streamser.errors import AudioError

SAMPLE_RATE = 16_000
"""Samples a second, everywhere inside streamser."""

Samples = NDArray[np.float32]

# HQ: -100 dB stop band at about 30 ms of delay; VHQ doubles the delay for nothing a 16 kHz model could hear.
_QUALITY = "HQ"

_NO_REGULAR_FILE = 7  # SFE_BAD_FILE of libsndfile


@dataclass(frozen=True, slots=True, eq=False)
class AudioBlock:
    """A run of sound with its place in the stream."""

    samples: Samples
    """Mono float32 at 16 kHz, nominally within [-1, 1]."""
    start: int
    """Index of the first sample since the stream began."""

    @property
    def end(self) -> int:
        """Index one past the last sample."""
        return self.start + len(self.samples)

    @property
    def duration_s(self) -> float:
        return len(self.samples) / SAMPLE_RATE


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Speech cut from a stream: the last window of an utterance that goes on, or the whole of one that ended."""

    utterance: int
    """Counts the stream's utterances from 0."""
    start: int
    """Index of the first sample since the stream began."""
    samples: Samples
    """Mono float32 at 16 kHz: at most one window for a partial, the whole utterance for a final."""
    final: bool
    """True for the one segment that closes the utterance."""
    seq: int = 0
    """Counts the segments of this utterance from 0."""
    onset: int = 0
    """Index at which the utterance began, pre-roll included."""
    continues: bool = False
    """True when the utterance is the next piece of one that was cut at the maximum length."""
    speculative: bool = False
    """True for what the final will be, sample for sample, should the silence that has begun last."""

    @property
    def end(self) -> int:
        """Index one past the last sample."""
        return self.start + len(self.samples)

    @property
    def duration_s(self) -> float:
        return len(self.samples) / SAMPLE_RATE


class Resampler:
    """Turn a stream at one rate into a stream at another; crumbs give the same samples as the whole.

    >>> import numpy as np
    >>> resampler = Resampler(48_000)
    >>> out = [resampler.feed(np.zeros(480, np.float32)) for _ in range(100)] + [resampler.flush()]
    >>> sum(len(part) for part in out)
    16000
    """

    def __init__(self, from_rate: int, to_rate: int = SAMPLE_RATE) -> None:
        if from_rate <= 0 or to_rate <= 0:
            raise ValueError(f"sample rates are positive, not {from_rate} -> {to_rate}")
        self.from_rate = from_rate
        self.to_rate = to_rate
        self._soxr = (
            None
            if from_rate == to_rate
            else soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality=_QUALITY)
        )

    def feed(self, samples: Samples) -> Samples:
        """The samples that are ready now; some stay inside until later ones arrive."""
        if self._soxr is None or not len(samples):
            return samples
        return np.asarray(self._soxr.resample_chunk(np.ascontiguousarray(samples, np.float32)), np.float32)

    def flush(self) -> Samples:
        """The rest, once nothing more will come."""
        if self._soxr is None:
            return np.zeros(0, np.float32)
        return np.asarray(self._soxr.resample_chunk(np.zeros(0, np.float32), last=True), np.float32)


def resample(samples: Samples, from_rate: int, to_rate: int = SAMPLE_RATE) -> Samples:
    """A whole signal at another rate, through the very filter that streams go through."""
    resampler = Resampler(from_rate, to_rate)
    return np.concatenate([resampler.feed(samples), resampler.flush()])


def to_mono(pcm: NDArray[np.generic], channels: int | None = None) -> Samples:
    """Any PCM array as mono float32 in [-1, 1]: integers are scaled by their type, channels are averaged.

    A one-dimensional array is mono unless `channels` says that it is interleaved.

    >>> import numpy as np
    >>> to_mono(np.array([[16384, 0], [-32768, -32768]], np.int16)).tolist()
    [0.25, -1.0]
    """
    if channels is not None and pcm.ndim == 1 and channels > 1:
        if len(pcm) % channels:
            raise ValueError(f"{len(pcm)} interleaved samples do not divide into {channels} channels")
        pcm = pcm.reshape(-1, channels)
    if pcm.ndim not in (1, 2):
        raise ValueError(f"sound has shape (samples,) or (samples, channels), not {pcm.shape}")
    if pcm.dtype == np.uint8:  # the one unsigned PCM type: 8-bit WAV, silence at 128
        values = (pcm.astype(np.float32) - 128.0) / 128.0
    elif np.issubdtype(pcm.dtype, np.signedinteger):
        values = pcm.astype(np.float32) / -float(np.iinfo(pcm.dtype).min)  # type: ignore[type-var]
    elif np.issubdtype(pcm.dtype, np.floating):
        values = pcm.astype(np.float32)
    else:
        raise ValueError(f"sound is int8..int64, uint8 or float, not {pcm.dtype}")
    return values if values.ndim == 1 else values.mean(axis=1, dtype=np.float32)


def check_finite(samples: Samples, what: str) -> Samples:
    """The same samples, or an AudioError when some are NaN or infinite."""
    bad = len(samples) - int(np.count_nonzero(np.isfinite(samples)))
    if bad:
        raise AudioError(f"{what}: {bad} of {len(samples)} samples are NaN or infinite; export the file again as PCM")
    return samples


def decoder_words(error: Exception) -> str:
    """Why libsndfile refuses a file, without the file's name, which the caller gives, or the name of a Python object.

    >>> import io
    >>> try:
    ...     soundfile.SoundFile(io.BytesIO(b"letter"))
    ... except soundfile.LibsndfileError as error:
    ...     print(decoder_words(error))
    format not recognised
    """
    if not isinstance(error, soundfile.LibsndfileError):
        return str(error)
    if error.code == _NO_REGULAR_FILE:  # its MP3 reader's word for any file that is not MP3
        return "format not recognised"
    words = str(error.error_string).strip().rstrip(".")
    return words[:1].lower() + words[1:]


def read_audio(path: str | PathLike[str], sample_rate: int = SAMPLE_RATE) -> Samples:
    """Read a WAV, FLAC, Ogg or MP3 file of any rate, channel count and sample type as mono float32.

    Raises AudioError, naming the file and the rule, when it holds no usable sound.
    """
    name = fspath(path)
    if not Path(name).is_file():
        raise AudioError(f"{name}: no such file" if not Path(name).exists() else f"{name}: is not a file")
    if Path(name).stat().st_size == 0:
        raise AudioError(f"{name}: the file is empty (0 bytes)")
    try:
        pcm, rate = soundfile.read(name, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, ValueError, TypeError) as error:
        raise AudioError(
            f"{name}: not a sound file that can be read ({decoder_words(error)}); WAV, FLAC, Ogg and MP3 are"
        ) from error
    if not len(pcm):
        raise AudioError(f"{name}: the file holds no samples")
    mono = check_finite(to_mono(pcm), name)
    sound = resample(mono, rate, sample_rate) if rate != sample_rate else mono
    if not len(sound):
        raise AudioError(
            f"{name}: its {len(mono)} samples at {rate} Hz are shorter than one sample at {sample_rate} Hz"
        )
    return sound
