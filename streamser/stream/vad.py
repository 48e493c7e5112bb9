"""Detect speech frame by frame: webrtcvad after a noise gate, silero, or the noise gate alone."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import _webrtcvad  # the extension itself: the module around it reads package metadata, which slows the start by a tenth
import numpy as np

from streamser.audio import SAMPLE_RATE, Samples, energies
from streamser.errors import MissingExtraError
from streamser.settings import check_choice, require
from streamser.stream.noise import NoiseGate
from streamser.stream.pcm import PCM16

__all__ = ["VADS", "EnergyVad", "SileroVad", "Vad", "VadChoice", "VadConfig", "WebRtcVad", "make_vad", "one_for_each"]

# webrtcvad's input is amplified until speech has -26 dBFS; its level is assumed to be the recent peak's, or 15 dB above
# the room's noise if that is more.
_TARGET_RMS = 0.05
_MOST_GAIN = 300.0
_PEAK_DECAY = 0.82  # factor per second (-0.9 dB)
_SPEECH_OVER_FLOOR = 30.0
_FULL_SCALE = np.float32(32767)


@dataclass(frozen=True, slots=True, kw_only=True)
class VadConfig:
    """The voice activity detector and its thresholds; docs/vad.md has measurements of each detector."""

    engine: str = "webrtc"
    """webrtc (small and fast), silero (best against music and clatter; needs streamser[silero]), energy (the noise gate
    alone), or a name that a program has added to VADS."""
    mode: int = 1
    """webrtc: from 0 (most frames count as speech) to 3 (fewest frames count as speech)."""
    noise_floor: bool = True
    """webrtc: block frames that do not rise above the tracked noise floor of the room."""
    snr_db: float = 4.0
    """webrtc and energy: how far speech must rise above the noise floor."""
    min_level_dbfs: float = -85.0
    """webrtc and energy: quieter frames are never speech."""
    threshold: float = 0.5
    """silero: speech begins at a frame with at least this probability."""
    release: float = 0.35
    """silero: speech ends at a frame with a probability below this."""
    frame_ms: int = 20
    """webrtc and energy: 10, 20 or 30; silero always uses 32."""

    def __post_init__(self) -> None:
        check_choice("engine", self.engine, VADS)
        rules = {
            f"mode: must be 0, 1, 2 or 3, not {self.mode}": self.mode in (0, 1, 2, 3),
            f"snr_db: must be 0 to 40, not {self.snr_db}": 0 <= self.snr_db <= 40,
            f"min_level_dbfs: must be -120 to 0, not {self.min_level_dbfs}": -120 <= self.min_level_dbfs <= 0,
            f"threshold: must be between 0 and 1, not {self.threshold}": 0 < self.threshold < 1,
            f"release: must be above 0 and at most threshold, not {self.release}": 0 < self.release <= self.threshold,
            f"frame_ms: must be 10, 20 or 30, not {self.frame_ms}": self.frame_ms in (10, 20, 30),
        }
        require(rules)


class Vad(Protocol):
    """Interface of a detector for the segmenter."""

    frame_samples: int
    """Length of its frames."""

    def speech(self, frame: Samples) -> bool:
        """True when the frame, the next one of the stream, is speech."""

    def reset(self) -> None:
        """Reset to the state before the first frame."""


@runtime_checkable
class BatchVad(Protocol):
    """A detector that processes several frames at once, faster than one by one."""

    def speech_all(self, frames: Samples) -> list[bool]:
        """Whether each of the next frames (frames, frame_samples) is speech; the size of batches changes no result."""


def detector(vad: Vad) -> Callable[[Samples], list[bool]]:
    """A function that returns for each of the next frames (frames, frame_samples) whether it is speech."""
    if isinstance(vad, BatchVad):
        return vad.speech_all
    return lambda frames: [vad.speech(frame) for frame in frames]


class EnergyVad:
    """Detects frames that stand out from the room's noise."""

    def __init__(self, config: VadConfig) -> None:
        self.frame_samples = config.frame_ms * SAMPLE_RATE // 1000
        self._config = config
        self.reset()

    def speech(self, frame: Samples) -> bool:
        return self._gate.open(frame)

    def speech_all(self, frames: Samples) -> list[bool]:
        return self._gate.open_all(frames)[0]

    def reset(self) -> None:
        self._gate = NoiseGate(self.frame_samples, self._config.snr_db, self._config.min_level_dbfs)


class WebRtcVad:
    """WebRTC's Gaussian mixture models, for frames that stand out from the room's noise."""

    def __init__(self, config: VadConfig) -> None:
        self.frame_samples = config.frame_ms * SAMPLE_RATE // 1000
        self._config = config
        self._decay = _PEAK_DECAY ** (self.frame_samples / SAMPLE_RATE)
        self.reset()

    def speech(self, frame: Samples) -> bool:
        return self.speech_all(frame[None])[0]

    def speech_all(self, frames: Samples) -> list[bool]:
        if self._gate is None:
            outstanding, scaled = [True] * len(frames), frames
        else:
            outstanding, floors = self._gate.open_all(frames)
            scaled = frames * self._gains(frames, outstanding, floors)[:, None]
        pcm = np.minimum(np.maximum(scaled * _FULL_SCALE, -_FULL_SCALE), _FULL_SCALE).astype(PCM16).tobytes()
        size = 2 * self.frame_samples
        # Both detectors get every frame, because each keeps a state.
        samples = self.frame_samples
        voiced = [
            _webrtcvad.process(self._vad, SAMPLE_RATE, pcm[at : at + size], samples) for at in range(0, len(pcm), size)
        ]
        return [bool(voice) and stands_out for voice, stands_out in zip(voiced, outstanding, strict=True)]

    def reset(self) -> None:
        config = self._config
        self._vad = _webrtcvad.create()
        _webrtcvad.init(self._vad)
        _webrtcvad.set_mode(self._vad, config.mode)
        self._gate = NoiseGate(self.frame_samples, config.snr_db, config.min_level_dbfs) if config.noise_floor else None
        self._peak = 0.0

    def _gains(self, frames: Samples, outstanding: list[bool], floors: list[float]) -> Samples:
        """For each frame, the factor that raises quiet speech to the level webrtcvad expects, (frames,); 1 if loud."""
        peak, gains = self._peak, []
        for energy, stands_out, floor_power in zip(energies(frames), outstanding, floors, strict=True):
            peak *= self._decay
            if stands_out:
                peak = max(peak, energy / self.frame_samples)
            reference = max(peak, _SPEECH_OVER_FLOOR * floor_power)
            gains.append(min(max(_TARGET_RMS / math.sqrt(reference), 1.0), _MOST_GAIN))
        self._peak = peak
        return np.array(gains, np.float32)


class SileroVad:
    """Silero's recurrent network, run by ONNX Runtime; torch is not imported."""

    frame_samples = 512
    _CONTEXT_SAMPLES = 64  # each input begins with the last samples of the previous frame
    _RATE = np.array(SAMPLE_RATE, np.int64)

    _input: Samples  # (1, 64 + 512)
    _state: Samples  # (2, 1, 128)
    _speaking: bool

    def __init__(self, config: VadConfig) -> None:
        self._config = config
        self._session = _silero_session()
        self.reset()

    def speech(self, frame: Samples) -> bool:
        self._input[0, self._CONTEXT_SAMPLES :] = frame
        feeds = {"input": self._input, "state": self._state, "sr": self._RATE}
        probability, self._state = self._session.run(None, feeds)
        self._input[0, : self._CONTEXT_SAMPLES] = frame[-self._CONTEXT_SAMPLES :]
        enough = self._config.release if self._speaking else self._config.threshold
        self._speaking = float(probability[0, 0]) >= enough
        return self._speaking

    def reset(self) -> None:
        self._input = np.zeros((1, self._CONTEXT_SAMPLES + self.frame_samples), np.float32)
        self._state = np.zeros((2, 1, 128), np.float32)
        self._speaking = False


def _silero_session() -> Any:
    spec = importlib.util.find_spec("silero_vad")  # finds the package without running it: it would import torch
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("the VAD engine 'silero'", "silero")
    from streamser.ort import Session, onnxruntime  # only here: it takes as long as the rest of a stream's start-up

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    path = Path(spec.submodule_search_locations[0]) / "data" / "silero_vad.onnx"
    return Session(str(path), options, providers=["CPUExecutionProvider"])


VADS: dict[str, Callable[[VadConfig], Vad]] = {"webrtc": WebRtcVad, "silero": SileroVad, "energy": EnergyVad}
"""The detectors that `vad.engine` chooses from; add one as a row."""

VadChoice = VadConfig | Callable[[], Vad] | Vad
"""A stream's choice of detector: settings, a class or function that makes a detector, or a detector of your own.

A detector remembers the audio of its stream, so an object serves one stream; a server needs a class or a function.
"""


def make_vad(choice: VadChoice) -> Vad:
    """Make a new detector from the choice; an object is reset and used itself."""
    if isinstance(choice, VadConfig):
        return VADS[choice.engine](choice)
    if callable(choice):
        return choice()
    choice.reset()
    return choice


def one_for_each(choice: VadChoice) -> VadChoice:
    """The same choice, or a ValueError when it is one object and cannot serve several streams."""
    if isinstance(choice, VadConfig) or callable(choice):
        return choice
    raise ValueError(
        f"vad: is a single {type(choice).__name__} object, but each stream needs its own detector; give the class, or "
        "a function that makes one"
    )
