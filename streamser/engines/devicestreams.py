"""Many streams on one torch device: their states stay on it, and one batched step scores a chunk of each stream.

On CUDA a step (features, gather of the states, the network, update of the states) is captured once for each batch size
as a graph; pinned memory serves for upload and download. A batch is filled up to the next captured size with a slot
that no stream owns; what its rows write there, in any order, is never used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from streamser.bundle import Bundle
from streamser.engines.torch import find_device
from streamser.errors import EngineError
from streamser.features import Frames
from streamser.nets.frontend import TorchFrontEnd
from streamser.nets.streaming import stream_net, write
from streamser.nets.zoo import restore

__all__ = ["DeviceStreams", "Pending"]

SIZES = (1, 8, 64, 256, 1024)
_WARM_UPS = 3  # runs before a capture, in which libraries choose their kernels and plans


class _Buffers(NamedTuple):
    """One batch's input and output, in pinned memory of the host or on the device."""

    slots: Tensor
    audio: Tensor
    logits: Tensor
    embedding: Tensor


class Pending:
    """A step that was launched; `result` waits for it."""

    def __init__(self, outputs: _Buffers, count: int, done: torch.cuda.Event | None) -> None:
        self._outputs, self._count, self._done = outputs, count, done

    def result(self) -> tuple[Frames, Frames]:
        """Logits (streams, classes) and embedding (streams, D)."""
        if self._done is not None:
            try:
                self._done.synchronize()
            except RuntimeError as error:
                raise EngineError(f"cuda: {error}") from error
        logits, embedding = self._outputs.logits, self._outputs.embedding
        return logits[: self._count].numpy().copy(), embedding[: self._count].numpy().copy()


class DeviceStreams:
    """The states of up to `streams` streams on a device; for one thread.

    `pcm16` takes 16-bit samples, which halves the upload. `tf32` lets the tensor cores round inputs to ten bits: steps
    are several times as fast, and results equal the CPU's within about 1e-2 instead of 1e-3.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str = "cuda",
        streams: int = 64,
        *,
        sizes: Sequence[int] = SIZES,
        pcm16: bool = False,
        tf32: bool = False,
    ) -> None:
        self.streams = streams
        self.features = bundle.features
        self._device = find_device(device)
        self._sizes = sorted(sizes)
        self._pcm16 = pcm16
        self._tf32 = tf32
        self._on_cuda = self._device.type == "cuda"
        with self._computing():
            net = restore(bundle).to(self._device)
            self._net = stream_net(net, bundle.features)
            if isinstance(self._net, nn.Module):
                self._net.to(self._device)
            self._front_end = TorchFrontEnd(replace(bundle.features, center=False)).to(self._device)
            # The last slot belongs to no stream: rows that fill up a batch read and write it.
            states = self._net.stream_states(streams + 1, self._device)
            self._fixed = states[: len(states) - self._net.stream_rings]
            self._rings = states[len(states) - self._net.stream_rings :]
            self._written = torch.zeros(streams + 1, dtype=torch.int64, device=self._device)  # entries of each ring
        self.chunks = self._net.stream_chunks
        self._pool: Any = None
        self._graphs: dict[tuple[int, int], tuple[Any, _Buffers]] = {}
        self._hosts: dict[tuple[int, int], list[_Buffers]] = {}

    @property
    def state_bytes(self) -> int:
        """Memory on the device that one stream needs."""
        return sum(state[0].numel() * state.element_size() for state in (*self._fixed, *self._rings, self._written))

    def samples(self, chunk: int) -> int:
        """Number of 16 kHz samples for a chunk of this many frames; chunks overlap as analysis windows do."""
        return self.features.samples_in(chunk)

    def begin(self, slots: NDArray[np.int64]) -> None:
        """Start new utterances in these slots."""
        with self._computing():
            index = torch.from_numpy(slots).to(self._device)
            for state in (*self._fixed, *self._rings, self._written):
                state.index_fill_(0, index, 0)

    def launch(self, slots: NDArray[np.int64], audio: NDArray[Any]) -> Pending:
        """Start to score the next chunk of the streams in these slots, without waiting; `audio` is (slots, samples).

        There are at most as many slots as the largest batch size. At most two launches of one batch size and chunk
        length may be pending, because they alternate between two sets of buffers.
        """
        count, size = len(slots), next((size for size in self._sizes if size >= len(slots)), 0)
        if not size or not count:
            raise ValueError(f"a step takes 1 to {self._sizes[-1]} streams, not {count}")
        key = (size, audio.shape[1])
        with self._computing():
            host = self._host(key)
            host.slots[:count] = torch.from_numpy(slots)
            host.slots[count:] = self.streams
            host.audio[:count] = torch.from_numpy(audio)
            if not self._on_cuda:
                logits, embedding = self._step(host.slots, host.audio)
                return Pending(host._replace(logits=logits, embedding=embedding), count, None)
            graph, device = self._graph(key)
            device.slots.copy_(host.slots, non_blocking=True)
            device.audio.copy_(host.audio, non_blocking=True)
            graph.replay()
            host.logits.copy_(device.logits, non_blocking=True)
            host.embedding.copy_(device.embedding, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        return Pending(host, count, done)

    def step(self, slots: NDArray[np.int64], audio: NDArray[Any]) -> tuple[Frames, Frames]:
        """Score the next chunk of the streams in these slots, however many, and wait for the result."""
        most = self._sizes[-1]
        results = [
            self.launch(slots[first : first + most], audio[first : first + most]).result()
            for first in range(0, len(slots), most)
        ]
        return np.concatenate([logits for logits, _ in results]), np.concatenate([found for _, found in results])

    def _step(self, slots: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """The computation of a step, entirely on the device."""
        frames = self._front_end(audio.float() / 32768 if self._pcm16 else audio)
        fixed = [state.index_select(0, slots) for state in self._fixed]
        rings = [_gather(ring, slots) for ring in self._rings]
        logits, embedding, following = self._net.stream_step(frames, [*fixed, *rings])
        for state, value in zip(self._fixed, following[: len(fixed)], strict=True):
            state.index_copy_(0, slots, value)
        if new := following[len(fixed) :]:  # only the new entries: most of a ring stays as it is
            written = self._written.index_select(0, slots)
            for ring, entries in zip(self._rings, new, strict=True):
                write(ring, slots, written, entries)
            self._written.index_copy_(0, slots, written + new[0].shape[1])
        return logits.float(), embedding.float()

    def _host(self, key: tuple[int, int]) -> _Buffers:
        """Host buffers for the next launch of this size.

        Two sets alternate. This one belongs to the launch before the last, which the caller has already finished.
        """
        if key not in self._hosts:
            kind = torch.int16 if self._pcm16 else torch.float32
            outputs = self._sizes_of_outputs(key) if self._on_cuda else (0, 0)
            self._hosts[key] = [
                _Buffers(
                    torch.zeros(key[0], dtype=torch.int64, pin_memory=self._on_cuda),
                    torch.zeros(key, dtype=kind, pin_memory=self._on_cuda),
                    torch.zeros(key[0], outputs[0], pin_memory=self._on_cuda),
                    torch.zeros(key[0], outputs[1], pin_memory=self._on_cuda),
                )
                for _ in range(2)
            ]
        turns = self._hosts[key]
        turns.reverse()
        return turns[0]

    def _sizes_of_outputs(self, key: tuple[int, int]) -> tuple[int, int]:
        _, device = self._graph(key)
        return device.logits.shape[1], device.embedding.shape[1]

    def _graph(self, key: tuple[int, int]) -> tuple[Any, _Buffers]:
        """The step of one batch size and chunk length as a CUDA graph, captured at its first use."""
        if key not in self._graphs:
            slots = torch.full((key[0],), self.streams, dtype=torch.int64, device=self._device)
            audio = torch.zeros(key, dtype=torch.int16 if self._pcm16 else torch.float32, device=self._device)
            side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(side):
                for _ in range(_WARM_UPS):
                    self._step(slots, audio)
            torch.cuda.current_stream(self._device).wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # One pool for all: no two graphs run at once, and outputs are downloaded before the next one runs.
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            with torch.cuda.graph(graph, pool=self._pool):
                logits, embedding = self._step(slots, audio)
            self._graphs[key] = (graph, _Buffers(slots, audio, logits, embedding))
        return self._graphs[key]

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Compute without autograd and with the chosen precision; on CUDA every failure is an EngineError."""
        exact = torch.backends.cudnn.flags(
            enabled=True,
            benchmark=self._on_cuda,
            deterministic=False,
            allow_tf32=self._tf32,
            fp32_precision="tf32" if self._tf32 else "ieee",
        )
        if self._tf32:  # before the setting for convolutions: torch refuses the other order
            torch.set_float32_matmul_precision("high")
        try:
            with torch.inference_mode(), exact:
                yield
        except RuntimeError as error:
            if not self._on_cuda:
                raise
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise EngineError(f"{self._device}: {reason}") from error
        finally:
            if self._tf32:
                torch.set_float32_matmul_precision("highest")


def _gather(ring: Tensor, slots: Tensor) -> Tensor:
    """The rings of these streams, in elements of 16 bytes: CUDA copies one element at a time, whatever its size."""
    return ring.view(torch.complex128).index_select(0, slots).view(ring.dtype)
