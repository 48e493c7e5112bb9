"""Train one network on one split: batches, schedule, validation, early stopping, and exact resuming."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from streamser.corpora.clips import PLAIN, Clip
from streamser.evaluation.metrics import unweighted_accuracy, weighted_accuracy
from streamser.nets.layers import NetOutput, SerNet, channels_last
from streamser.training.adversary import Adversary
from streamser.training.average import copied, follow
from streamser.training.batches import BatchMaker, sampling_weights
from streamser.training.distil import Distiller, with_share
from streamser.training.norms import norms_of, reestimate_norms
from streamser.training.optimizers import make_optimizer
from streamser.training.recipe import Recipe
from streamser.training.schedules import rate_factor
from streamser.training.windows import Batch, ServedWindows, resident

log = logging.getLogger(__name__)

CHECKPOINT = "last.pt"
SAVE_EVERY_S = 60.0
"""Least time between checkpoints: writing one, with up to five copies of the weights, can take longer than an epoch."""


def allowed_labels(clips: Sequence[Clip], labels: Sequence[str]) -> NDArray[np.bool_]:
    """(clips, classes): True for each label that at least 2 % of the labelled clips in the clip's corpus have.

    In a corpus of plain speech, all labels are True: its neutral clips are examples against every other label.
    """
    of_corpus: dict[str, NDArray[np.bool_]] = {}
    for corpus in {clip.corpus for clip in clips}:
        here = [clip.label for clip in clips if clip.corpus == corpus and clip.label]
        of_corpus[corpus] = np.array([here.count(label) >= 0.02 * len(here) for label in labels])
    for corpus in {clip.corpus for clip in clips if clip.style == PLAIN}:
        of_corpus[corpus] = np.ones(len(labels), bool)
    return np.stack([of_corpus[clip.corpus] for clip in clips])


def with_common_labels(clips: Sequence[Clip], labels: Sequence[str]) -> list[Clip]:
    """The clips whose label makes up 2 % or more of their corpus, and the clips without a label."""
    allowed = allowed_labels(clips, labels)
    return [clip for clip, row in zip(clips, allowed, strict=True) if not clip.label or row[labels.index(clip.label)]]


def batch_slices(clips: int, batch: int, least: int = 2) -> list[slice]:
    """Consecutive batches over all clips; a remainder of fewer than `least` joins the batch before it.

    >>> batch_slices(9, 4)
    [slice(0, 4, None), slice(4, 9, None)]
    """
    starts = list(range(0, clips, batch))
    if len(starts) > 1 and clips - starts[-1] < least:  # batch norm cannot learn from one clip
        starts.pop()
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], clips], strict=True)]


@dataclass(frozen=True, slots=True)
class Part:
    """Clips of one part of a split, as indexes into the store."""

    clips: tuple[Clip, ...]
    rows: NDArray[np.int64]
    """Index of each clip in the store."""
    targets: NDArray[np.int64]
    """Label of each clip, as an index; -1 for a clip without a label."""
    shares: NDArray[np.float32] | None = None
    """(clips, classes): each label's share of a clip's annotations, for a loss that uses them."""
    starts: NDArray[np.int64] | None = None
    """First frame of each piece, if clips are cut into pieces that are separate examples."""

    @property
    def grades(self) -> NDArray[np.int64]:
        """Difficulty of each clip, 0 to 2. Clips without annotators' votes count as easy (0): for them, the focal
        loss of Zhong et al. is weighted cross entropy."""
        return np.array(["ABC".index(clip.difficulty or "A") for clip in self.clips], np.int64)


def in_pieces(part: Part, batches: BatchMaker) -> Part:
    """The same part with each piece of a clip as one example."""
    pieces = [(i, start) for i, row in enumerate(part.rows) for start in batches.starts_of(int(row))]
    at, starts = (np.array(values, np.int64) for values in zip(*pieces, strict=True))
    return Part(
        tuple(part.clips[i] for i in at),
        part.rows[at],
        part.targets[at],
        None if part.shares is None else part.shares[at],
        starts,
    )


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained network and the history of its training."""

    net: SerNet
    best_epoch: int
    best_score: float
    history: list[dict[str, float]]


@dataclass(frozen=True, slots=True)
class FitData:
    """The data of a fit: the clips to train on, the clips to choose the epoch on, and the makers of their batches."""

    batches: BatchMaker
    train: Part
    choose: Part
    """The clips on which the epoch is chosen."""
    outliers: BatchMaker | None = None
    distiller: Distiller | None = None


@dataclass(frozen=True, slots=True)
class FitOptions:
    """Seed, folder, processor and callback of a fit."""

    seed: int
    folder: Path
    device: str = "cpu"
    on_epoch: Callable[[dict[str, float]], None] | None = None


def save_whole(state: dict[str, Any], path: Path) -> None:
    """Save the state of a training; if the process dies meanwhile, the previous file stays complete."""
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    partial.replace(path)


class Fit:
    """The training of one network on one split; `run()` continues from the last checkpoint, if there is one."""

    def __init__(self, recipe: Recipe, net: SerNet, loss: nn.Module, data: FitData, options: FitOptions) -> None:
        batches, train, choose, outliers = data.batches, data.train, data.choose, data.outliers
        seed = options.seed
        if batches.features.long == "pieces":
            train = in_pieces(train, batches)
        self.recipe, self.batches, self.train, self.choose = recipe, batches, train, choose
        self.outliers = outliers
        self.folder, self.device, self.on_epoch = options.folder, torch.device(options.device), options.on_epoch
        self.seed = seed
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.net = channels_last(net.to(self.device))
        self.loss = loss.to(self.device)
        self.average = copied(self.net) if recipe.ema else None
        self.rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self.adversary: Adversary | None = None
        if recipe.adversary.of:
            self.adversary = Adversary(recipe.adversary, train.clips, net.embedding_dim)
            self.adversary.to(self.device)
        self.distiller = None if data.distiller is None else data.distiller.to(self.device)
        learning = [module for module in (self.net, self.loss, self.adversary, self.distiller) if module is not None]
        parameters = (p for module in learning for p in module.parameters())
        self.optimizer = make_optimizer(recipe.optimizer, parameters, recipe.lr, recipe.weight_decay)
        self.weights = sampling_weights(train.clips, recipe.balance)
        plain = np.array([clip.style == PLAIN for clip in train.clips])
        self.weights[plain] *= recipe.plain.weight
        self.labelled = train.targets >= 0
        self.weights = with_share(self.weights, ~self.labelled, recipe.distil.unlabelled_share)
        self.prior = self._log_prior(bool(plain.any()))
        self.allowed = (
            torch.from_numpy(allowed_labels(train.clips, recipe.labels)).to(self.device)
            if recipe.mask_absent_labels
            else None
        )
        self.targets = torch.from_numpy(train.targets).to(self.device)
        self.grades = torch.from_numpy(train.grades).to(self.device)
        self.shares = None if train.shares is None else torch.from_numpy(train.shares).to(self.device)
        alone = outliers is None and not recipe.feature_augment.mixup  # padded windows cannot be mixed
        self.resident = resident(batches, train.rows, net, self.device, train.starts) if alone else None
        self.served = ServedWindows(batches, choose.rows, net, self.device)
        self.wrapped: nn.Module = self.net
        if self.world > 1:
            self.wrapped = DistributedDataParallel(
                self.net, device_ids=[self.device] if self.device.type == "cuda" else None
            )
        self.epoch = self.followed = 0
        self.best_score, self.best_epoch = -math.inf, -1
        self.best_weights: dict[str, Tensor] = {}
        self.history: list[dict[str, float]] = []
        self._saved_at = time.monotonic()

    def run(self) -> Fitted:
        """Train to the last epoch, or until `patience` epochs give no better score; returns the best network."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.resume()
        with (self.folder / "log.jsonl").open("w", encoding="utf-8") if self.rank == 0 else nullcontext() as lines:
            for row in self.history:  # epochs after the last checkpoint are trained, and written, again
                _write_row(lines, row)
            while self.epoch < self.recipe.epochs and not self._out_of_patience():
                row = self._one_epoch()
                self.epoch += 1
                if self.epoch % self.recipe.validate_every == 0 or self.epoch == self.recipe.epochs:
                    row |= self._validate()
                self.history.append(row)
                _write_row(lines, row)
                if self.rank == 0 and self._save_is_due():
                    self._save()
                self._report_epoch(row)
        best = self.average or self.net
        if self.best_weights:
            best.load_state_dict(self.best_weights)
        return Fitted(best.eval(), self.best_epoch, self.best_score, self.history)

    def _report_epoch(self, row: dict[str, float]) -> None:
        """Report an epoch; if the callback stops the run, the epoch is saved first."""
        if self.on_epoch is None:
            return
        try:
            self.on_epoch(row)
        except BaseException:
            if self.rank == 0:
                self._save()
            raise

    def _out_of_patience(self) -> bool:
        waited = self.epoch - self.best_epoch if self.best_epoch > 0 else 0
        return 0 < self.recipe.patience <= waited

    def _one_epoch(self) -> dict[str, float]:
        recipe = self.recipe
        passes = recipe.passes_per_epoch or len(self.train.clips)
        parts = batch_slices(passes, recipe.batch, 2 * self.world)
        total = torch.zeros((), device=self.device)
        self.wrapped.train()
        order = self._order(passes)
        for step, part in enumerate(parts):
            rate = recipe.lr * rate_factor(recipe.schedule, self.epoch + step / len(parts), recipe.epochs)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            total += self._one_step(order[part]) * ((part.stop - part.start) / passes)
        return {"epoch": float(self.epoch + 1), "loss": float(total), "lr": rate}

    def _order(self, count: int) -> NDArray[np.int64]:
        """Indexes of the clips to train on, in order: drawn by weight if the recipe has `balance`, else shuffled."""
        if self.recipe.balance:
            return self.rng.choice(len(self.weights), count, p=self.weights / self.weights.sum())
        rounds = -(-count // len(self.train.clips))
        return np.concatenate([self.rng.permutation(len(self.train.clips)) for _ in range(rounds)])[:count]

    def _drawn(self, drawn: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        """The windows of training clips, and their lengths if they differ."""
        if self.resident is not None:
            return self.resident.batch(drawn)
        return (self.batches.draw(self.train.rows[drawn], rng).to(self.device),)

    def _one_step(self, drawn: NDArray[np.int64]) -> Tensor:
        """Train on one batch and return its loss, still on the device."""
        # Every process draws the same whole batch, from a Generator with the same seed, and takes its own share of it.
        frames, *lengths = self._drawn(drawn, self.rng)
        mix = self.recipe.feature_augment.mixup
        share = float(self.rng.beta(mix, mix)) if mix else 1.0
        partner = self.rng.permutation(len(drawn)) if mix else np.arange(len(drawn))
        if mix:
            frames = share * frames + (1 - share) * frames[torch.from_numpy(partner).to(self.device)]
        mine = slice(self.rank, None, self.world)
        frames = self._with_outliers(frames[mine])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            raw: NetOutput = self.wrapped(frames, *(of[mine] for of in lengths))
        clips = len(drawn[mine])
        outlier_logits, frames = raw.logits[clips:].float(), frames[:clips]
        memory = None if raw.reconstruction is None else raw.reconstruction[:clips].float()
        output = own = NetOutput(raw.logits[:clips].float(), raw.embedding[:clips].float(), memory)
        if self.prior is not None:
            output = output._replace(logits=output.logits + self.prior)
        if self.allowed is not None:
            allowed = (self.allowed[self._there(drawn)] | self.allowed[self._there(drawn[partner])])[mine]
            # 20 below the largest logit: probability and gradient are close to 0, and label smoothing stays finite
            absent = (output.logits.detach().amax(dim=1, keepdim=True) - 20.0).expand_as(output.logits)
            output = output._replace(logits=torch.where(allowed, output.logits, absent))
        loss = share * self._loss_of(output, own, frames, drawn[mine])
        if mix:
            loss = loss + (1 - share) * self._loss_of(output, own, frames, drawn[partner][mine])
        if len(outlier_logits):  # cross entropy with the uniform distribution
            loss = loss - self.recipe.outliers.weight * nn.functional.log_softmax(outlier_logits, dim=1).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.recipe.gradient_clip:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.gradient_clip)
        self.optimizer.step()
        self._follow()
        return loss.detach()

    def _log_prior(self, plain: bool) -> Tensor | None:
        """(classes,), offsets that are added to the logits in the loss if plain speech makes neutral more frequent.

        The network's own logits then fit equally frequent labels (logit adjustment, Menon et al. 2021).
        """
        if not plain:
            return None
        known = self.labelled
        shares = np.bincount(self.train.targets[known], self.weights[known], len(self.recipe.labels))
        return torch.from_numpy(np.log(shares / shares.mean()).astype(np.float32)).to(self.device)

    def _there(self, index: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(index).to(self.device)

    def _with_outliers(self, frames: Tensor) -> Tensor:
        """The batch, with outliers (recordings without speech) appended."""
        if self.outliers is None:
            return frames
        count = max(1, round(self.recipe.outliers.share * len(frames)))
        drawn = self.rng.integers(0, self.outliers.store.starts.shape[1], count)
        return torch.cat([frames, self.outliers.draw(drawn, self.rng).to(self.device)])

    def _loss_of(self, output: NetOutput, own: NetOutput, frames: Tensor, drawn: NDArray[np.int64]) -> Tensor:
        """The loss for labels, teachers and adversary; `own` is `output` without the offsets and masks for labels."""
        result = self._label_loss(output, frames, drawn)
        if self.distiller is not None:
            distilled: Tensor = self.distiller(own.logits, own.embedding, self._there(self.train.rows[drawn]))
            result = (1 - self.recipe.distil.weight) * result + distilled
        return result + self.adversary(output.embedding, drawn) if self.adversary else result

    def _label_loss(self, output: NetOutput, frames: Tensor, drawn: NDArray[np.int64]) -> Tensor:
        """The mean loss over the batch's clips; a clip without a label counts as 0."""
        at = self._there(drawn)
        labelled = self.labelled[drawn]
        if not labelled.all():
            if not labelled.any():
                return output.logits.sum() * 0.0
            chosen = self._there(np.flatnonzero(labelled))
            output = NetOutput._make(None if value is None else value[chosen] for value in output)
            at, frames = at[chosen], frames[chosen]
        shares = None if self.shares is None else self.shares[at]
        result: Tensor = self.loss(output, self.targets[at], frames=frames, difficulty=self.grades[at], shares=shares)
        return result * float(labelled.mean())

    def _follow(self) -> None:
        """Update the running average of the weights and of batch norm's statistics."""
        if self.average is None:
            return
        self.followed += 1  # faster at first, so that the initial weights lose their influence
        follow(self.average, self.net, 1 - min(self.recipe.ema, (1 + self.followed) / (10 + self.followed)))

    def _validate(self) -> dict[str, float]:
        net = self.average or self.net
        self._reestimate(net)
        logits = self.served.logits(net)
        targets = self.choose.targets
        shown = logits - logits.max(axis=1, keepdims=True)
        nll = float(np.mean(np.log(np.exp(shown).sum(axis=1)) - shown[np.arange(len(targets)), targets]))
        predicted = logits.argmax(axis=1)
        classes = len(self.recipe.labels)
        row = {
            "val_loss": nll,
            "val_ua": unweighted_accuracy(targets, predicted, classes),
            "val_wa": weighted_accuracy(targets, predicted),
        }
        score = {"ua": row["val_ua"], "wa": row["val_wa"], "loss": -nll, "last": float(self.epoch)}[
            self.recipe.choose_by
        ]
        if score > self.best_score:
            self.best_score, self.best_epoch = score, self.epoch
            self.best_weights = {name: value.detach().cpu().clone() for name, value in net.state_dict().items()}
        return row

    def _reestimate(self, net: SerNet) -> None:
        """Estimate batch norm's statistics for the current weights, if the recipe asks for it."""
        if not self.recipe.norm_clips or not norms_of(net):
            return
        rng = np.random.default_rng(
            [self.seed, self.epoch]
        )  # a separate generator, so that training draws the same numbers with or without this step
        chosen = rng.permutation(len(self.train.clips))[: self.recipe.norm_clips]
        parts = batch_slices(len(chosen), max(self.recipe.batch, 64))
        reestimate_norms(net, (self._drawn(chosen[part], rng) for part in parts))

    # ---- checkpoints -----------------------------------------------------------------------------------

    @property
    def _checkpoint(self) -> Path:
        return self.folder / CHECKPOINT

    def _save_is_due(self) -> bool:
        over = self.epoch == self.recipe.epochs or self._out_of_patience()
        return over or time.monotonic() - self._saved_at >= SAVE_EVERY_S

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        state = {
            "epoch": self.epoch,
            "followed": self.followed,
            "net": self.net.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "loss": self.loss.state_dict(),
            "adversary": self.adversary.state_dict() if self.adversary else None,
            "distiller": self.distiller.state_dict() if self.distiller else None,
            "optimizer": self.optimizer.state_dict(),
            "best": {"score": self.best_score, "epoch": self.best_epoch, "weights": self.best_weights},
            "history": self.history,
            "rng": json.dumps(self.rng.bit_generator.state),
            "torch_rng": torch.get_rng_state(),
        }
        save_whole(state, self._checkpoint)

    def resume(self) -> bool:
        """Resume from the folder's checkpoint, if any; on a CPU, the final weights equal those of an unbroken run."""
        if not self._checkpoint.exists():
            return False
        state: dict[str, Any] = torch.load(self._checkpoint, map_location=self.device, weights_only=True)
        self.net.load_state_dict(state["net"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.loss.load_state_dict(state["loss"])
        if self.adversary is not None:
            self.adversary.load_state_dict(state["adversary"])
        if self.distiller is not None:
            self.distiller.load_state_dict(state["distiller"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.followed, self.history = state["epoch"], state["followed"], state["history"]
        best = state["best"]
        self.best_score, self.best_epoch, self.best_weights = best["score"], best["epoch"], best["weights"]
        self.rng.bit_generator.state = json.loads(state["rng"])
        torch.set_rng_state(state["torch_rng"].cpu())
        log.info("resumed after epoch %d", self.epoch)
        return True


def _write_row(lines: TextIO | None, row: dict[str, float]) -> None:
    if lines is not None:
        lines.write(json.dumps(row) + "\n")
        lines.flush()
