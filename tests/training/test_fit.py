"""Tests of one fit on log-mel made in memory: the clips of an epoch, the batch statistics and the patience."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from streamser.corpora.clips import Clip
from streamser.errors import ConfigError
from streamser.features import FeatureConfig
from streamser.nets.export import export_onnx
from streamser.nets.layers import NetOutput, SerNet
from streamser.nets.lightsernet import LightSerNet
from streamser.nets.losses import LossSpec
from streamser.nets.parallel_cnn import ParallelCnn
from streamser.nets.sepconv import SepConv
from streamser.nets.variant import PublishedRecipe, Variant
from streamser.nets.zoo import OWN_VARIANTS, build
from streamser.ort import onnxruntime
from streamser.training.batches import BatchMaker
from streamser.training.featureaugment import FeatureAugment
from streamser.training.fit import Fit, FitData, FitOptions, Part, batch_slices
from streamser.training.optimizers import OPTIMIZERS
from streamser.training.recipe import recipe_from
from streamser.training.schedules import SCHEDULES, Schedule, rate_factor
from streamser.training.setup import set_up
from streamser.training.store import LevelStore
from streamser.training.windows import Resident, ServedWindows, resident

BINS, FRAMES = 40, 40
FEATURES = FeatureConfig(
    n_mels=BINS, log="db", clip=(-100.0, 0.0), scale="unit", length_s=0.68, short="zero", long="head"
)


def store_of(lengths: list[int], seed: int = 0) -> LevelStore:
    """Clips with these lengths. Every second clip is louder in the upper half of its bands."""
    rng = np.random.default_rng(seed)
    clips = []
    for i, length in enumerate(lengths):
        levels = rng.normal(-60.0, 6.0, (length, BINS))
        levels[:, BINS // 2 :] += 25.0 * (i % 2)
        clips.append(levels.astype(np.float16))
    ends = np.cumsum(lengths)
    return LevelStore(np.concatenate(clips), (ends - lengths)[None], np.array(lengths)[None])


def part_of(count: int) -> Part:
    clips = tuple(Clip(Path(f"{i}.wav"), "c", f"c/{i}", ("a", "b")[i % 2]) for i in range(count))
    return Part(clips, np.arange(count), np.arange(count) % 2)


def fit_of(net: SerNet, folder: Path, clips: int = 11, loss: nn.Module | None = None, **changes: Any) -> Fit:
    recipe = recipe_from(
        {
            "name": "x", "variant": "lightsernet", "labels": ["a", "b"], "batch": 4, "optimizer": "adam", "lr": 1e-3,
            "mask_absent_labels": False, "epochs": 1, **changes,
        }
    )  # fmt: skip
    torch.manual_seed(0)
    batches = BatchMaker(store_of([FRAMES] * clips), FEATURES, FeatureAugment())
    criterion = loss or LossSpec().build(2, net.embedding_dim)
    data = FitData(batches, part_of(clips), part_of(clips))
    return Fit(recipe, net, criterion, data, FitOptions(0, folder))


class Counting(SerNet):
    """A linear network that records the number of clips in each training batch."""

    def __init__(self) -> None:
        super().__init__(2, bins=BINS, embedding_dim=BINS, min_frames=1, min_bins=1)
        self.sizes: list[int] = []

    def embed(self, frames: Tensor) -> Tensor:
        if self.training:
            self.sizes.append(len(frames))
        return frames.mean(dim=1)


@pytest.mark.parametrize(("clips", "sizes"), [(11, [4, 4, 3]), (9, [4, 5]), (8, [4, 4]), (3, [3])])
def test_an_epoch_uses_every_clip_once(tmp_path: Path, clips: int, sizes: list[int]) -> None:
    net = Counting()
    fit_of(net, tmp_path, clips).run()
    assert net.sizes == sizes
    assert sum(part.stop - part.start for part in batch_slices(clips, 4)) == clips


@pytest.mark.parametrize("name", ["lightsernet", "sepconv", "cnn-blstm-softmax"])
def test_kernels_are_trained_in_channels_last_format(name: str, tmp_path: Path) -> None:
    fit = fit_of(build(name, 2), tmp_path)
    kernels = [value for value in fit.net.parameters() if value.dim() == 4]
    assert kernels
    # Strides, because a kernel of size 1 is contiguous in both formats; they decide in which one torch computes.
    assert [kernel.stride() for kernel in kernels] == [
        torch.zeros(kernel.shape).to(memory_format=torch.channels_last).stride() for kernel in kernels
    ]


def test_a_step_schedule_begins_with_the_full_learning_rate() -> None:
    every = Schedule(kind="steps", start_epoch=0, every_epochs=1, factor=0.5)
    assert [rate_factor(every, epoch, 9) for epoch in (0, 0.9, 1, 2)] == [1, 1, 0.5, 0.25]
    later = Schedule(kind="steps", start_epoch=50, every_epochs=20, factor=0.5)
    assert [rate_factor(later, epoch, 300) for epoch in (0, 49.9, 50, 69.9, 70)] == [1, 1, 0.5, 0.5, 0.25]


def test_one_row_in_a_table_adds_an_optimizer_or_a_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="optimizer: must be one of adam, adamw, adadelta, sgd, not 'rmsprop'"):
        fit_of(Counting(), tmp_path, optimizer="rmsprop")
    with pytest.raises(ConfigError, match=r"schedule.kind: must be one of constant, .* not 'linear'"):
        fit_of(Counting(), tmp_path, schedule={"kind": "linear"})
    monkeypatch.setitem(
        OPTIMIZERS, "rmsprop", lambda parameters, lr, decay: torch.optim.RMSprop(parameters, lr, weight_decay=decay)
    )
    monkeypatch.setitem(SCHEDULES, "linear", lambda schedule, epoch, epochs: 1 - epoch / epochs)
    fit = fit_of(Counting(), tmp_path, optimizer="rmsprop", schedule={"kind": "linear"}, epochs=2)
    fit.run()
    assert isinstance(fit.optimizer, torch.optim.RMSprop)
    rates = [group["lr"] for group in fit.optimizer.param_groups]
    assert rates == pytest.approx([1e-3 * (1 - (1 + 2 / 3) / 2)])  # at the third step of the second epoch


def test_one_row_in_a_table_adds_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Variant(
        name="counting", paper="mine", table="none", features=FEATURES, build=lambda classes: Counting(),
        loss=LossSpec(), recipe=PublishedRecipe(protocol="honest"),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="unknown variant 'counting'"):
        set_up(recipe_from({"name": "x", "variant": "counting", "labels": ["a", "b"]}))
    monkeypatch.setitem(OWN_VARIANTS, "counting", row)
    setup = set_up(recipe_from({"name": "x", "variant": "counting", "labels": ["a", "b"]}))
    net = setup.build()
    fitted = fit_of(net, tmp_path, variant="counting", epochs=2).run()
    graph = export_onnx(fitted.net.cpu().eval(), FEATURES, 2)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    frames = np.random.default_rng(0).random((1, FEATURES.window_frames, BINS)).astype(np.float32)
    with torch.inference_mode():
        expected = fitted.net(torch.from_numpy(frames)).logits.numpy()
    np.testing.assert_allclose(session.run(["logits"], {"frames": frames})[0], expected, atol=1e-4)


def test_the_patience_counts_the_epochs_since_the_best_epoch(tmp_path: Path) -> None:
    fit = fit_of(Counting(), tmp_path, epochs=50, patience=3, lr=1e-12, choose_by="wa")
    assert len(fit.run().history) == 1 + 3  # the first epoch is the best, and the next three are not better
    rare = fit_of(Counting(), tmp_path / "rare", epochs=8, patience=2, validate_every=5, lr=1e-12, choose_by="wa")
    assert len(rare.run().history) == 5 + 2  # the patience counts only from the first validation, in epoch 5


def test_batch_norm_statistics_are_estimated_with_the_current_weights(tmp_path: Path) -> None:
    """With Adadelta at 1.0, as in paper 2, the running averages are so old that predictions are at chance level."""
    reached = {}
    for clips in (0, 40):
        net = ParallelCnn(2, bins=BINS)
        fit = fit_of(net, tmp_path / str(clips), 40, optimizer="adadelta", lr=1.0, epochs=3, batch=8, norm_clips=clips)
        reached[clips] = fit.run().best_score
    assert reached[40] == 1.0
    assert reached[0] < 0.8


def test_estimating_batch_norm_statistics_does_not_change_the_learned_weights(tmp_path: Path) -> None:
    trained = []
    for clips in (0, 8):
        torch.manual_seed(0)
        net = LightSerNet(2, bins=BINS)
        fit_of(net, tmp_path / str(clips), epochs=2, choose_by="last", norm_clips=clips).run()
        trained.append(net)
    plain, estimated = (dict(net.named_parameters()) for net in trained)
    assert all(torch.equal(plain[name], estimated[name]) for name in plain)
    running, anew = (net.paths[0].norm.running_mean for net in trained)
    assert not torch.equal(running, anew)
    assert all(module.momentum == 0.1 for module in trained[1].modules() if isinstance(module, nn.BatchNorm2d))


def test_a_checkpoint_is_written_at_intervals_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    monkeypatch.setattr(Fit, "_save", lambda fit: saved.append(fit.epoch))
    fit_of(Counting(), tmp_path / "seldom", epochs=5).run()
    assert saved == [5]
    saved.clear()
    monkeypatch.setattr("streamser.training.fit.SAVE_EVERY_S", 0.0)
    fit_of(Counting(), tmp_path / "always", epochs=3).run()
    assert saved == [1, 2, 3]
    assert len((tmp_path / "always" / "log.jsonl").read_text(encoding="utf-8").splitlines()) == 3


def test_small_learning_rates_are_logged_without_rounding(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from streamser.cli.train import _Bar

    with caplog.at_level("INFO", "streamser"):
        _Bar(0).epoch("fold", {"epoch": 1.0, "lr": 4.0657e-6, "loss": 1.23456789})
    row = json.loads(caplog.messages[0].partition(" ")[2])
    assert row == {"epoch": 1.0, "lr": 4.0657e-6, "loss": 1.2346}


# ---- clips of their own length


def test_short_clips_are_trained_at_their_own_length_if_a_stream_keeps_it() -> None:
    features = FeatureConfig(n_mels=BINS, log="db", length_s=0.68, short="keep", long="middle")
    store = store_of([12, FRAMES, 25])
    batches = BatchMaker(store, features, FeatureAugment())
    rows, cpu = np.arange(3), torch.device("cpu")
    kept = resident(batches, rows, SepConv(2, bins=BINS), cpu)
    assert kept is not None
    frames, lengths = kept.batch(np.array([2, 0]))
    assert frames.shape == (2, 25, BINS) and lengths.tolist() == [25, 12]
    np.testing.assert_array_equal(frames[1, :12], store.frames(0).astype(np.float32))
    tiled = resident(batches, rows, LightSerNet(2, bins=BINS), cpu)  # LightSerNet takes no lengths
    assert tiled is not None and not tiled.padded
    np.testing.assert_array_equal(tiled.frames[0, 12:24], tiled.frames[0, :12])


@pytest.mark.parametrize("attention", [True, False])
def test_a_padded_batch_gets_the_same_scores_as_its_clips_alone(attention: bool) -> None:
    torch.manual_seed(0)
    net = SepConv(2, bins=BINS, blocks=2, attention=attention).eval()
    windows = [torch.randn(length, BINS) for length in (3, 4, 5, 6, 7, 8, 19, 40)]
    batch = Resident(windows, torch.device("cpu")).batch(np.arange(len(windows)))
    with torch.no_grad():
        together: NetOutput = net(*batch)
        alone = torch.cat([net(window[None]).logits for window in windows])
    torch.testing.assert_close(together.logits, alone)


def test_the_score_of_a_clip_does_not_depend_on_its_batch_or_on_earlier_calls() -> None:
    features = FeatureConfig(n_mels=BINS, log="db", length_s=0.5, short="keep", long="windows", stride_s=0.2)
    batches = BatchMaker(store_of([12, FRAMES, 25, 80]), features, FeatureAugment())
    net = SepConv(2, bins=BINS, blocks=1).eval()
    served = ServedWindows(batches, np.arange(4), net, torch.device("cpu"), size=3)
    first = served.logits(net)
    np.testing.assert_array_equal(served.logits(net), first)
    with torch.no_grad():
        own = [net(batches.whole(i)).logits.mean(dim=0).numpy() for i in range(4)]
    np.testing.assert_allclose(first, own, atol=1e-5)
