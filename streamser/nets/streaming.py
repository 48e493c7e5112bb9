"""Run many streams in one batch, chunk by chunk; the first axis of every state is the streams."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from streamser.features import FeatureConfig
from streamser.nets.layers import SerNet

__all__ = ["StreamNet", "WindowNet", "state_bytes", "stream_net", "write"]


@runtime_checkable
class StreamNet(Protocol):
    """Interface of a network that takes chunks of frames and returns a state for the next chunk."""

    stream_chunks: tuple[int, int]
    """Frames of an utterance's first chunk, and of every later one."""
    stream_multiple: int
    """The length of every chunk in frames is a multiple of this; an utterance's last chunk may be shorter."""
    stream_rings: int
    """How many of the states, at the end of their list, are rings: (streams, heads, entries, width)."""

    def stream_states(self, streams: int, device: torch.device) -> list[Tensor]:
        """States for this many utterances before their first frames: zeros."""

    def stream_step(self, frames: Tensor, states: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Frames (B, t, bins) to logits (B, classes), embedding (B, D) and the next states.

        Instead of a ring, only its new entries are returned, (B, n, heads, width), for `write`.
        """


def state_bytes(net: StreamNet) -> int:
    """Memory that the states of one stream take."""
    return sum(state.numel() * state.element_size() for state in net.stream_states(1, torch.device("cpu")))


def write(ring: Tensor, slots: Tensor, written: Tensor, new: Tensor) -> None:
    """Write the streams' `new` entries (B, n, heads, width) in place; n is at most the size of the ring.

    `ring` is (streams, heads, entries, width), `slots` (B,) are the streams' indexes in it, and `written` (B,) are the
    numbers of entries that were written before. New entries overwrite the oldest ones.
    """
    entry = (written[:, None] + torch.arange(new.shape[1], device=new.device)) % ring.shape[2]  # (B, n)
    ring[slots[:, None], :, entry] = new


class WindowNet(nn.Module):
    """Wrap any network to take chunks: the state is the newest window of frames, repeated while it is short."""

    stream_multiple = 1
    stream_rings = 0

    def __init__(self, net: SerNet, features: FeatureConfig, chunk_s: float = 0.256) -> None:
        super().__init__()
        if features.short != "tile":
            raise ValueError(f"streams computed in windows need features with short: tile, not {features.short}")
        self.net = net
        self._bins, self._frames = features.bins, features.window_frames
        chunk = max(1, round(chunk_s / features.hop_s))
        self.stream_chunks = (chunk, chunk)

    def stream_states(self, streams: int, device: torch.device) -> list[Tensor]:
        return [
            torch.zeros(streams, self._frames, self._bins, device=device),
            torch.zeros(streams, 1, dtype=torch.int64, device=device),
        ]

    def stream_step(self, frames: Tensor, states: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        window, count = states
        window = torch.cat([window[:, frames.shape[1] :], frames], dim=1)  # (B, T, bins), the newest last
        count = (count + frames.shape[1]).clamp_max(self._frames)  # (B, 1)
        order = torch.arange(self._frames, device=frames.device)[None] % count + self._frames - count  # (B, T)
        shown = window.gather(1, order[..., None].expand(-1, -1, self._bins))
        return *self.net.served(shown), [window, count]


def stream_net(net: SerNet, features: FeatureConfig) -> StreamNet:
    """The network itself if it takes chunks, else a `WindowNet` around it."""
    chunked: Any = net
    if isinstance(chunked, StreamNet):
        return chunked
    return WindowNet(net, features)
