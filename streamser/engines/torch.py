"""torch on CUDA or CPU: features and network in one pass on the device, in batches of few fixed shapes.

A batch is filled up to a power of two, and every window is cut from a piece of audio of one length, so that the device
always gets the same few shapes. On the CPU windows run one at a time, as in the ONNX engine. torch's thread count
belongs to the host process and is not changed.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamser.audio import SAMPLE_RATE, Samples, resample
from streamser.bundle import Bundle
from streamser.engines import Counters, OldNames, WindowScores, check_frames, check_length
from streamser.engines.devicesteps import DeviceSteps
from streamser.errors import BundleError, EngineError
from streamser.features import FeatureConfig, Frames, silent_frame, window_starts
from streamser.native import native_call
from streamser.nets.frontend import TorchFrontEnd
from streamser.nets.streaming import StreamNet, state_bytes
from streamser.nets.zoo import restore

logger = logging.getLogger(__name__)

_CUDA_BATCH = 128  # windows; a ResNet's activations then take about 100 MB
_CUDA_STREAMS = 1024  # slots for states on the device; fewer if they would need over a quarter of its free memory
_CPU_STREAMS = 64
_STEP_SIZES = (1, 4, 16, 64)  # batch sizes of steps; larger batches are split
_SILENT = -1  # in `_Piece.order`: a frame of silence instead of a frame of the audio


class _Piece(NamedTuple):
    """The audio of one window, and the order of its frames in the window."""

    samples: Samples
    """Samples at the config's rate, padded with silence to the length of a whole window."""
    order: NDArray[np.int64]
    """(T,), frame numbers within the piece, or _SILENT."""


class TorchEngine(OldNames):
    """A bundle's weights in the network of its variant, on one processor."""

    name = "torch"

    def __init__(self, bundle: Bundle, compute: str = "cpu") -> None:
        self._device = find_device(compute)
        self.compute = str(self._device)
        self._bundle = bundle
        self._max_batch = _CUDA_BATCH if self._device.type == "cuda" else 1
        self._counters = Counters()
        self._dimensions = 0  # length of an embedding; set by the warm-up
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._steps: DeviceSteps | None = None
        self._opened = False
        net = restore(bundle)
        with self._computing():
            self._net = net.to(self._device)
            # The front end must not centre frames: `_cut` has added the silence around the recording, and a piece from
            # the middle must not be padded.
            self._front_end = TorchFrontEnd(replace(bundle.features, center=False)).to(self._device)
            self._silence = torch.from_numpy(silent_frame(bundle.features).copy()).to(self._device)
        self._warm_up()

    def run(self, frames: Frames) -> tuple[Frames, Frames]:
        """Windows (B, T, bins) to logits (B, classes) and embedding (B, D)."""
        started = time.perf_counter()
        check_frames(frames, self._bundle)
        if not len(frames):
            return np.zeros((0, self._net.n_classes), np.float32), np.zeros((0, self._dimensions), np.float32)
        frames = np.ascontiguousarray(frames, np.float32)
        outputs = []
        for first in range(0, len(frames), self._max_batch):
            batch = frames[first : first + self._max_batch]
            with self._computing():
                outputs.append(self._forward(self._to_device(batch), len(batch)))
        self._counters.add(len(frames), started)
        return np.concatenate([logits for logits, _ in outputs]), np.concatenate(
            [embedding for _, embedding in outputs]
        )

    def run_audio(self, recordings: Sequence[Samples]) -> list[WindowScores]:
        """Compute features, logits and embeddings of all windows of whole 16 kHz recordings."""
        started = time.perf_counter()
        pieces = [_cut(samples, self._bundle.features) for samples in recordings]
        scores = list(self._run_pieces(itertools.chain.from_iterable(pieces)))
        self._counters.add(len(scores), started)
        of_recording = (itertools.islice(rest, len(cut)) for rest in [iter(scores)] for cut in pieces)
        return [_stacked(list(windows)) for windows in of_recording]

    @property
    def steps(self) -> DeviceSteps | None:
        """The states of many streams on the device, allocated for the first stream that asks for them.

        None if the network does not take chunks, if the device has too little memory, or if the checkpoint has no step
        graph, which ONNX Runtime needs to continue an utterance after an error.
        """
        with self._opening:
            if not self._opened:
                self._opened = True
                self._steps = self._open_steps()
            return self._steps

    def metrics(self) -> dict[str, Any]:
        return {"engine": self.name, "device": self.compute, **self._counters.to_dict()}

    def _open_steps(self) -> DeviceSteps | None:
        from streamser.engines.devicestreams import DeviceStreams

        net: Any = self._net
        if self._bundle.step_path is None or not isinstance(net, StreamNet):
            return None
        streams = _CPU_STREAMS
        try:
            with self._computing():
                if self._device.type == "cuda":
                    free, _ = torch.cuda.mem_get_info(self._device)
                    streams = min(_CUDA_STREAMS, free // 4 // state_bytes(net))
                many = DeviceStreams(self._bundle, self.compute, max(1, streams), sizes=_STEP_SIZES, takes="frames")
                many.warm_up()
        except EngineError as error:
            logger.warning("%s; streams are computed in whole windows, which takes longer", error)
            return None
        return DeviceSteps(many, self.run, self._counters, self._lock)

    def _run_pieces(self, pieces: Iterable[_Piece]) -> Iterator[WindowScores]:
        for _, alike in itertools.groupby(pieces, key=lambda piece: len(piece.order)):
            while batch := list(itertools.islice(alike, self._max_batch)):
                samples = np.stack([piece.samples for piece in batch])
                order = np.stack([piece.order for piece in batch])
                with self._computing():
                    frames, audible = self._extract(self._to_device(samples), self._to_device(order))
                    logits, embedding = self._forward(frames, len(batch))
                    flags = audible[: len(batch)].tolist()
                yield from map(WindowScores, logits, embedding, flags)

    def _extract(self, samples: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """Pieces (B, n) and their order (B, T) to windows (B, T, bins), and whether the piece is not silent (B,)."""
        frames: Tensor = self._front_end(samples)  # (B, n) -> (B, window_frames, bins)
        chosen = frames.gather(1, order.clamp_min(0)[..., None].expand(-1, -1, frames.shape[2]))
        frames = torch.where((order == _SILENT)[..., None], self._silence, chosen)  # (B, T, bins)
        audible = ((frames - self._silence).abs() > 1e-4 + 1e-5 * self._silence.abs()).flatten(1).any(1)
        return frames, audible

    def _forward(self, frames: Tensor, n: int) -> tuple[Frames, Frames]:
        """Windows (B, T, bins) on the device to the first n windows' logits and embeddings."""
        try:
            self._net.check(frames)
            logits, embedding = self._net.served(frames)  # the outputs of the exported graph
        except ValueError as error:
            check_length(frames.shape[1], self._bundle, error)
            raise
        return logits[:n].cpu().numpy(), embedding[:n].cpu().numpy()

    def _to_device(self, batch: NDArray[Any]) -> Tensor:
        """A batch filled up to a power of two with zeros, on the device."""
        size = 1 << (len(batch) - 1).bit_length()
        return torch.from_numpy(np.pad(batch, ((0, size - len(batch)), *((0, 0),) * (batch.ndim - 1)))).to(self._device)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Compute for one caller at a time, without autograd and TF32; on CUDA every failure is an EngineError."""
        # TF32 keeps three digits of a convolution: the two engines would agree to 1e-2 only.
        exact = torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False, fp32_precision="ieee"
        )
        with native_call, self._lock, torch.inference_mode(), exact:
            try:
                yield
            except RuntimeError as error:  # out of memory, a lost device and all other CUDA errors
                if self._device.type != "cuda":
                    raise
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise EngineError(f"{self.compute}: {reason}") from error

    def _warm_up(self) -> None:
        """Run silence in the most likely batch sizes, so that memory and kernels are ready for the first audio."""
        features, labels = self._bundle.features, self._bundle.labels
        second = np.zeros(round(features.length_s * SAMPLE_RATE), np.float32)
        for batch in (1, 8) if self._device.type == "cuda" else (1,):
            scores = self.run_audio([second] * batch)
        self._dimensions = scores[0].embedding.shape[1]
        if scores[0].logits.shape != (1, len(labels)):
            raise BundleError(
                f"{self._bundle.weights_path}: the network gives {scores[0].logits.shape[1]} logits, "
                f"but labels in bundle.yaml has {len(labels)} names"
            )
        if not all(np.isfinite(value).all() for value in scores[0][:2]):
            raise BundleError(f"{self._bundle.weights_path}: the network gives NaN or infinite logits for silence")
        self._counters = Counters()


def _stacked(windows: list[WindowScores]) -> WindowScores:
    """Combine the windows of one recording."""
    return WindowScores(
        np.stack([window.logits for window in windows]),
        np.stack([window.embedding for window in windows]),
        any(window.audible for window in windows),
    )


def _cut(samples: Samples, config: FeatureConfig) -> list[_Piece]:
    """A whole 16 kHz recording as the pieces under its windows: the rules of `features.cut_window`, in samples."""
    audio = resample(samples, SAMPLE_RATE, config.sample_rate)
    n_frames = config.frames_in(len(audio))
    # Centred frames reach half an FFT before the audio; the front end adds only half the FFT's excess over a window.
    margin = (config.fft_size - config.window_samples) // 2
    audio = np.pad(audio, (config.fft_size // 2 - margin if config.center else 0, 0))
    size = config.samples_in(config.window_frames)
    pieces = []
    for start in window_starts(n_frames, config):
        piece = audio[start * config.hop_samples :][:size]
        order = _order(max(0, min(config.window_frames, n_frames - start)), config)
        pieces.append(_Piece(np.pad(piece, (0, size - len(piece))), order))
    return pieces


def _order(available: int, config: FeatureConfig) -> NDArray[np.int64]:
    """For each frame of a window, its number in the piece, or `_SILENT`, (T,)."""
    order = np.arange(config.window_frames)
    if available >= config.window_frames:
        return order
    if config.short == "keep":
        return order[:available]
    if config.short == "zero" or not available:
        return np.where(order < available, order, _SILENT)
    return order % available


def find_device(device: str) -> torch.device:
    """The device of that name; EngineError, with the reason torch gives, when there is none."""
    if device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        built = "" if torch.version.cuda else " (this torch was built without CUDA)"
        raise EngineError(f"compute {device}: torch sees no CUDA device{built}; use compute auto or cpu")
    number = int(device.partition(":")[2] or 0)
    count = torch.cuda.device_count()
    if number >= count:
        raise EngineError(f"compute {device}: there are {count} CUDA devices, cuda:0 to cuda:{count - 1}")
    return torch.device("cuda", number)
