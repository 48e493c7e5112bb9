"""Checkpoints with networks of the zoo and random weights whose logits vary; needs torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from makers import LABELS, babble, make_bundle, noise, tone

from streamser.bundle import Bundle
from streamser.features import FeatureConfig, Frames, extract, windows
from streamser.nets import zoo
from streamser.nets.export import export_onnx
from streamser.nets.layers import SerNet


def make_net(variant: str, features: FeatureConfig, seed: int = 0, classes: int = len(LABELS)) -> SerNet:
    """A network whose batch norms have statistics of audio, and whose logits differ by a few units per recording."""
    torch.manual_seed(seed)
    net = zoo.build(variant, classes)
    recordings = [
        tone(220.0, 3.0),
        noise(3.0),
        babble(3.0, seed=1),
        babble(3.0, seed=2, level=0.02),
        tone(3_000.0, 3.0),
    ]
    frames = torch.from_numpy(_stack(recordings, features))
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                module.momentum = None  # a plain average, for which one batch is enough
        net.train()
        net(frames)
        net.eval()
        logits = net(frames).logits
        head = net.head
        assert isinstance(head, torch.nn.Linear)
        scale = 3.0 / logits.std(0)
        head.bias.copy_((head.bias - logits.mean(0)) * scale)
        head.weight.mul_(scale[:, None])
    return net


def _stack(recordings: list[Frames], features: FeatureConfig) -> Frames:
    return np.concatenate([windows(extract(audio, features), features)[:1] for audio in recordings])


def make_net_bundle(folder: Path, variant: str, features: FeatureConfig | None = None, seed: int = 0) -> Bundle:
    """Save the network of `make_net` as a checkpoint, with the export function that training uses."""
    features = features or zoo.get(variant).features
    net = make_net(variant, features, seed)
    weights = {name: value.numpy() for name, value in net.state_dict().items()}
    graph = export_onnx(net, features, len(LABELS))
    return make_bundle(folder, features=features, weights=weights, onnx=graph, variant=variant)
