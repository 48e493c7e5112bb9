"""Windows without random changes: computed once and kept on the network's device, so that batches need no NumPy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamser.nets.layers import SerNet
from streamser.training.batches import BatchMaker

Batch = tuple[Tensor, ...]
"""A network's arguments: windows (B, T, bins) and, if they are padded, their true lengths (B,)."""

_WINDOWS_AT_ONCE = 64
"""Windows that are scored at a time."""
_KEPT_BYTES = {"cpu": 1 << 30, "cuda": 16 << 30}
"""Largest size of the windows that are kept, by device; larger sets of windows are computed again each time."""


class Resident:
    """Windows on one device, taken by index; shorter windows are padded, and batches then contain the lengths."""

    def __init__(self, windows: Sequence[Tensor], device: torch.device) -> None:
        lengths = [len(window) for window in windows]
        self.lengths = np.array(lengths, np.int64)
        self.padded = min(lengths) < max(lengths)
        frames = torch.zeros(len(windows), max(lengths), windows[0].shape[1])
        for row, window in zip(frames, windows, strict=True):
            row[: len(window)] = window
        self.frames = frames.to(device)
        self._lengths = torch.from_numpy(self.lengths).to(device)

    def batch(self, index: NDArray[np.int64]) -> Batch:
        """The windows with these indexes, padded to the longest of them; with their lengths if the lengths differ."""
        place = torch.from_numpy(index).to(self.frames.device)
        if not self.padded:
            return (self.frames[place],)
        longest = int(self.lengths[index].max())
        return self.frames[place, :longest], self._lengths[place]


def resident(
    batches: BatchMaker,
    rows: NDArray[np.int64],
    net: SerNet,
    device: torch.device,
    starts: NDArray[np.int64] | None = None,
) -> Resident | None:
    """The training windows of these clips; None if they change from epoch to epoch or need too much memory.

    `starts` are the first frames of pieces; without `starts`, each clip has one window.
    """
    if not batches.fixed:
        return None
    longest = max(batches.frames_of(int(row)) for row in rows)
    if len(rows) * longest * batches.features.bins * 4 > _KEPT_BYTES.get(device.type, 0):
        return None
    firsts = [None] * len(rows) if starts is None else starts.tolist()
    return Resident(
        [
            batches.window(int(row), own_length=net.takes_lengths, start=first)
            for row, first in zip(rows, firsts, strict=True)
        ],
        device,
    )


class ServedWindows:
    """The windows from which the recognizer classifies some clips, and each clip's mean logits over them."""

    def __init__(
        self,
        batches: BatchMaker,
        rows: NDArray[np.int64],
        net: SerNet,
        device: torch.device,
        size: int = _WINDOWS_AT_ONCE,
    ) -> None:
        self.batches, self.rows, self.device, self.size = batches, rows, device, size
        self.padded = net.takes_lengths
        self._kept: list[tuple[Batch, list[int]]] | None = None

    def __iter__(self) -> Iterator[tuple[Batch, list[int]]]:
        """Batches, and for each window the position in `rows` of its clip."""
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[tuple[Batch, list[int]]] | None = []
        room = _KEPT_BYTES.get(self.device.type, 0)
        for one in self._batches():
            room -= one[0][0].numel() * 4
            kept = None if kept is None or room < 0 else [*kept, one]
            yield one
        self._kept = kept

    def _batches(self) -> Iterator[tuple[Batch, list[int]]]:
        waiting: list[Tensor] = []
        owners: list[int] = []
        for order, window in self._windows():
            full = len(waiting) >= self.size
            if waiting and (full or (len(window) != len(waiting[0]) and not self.padded)):
                yield self._joined(waiting), owners
                waiting, owners = [], []
            waiting.append(window)
            owners.append(order)
        if waiting:
            yield self._joined(waiting), owners

    def _windows(self) -> Iterable[tuple[int, Tensor]]:
        """Every window with its clip's position in `rows`, sorted by length if windows may be short."""
        found = ((order, window) for order, row in enumerate(self.rows) for window in self.batches.whole(int(row)))
        return sorted(found, key=lambda one: len(one[1])) if self.batches.features.short == "keep" else found

    def _joined(self, windows: list[Tensor]) -> Batch:
        whole = Resident(windows, self.device)
        return whole.batch(np.arange(len(windows)))

    def logits(self, net: SerNet) -> NDArray[np.float32]:
        """Mean logits over the windows of each clip, as the recognizer combines them, (clips, classes)."""
        net.eval()
        sums: list[Tensor] = []
        owners: list[int] = []
        with torch.inference_mode():
            for batch, of in self:
                sums.append(net(*batch).logits.float())
                owners += of
            of_window = torch.cat(sums)
            owner = torch.tensor(owners, device=of_window.device)
            total = torch.zeros(len(self.rows), of_window.shape[1], device=of_window.device)
            total.index_add_(0, owner, of_window)
            count = torch.from_numpy(np.bincount(owners, minlength=len(self.rows))).to(of_window.device)
            result: NDArray[np.float32] = (total / count[:, None]).cpu().numpy()
        return result


def clip_logits(net: SerNet, batches: BatchMaker, rows: NDArray[np.int64], device: torch.device) -> NDArray[np.float32]:
    """Mean logits over the windows of each clip, (clips, classes)."""
    return ServedWindows(batches, rows, net, device).logits(net)


def reconstruction_mse(net: SerNet, batches: BatchMaker, rows: NDArray[np.int64], device: torch.device) -> float:
    """Mean squared error between the windows of these clips and the network's reconstruction of them."""
    net.eval()
    total, values = 0.0, 0
    with torch.inference_mode():
        for batch, _ in ServedWindows(batches, rows, net, device):
            rebuilt = net(*batch).reconstruction
            if rebuilt is None:
                raise ValueError("only a network with a decoder has a reconstruction")
            total += float((rebuilt.float() - batch[0]).square().sum())
            values += batch[0].numel()
    return total / values


__all__ = ["Batch", "Resident", "ServedWindows", "clip_logits", "reconstruction_mse", "resident"]
