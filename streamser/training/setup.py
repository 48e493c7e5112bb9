"""Build and check a run's front end, loss and network before any recording is read."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace

import torch

from streamser.errors import ConfigError
from streamser.features import FeatureConfig
from streamser.nets import zoo
from streamser.nets.layers import SerNet
from streamser.nets.losses import LossSpec
from streamser.nets.variant import Variant
from streamser.training.frozen import frozen_augment
from streamser.training.material import features_of
from streamser.training.recipe import Recipe
from streamser.training.start import begin_with

__all__ = ["RunSetup", "fast_precision", "processor", "set_up"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunSetup:
    """A recipe, and the objects that it names: variant, front end and loss, with the recipe's changes."""

    recipe: Recipe
    variant: Variant
    features: FeatureConfig
    loss: LossSpec

    def build(self, features: FeatureConfig | None = None) -> SerNet:
        """A fresh network for the front end, with the weights that the recipe starts from."""
        bins = (features or self.features).bins
        net = self.variant.build(len(self.recipe.labels))
        if net.bins != bins:
            raise ConfigError(
                f"{self.recipe.name}: variant {self.variant.name} takes {net.bins} bins, but features give {bins}"
            )
        if self.recipe.start:
            begin_with(net, self.recipe.start)
        elif net.needs_start:
            raise ConfigError(
                f"{self.recipe.name}: the encoder of {self.variant.name} is frozen, so its weights are not trained; "
                "name a checkpoint or a file with them under start"
            )
        return net


def set_up(recipe: Recipe) -> RunSetup:
    """Build the objects that the recipe names; ConfigError, before any audio is read, if that is impossible."""
    variant = zoo.get(recipe.variant)
    features = features_of(variant, recipe)
    try:
        loss = replace(variant.loss, **recipe.loss)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{recipe.name}: {error}") from error
    setup = RunSetup(recipe, variant, features, loss)
    net = setup.build()
    recipe.feature_augment.check(features)
    if recipe.baseline.train and "neutral" not in recipe.labels:
        raise ConfigError(f"{recipe.name}: baseline.train needs the label neutral; add it to labels")
    if net.needs_start:
        frozen_augment(recipe.feature_augment)
        if recipe.train_window_s:
            raise ConfigError(
                f"{recipe.name}: train_window_s cannot be used with {variant.name}, whose encoder is frozen; leave it "
                "out, or use feature_augment: {crop_probability: ...}"
            )
    return setup


def processor(wanted: str) -> str:
    """The torch device that `--compute` names: auto, cpu, cuda or cuda:N; ConfigError if there is none."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and "LOCAL_RANK" in os.environ:
        wanted = f"cuda:{os.environ['LOCAL_RANK']}"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"--compute {wanted}: torch finds no CUDA device; use --compute cpu")
    return wanted


def fast_precision(recipe: Recipe, device: str) -> Recipe:
    """The recipe, with fp32 instead of bf16 on a CPU without instructions for bf16.

    There, a convolution in bf16 took 17 times as long as in fp32, and a matrix product 66 times.
    """
    if recipe.precision == "fp32" or device != "cpu" or _cpu_computes_bf16():
        return recipe
    log.info("precision: %s is slow on this CPU; training in fp32", recipe.precision)
    return replace(recipe, precision="fp32")


def _cpu_computes_bf16() -> bool:
    return torch.backends.cpu.get_cpu_capability().startswith(("AVX512", "AMX"))
