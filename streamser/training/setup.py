"""Build and check a run's front end, loss and network before any recording is read."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from streamser.bundle import load_bundle, model_folders
from streamser.corpora.clips import PLAIN
from streamser.corpora.protocols import Split
from streamser.errors import ConfigError, ProtocolError
from streamser.features import FeatureConfig
from streamser.nets import zoo
from streamser.nets.layers import SerNet
from streamser.nets.losses import LossSpec
from streamser.nets.variant import Variant
from streamser.training.frozen import frozen_augment
from streamser.training.material import features_of
from streamser.training.recipe import Recipe

__all__ = ["RunSetup", "check_start", "fast_precision", "set_up", "taught_on"]

log = logging.getLogger(__name__)

_WEIGHTS = ".safetensors"
_TAUGHT_ON = "taught_on"  # in the metadata of a file that tools/teach_tokens.py wrote


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
            _begin_with(net, self.recipe.start)
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


def _begin_with(net: SerNet, start: str) -> None:
    """Copy every tensor of `start` that fits the network, except the head's; ConfigError if none does."""
    weights = _start_weights(start) if start.endswith(_WEIGHTS) else load_bundle(start).weights()
    own = net.state_dict()
    fresh = set(net.trained().state_dict()) if net.needs_start else {name for name in own if name.startswith("head.")}
    fitting = {
        name: torch.from_numpy(value).float()
        for name, value in weights.items()
        if name in own and own[name].shape == value.shape and name not in fresh
    }
    if not fitting:
        raise ConfigError(f"start: {start} has no tensor that fits {type(net).__name__}")
    net.load_state_dict({**own, **fitting})


def _start_weights(start: str) -> Mapping[str, NDArray[Any]]:
    try:
        return load_file(_start_file(start))
    except SafetensorError as error:
        raise ConfigError(f"start: {start}: not a safetensors file ({error})") from error


def taught_on(start: str) -> tuple[str, ...]:
    """The corpora whose speech the weights of `start` were taught with, without labels; empty if there are none."""
    if not start.endswith(_WEIGHTS):
        return tuple(load_bundle(start).provenance.get("taught_on", ())) if start else ()
    with safe_open(_start_file(start), "numpy") as file:
        names = (file.metadata() or {}).get(_TAUGHT_ON, "")
    return tuple(names.split(",")) if names else ()


def check_start(start: str, split: Split) -> None:
    """ProtocolError if the split tests on a corpus that the weights of `start` were taught with, even without labels.

    Plain speech is an exception, since such weights need much of it: the checkpoint's card states which was heard.
    """
    heard = {clip.corpus for clip in split.test if clip.style != PLAIN} & set(taught_on(start))
    if heard:
        raise ProtocolError(
            f"{split.name}: the weights of {start} were taught with {', '.join(sorted(heard))}, which this fold tests "
            "on; name others under start, or leave these corpora out of test_corpora"
        )


def _start_file(start: str) -> Path:
    """The file in the working folder, else in a folder of checkpoints."""
    for folder in (Path(), *model_folders()):
        if (folder / start).is_file():
            return folder / start
    raise ConfigError(f"start: {start}: no such file")
