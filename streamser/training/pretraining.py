"""Pretrain a network without labels: it learns to predict the tokens of a frozen speech encoder.

A clip has one label and one embedding, but 50 tokens for each second, so a network learns more from an hour of speech
in this way than from a teacher's predictions (`streamser.training.distil`). The network's input is a short piece of a
clip with a room, noise and another level; the encoder's was the clip without them. From the network's columns (its
vectors over time, before it pools them), two linear maps, which only this training uses, predict

- for each column, the mean of the tokens during its time;
- from the mean of the columns, the mean and deviation of the piece's tokens, which are all that the encoder's own head
  gets.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from streamser.errors import ConfigError
from streamser.features import FeatureConfig
from streamser.nets.layers import SerNet, channels_last
from streamser.training.average import copied, follow
from streamser.training.batches import BatchMaker
from streamser.training.featureaugment import FeatureAugment
from streamser.training.fit import save_whole
from streamser.training.schedules import Schedule, rate_factor
from streamser.training.tokens import TOKEN_S, Batch, Pieces, Speech, most_tokens

__all__ = ["Figures", "PretrainConfig", "Pretraining"]

_FEWEST_TOKENS = 40  # shorter clips are not used
_CHECKED = 192  # held-back clips that the figures are measured on
_BETA = 2.0  # errors above two standard deviations count linearly
_SCHEDULE = Schedule(kind="cosine", warmup=0.04)
_THREADS = 3  # that make batches for a GPU

_AUGMENT = FeatureAugment(
    level_db=(-35.0, 5.0), tilt_db=6.0, room_probability=0.6, noise_probability=0.5, noise_snr_db=(3.0, 40.0)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig:
    """Settings of a pretraining."""

    passes: int = 120_000
    """Pieces of speech that are drawn."""
    copies: int = 0
    """Copies of each clip at another speed, from which pieces are drawn as from the clip itself."""
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

    def __post_init__(self) -> None:
        for name, least in (("passes", 1), ("batch", 1), ("copies", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: must be at least {least}, not {getattr(self, name)}")

    @property
    def steps(self) -> int:
        return max(1, self.passes // self.batch)

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        return self.lr * rate_factor(_SCHEDULE, step + 1, self.steps)


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
        self, net: SerNet, features: FeatureConfig, speech: Speech, config: PretrainConfig, device: str = "cpu"
    ) -> None:
        if not net.column_modules:
            raise ConfigError(f"{type(net).__name__} has no columns, so it cannot be pretrained")
        torch.manual_seed(config.seed)
        self.config, self.device = config, torch.device(device)
        edges = _edges(net, features, config.piece_s)
        rng = np.random.default_rng(config.seed)
        shortest = max(_FEWEST_TOKENS, int(edges[1]))
        usable = rng.permutation(np.flatnonzero(most_tokens(speech, features.hop_s).min(axis=0) >= shortest))
        back = max(2, round(config.held_back * len(usable)))
        self.held_back, self.clips = usable[:back], usable[back:]
        if not len(self.clips):
            raise ConfigError(
                f"only {len(usable)} clips have {shortest * TOKEN_S:.1f} s; the pretraining needs 3 or more"
            )
        lengths = speech.tokens.lengths[0, self.clips]
        self.share = _shares([speech.clips[i].corpus for i in self.clips], lengths)
        batches = BatchMaker(speech.levels, features, config.augment, (len(edges) - 1) * net.frames_per_column)
        self.pieces = Pieces(speech, batches, edges, self.clips.tolist(), self.device)
        digest = hashlib.sha256(repr((config, features, speech.levels.key, speech.tokens.key)).encode())
        for name, value in net.state_dict().items():
            if name.partition(".")[0] in net.column_modules:
                digest.update(value.cpu().numpy().tobytes())
        self.key = digest.hexdigest()
        self.net = channels_last(net).to(self.device)
        size, width = net.column_size, speech.tokens.levels.shape[1]
        self.by_column = nn.Linear(size, width).to(self.device)
        self.by_piece = nn.Linear(size, 2 * width).to(self.device)
        modules = [net.get_submodule(name) for name in net.column_modules]
        learning = [value for module in modules for value in module.parameters() if value.requires_grad]
        self.parameters = [*learning, *self.by_column.parameters(), *self.by_piece.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.lr, weight_decay=config.weight_decay)
        self.average = copied(self.net).eval()
        self.step = 0

    def run(self, state: Path, report: Callable[[Figures], None]) -> dict[str, Tensor]:
        """Train to the last step and return the weights of the columns; an interrupted run continues from `state`."""
        if state.exists():
            self._restore(torch.load(state, weights_only=True, map_location="cpu"))
        rng = np.random.default_rng(self.config.seed)
        checked = self.pieces.batch(self.held_back[:_CHECKED], rng, clean=True)
        for batch in self._batches():
            loss = self._learn(batch)
            if self.step % self.config.report_every == 0 or self.step == self.config.steps:
                report(self._figures(checked, loss.item()))
                self._save(state)
        return self.weights()

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights of the modules that compute the columns."""
        values = self.average.state_dict().items()
        return {name: value.cpu() for name, value in values if name.partition(".")[0] in self.net.column_modules}

    def _batches(self) -> Iterator[Batch]:
        """The batches of the steps that are left; while a GPU learns from one, threads make the next ones."""
        steps = range(self.step, self.config.steps)
        if self.device.type == "cpu":
            yield from map(self._batch_of, steps)
            return
        with ThreadPoolExecutor(_THREADS) as pool:
            waiting: deque[Future[Batch]] = deque()
            for step in steps:
                waiting.append(pool.submit(self._batch_of, step))
                if len(waiting) > 2 * _THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _batch_of(self, step: int) -> Batch:
        """The batch of a step, which does not depend on the steps before it."""
        rng = np.random.default_rng((self.config.seed, step))
        return self.pieces.batch(rng.choice(self.clips, self.config.batch, p=self.share), rng, clean=False)

    def _learn(self, batch: Batch) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(self.step)
        self.net.train()
        loss = self._losses(self.net, batch)[0]
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, self.config.gradient_clip)
        self.optimizer.step()
        self.step += 1
        follow(self.average, self.net, 1 - min(self.config.ema, self.step / (self.step + 10)))
        return loss.detach()

    def _losses(self, net: SerNet, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, and the predictions for columns and pieces."""
        found, inside = net.columns(batch.frames), batch.inside
        weight = (inside / inside.sum(dim=1, keepdim=True)).unsqueeze(2)
        by_column, by_piece = self.by_column(found), self.by_piece((found * weight).sum(dim=1))
        error = F.smooth_l1_loss(by_column, batch.columns, reduction="none", beta=_BETA).mean(dim=2)
        loss = (error * inside).sum() / inside.sum() + F.smooth_l1_loss(by_piece, batch.whole, beta=_BETA)
        return loss, by_column, by_piece

    @torch.no_grad()
    def _figures(self, checked: Batch, loss: float) -> Figures:
        """The figures of the averaged weights."""
        _, by_column, by_piece = self._losses(self.average, checked)
        chosen = checked.inside > 0
        columns = _explained(by_column[chosen], checked.columns[chosen])
        return Figures(self.step, loss, columns, _explained(by_piece, checked.whole))

    def _save(self, state: Path) -> None:
        values = {
            "net": self.net.state_dict(), "average": self.average.state_dict(),
            "by_column": self.by_column.state_dict(), "by_piece": self.by_piece.state_dict(),
            "optimizer": self.optimizer.state_dict(), "step": self.step, "key": self.key,
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


def _edges(net: SerNet, features: FeatureConfig, piece_s: float) -> NDArray[np.int64]:
    """The first token of each column of a piece, and the end of the last."""
    columns = round(piece_s / (net.frames_per_column * features.hop_s))
    edges = np.round(np.arange(columns + 1) * net.frames_per_column * features.hop_s / TOKEN_S).astype(np.int64)
    if columns < 1 or np.diff(edges).min() < 1:
        raise ConfigError(f"a column of {type(net).__name__} must be longer than {TOKEN_S} s and shorter than a piece")
    return edges


def _explained(predicted: Tensor, wanted: Tensor) -> float:
    spread = (wanted - wanted.mean(dim=0)).square().sum()
    return float(1 - (predicted - wanted).square().sum() / spread)


def _shares(corpora: Sequence[str], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """The probability of drawing each clip: proportional to its length, between corpora to the root of theirs."""
    names, share = np.array(corpora), tokens.astype(np.float64)
    for name in set(corpora):
        share[names == name] /= math.sqrt(share[names == name].sum())
    return np.asarray(share / share.sum(), np.float64)
