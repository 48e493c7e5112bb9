"""Run a recipe: check the splits, train a network on each, score the folds, write the checkpoint."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from streamser.audio import read_audio
from streamser.bundle import RELATIVE, Bundle
from streamser.calibration import Calibration
from streamser.corpora.clips import UNLABELLED, Clip
from streamser.corpora.protocols import Split
from streamser.evaluation.basis import basis_of_run, basis_of_validation
from streamser.evaluation.calibration import fit_temperature
from streamser.evaluation.folds import FoldResult, folder_name, load_folds, save_fold
from streamser.evaluation.metrics import unweighted_accuracy, weighted_accuracy
from streamser.features import FeatureConfig
from streamser.nets.frozenhead import FrozenHead
from streamser.nets.layers import SerNet
from streamser.nets.relative import RelativeHead, export_relative
from streamser.recognizer import Recognizer, load
from streamser.training.batches import BatchMaker
from streamser.training.distil import Distiller
from streamser.training.fit import CHECKPOINT, Fit, FitData, FitOptions, Fitted, Part, with_common_labels
from streamser.training.material import Material, label_shares, splits_of, with_labels
from streamser.training.options import RunOptions
from streamser.training.publish import Trained, publish
from streamser.training.recipe import Recipe
from streamser.training.relative import RelativeBatches, embedded, embedding_head, relative_recipe
from streamser.training.setup import fast_precision, set_up
from streamser.training.start import check_start
from streamser.training.stores import read_stores
from streamser.training.teachers import Teachers, speakers_of
from streamser.training.windows import clip_logits, reconstruction_mse

log = logging.getLogger(__name__)

_STANDARD_CLIPS = 8192
_OF_TEACHER = ("created", "protocol", "split", "seed")


class Trainer:
    """One recipe in one run folder: fit every split, score it, and write the checkpoint."""

    def __init__(self, recipe: Recipe, material: Material, folder: Path, options: RunOptions) -> None:
        self.setup = set_up(fast_precision(with_labels(recipe, material), options.device))
        self.recipe = self.setup.recipe
        self.material, self.folder, self.options = material, folder, options
        self.device = torch.device(options.device)
        self.stores = read_stores(self.setup, material, options)
        self.teachers: Teachers | None = None
        if self.recipe.distil.teachers:
            self.teachers = Teachers(self.recipe.distil, self.recipe.labels, material.stored, options)

    # ---- splits ----------------------------------------------------------------------------------------

    def splits(self, seed: int) -> list[Split]:
        """The protocol's splits for one seed, each checked for leaks."""
        return splits_of(self.recipe, self.material, seed)

    def part(self, clips: Sequence[Clip]) -> Part:
        rows = np.array([self.stores.row[clip.id] for clip in clips], np.int64)
        targets = np.array(
            [self.recipe.labels.index(clip.label) if clip.style != UNLABELLED else -1 for clip in clips], np.int64
        )
        soft = (
            label_shares(clips, self.recipe.labels, self.recipe.label_map) if self.setup.loss.kind == "soft" else None
        )
        return Part(tuple(clips), rows, targets, soft)

    # ---- one split -------------------------------------------------------------------------------------

    def fit(self, split: Split, seed: int) -> tuple[Fitted, FeatureConfig, BatchMaker]:
        """Train on one split; resumes an interrupted run in the same folder."""
        self._check_start(split)
        features = self.stores.scaled(self.setup.features, split)
        torch.manual_seed(seed)
        net = self.setup.build(features)
        train = self.part(
            with_common_labels(split.train, self.recipe.labels) if self.recipe.mask_absent_labels else split.train
        )
        counts = Counter(clip.label for clip in train.clips)
        learning = net.trained()
        distiller = None
        if self.teachers is not None:
            predictions = self.teachers.predictions(split, seed)
            distiller = Distiller(self.recipe.distil, predictions, train.rows, learning.embedding_dim)
        loss = self.setup.loss.build(
            len(self.recipe.labels), learning.embedding_dim, [counts[label] for label in self.recipe.labels]
        )
        recipe = replace(self.recipe, choose_by="last") if split.choose_on == "nothing" else self.recipe
        chosen = {"validation": split.validation, "test": split.test, "nothing": split.validation or split.test}
        batches, outliers = self.stores.batches(self.setup, features)
        _standardize(learning, batches, train.rows, seed)
        fit = Fit(
            recipe,
            learning,
            loss,
            FitData(batches, train, self.part(chosen[split.choose_on]), outliers, distiller),
            self._fit_options(split, seed),
        )
        try:
            fitted = fit.run()
        finally:  # draw the curves of a stopped run too
            if fit.rank == 0:
                _draw_curves(fit.history, fit.best_epoch, split.name, fit.folder / "curves.png")
        net.load_state_dict({**net.state_dict(), **fitted.net.state_dict()})
        return replace(fitted, net=net.eval()), features, batches

    def fit_relative(self, split: Split, seed: int, batches: BatchMaker, net: SerNet) -> RelativeHead | None:
        """Train the relative head of one split on the embeddings of its network; None if the recipe has none.

        If the network's encoder is frozen, the encoder's output is the embedding.
        """
        if not self.recipe.baseline.train:
            return None
        frozen = self.stores.frozen is not None
        clips = [clip for clip in split.train if clip.style != UNLABELLED]
        clips = with_common_labels(clips, self.recipe.labels) if self.recipe.mask_absent_labels else clips
        everybody = self.part((*clips, *split.validation))
        if not frozen:
            batches = embedded(net.trained(), batches, everybody.rows, self.device, self.recipe.precision)
        relative = RelativeBatches(batches, self.recipe.baseline, everybody.clips, everybody.rows)
        train, choose = (
            self.part([clip for clip, usable in zip(part.clips, relative.usable(part.rows), strict=True) if usable])
            for part in (self.part(clips), self.part(split.validation or split.test))
        )
        torch.manual_seed(seed)
        labels = self.recipe.labels
        head = (
            self.setup.build(self.stores.scaled(self.setup.features, split)).trained()
            if frozen
            else embedding_head(len(labels), batches.features.bins)
        )
        counts = Counter(clip.label for clip in train.clips)
        loss = self.setup.loss.alone().build(len(labels), head.embedding_dim, [counts[label] for label in labels])
        _standardize(head, relative, train.rows, seed)
        recipe = relative_recipe(self.recipe, frozen=frozen)
        folder = self.folder_of(split, seed) / "relative"
        fit = Fit(recipe, head, loss, FitData(relative, train, choose), FitOptions(seed, folder, self.options.device))
        fitted = fit.run().net
        (fit.folder / CHECKPOINT).unlink(missing_ok=True)
        return RelativeHead(fitted.to("cpu").eval(), torch.from_numpy(relative.mean), self.recipe.baseline.shrinkage)

    def _fit_options(self, split: Split, seed: int) -> FitOptions:
        report = self.options.on_epoch
        on_epoch = None if report is None else lambda row: report(split.name, row)
        return FitOptions(seed, self.folder_of(split, seed), self.options.device, on_epoch)

    def folder_of(self, split: Split, seed: int) -> Path:
        return self.folder / folder_name(split.name, seed)

    # ---- results ---------------------------------------------------------------------------------------

    def run_split(self, split: Split, seed: int) -> FoldResult:
        """Train, keep the fold's checkpoint, and score its test clips with `Recognizer`; a finished fold is only read.

        If the first seed's fold already has the frozen encoder's output for the test clips, only the head is computed,
        and no checkpoint is kept.
        """
        place = self.folder_of(split, seed)
        if (place / "fold.json").exists():
            return load_folds(place)[0]
        began = time.monotonic()
        fitted, features, batches = self.fit(split, seed)
        relative = self.fit_relative(split, seed, batches, fitted.net)
        validation = self.part(split.validation or split.test)
        logits = clip_logits(fitted.net.trained(), batches, validation.rows, self.device)
        temperature = fit_temperature(logits, validation.targets)
        if relative is not None:
            place.mkdir(parents=True, exist_ok=True)
            (place / RELATIVE).write_bytes(export_relative(relative))
        known = self._known_embeddings(split, seed)
        if known is None:
            trained = Trained(fitted.net, features, Calibration(temperature=temperature), split, seed)
            bundle = publish(place / "bundle", self.setup, trained, more=self._teacher_record(split, seed))
            recognizer = load(bundle.path, compute="cpu")
            logits, embeddings = scored_clips(recognizer, split.test, self.options.stage("test"))
        else:
            logits, embeddings = _head_logits(fitted.net.trained(), known), known
        result = self._result(split, seed, logits, temperature, fitted)
        result = replace(result, embeddings=embeddings if relative is not None else None)
        result = replace(result, figures=self._figures(fitted.net, batches, split, result))
        save_fold(place / "fold.json", result)
        (place / CHECKPOINT).unlink(missing_ok=True)  # a finished fold is never resumed
        log.info("%s: done in %.0f s", split.name, time.monotonic() - began)
        return result

    def _figures(self, net: SerNet, batches: BatchMaker, split: Split, tested: FoldResult) -> dict[str, float]:
        """Further figures of a paper's table: the reconstruction error, and the accuracy on the training part.

        Without the paper's own protocol, only the reconstruction error is measured.
        """
        if self.stores.frozen is not None:
            return {}
        device = self.device
        place = net.to(device)
        found: dict[str, float] = {}
        if split.protocol.startswith("paper:"):
            train = self.part(split.train)
            right = clip_logits(place, batches, train.rows, device).argmax(axis=1) == train.targets
            test_right = tested.logits.argmax(axis=1) == tested.targets
            found["training_wa"] = 100 * float(right.mean())
            found["whole_wa"] = 100 * float(np.concatenate([right, test_right]).mean())
        if self.setup.loss.reconstruction:
            test = self.part(split.test)
            found["reconstruction_mse_e4"] = 1e4 * reconstruction_mse(place, batches, test.rows, device)
        return found

    def _known_embeddings(self, split: Split, seed: int) -> NDArray[np.float32] | None:
        """The test clips' embeddings from the first seed's fold; None unless a frozen encoder makes them equal."""
        first = self.folder_of(split, self.recipe.seeds[0])
        if self.stores.frozen is None or seed == self.recipe.seeds[0] or not (first / "fold.json").exists():
            return None
        fold = load_folds(first)[0]
        return fold.embeddings if fold.clips == tuple(clip.id for clip in split.test) else None

    def _result(
        self, split: Split, seed: int, logits: NDArray[np.float32], temperature: float, fitted: Fitted
    ) -> FoldResult:
        trained_on = {clip.speaker for clip in (*split.train, *split.validation)}
        trained_on.update(self._teacher_record(split, seed).get("teacher_speakers", ()))
        return FoldResult(
            name=self.recipe.name,
            protocol=split.protocol,
            fold=split.name,
            seed=seed,
            labels=self.recipe.labels,
            targets=self.part(split.test).targets,
            logits=logits,
            speakers=tuple(clip.speaker for clip in split.test),
            clips=tuple(clip.id for clip in split.test),
            train_speakers=tuple(sorted(trained_on)),
            test_corpora=tuple(sorted({clip.corpus for clip in split.test})),
            temperature=temperature,
            best_epoch=fitted.best_epoch,
            # A fold that is continued with fewer epochs than it already has keeps them.
            epochs=max(self.recipe.epochs, len(fitted.history)),
        )

    def ship(self, split: Split, seed: int, target: Path, calibrate_from: Path | None) -> Bundle:
        """Train on the `ship` split and write the checkpoint, calibrated on speakers that it was not trained on.

        `calibrate_from` is the run folder of the same recipe with leave-one-corpus-out. Its predictions on unseen
        corpora predict the calibration for new speakers better than validation speakers of the training corpora do.
        """
        fitted, features, batches = self.fit(split, seed)
        relative = self.fit_relative(split, seed, batches, fitted.net)
        part = self.part(split.validation)
        logits = clip_logits(fitted.net.trained(), batches, part.rows, self.device)
        if calibrate_from is None:
            groups = [clip.corpus for clip in split.validation]
            basis = basis_of_validation(logits, part.targets, groups, self.recipe.risk)
        else:
            basis = basis_of_run(calibrate_from, self.recipe.labels, self.recipe.risk, relative=relative is not None)
        log.info("calibrated on %s: %s, %s", basis.name, basis.calibration, basis.threshold)
        scores = {
            "protocol": self.recipe.protocol,
            "validation_ua": round(
                100 * unweighted_accuracy(part.targets, logits.argmax(1), len(self.recipe.labels)), 1
            ),
            "validation_wa": round(100 * weighted_accuracy(part.targets, logits.argmax(1)), 1),
            "validation_note": "of the training corpora"
            if split.choose_on == "nothing"
            else "the epoch was chosen on these speakers, so the figures are optimistic",
            "calibrated_on": basis.name,
            "threshold": asdict(basis.threshold),
            **{name: value for name, value in basis.metrics.items() if name != "each"},
        }
        trained = Trained(fitted.net, features, basis.calibration, split, seed)
        if relative is not None and basis.rule is not None:
            trained = replace(trained, relative=export_relative(relative), baseline=basis.rule)
        more: dict[str, Any] = {}
        if calibrate_from is not None:
            folds = load_folds(calibrate_from)
            more["left_out_epochs"] = _epochs_of(calibrate_from, folds) or self.recipe.epochs
            more["left_out_seeds"] = sorted({fold.seed for fold in folds})
        return publish(target, self.setup, trained, scores, {**more, **self._teacher_record(split, seed)})

    def check_origin(self, split: Split, seed: int) -> None:
        """ProtocolError if a teacher of this split, or the weights it starts from, know its test part."""
        self._check_start(split)
        if self.teachers is not None:
            self.teachers.of(split, seed)

    def _check_start(self, split: Split) -> None:
        check_start(self.recipe.start, split, frozen=self.stores.frozen is not None)

    def _teacher_record(self, split: Split, seed: int) -> dict[str, Any]:
        """The teachers in a checkpoint's provenance: which they are, and the speakers they were trained on."""
        if self.teachers is None:
            return {}
        found = self.teachers.of(split, seed)
        return {
            "teachers": [
                {"name": _recipe_name(one), **{key: one.provenance.get(key) for key in _OF_TEACHER}} for one in found
            ],
            "teacher_speakers": sorted(set().union(*map(speakers_of, found))),
        }


def scored_clips(
    recognizer: Recognizer, clips: Sequence[Clip], progress: Callable[[int, int], None] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits and embeddings of test clips, computed with the recognizer."""
    found = []
    for i in range(0, len(clips), 32):
        found.append(recognizer.logits_and_embeddings([read_audio(c.path) for c in clips[i : i + 32]]))
        if progress is not None:
            progress(i, len(clips))
    logits, embeddings = (np.concatenate(part).astype(np.float32) for part in zip(*found, strict=True))
    return logits, embeddings


def _recipe_name(bundle: Bundle) -> str:
    """The name of the recipe that trained a checkpoint, or else the checkpoint's own name."""
    recipe = bundle.provenance.get("recipe")
    return str(recipe.get("name", bundle.name)) if isinstance(recipe, dict) else bundle.name


def _standardize(net: SerNet, batches: BatchMaker, rows: NDArray[np.int64], seed: int) -> None:
    """Measure the mean and deviation that standardize the head's input, on training windows drawn as in training."""
    if not isinstance(net, FrozenHead):
        return
    rng = np.random.default_rng([seed, 1])
    order = rng.permutation(np.tile(rows, -(-_STANDARD_CLIPS // len(rows))))[:_STANDARD_CLIPS]
    vectors = [batches.draw(order[i : i + 256], rng).flatten(1) for i in range(0, len(order), 256)]
    net.standard.measure(torch.cat(vectors))


def _head_logits(net: SerNet, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits of a head for embeddings of a frozen encoder."""
    with torch.inference_mode():
        logits: NDArray[np.float32] = net.to("cpu").eval()(torch.from_numpy(embeddings)[:, None]).logits.numpy()
    return logits


def _draw_curves(history: list[dict[str, float]], best_epoch: int, title: str, path: Path) -> None:
    """Write the learning curves beside log.jsonl if matplotlib is installed."""
    try:
        from streamser.evaluation.plots import plot_curves

        if history:
            plot_curves(history, best_epoch, title, path)
    except Exception as error:  # a failed plot must not hide the reason that a run stopped, or lose its result
        log.warning("no learning curves: %s", error)


def _epochs_of(run: Path, folds: Sequence[FoldResult]) -> int | None:
    """The lowest number of epochs of a run's folds, or that in its `recipe.json`; None if neither is recorded."""
    if known := [fold.epochs for fold in folds if fold.epochs]:
        return min(known)
    try:
        return int(json.loads((run / "recipe.json").read_text(encoding="utf-8"))["epochs"])
    except (OSError, ValueError, KeyError):
        return None
