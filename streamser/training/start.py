"""The weights that a training starts from, and the check that they were not made with a fold's test clips."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from streamser.bundle import PRETRAINED_ON, load_bundle, model_folders
from streamser.corpora.clips import PLAIN
from streamser.corpora.protocols import Split
from streamser.errors import ConfigError, ProtocolError
from streamser.nets.layers import SerNet
from streamser.training.teachers import speakers_of, tested_among

__all__ = ["START_SUFFIX", "begin_with", "check_start", "pretrained_on"]

START_SUFFIX = ".safetensors"


def begin_with(net: SerNet, start: str) -> None:
    """Copy every tensor of `start` that fits the network, except the head's; ConfigError if none does."""
    weights = _file_weights(start) if start.endswith(START_SUFFIX) else load_bundle(start).weights()
    own = net.state_dict()
    fresh = set(net.trained().state_dict()) if net.needs_start else {name for name in own if name.startswith("head.")}
    fitting = {
        name: torch.from_numpy(value).to(own[name].dtype)
        for name, value in weights.items()
        if name in own and own[name].shape == value.shape and name not in fresh
    }
    if not fitting:
        raise ConfigError(f"start: {start} has no tensor that fits {type(net).__name__}")
    net.load_state_dict({**own, **fitting})


def pretrained_on(start: str) -> tuple[str, ...]:
    """The corpora of the pretraining that gave the weights of `start`; empty if there was none."""
    if not start.endswith(START_SUFFIX):
        return load_bundle(start, verify=False).pretrained_on if start else ()
    with _opened(start) as file:
        names = (file.metadata() or {}).get(PRETRAINED_ON, "")
    return tuple(names.split(",")) if names else ()


def check_start(start: str, split: Split, *, frozen: bool) -> None:
    """ProtocolError if the weights of `start` were made with clips that the split tests on, also without their labels.

    A checkpoint whose encoder is `frozen` passes on only the encoder, which its own training did not change. Plain
    speech may have been in the pretraining, which needs much of it: the card names it.
    """
    if not start or not split.test:
        return
    tested = {clip.corpus for clip in split.test if clip.style != PLAIN} & set(pretrained_on(start))
    if tested:
        raise ProtocolError(
            f"{split.name}: the weights of {start} were pretrained on {', '.join(sorted(tested))}, which this fold "
            "tests on; set start to weights that were not, or leave it empty for random weights"
        )
    if frozen or start.endswith(START_SUFFIX):
        return
    shared = tested_among(split, speakers_of(load_bundle(start, verify=False)))
    if shared:
        raise ProtocolError(
            f"{split.name}: the checkpoint {start} was trained on {', '.join(shared[:3])}, which this fold "
            "tests on; set start to weights that were not, or leave it empty for random weights"
        )


def _file_weights(start: str) -> dict[str, NDArray[Any]]:
    with _opened(start) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no mapping


@contextmanager
def _opened(start: str) -> Iterator[Any]:
    try:
        with safe_open(_file_of(start), "numpy") as file:
            yield file
    except SafetensorError as error:
        raise ConfigError(f"start: {start}: not a safetensors file ({error})") from error


def _file_of(start: str) -> Path:
    """The file in the working folder, else in a folder of checkpoints."""
    for folder in (Path(), *model_folders()):
        if (folder / start).is_file():
            return folder / start
    raise ConfigError(f"start: {start}: no such file")
