"""What a pretraining learns from: pieces of speech, and an encoder's tokens for them.

The encoder processes whole clips without noise, at most 12 s at a time. Its tokens depend on their position, which a
network that gets a piece of a clip cannot know: the mean token of each position is subtracted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamser.corpora.clips import Clip
from streamser.nets.whisper import FRAMES_PER_TOKEN, Encoder
from streamser.training.batches import BatchMaker
from streamser.training.options import RunOptions
from streamser.training.store import Levels, LevelStore, keep

__all__ = ["TOKEN_S", "Batch", "Moments", "Pieces", "Speech", "token_store"]

TOKEN_S = 0.02
"""Time from one token to the next."""
_CHUNK_TOKENS = 600  # the encoder gets at most 12 s at a time
_EXACT_POSITIONS = 40  # the first positions differ most; later ones are averaged with their neighbours
_SMOOTHED = 15  # positions on either side


class Speech(NamedTuple):
    """Clips with a network's log-mel and an encoder's tokens; both stores have the same copies of each clip."""

    clips: Sequence[Clip]
    levels: LevelStore
    tokens: LevelStore


class Batch(NamedTuple):
    """Pieces of speech and what is to be predicted for them."""

    frames: Tensor
    """The network's input, (B, T, bins)."""
    columns: Tensor
    """The mean token of each column, (B, columns, D)."""
    inside: Tensor
    """1 for columns that lie in the piece, else 0, (B, columns)."""
    whole: Tensor
    """Mean and deviation of the piece's tokens, (B, 2 D)."""


class Moments(NamedTuple):
    """Means and deviations by which targets are standardized."""

    token: Tensor
    """Deviation of a token from the mean token of its position, (D,)."""
    mean: Tensor
    """Mean of the means and of the deviations of pieces, (2 D,)."""
    spread: Tensor
    """Deviation of the means and of the deviations of pieces, (2 D,)."""


def token_store(encoder: Encoder, levels: LevelStore, options: RunOptions) -> LevelStore:
    """The tokens of all layers side by side for every copy of every clip, from the cache or computed and kept there."""
    digest = hashlib.sha256(f"v1 {levels.key}".encode())
    for value in encoder.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    ready = encoder.to(options.device).eval()

    def tokens(clip: int, version: int) -> NDArray[np.float16]:
        frames = torch.from_numpy(levels.frames(clip, version).astype(np.float32)).to(options.device)
        whole = frames[: len(frames) // FRAMES_PER_TOKEN * FRAMES_PER_TOKEN]
        chunks = torch.split(whole, _CHUNK_TOKENS * FRAMES_PER_TOKEN)
        with torch.inference_mode():
            found = [torch.cat(ready(chunk[None]), dim=2)[0] for chunk in chunks]
        return torch.cat(found).cpu().numpy().astype(np.float16)

    versions, clips = levels.starts.shape
    of_clips = ([tokens(clip, version) for version in range(versions)] for clip in range(clips))
    return keep(
        options.cache / f"tokens-{digest.hexdigest()[:16]}", of_clips, clips, np.float16, options.stage("tokens")
    )


class Pieces:
    """Cuts pieces out of clips, with their standardized targets."""

    def __init__(
        self,
        speech: Speech,
        batches: BatchMaker,
        edges: NDArray[np.int64],
        measured: Sequence[int],
        device: torch.device,
    ) -> None:
        """`edges` are the first tokens of a piece's columns and the end of the last, counted from the piece's start.

        The constants of the targets are measured on the clips `measured`, without their augmented copies.
        """
        self._speech, self._batches, self.edges, self._device = speech, batches, edges, device
        self._levels, self._tokens = _Rows(speech.levels.levels, device), _Rows(speech.tokens.levels, device)
        self._frames_per_token = TOKEN_S / batches.features.hop_s
        self._frames = batches.train_frames
        self.most = most_tokens(speech, batches.features.hop_s)
        width = np.diff(edges)
        pool = np.zeros((len(width), edges[-1]), np.float32)
        for column, (start, end) in enumerate(pairwise(edges)):
            pool[column, start:end] = 1 / width[column]
        self._pool = torch.from_numpy(pool).to(device)
        self.positions = mean_by_position(speech.tokens, measured).to(device)
        self.moments = self._measured(measured)

    def batch(self, clips: NDArray[np.int64], rng: np.random.Generator, *, clean: bool) -> Batch:
        """A random piece of each clip; if not `clean`, of any of its copies, and augmented."""
        speech, size = self._speech, int(self.edges[-1])
        version = np.zeros_like(clips) if clean else rng.integers(0, len(self.most), len(clips))
        most = self.most[version, clips]
        count = np.minimum(size, most)
        start = rng.integers(0, most - count + 1)
        first = np.round(start * self._frames_per_token).astype(np.int64)
        length = np.round(count * self._frames_per_token).astype(np.int64).clip(max=self._frames)
        length = np.minimum(length, speech.levels.lengths[version, clips] - first)
        place = np.arange(self._frames) % length[:, None]  # a short piece is repeated
        frames = self._levels((speech.levels.starts[version, clips] + first)[:, None] + place)
        columns, inside, whole = self.targets(clips, version, start, count)
        if not clean:
            frames = self._batches.augmented(frames, rng)
        return Batch(self._batches.finish(frames), columns, inside, whole)

    def targets(
        self, clips: NDArray[np.int64], version: NDArray[np.int64], start: NDArray[np.int64], count: NDArray[np.int64]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Targets of the columns, which of them lie in the piece, and the targets of the piece, for `count` tokens."""
        number = np.arange(int(self.edges[-1]))
        known = torch.from_numpy(number < count[:, None]).to(self._device)
        tokens = self._relative(
            self._speech.tokens.starts[version, clips], start, np.minimum(number, count[:, None] - 1)
        )
        tokens = tokens * known[:, :, None]
        mean = tokens.sum(dim=1) / known.sum(dim=1, keepdim=True)
        square = ((tokens - mean[:, None]).square() * known[:, :, None]).sum(dim=1)
        deviation = (square / known.sum(dim=1, keepdim=True)).sqrt()
        inside = torch.from_numpy((self.edges[1:] <= count[:, None]).astype(np.float32)).to(self._device)
        whole = (torch.cat([mean, deviation], dim=1) - self.moments.mean) / self.moments.spread
        return self._pool @ tokens / self.moments.token, inside, whole

    def _relative(self, begin: NDArray[np.int64], start: NDArray[np.int64], number: NDArray[np.int64]) -> Tensor:
        """Tokens relative to the mean token of their position: `number`, (B, n), counts from the piece's start."""
        place = start[:, None] + number
        positions = torch.from_numpy(place % _CHUNK_TOKENS).to(self._device)
        return self._tokens(begin[:, None] + place) - self.positions[positions]

    def _measured(self, clips: Sequence[int]) -> Moments:
        tokens, size = self._speech.tokens, int(self.edges[-1])
        squares = torch.zeros(tokens.levels.shape[1], dtype=torch.float64, device=self._device)
        count, pieces = 0, []
        for clip in clips:
            length = int(tokens.lengths[0, clip])
            values = self._relative(tokens.starts[0, [clip]], np.zeros(1, np.int64), np.arange(length)[None])[0]
            squares, count = squares + values.double().square().sum(dim=0), count + length
            whole = torch.split(values, size)[: max(1, length // size)]
            pieces += [torch.cat([piece.mean(dim=0), piece.std(dim=0, correction=0)]) for piece in whole]
        of_pieces = torch.stack(pieces)
        return Moments(
            (squares / count).sqrt().float() + 1e-3,
            of_pieces.mean(dim=0),
            of_pieces.std(dim=0, correction=0) + 1e-3,
        )


class _Rows:
    """Rows of a store by their numbers: read from the disk, or kept in the memory of a GPU."""

    def __init__(self, values: Levels, device: torch.device) -> None:
        self._values, self._device = values, device
        self._kept = None if device.type == "cpu" else torch.from_numpy(np.array(values)).to(device)

    def __call__(self, numbers: NDArray[np.int64]) -> Tensor:
        if self._kept is None:
            return torch.from_numpy(self._values[numbers].astype(np.float32))
        return self._kept[torch.from_numpy(numbers).to(self._device)].float()


def most_tokens(speech: Speech, hop_s: float) -> NDArray[np.int64]:
    """Tokens of every copy of every clip, (copies, clips), as far as there are frames of log-mel for them."""
    frames_per_token = TOKEN_S / hop_s
    return np.minimum(speech.tokens.lengths, (speech.levels.lengths / frames_per_token).astype(np.int64))


def mean_by_position(store: LevelStore, clips: Sequence[int]) -> Tensor:
    """The mean token of each position, (_CHUNK_TOKENS, D); from `_EXACT_POSITIONS` on, averaged with its neighbours."""
    total, count = np.zeros((_CHUNK_TOKENS, store.levels.shape[1])), np.zeros(_CHUNK_TOKENS)
    for clip in clips:
        frames = store.frames(clip)
        for start in range(0, len(frames), _CHUNK_TOKENS):
            chunk = frames[start : start + _CHUNK_TOKENS]
            total[: len(chunk)] += chunk
            count[: len(chunk)] += 1
    mean = np.empty_like(total)
    for position in range(_CHUNK_TOKENS):
        beside = 0 if position < _EXACT_POSITIONS else _SMOOTHED
        near = slice(max(0, position - beside), position + beside + 1)
        found = count[near].sum()
        # Positions that no clip reaches, except perhaps one that is held back, get the last known mean.
        mean[position] = total[near].sum(axis=0) / found if found else mean[position - 1]
    return torch.from_numpy(mean.astype(np.float32))
