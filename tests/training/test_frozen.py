"""The stored output of a frozen encoder is the same with any number of workers and equals the output in a stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from streamser.nets.whisper import Whisper
from streamser.nets.zoo import get
from streamser.training.batches import BatchMaker
from streamser.training.featureaugment import FeatureAugment
from streamser.training.frozen import build_frozen_store
from streamser.training.options import RunOptions
from streamser.training.recipe import Recipe
from streamser.training.store import LevelStore

FEATURES = get("whisper").features
CLIPS, FRAMES = 70, 30


@pytest.fixture(scope="module")
def store() -> LevelStore:
    values = np.random.default_rng(0).normal(0, 0.1, (2 * CLIPS * FRAMES, FEATURES.bins)).astype(np.float16)
    starts = np.arange(2 * CLIPS).reshape(2, CLIPS) * FRAMES
    return LevelStore(values, starts, np.full((2, CLIPS), FRAMES), "sounds")


@pytest.fixture(scope="module")
def net() -> Whisper:
    torch.manual_seed(0)
    return Whisper(3, layers=1).eval()


def encoded(net: Whisper, store: LevelStore, cache: Path, workers: int = 1, crop: float = 0.0) -> LevelStore:
    augment = FeatureAugment(crop_probability=crop, crop_min_s=0.2)
    recipe = Recipe(name="x", variant="whisper", feature_augment=augment)
    return build_frozen_store(net, store, FEATURES, recipe, RunOptions(cache=cache, workers=workers))


def test_the_stored_output_equals_that_of_the_windows_in_a_stream_and_is_read_from_disk(
    net: Whisper, store: LevelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encoded(net, store, tmp_path)
    windows = BatchMaker(store, FEATURES, FeatureAugment()).whole(7, 1)
    with torch.no_grad():
        np.testing.assert_allclose(first.frames(7, 1), net.encode(windows).numpy(), atol=1e-6)
    monkeypatch.setattr(Whisper, "encode", lambda *_: pytest.fail("the encoder's output is in the cache"))
    again = encoded(net, store, tmp_path)
    np.testing.assert_array_equal(again.levels, first.levels)
    assert again.key == first.key


def test_two_workers_give_the_same_output_as_one(net: Whisper, store: LevelStore, tmp_path: Path) -> None:
    one, two = encoded(net, store, tmp_path / "one"), encoded(net, store, tmp_path / "two", workers=2)
    np.testing.assert_allclose(two.levels, one.levels, atol=1e-6)
    np.testing.assert_array_equal(two.starts, one.starts)


def test_only_copies_are_cropped_and_another_encoder_computes_its_own_store(
    net: Whisper, store: LevelStore, tmp_path: Path
) -> None:
    whole, pieces = encoded(net, store, tmp_path), encoded(net, store, tmp_path, crop=1.0)
    np.testing.assert_array_equal(pieces.frames(3, 0), whole.frames(3, 0))
    assert np.abs(pieces.frames(3, 1) - whole.frames(3, 1)).max() > 1e-3
    torch.manual_seed(1)
    assert encoded(Whisper(3, layers=1).eval(), store, tmp_path).key != whole.key
