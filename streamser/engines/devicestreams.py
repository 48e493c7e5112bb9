"""Many streams on one torch device: their states stay on it, and one batched step scores a chunk of each stream.

A chunk is audio, whose features are computed on the device, or frames that are already computed.

On CUDA a step (features, gather of the states, the network, update of the states) is captured once for each batch size
as a graph; pinned memory serves for upload and download. A batch is filled up to the next captured size with a slot
that no stream owns; the values that the additional rows write there are never used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from streamser.bundle import Bundle
from streamser.engines.torch import find_device
from streamser.errors import EngineError
from streamser.features import Frames
from streamser.nets.frontend import TorchFrontEnd
from streamser.nets.streaming import state_bytes, stream_net, write
from streamser.nets.zoo import restore

__all__ = ["DeviceStreams", "Pending"]

SIZES = (1, 8, 64, 256, 1024)
_WARM_UPS = 3  # runs before a capture, in which libraries choose their kernels and plans


class _Buffers(NamedTuple):
    """One batch's input and output, in pinned memory of the host or on the device."""

    slots: Tensor
    chunks: Tensor
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
    """The states of up to `streams` streams on a device; for one thread at a time.

    `takes` is the kind of chunks: float samples, 16-bit samples, which halve the upload, or frames. `tf32` lets the
    tensor cores round inputs to ten bits: results then equal the CPU's within about 1e-2 instead of 1e-3.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str = "cuda",
        streams: int = 64,
        *,
        sizes: Sequence[int] = SIZES,
        takes: Literal["float", "pcm16", "frames"] = "float",
        tf32: bool = False,
    ) -> None:
        self.streams = streams
        self.features = bundle.features
        self._device = find_device(device)
        self._sizes = sorted(sizes)
        self._takes = takes
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
        self.chunks, self.multiple = self._net.stream_chunks, self._net.stream_multiple
        self._pool: Any = None
        self._graphs: dict[tuple[int, int], tuple[Any, _Buffers]] = {}
        self._hosts: dict[tuple[int, int], list[_Buffers]] = {}

    @property
    def state_bytes(self) -> int:
        """Memory on the device that one stream needs."""
        return state_bytes(self._net)

    def samples(self, chunk: int) -> int:
        """Number of 16 kHz samples for a chunk of this many frames; chunks overlap as analysis windows do."""
        return self.features.samples_in(chunk)

    def begin(self, slots: NDArray[np.int64]) -> None:
        """Start new utterances in these slots."""
        with self._computing():
            index = torch.from_numpy(slots).to(self._device)
            for state in (*self._fixed, *self._rings, self._written):
                state.index_fill_(0, index, 0)

    def warm_up(self) -> None:
        """Compute every kind of step once, so that the first real one is fast; on CUDA this captures the graphs."""
        for chunk in dict.fromkeys(self.chunks):
            for size in self._sizes if self._on_cuda else self._sizes[:1]:
                nobody = np.full(size, self.streams)
                silence = np.zeros((size, *self._shape(chunk)), np.int16 if self._takes == "pcm16" else np.float32)
                self.step(nobody, silence)
            self.peek(nobody[:1], silence[:1])

    def launch(self, slots: NDArray[np.int64], chunks: NDArray[Any]) -> Pending:
        """Start to score the next chunk of the streams in these slots, without waiting.

        `chunks` is (slots, samples), or (slots, frames, bins) if the streams take frames. There are at most as many
        slots as the largest batch size. At most two launches of one batch size and chunk length may be pending, because
        they alternate between two sets of buffers.
        """
        count, size = len(slots), next((size for size in self._sizes if size >= len(slots)), 0)
        if not size or not count:
            raise ValueError(f"a step takes 1 to {self._sizes[-1]} streams, not {count}")
        key = (size, chunks.shape[1])
        with self._computing():
            host = self._host(key)
            host.slots[:count] = torch.from_numpy(slots)
            host.slots[count:] = self.streams
            host.chunks[:count] = torch.from_numpy(chunks)
            if not self._on_cuda:
                logits, embedding = self._step(host.slots, host.chunks)
                return Pending(host._replace(logits=logits, embedding=embedding), count, None)
            graph, device = self._graph(key)
            device.slots.copy_(host.slots, non_blocking=True)
            device.chunks.copy_(host.chunks, non_blocking=True)
            graph.replay()
            host.logits.copy_(device.logits, non_blocking=True)
            host.embedding.copy_(device.embedding, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        return Pending(host, count, done)

    def step(self, slots: NDArray[np.int64], chunks: NDArray[Any]) -> tuple[Frames, Frames]:
        """Score the next chunk of the streams in these slots, however many, and wait for the result."""
        most = self._sizes[-1]
        results = [
            self.launch(slots[first : first + most], chunks[first : first + most]).result()
            for first in range(0, len(slots), most)
        ]
        return np.concatenate([logits for logits, _ in results]), np.concatenate([found for _, found in results])

    def peek(self, slots: NDArray[np.int64], chunks: NDArray[Any]) -> tuple[Frames, Frames]:
        """Like `step`, but the states stay unchanged: for audio that is not yet a whole chunk.

        Such chunks have many lengths, so their steps are not captured as graphs.
        """
        with self._computing():
            index, inputs = torch.from_numpy(slots).to(self._device), torch.from_numpy(chunks).to(self._device)
            logits, embedding, _ = self._score(index, inputs)
            return logits.cpu().numpy(), embedding.cpu().numpy()

    def _score(self, slots: Tensor, chunks: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Logits, embedding and the next states, entirely on the device."""
        frames = chunks
        if self._takes != "frames":
            frames = self._front_end(chunks.float() / 32768 if self._takes == "pcm16" else chunks)
        fixed = [state.index_select(0, slots) for state in self._fixed]
        rings = [_gather(ring, slots) for ring in self._rings]
        logits, embedding, following = self._net.stream_step(frames, [*fixed, *rings])
        return logits.float(), embedding.float(), following

    def _step(self, slots: Tensor, chunks: Tensor) -> tuple[Tensor, Tensor]:
        """The computation of a step, entirely on the device."""
        logits, embedding, following = self._score(slots, chunks)
        fixed = len(self._fixed)
        for state, value in zip(self._fixed, following[:fixed], strict=True):
            state.index_copy_(0, slots, value)
        if new := following[fixed:]:  # only the new entries: most of a ring does not change
            written = self._written.index_select(0, slots)
            for ring, entries in zip(self._rings, new, strict=True):
                write(ring, slots, written, entries)
            self._written.index_copy_(0, slots, written + new[0].shape[1])
        return logits, embedding

    def _shape(self, chunk: int) -> tuple[int, ...]:
        """Shape of a chunk of this many frames."""
        return (chunk, self.features.bins) if self._takes == "frames" else (self.samples(chunk),)

    def _empty(self, key: tuple[int, int], **options: Any) -> Tensor:
        """A batch of empty chunks."""
        shape = (*key, self.features.bins) if self._takes == "frames" else key
        return torch.zeros(shape, dtype=torch.int16 if self._takes == "pcm16" else torch.float32, **options)

    def _host(self, key: tuple[int, int]) -> _Buffers:
        """Host buffers for the next launch of this size.

        Two sets alternate. This one belongs to the launch before the last, which the caller has already finished.
        """
        if key not in self._hosts:
            outputs = self._sizes_of_outputs(key) if self._on_cuda else (0, 0)
            self._hosts[key] = [
                _Buffers(
                    torch.zeros(key[0], dtype=torch.int64, pin_memory=self._on_cuda),
                    self._empty(key, pin_memory=self._on_cuda),
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
            chunks = self._empty(key, device=self._device)
            side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(side):
                for _ in range(_WARM_UPS):
                    self._step(slots, chunks)
            torch.cuda.current_stream(self._device).wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # One pool for all: no two graphs run at once, and outputs are downloaded before the next one runs.
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            # Other threads may use CUDA meanwhile, for example with another checkpoint.
            with torch.cuda.graph(graph, pool=self._pool, stream=side, capture_error_mode="thread_local"):
                logits, embedding = self._step(slots, chunks)
            self._graphs[key] = (graph, _Buffers(slots, chunks, logits, embedding))
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
            with torch.inference_mode(), exact, torch.cuda.device(self._device) if self._on_cuda else nullcontext():
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
