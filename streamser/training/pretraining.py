"""Pretrain a network without labels: it learns to predict the tokens of a frozen speech encoder.

A clip has one label and one embedding, but 50 tokens for each second, so a network learns more from an hour of speech
in this way than from a teacher's predictions (`streamser.training.distil`). The encoder processes whole clean clips, at
most 12 s at a time. The network's input is a short piece of a clip with a room, noise and another level. From the
network's columns (its vectors over time, before it pools them), two linear maps, which only this training uses, predict

- for each column, the mean of the tokens during its time;
- from the mean of the columns, the mean and deviation of the piece's tokens, which are all that the encoder's own head
  gets.

The encoder's tokens depend on their position, which the network cannot know: the mean token of each position is
subtracted.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from streamser.corpora.clips import Clip
from streamser.errors import ConfigError
from streamser.features import FeatureConfig
from streamser.nets.layers import SerNet, channels_last
from streamser.nets.whisper import FRAMES_PER_TOKEN, Encoder
from streamser.training.batches import BatchMaker
from streamser.training.featureaugment import FeatureAugment
from streamser.training.fit import follow, save_whole
from streamser.training.options import RunOptions
from streamser.training.store import LevelStore, keep

__all__ = ["TOKEN_S", "Figures", "PretrainConfig", "Pretraining", "TokenTargets", "token_store"]

_CHUNK_TOKENS = 600  # the encoder gets at most 12 s at a time
_FEWEST_TOKENS = 40  # shorter clips are not used
_EXACT_POSITIONS = 40  # the first positions differ most; later ones are averaged with their neighbours
_SMOOTHED = 15  # positions on either side
_CHECKED = 192  # held-back clips that the figures are measured on
TOKEN_S = 0.02
"""Time from one token to the next."""
_BETA = 2.0  # errors above two standard deviations count linearly


_AUGMENT = FeatureAugment(
    level_db=(-35.0, 5.0), tilt_db=6.0, room_probability=0.6, noise_probability=0.5, noise_snr_db=(3.0, 40.0)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig:
    """Settings of a pretraining."""

    passes: int = 120_000
    """Pieces of speech that are drawn."""
    piece_s: float = 2.56
    batch: int = 32
    lr: float = 2e-3
    weight_decay: float = 0.01
    gradient_clip: float = 2.0
    ema: float = 0.998
    """Decay of the running average of the weights, which is the result."""
    held_back: float = 0.02
    """Share of the clips that are not trained on; the progress figures are measured on them."""
    report_every: int = 100
    """Steps between two figures, and between two saved states."""
    seed: int = 0
    augment: FeatureAugment = _AUGMENT

    @property
    def steps(self) -> int:
        return max(1, self.passes // self.batch)

    def rate(self, step: int) -> float:
        """The learning rate of a step: it rises over the first 4 %, then falls along a cosine to 2 %."""
        part = step / self.steps
        return self.lr * min(1.0, part / 0.04 + 0.02) * (0.49 * (1 + math.cos(math.pi * part)) + 0.02)


def token_store(encoder: Encoder, levels: LevelStore, options: RunOptions) -> LevelStore:
    """The tokens of all layers side by side for every clip, from the cache folder or computed and kept there."""
    digest = hashlib.sha256(f"v1 {levels.key}".encode())
    for value in encoder.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    ready = encoder.to(options.device).eval()

    def tokens(clip: int) -> NDArray[np.float16]:
        frames = torch.from_numpy(levels.frames(clip).astype(np.float32)).to(options.device)
        whole = frames[: len(frames) // FRAMES_PER_TOKEN * FRAMES_PER_TOKEN]
        chunks = torch.split(whole, _CHUNK_TOKENS * FRAMES_PER_TOKEN)
        with torch.inference_mode():
            found = [torch.cat(ready(chunk[None]), dim=2)[0] for chunk in chunks]
        return torch.cat(found).cpu().numpy().astype(np.float16)

    clips = levels.starts.shape[1]
    versions = ([tokens(clip)] for clip in range(clips))
    return keep(
        options.cache / f"tokens-{digest.hexdigest()[:16]}", versions, clips, np.float16, options.stage("tokens")
    )


class _Moments(NamedTuple):
    """Means and deviations by which targets are standardized, (D,) each."""

    token: NDArray[np.float32]
    """Deviation of a token from the mean token of its position."""
    mean: tuple[NDArray[np.float32], NDArray[np.float32]]
    """Of the means of pieces."""
    deviation: tuple[NDArray[np.float32], NDArray[np.float32]]
    """Of the deviations of pieces."""


class TokenTargets:
    """Standardized targets for pieces of clips."""

    def __init__(self, store: LevelStore, clips: Sequence[int], piece: int) -> None:
        """Measure the constants on these clips; `piece` is the number of tokens of a piece."""
        self.store = store
        self.positions = _mean_by_position(store, clips)
        squares, count, means, deviations = np.zeros(store.levels.shape[1]), 0, [], []
        for clip in clips:
            tokens = self.tokens(clip, 0, int(store.lengths[0, clip]))
            squares, count = squares + np.square(tokens, dtype=np.float64).sum(axis=0), count + len(tokens)
            for start in range(0, max(1, len(tokens) - piece + 1), piece):
                part = tokens[start : start + piece]
                means.append(part.mean(axis=0))
                deviations.append(part.std(axis=0))
        self.moments = _Moments(
            np.sqrt(squares / count).astype(np.float32) + 1e-3,
            _moments(np.array(means)),
            _moments(np.array(deviations)),
        )

    def tokens(self, clip: int, start: int, end: int) -> NDArray[np.float32]:
        """Tokens of a clip, relative to the mean token of their position."""
        position = np.arange(start, end) % _CHUNK_TOKENS
        return self.store.frames(clip)[start:end].astype(np.float32) - self.positions[position]

    def of(self, clip: int, start: int, count: int, edges: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        """Targets of the columns, which of them lie in the clip, and those of the piece's mean and deviation.

        `edges` are the first tokens of the columns and the end of the last, counted from the piece's start.
        """
        tokens = self.tokens(clip, start, start + count)
        padded = np.pad(tokens, ((0, max(0, int(edges[-1]) - count)), (0, 0)))
        columns = np.add.reduceat(padded[: edges[-1]], edges[:-1]) / np.diff(edges)[:, None]
        (mean, mean_spread), (deviation, deviation_spread) = self.moments.mean, self.moments.deviation
        whole = [(tokens.mean(axis=0) - mean) / mean_spread, (tokens.std(axis=0) - deviation) / deviation_spread]
        return (
            (columns / self.moments.token).astype(np.float32),
            (edges[1:] <= count).astype(np.float32),
            np.concatenate(whole),
        )


def _moments(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return values.mean(axis=0), values.std(axis=0) + 1e-3


def _mean_by_position(store: LevelStore, clips: Sequence[int]) -> NDArray[np.float32]:
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
    return mean.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Figures:
    """How well the network predicts the tokens of clips that it is not trained on."""

    step: int
    loss: float
    columns: float
    """Share of the variance of the columns' targets that is predicted."""
    pieces: float
    """The same for means and deviations of pieces."""


class Pretraining:
    """Train the modules that compute a network's columns, and two linear maps, to predict an encoder's tokens."""

    def __init__(
        self,
        net: SerNet,
        features: FeatureConfig,
        levels: LevelStore,
        tokens: LevelStore,
        clips: Sequence[Clip],
        config: PretrainConfig,
    ) -> None:
        """`levels` and `tokens` are of `clips`, in this order."""
        if not net.column_modules:
            raise ConfigError(f"{type(net).__name__} has no columns, so it cannot be pretrained")
        torch.manual_seed(config.seed)
        self.config = config
        self.rng = np.random.default_rng(config.seed)
        self.frames_per_token = TOKEN_S / features.hop_s
        columns = round(config.piece_s / (net.frames_per_column * features.hop_s))
        self.frames = columns * net.frames_per_column
        self.edges = np.round(np.arange(columns + 1) * net.frames_per_column / self.frames_per_token).astype(np.int64)
        if columns < 1 or np.diff(self.edges).min() < 1:
            raise ConfigError(
                f"a column of {type(net).__name__} must be longer than {TOKEN_S} s and shorter than a piece"
            )
        self.most = np.minimum(tokens.lengths[0], (levels.lengths[0] / self.frames_per_token).astype(np.int64))
        shortest = max(_FEWEST_TOKENS, int(self.edges[1]))
        usable = self.rng.permutation(np.flatnonzero(self.most >= shortest))
        back = max(2, round(config.held_back * len(usable)))
        self.held_back, self.clips = usable[:back], usable[back:]
        if not len(self.clips):
            raise ConfigError(
                f"only {len(usable)} clips have {shortest * TOKEN_S:.1f} s; the pretraining needs 3 or more"
            )
        self.share = _shares([clips[i].corpus for i in self.clips], tokens.lengths[0, self.clips])
        self.targets = TokenTargets(tokens, self.clips.tolist(), int(self.edges[-1]))
        self.batches = BatchMaker(levels, features, config.augment)
        self.net = channels_last(net)
        size, width = net.column_size, tokens.levels.shape[1]
        self.by_column, self.by_piece = nn.Linear(size, width), nn.Linear(size, 2 * width)
        modules = [net.get_submodule(name) for name in net.column_modules]
        learning = [value for module in modules for value in module.parameters() if value.requires_grad]
        self.parameters = [*learning, *self.by_column.parameters(), *self.by_piece.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.lr, weight_decay=config.weight_decay)
        self.average = copy.deepcopy(self.net).eval()
        self.step = 0
        digest = hashlib.sha256(repr((config, features, levels.key, tokens.key)).encode())
        for value in self.weights().values():
            digest.update(value.numpy().tobytes())
        self.key = digest.hexdigest()

    def run(self, state: Path, report: Callable[[Figures], None]) -> dict[str, Tensor]:
        """Train to the last step and return the weights of the columns; an interrupted run continues from `state`."""
        if state.exists():
            self._restore(torch.load(state, weights_only=True))
        checked = self._batch(self.held_back[:_CHECKED], np.random.default_rng(self.config.seed), clean=True)
        while self.step < self.config.steps:
            loss = self._learn()
            if self.step % self.config.report_every == 0 or self.step == self.config.steps:
                report(self._figures(checked, loss))
                self._save(state)
        return self.weights()

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights of the modules that compute the columns."""
        values = self.average.state_dict().items()
        return {name: value for name, value in values if name.partition(".")[0] in self.net.column_modules}

    def _learn(self) -> float:
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.rate(self.step)
        chosen = self.rng.choice(self.clips, config.batch, p=self.share)
        self.net.train()
        loss = self._losses(self.net, *self._batch(chosen, self.rng, clean=False))[0]
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, config.gradient_clip)
        self.optimizer.step()
        self.step += 1
        follow(self.average, self.net, 1 - min(config.ema, self.step / (self.step + 10)))
        return loss.item()

    def _batch(self, clips: NDArray[np.int64], rng: np.random.Generator, *, clean: bool) -> tuple[Tensor, ...]:
        """Input frames, the columns' targets, which of them lie in the clip, and the pieces' targets."""
        levels = self.batches.store
        pieces, targets = [], []
        for clip in clips.tolist():
            most = int(self.most[clip])
            count = min(int(self.edges[-1]), most)
            start = int(rng.integers(0, most - count + 1))
            first = round(start * self.frames_per_token)
            piece = levels.frames(clip)[first : first + min(self.frames, round(count * self.frames_per_token))]
            pieces.append(np.take(piece.astype(np.float32), np.arange(self.frames) % len(piece), axis=0))
            targets.append(self.targets.of(clip, start, count, self.edges))
        frames = torch.from_numpy(np.stack(pieces))
        if not clean:
            frames = self.batches.augmented(frames, rng)
        columns, inside, whole = (torch.from_numpy(np.stack(part)).float() for part in zip(*targets, strict=True))
        return self.batches.finish(frames), columns, inside, whole

    def _losses(
        self, net: SerNet, frames: Tensor, columns: Tensor, inside: Tensor, whole: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, and the predictions for columns and pieces."""
        found = net.columns(frames)
        weight = (inside / inside.sum(dim=1, keepdim=True)).unsqueeze(2)
        by_column, by_piece = self.by_column(found), self.by_piece((found * weight).sum(dim=1))
        error = F.smooth_l1_loss(by_column, columns, reduction="none", beta=_BETA).mean(dim=2)
        loss = (error * inside).sum() / inside.sum() + F.smooth_l1_loss(by_piece, whole, beta=_BETA)
        return loss, by_column, by_piece

    @torch.no_grad()
    def _figures(self, checked: tuple[Tensor, ...], loss: float) -> Figures:
        """The figures of the averaged weights."""
        _, by_column, by_piece = self._losses(self.average, *checked)
        _, columns, inside, whole = checked
        chosen = inside > 0
        return Figures(self.step, loss, _explained(by_column[chosen], columns[chosen]), _explained(by_piece, whole))

    def _save(self, state: Path) -> None:
        values = {
            "net": self.net.state_dict(), "average": self.average.state_dict(),
            "by_column": self.by_column.state_dict(), "by_piece": self.by_piece.state_dict(),
            "optimizer": self.optimizer.state_dict(), "step": self.step, "rng": self.rng.bit_generator.state,
            "key": self.key,
        }  # fmt: skip
        save_whole(values, state)

    def _restore(self, values: Mapping[str, Any]) -> None:
        if values["key"] != self.key:
            raise ConfigError(
                "the saved state is of a pretraining with other settings, speech, encoder or first weights; delete it "
                "to begin anew"
            )
        self.net.load_state_dict(values["net"])
        self.average.load_state_dict(values["average"])
        self.by_column.load_state_dict(values["by_column"])
        self.by_piece.load_state_dict(values["by_piece"])
        self.optimizer.load_state_dict(values["optimizer"])
        self.step = values["step"]
        self.rng.bit_generator.state = values["rng"]


def _explained(predicted: Tensor, wanted: Tensor) -> float:
    spread = (wanted - wanted.mean(dim=0)).square().sum()
    return float(1 - (predicted - wanted).square().sum() / spread)


def _shares(corpora: Sequence[str], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """The probability of drawing each clip: proportional to its length, between corpora to the root of theirs."""
    names, share = np.array(corpora), tokens.astype(np.float64)
    for name in set(corpora):
        share[names == name] /= math.sqrt(share[names == name].sum())
    return np.asarray(share / share.sum(), np.float64)
