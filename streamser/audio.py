"""Audio inside streamser: 16 kHz mono float32, read from files or resampled from streams."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from streamser.errors import AudioError
from streamser.media import MediaFile, is_media
from streamser.native import native_call

# soundfile and soxr are imported where they are needed: a stream of 16 kHz audio starts without them.
if TYPE_CHECKING:
    import soundfile

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16_000
"""Samples a second, everywhere inside streamser."""

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
"""Sample rates of audio that streamser takes, in Hz; beyond them the resampler hangs, crashes or fills the memory."""

LONGEST_S = 4 * 3600.0
"""The longest audio that is read into one array; a small file may decode to years of silence."""

LOUDEST = 100.0
"""Largest value of float audio, which should lie within [-1, 1]; audio with a larger value was never scaled."""

Samples = NDArray[np.float32]

_CLIPPED_SHARE = 0.2  # above it, nearly all predictions are "angry" (docs/experiments.md, "Clipped sound")
_AT_PEAK = 0.99  # relative to the peak, so that audio that was made quieter after it was clipped is found too
_TINY_PEAK = 1e-4  # -80 dBFS; quieter audio has so few 16-bit levels that many samples equal the peak
_OVERSHOOT = 2.0  # audio that was clipped at full scale and then resampled has peaks up to this value

# HQ: -100 dB stop band at about 30 ms of delay; VHQ doubles the delay without any gain for a 16 kHz model.
_QUALITY = "HQ"

_NO_REGULAR_FILE = 7  # SFE_BAD_FILE of libsndfile
_ABSURD = 1e10  # larger than any unscaled 32-bit integer, so such a value is an error

# libsndfile's log lines about a header that claims more bytes than the file has: WAV, AIFF, AU, W64, RF64.
_CLAIMED = re.compile(r"^\s*(?:RIFF|FORM|riff|Riff size|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_DATA = re.compile(r"^\s*data\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_NO_LAST_PAGE = re.compile(r"Ogg ?: Last page lacks an end-of-stream bit")
_UNKNOWN_BYTES = 0x7FFF_0000  # the header says this or more if a program wrote to a pipe, without knowing the length
_SLACK_BYTES = 512  # some programs count a header or a padding byte as audio
_SLACK_SHARE = 0.02  # the length of a VBR MP3 is an estimate
_UNKNOWN_S = 10 * 86_400.0

_PIECE_VALUES = 400_000  # a second of two channels at 192 kHz; more channels come in shorter pieces


class _Placed:
    """Audio with its position in its stream."""

    __slots__ = ()
    samples: Samples
    start: int

    @property
    def end(self) -> int:
        """Index one past the last sample."""
        return self.start + len(self.samples)

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / SAMPLE_RATE


@dataclass(frozen=True, slots=True, eq=False)
class AudioBlock(_Placed):
    """A block of audio with its position in the stream."""

    samples: Samples
    """Mono float32 at 16 kHz, nominally within [-1, 1]."""
    start: int
    """Index of the first sample since the stream began."""
    arrived_s: float | None = None
    """When its last sample came in (time.monotonic). It is used only to measure latency."""


@dataclass(frozen=True, slots=True, eq=False)
class Segment(_Placed):
    """Speech cut from a stream: the newest window of an open utterance, or the whole of a finished one."""

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
    """True for a segment that will equal the final, sample for sample, if the silence continues."""
    arrived_s: float | None = None
    """When its last sample came in (time.monotonic)."""


class Resampler:
    """Turn a stream at one rate into a stream at another; small pieces give the same samples as the whole.

    >>> import numpy as np
    >>> resampler = Resampler(48_000)
    >>> out = [resampler.feed(np.zeros(480, np.float32)) for _ in range(100)] + [resampler.flush()]
    >>> sum(len(part) for part in out)
    16000
    """

    def __init__(self, from_rate: int, to_rate: int = SAMPLE_RATE) -> None:
        self.from_rate = check_rate(from_rate)
        self.to_rate = check_rate(to_rate)
        self._soxr = None if self.from_rate == self.to_rate else _resample_stream(self.from_rate, self.to_rate)

    def feed(self, samples: Samples) -> Samples:
        """The samples that are ready now; some stay inside until later ones arrive."""
        if self._soxr is None or not len(samples):
            return samples
        return self._resample(np.ascontiguousarray(samples, np.float32))

    def flush(self) -> Samples:
        """The remaining samples, after the last `feed`."""
        if self._soxr is None:
            return np.zeros(0, np.float32)
        return self._resample(np.zeros(0, np.float32), last=True)

    def _resample(self, samples: Samples, *, last: bool = False) -> Samples:
        assert self._soxr is not None
        with native_call:
            return np.asarray(self._soxr.resample_chunk(samples, last=last), np.float32)


def _resample_stream(from_rate: int, to_rate: int) -> Any:
    import soxr

    return soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality=_QUALITY)


def check_rate(rate: float) -> int:
    """A sample rate as a whole number; ValueError if it is not whole, or a rate that streamser does not take.

    >>> check_rate(44_100.0)
    44100
    """
    if isinstance(rate, bool) or not isinstance(rate, int | float | np.integer | np.floating):
        raise ValueError(f"sample_rate: a whole number of Hz, not {rate!r}")
    if not LOWEST_RATE <= rate <= HIGHEST_RATE or rate != int(rate):
        raise ValueError(f"sample_rate: a whole number from {LOWEST_RATE} to {HIGHEST_RATE} Hz, not {rate}")
    return int(rate)


def resample(samples: Samples, from_rate: int, to_rate: int = SAMPLE_RATE) -> Samples:
    """Resample a whole signal with the filter that streams use."""
    resampler = Resampler(from_rate, to_rate)
    return np.concatenate([resampler.feed(samples), resampler.flush()])


def to_pcm16(samples: NDArray[np.floating[Any]]) -> NDArray[np.int16]:
    """Float audio as little-endian 16-bit integers; values outside [-1, 1] are clipped.

    >>> to_pcm16(np.array([0.25, -2.0, 1.0])).tolist()
    [8192, -32768, 32767]
    """
    return np.asarray((np.clip(samples, -1.0, 32767 / 32768) * 32768).round(), "<i2")


def to_mono(pcm: NDArray[np.generic], channels: int | None = None) -> Samples:
    """Any PCM array as mono float32 in [-1, 1]: integers are scaled by their type, channels are averaged.

    A one-dimensional array is mono unless `channels` is above 1: then it is interleaved.

    >>> import numpy as np
    >>> to_mono(np.array([[16384, 0], [-32768, -32768]], np.int16)).tolist()
    [0.25, -1.0]
    """
    if channels is not None and pcm.ndim == 1 and channels > 1:
        if len(pcm) % channels:
            raise ValueError(f"{len(pcm)} interleaved samples do not divide into {channels} channels")
        pcm = pcm.reshape(-1, channels)
    if pcm.ndim not in (1, 2):
        raise ValueError(f"audio must have the shape (samples,) or (samples, channels), not {pcm.shape}")
    if pcm.dtype == np.uint8:  # the one unsigned PCM type: 8-bit WAV, silence at 128
        values = (pcm.astype(np.float32) - 128.0) / 128.0
    elif pcm.dtype.kind == "i":
        values = pcm.astype(np.float32) / np.float32(2 ** (8 * pcm.dtype.itemsize - 1))
    elif pcm.dtype == np.float32:
        values = pcm.copy()  # a copy: the caller may overwrite its array
    elif pcm.dtype.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):  # a double outside float32's range becomes infinite
            values = pcm.astype(np.float32)
    else:
        raise ValueError(f"audio must be int8..int64, uint8 or float, not {pcm.dtype}")
    return values if values.ndim == 1 else values.mean(axis=1, dtype=np.float32)


def energies(frames: Samples) -> list[float]:
    """The sum of squares of each frame (frames, samples), with the same bits as np.dot of one frame alone."""
    values: list[float] = np.matmul(frames[:, None], frames[:, :, None]).ravel().tolist()
    return values


def check_finite(samples: Samples, what: str) -> Samples:
    """The same samples, or an AudioError when some are NaN or infinite."""
    bad = len(samples) - int(np.count_nonzero(np.isfinite(samples)))
    if bad:
        raise AudioError(f"{what}: {bad} of {len(samples)} samples are NaN or infinite; export the file again as PCM")
    return samples


def is_clipped(samples: Samples) -> bool:
    """Whether the audio is so heavily clipped that more than 20 % of its samples are within 1 % of its own peak.

    If the peak is above full scale, as after resampling clipped audio, samples near or above full scale are counted.

    >>> import numpy as np
    >>> sine = np.sin(np.arange(16_000, dtype=np.float32) / 9)
    >>> is_clipped(sine), is_clipped(0.1 * np.clip(10 * sine, -1, 1))
    (False, True)
    """
    sizes = np.abs(samples)
    peak = float(sizes.max(initial=0.0))
    if peak < _TINY_PEAK:
        return False
    level = peak if peak > _OVERSHOOT else min(peak, 1.0)
    return int(np.count_nonzero(sizes >= _AT_PEAK * level)) > _CLIPPED_SHARE * len(samples)


def decoder_words(error: Exception) -> str:
    """libsndfile's reason for refusing a file, without the name of the file or of a Python object.

    >>> import io, soundfile
    >>> try:
    ...     soundfile.SoundFile(io.BytesIO(b"letter"))
    ... except soundfile.LibsndfileError as error:
    ...     print(decoder_words(error))
    format not recognised
    """
    import soundfile

    if not isinstance(error, soundfile.LibsndfileError):
        return str(error)
    if error.code == _NO_REGULAR_FILE:  # libsndfile's MP3 reader reports this for any file that is not MP3
        return "format not recognised"
    words = str(error.error_string).strip().rstrip(".")
    return words[:1].lower() + words[1:]


@cache
def _sequential_file() -> Any:
    """A class of audio files that are only read from beginning to end, without seeking.

    soundfile seeks after every read of a seekable file. That fails for streamed FLAC, whose header lacks
    the length, and for some telephone codecs.
    """
    import soundfile

    class SequentialFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
        def seekable(self) -> bool:
            return False

    return SequentialFile


def made_finite(samples: Samples) -> tuple[Samples, int]:
    """Samples with silence in place of NaN, infinity and values beyond ±1e10, and how many were replaced.

    In a live stream, one such sample would otherwise spread through the resampler and the noise floor. Finite samples
    that are not scaled to [-1, 1] stay: the recognizer refuses them and names the divisor.

    >>> import numpy as np
    >>> made_finite(np.array([0.5, np.nan, 1e30], np.float32))
    (array([0.5, 0. , 0. ], dtype=float32), 2)
    """
    if not len(samples) or (samples.max() <= _ABSURD and samples.min() >= -_ABSURD):  # False for NaN
        return samples, 0
    bad = ~(np.abs(samples) <= _ABSURD)
    count = int(np.count_nonzero(bad))
    return (np.where(bad, np.float32(0), samples), count) if count else (samples, 0)


def open_audio(file: str | PathLike[str] | BinaryIO, name: str) -> soundfile.SoundFile | MediaFile:
    """Open an audio file for reading; AudioError, with `name`, if it is not audio or its sample rate is out of range.

    A file with the suffix m4a, mp4, webm and the like is decoded by ffmpeg.
    """
    try:
        media = isinstance(file, str | PathLike) and is_media(Path(file))
        audio = MediaFile(Path(name)) if media else _sequential_file()(file)
    except (RuntimeError, ValueError, TypeError) as error:  # soundfile's own errors are RuntimeErrors
        raise AudioError(
            f"{name}: not a readable audio file ({decoder_words(error)}); use WAV, FLAC, Ogg or MP3"
        ) from error
    try:
        check_rate(audio.samplerate)
    except ValueError as error:
        audio.close()
        raise AudioError(f"{name}: {error}; convert the file") from error
    return audio


def mono_pieces(audio: soundfile.SoundFile | MediaFile, name: str) -> Iterator[Samples]:
    """A file's audio at its own rate, mono, a second at a time.

    The header's length is not relied on: it may be wrong by terabytes, and telephone codecs cannot seek.
    """
    frames = max(1, min(audio.samplerate, _PIECE_VALUES // audio.channels))
    try:
        while len(pcm := audio.read(frames, dtype="float32", always_2d=True)):
            yield check_finite(to_mono(pcm), name)
    except RuntimeError as error:
        raise AudioError(
            f"{name}: cannot be read to its end ({decoder_words(error)}); copy or convert the file again"
        ) from error


def cut_off(audio: soundfile.SoundFile | MediaFile, frames: int) -> str | None:
    """The reason to believe that a file of `frames` frames is cut off, as after a broken download; None if it is whole.

    Only formats whose header or last page gives their length can be checked.
    """
    read_s = frames / audio.samplerate
    log = str(getattr(audio, "extra_info", ""))
    for claimed, there in ((int(claimed), int(there)) for claimed, there in _CLAIMED.findall(log)):
        if there + _SLACK_BYTES < claimed < _UNKNOWN_BYTES:
            if data := _DATA.search(log):  # without the headers, which are a large part of a tiny file
                claimed, there = int(data[1]), int(data[2])
            whole_s = read_s * claimed / max(1, there)
            return f"the file is truncated: it has {read_s:.1f} s of the {whole_s:.1f} s that its header states"
    if _NO_LAST_PAGE.search(log):
        return f"the file is truncated after {read_s:.1f} s: its last page is missing"
    promised_s = len(audio) / audio.samplerate
    if not isinstance(audio, MediaFile) and read_s < promised_s * (1 - _SLACK_SHARE) and promised_s < _UNKNOWN_S:
        return f"the file is truncated: it has {read_s:.1f} s of the {promised_s:.1f} s that its header states"
    return None


def read_audio(path: str | PathLike[str], sample_rate: int = SAMPLE_RATE) -> Samples:
    """Read an audio file of any rate, channel count and sample type as mono float32.

    WAV, FLAC, Ogg and MP3 are read by libsndfile; m4a, mp4, webm and the like by ffmpeg, if it is installed.

    A file that is cut off is read as far as it goes, with a warning in the log.

    Raises AudioError, naming the file and the rule, when it holds no usable audio, or more than `LONGEST_S`.
    """
    name = fspath(path)
    if not Path(name).is_file():
        raise AudioError(f"{name}: no such file" if not Path(name).exists() else f"{name}: is not a file")
    if Path(name).stat().st_size == 0:
        raise AudioError(f"{name}: the file is empty (0 bytes)")
    with open_audio(name, name) as audio:
        rate, pieces, length = audio.samplerate, [], 0
        for piece in mono_pieces(audio, name):
            pieces.append(piece)
            length += len(piece)
            if length > LONGEST_S * rate:
                raise AudioError(
                    f"{name}: has more than {LONGEST_S / 3600:g} hours of audio, too much for one array; split it, or "
                    "use streamser replay, which reads a file piece by piece"
                )
        missing = cut_off(audio, length)
    if not length:
        raise AudioError(f"{name}: the file has no samples")
    if missing is not None:
        logger.warning("%s: %s", name, missing)
    mono = np.concatenate(pieces)
    resampled = resample(mono, rate, sample_rate) if rate != sample_rate else mono
    if not len(resampled):
        raise AudioError(f"{name}: its {length} samples at {rate} Hz are shorter than one sample at {sample_rate} Hz")
    return resampled
