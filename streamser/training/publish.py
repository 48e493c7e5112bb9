"""Write a trained network as a checkpoint: weights, graphs, card and provenance."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from streamser.bundle import PRETRAINED_ON, Bundle, BundleContents, BundleValues, save_bundle
from streamser.calibration import BaselineRule, Calibration
from streamser.corpora.protocols import Split
from streamser.features import FeatureConfig
from streamser.nets.export import export_onnx, is_narrow
from streamser.nets.layers import SerNet, count_parameters
from streamser.nets.stepgraph import export_step
from streamser.training.card import write_card
from streamser.training.setup import RunSetup
from streamser.training.start import pretrained_on

__all__ = ["Trained", "publish"]


@dataclass(frozen=True, slots=True)
class Trained:
    """A network that was trained on one split, with its calibration and figures."""

    net: SerNet
    features: FeatureConfig
    calibration: Calibration
    split: Split
    seed: int
    relative: bytes | None = None
    """The relative head as a graph, if one was trained."""
    baseline: BaselineRule | None = None


def publish(
    target: Path,
    setup: RunSetup,
    trained: Trained,
    scores: Mapping[str, Any] = MappingProxyType({}),
    more: Mapping[str, Any] = MappingProxyType({}),
) -> Bundle:
    """Write the checkpoint's folder; `more` is added to its provenance."""
    recipe = setup.recipe
    provenance = {**_provenance(setup, trained), **more}
    net = trained.net.to("cpu").to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    values = BundleValues(
        labels=recipe.labels,
        features=trained.features,
        variant=setup.variant.name,
        calibration=trained.calibration,
        provenance=provenance,
        scores=dict(scores),
        licence=recipe.licence or "see the corpora it was trained on",
        baseline=trained.baseline,
    )
    contents = BundleContents(
        weights={name: _narrow(value.detach().cpu().numpy()) for name, value in net.state_dict().items()},
        onnx=export_onnx(net, trained.features, len(recipe.labels)),
        card=write_card(recipe, setup.variant, trained.calibration, provenance, scores),
        step=export_step(net, trained.features),
        relative=trained.relative,
    )
    return save_bundle(target, values, contents)


def _provenance(setup: RunSetup, trained: Trained) -> dict[str, Any]:
    """The checkpoint's provenance: how it was trained, on what, and with which software."""
    split, net = trained.split, trained.net
    corpora = pretrained_on(setup.recipe.start)
    return {
        "created": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "streamser": _own_version(),
        "torch": torch.__version__.split("+")[0],
        "python": platform.python_version(),
        "recipe": json.loads(json.dumps(asdict(setup.recipe), default=str)),
        "protocol": split.protocol,
        "split": split.text(),
        "seed": trained.seed,
        "corpora": dict(Counter(clip.corpus for clip in (*split.train, *split.validation))),
        "train_speakers": sorted({clip.speaker for clip in split.train}),
        "validation_speakers": sorted({clip.speaker for clip in split.validation}),
        "test_speakers": sorted({clip.speaker for clip in split.test}),
        "parameters": count_parameters(net, statistics=True, frozen=net.needs_start),
        "learnt": count_parameters(net),
        "frozen": net.needs_start,
        **({PRETRAINED_ON: list(corpora)} if corpora else {}),
    }


def _own_version() -> str:
    try:
        return version("streamser")
    except PackageNotFoundError:  # not installed: the code runs from a copied checkout
        return "not installed"


def _narrow(values: NDArray[Any]) -> NDArray[Any]:
    """Store a tensor in half precision if that changes no value: some encoders are published in half precision."""
    return values.astype(np.float16) if is_narrow(values) else values
