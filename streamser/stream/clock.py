"""Compare a microphone's samples with the system clock, to detect samples that were lost without a report."""

from __future__ import annotations

import numpy as np

from streamser.audio import SAMPLE_RATE, Resampler, Samples

__all__ = ["LaggingResampler", "SampleClock"]

_WINDOW_S = 1.0  # use the smallest lateness in this time, since chunks that arrive late in a burst are not lost
_LOSS_S = 0.1  # more lateness than this means lost audio; less may come from a busy machine
_FLAGGED_LOSS_S = 0.01  # the same limit when the device itself reports lost audio
_DRIFT = 500e-6  # largest difference in speed between two correct clocks


class SampleClock:
    """Computes how many samples are missing before a chunk, from the lengths and arrival times of all chunks.

    >>> clock = SampleClock(rate=1000)
    >>> missing = [clock.arrived(20, at_s=0.02 * i) for i in range(100)]
    >>> missing += [clock.arrived(20, at_s=0.3 + 0.02 * i) for i in range(100, 200)]  # 300 ms never came
    >>> sum(missing)
    300
    """

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._began_s: float | None = None
        self._samples = 0  # number of samples that were delivered, or are known to be lost
        self._usual_s = 0.0  # lateness of a chunk when nothing is missing
        self._least_s = float("inf")  # the least lateness in the present window
        self._window_s = 0.0  # start of that window; the first one only measures the usual lateness

    def arrived(self, samples: int, at_s: float, *, overflowed: bool = False) -> int:
        """Number of samples lost before this chunk, as estimated so far."""
        if self._began_s is None:
            self._began_s, self._window_s = at_s - samples / self.rate, at_s
        self._samples += samples
        late_s = at_s - self._began_s - self._samples / self.rate
        if self._least_s == float("inf") and at_s - self._window_s < _WINDOW_S and not overflowed:
            self._usual_s = late_s
            return 0
        self._usual_s = min(self._usual_s, late_s)
        self._least_s = min(self._least_s, late_s)
        if overflowed:
            return self._account(late_s, _FLAGGED_LOSS_S)
        if at_s - self._window_s < _WINDOW_S:
            return 0
        least_s, elapsed_s = self._least_s, at_s - self._window_s
        self._least_s, self._window_s = late_s, at_s
        lost = self._account(least_s, _LOSS_S)
        if not lost:
            self._usual_s = min(least_s, self._usual_s + _DRIFT * elapsed_s)
        return lost

    def skip(self, samples: int) -> None:
        """Count samples that arrived but were dropped in a queue, so that they are not counted as lost."""
        self._samples += samples

    def _account(self, late_s: float, enough_s: float) -> int:
        lost_s = late_s - self._usual_s
        if lost_s < enough_s:
            return 0
        lost = round(lost_s * self.rate)
        self._samples += lost
        self._least_s -= lost_s
        return lost


class LaggingResampler:
    """A resampler to 16 kHz that also reports the delay of its output."""

    def __init__(self, rate: int) -> None:
        self._resampler = Resampler(rate)
        self._rate = rate
        self._fed = 0
        self._given = 0

    @property
    def delay_s(self) -> float:
        return self._fed / self._rate - self._given / SAMPLE_RATE

    def feed(self, samples: Samples) -> Samples:
        out = self._resampler.feed(samples)
        self._fed += len(samples)
        self._given += len(out)
        return out

    def flush(self) -> Samples:
        return self._resampler.flush() if self._fed else np.zeros(0, np.float32)
