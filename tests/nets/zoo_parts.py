"""The architectures of the zoo, each trained once, for all tests that need a network whose logits vary."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn

from streamser.nets.export import export_onnx, probe_frames
from streamser.nets.layers import SerNet
from streamser.nets.variant import Variant
from streamser.nets.zoo import OWN_VARIANTS, VARIANTS

ROWS = {**OWN_VARIANTS, **VARIANTS}
CLASSES = 4
CLIPS = 8
MOST_STEPS = 100

LEARNING_RATES = {
    "FocalResNet": 1e-3,
    "ParallelCnn": 1e-2,
    "CnnBlstm": 5e-3,
    "SepConv": 3e-3,
    "LightSerNet": 5e-3,
    "LightSerNetVariant": 5e-3,
    "Whisper": 5e-3,
}
CENTRE_RATE = 0.1  # centres follow the embedding, as in Wen et al. 2016, faster than the embedding moves


def architecture(variant: Variant) -> str:
    """The network class and its options, which are equal for rows that differ only in loss, recipe or front end."""
    assert isinstance(variant.build, partial)
    return f"{variant.build.func.__name__} {variant.build.keywords}"


# The last row of each architecture: if rows differ in their loss, this one is the furthest from plain softmax.
ARCHITECTURES = {architecture(variant): variant for variant in ROWS.values()}


_SIZES = {"bins", "filters", "blocks", "layers", "dropout"}  # they change the size of a graph, not its operators


def _operators(variant: Variant) -> tuple[object, ...]:
    assert isinstance(variant.build, partial)
    options = {name: value for name, value in variant.build.keywords.items() if name not in _SIZES}
    kinds = sorted((name, value if isinstance(value, bool | str) else "") for name, value in options.items())
    return variant.build.func.__name__, *kinds


# One architecture of each graph.
GRAPHS = sorted({_operators(variant): name for name, variant in ARCHITECTURES.items()}.values())


@dataclass(frozen=True)
class Overfitted:
    """A network that is overfitted to eight clips."""

    variant: Variant
    net: SerNet
    frames: Tensor
    targets: Tensor
    steps: int
    first_loss: float
    last_loss: float
    sure: float
    """The lowest probability of a true class over the clips."""


@cache
def overfitted(name: str) -> Overfitted:
    """Train an architecture on eight short clips, without dropout, until each true class has probability 0.5."""
    variant = ARCHITECTURES[name]
    torch.manual_seed(0)
    net = variant.build(CLASSES)
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # dropout would prevent overfitting
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 0.5  # few steps are too few for a slowly moving mean
    frames = torch.from_numpy(probe_frames(variant.features, CLIPS, max(net.min_frames, 8)))
    targets, difficulty = torch.arange(CLIPS) % CLASSES, torch.arange(CLIPS) % 3
    loss = variant.loss.build(CLASSES, net.embedding_dim, [10, 20, 30, 40])
    groups = [{"params": net.parameters()}, {"params": loss.parameters(), "lr": CENTRE_RATE}]
    optimizer = torch.optim.Adam(groups, lr=LEARNING_RATES[type(net).__name__])
    values: list[float] = []
    sure = 0.0
    while sure < 0.5 and len(values) < MOST_STEPS:
        for _ in range(5):
            optimizer.zero_grad()
            value = loss(net.train()(frames), targets, frames=frames, difficulty=difficulty)
            value.backward()
            optimizer.step()
            values.append(float(value.detach()))
        with torch.no_grad():
            logits = net.eval()(frames).logits
        sure = float(logits.softmax(1)[torch.arange(CLIPS), targets].min())
    return Overfitted(variant, net, frames, targets, len(values), values[0], values[-1], sure)


@cache
def exported(name: str) -> bytes:
    """The exported graph of the overfitted architecture."""
    trained = overfitted(name)
    return export_onnx(trained.net, trained.variant.features, CLASSES)
