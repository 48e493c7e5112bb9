"""Convert PCM of any rate, type, channel count and chunk size to 16 kHz mono."""

from __future__ import annotations

import logging
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from streamser.audio import SAMPLE_RATE, Resampler, Samples, made_finite, to_mono

__all__ = ["Pcm", "PcmConverter"]

logger = logging.getLogger(__name__)

PCM16 = np.dtype("<i2")
"""Type of the samples in bytes of PCM."""

Pcm = bytes | bytearray | memoryview | NDArray[np.generic]
"""Bytes are 16-bit little-endian PCM; arrays are int8..int64, uint8 or float, (samples,) or (samples, channels)."""


MOST_CHANNELS = 1024  # the maximum of libsndfile


class PcmConverter:
    """Converts PCM that arrives in pieces of any size: an incomplete sample or frame is kept until the rest arrives.

    >>> converter = PcmConverter(channels=2)
    >>> [converter.feed(crumb).tolist() for crumb in (bytes([0, 64, 0]), bytes([64, 0]))]
    [[], [0.5]]
    """

    def __init__(self, sample_rate: int = SAMPLE_RATE, channels: int = 1) -> None:
        if isinstance(channels, bool) or not isinstance(channels, int) or not 1 <= channels <= MOST_CHANNELS:
            raise ValueError(f"channels: a whole number from 1 to {MOST_CHANNELS}, not {channels!r}")
        self._resampler = Resampler(sample_rate)
        self.sample_rate = sample_rate
        self.channels = channels
        self._plain = (sample_rate, channels) == (SAMPLE_RATE, 1)
        self.replaced = 0
        """Number of samples that were NaN, infinite or beyond ±1e10; they were replaced by silence."""
        self._whole_numbers = True
        self._half_sample = b""
        self._half_frame: NDArray[np.generic] = np.zeros(0, np.int16)

    def feed(self, pcm: Pcm) -> Samples:
        """Add PCM; returns the 16 kHz mono samples that are ready."""
        samples, replaced = self._mono(pcm), 0
        if not self._whole_numbers:  # integers are always finite
            samples, replaced = made_finite(samples)
        if replaced and not self.replaced:
            logger.warning(
                "pushed audio: %d samples are NaN, infinite or beyond ±1e10; they are replaced by silence", replaced
            )
        self.replaced += replaced
        return self._resampler.feed(samples)

    def can_wait(self, pcm: Pcm) -> TypeGuard[bytes]:
        """Whether these are bytes of whole 16 kHz mono samples: several of them may be converted together later.

        False while an incomplete sample of an earlier call is kept.
        """
        return type(pcm) is bytes and self._plain and not (len(pcm) % 2 or self._half_sample)

    def flush(self) -> Samples:
        """The last samples, after the end of the input."""
        return self._resampler.flush()

    def _mono(self, pcm: Pcm) -> Samples:
        if isinstance(pcm, np.ndarray):
            if pcm.ndim == 2 and pcm.shape[1] != self.channels:
                raise ValueError(f"pcm: has {pcm.shape[1]} channels, but channels is {self.channels}")
            values: NDArray[np.generic] = pcm
        else:
            if not isinstance(pcm, bytes | bytearray | memoryview):
                raise ValueError(f"pcm: bytes of 16-bit samples or a NumPy array, not {type(pcm).__name__}")
            data = self._half_sample + bytes(pcm)
            if len(data) % 2:
                data, self._half_sample = data[:-1], data[-1:]
            else:
                self._half_sample = b""
            values = np.frombuffer(data, PCM16)
        if self.channels > 1 and values.ndim == 1:
            if len(self._half_frame):
                if self._half_frame.dtype != values.dtype:
                    raise ValueError(
                        f"pcm: the sample type changes from {self._half_frame.dtype} to {values.dtype} within a frame"
                    )
                values = np.concatenate([self._half_frame, values])
            whole = len(values) - len(values) % self.channels
            values, self._half_frame = values[:whole], values[whole:]
        self._whole_numbers = values.dtype.kind in "iu"
        return to_mono(values, self.channels)
