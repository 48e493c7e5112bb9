"""The layers of the networks, and the shapes and precisions that every network accepts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from zoo_parts import CLASSES

from streamser.nets.cnn_blstm import CnnBlstm
from streamser.nets.export import probe_frames
from streamser.nets.focal_resnet import FocalResNet
from streamser.nets.layers import SerNet, SharedBiGru, attend
from streamser.nets.lightsernet import EMBEDDING, LightSerNet
from streamser.nets.lightsernet_variants import LightSerNetVariant
from streamser.nets.parallel_cnn import ParallelCnn, _quarters
from streamser.nets.sepconv import SepConv
from streamser.nets.zoo import build, get

LEAST: dict[str, tuple[Callable[..., SerNet], int, int]] = {  # network, fewest frames, fewest bins
    "focal-resnet": (FocalResNet, 1, 1),
    "parallel-cnn": (ParallelCnn, 13, 11),
    "cnn-blstm": (CnnBlstm, 32, 32),
    "sepconv": (SepConv, 3, 3),
    "lightsernet": (LightSerNet, 32, 8),
}
every_net = pytest.mark.parametrize(("make", "frames", "bins"), LEAST.values(), ids=LEAST.keys())


@every_net
def test_a_network_accepts_any_size_from_its_smallest_on(make: Callable[..., SerNet], frames: int, bins: int) -> None:
    for more_bins in (0, 1, 33):
        net = make(CLASSES, bins=bins + more_bins).eval()
        assert net.min_frames == frames
        for more_frames in (0, 1, 64):
            output = net(torch.randn(2, frames + more_frames, bins + more_bins))
            assert output.logits.shape == (2, CLASSES)
            assert bool(torch.isfinite(output.logits).all())


@every_net
def test_a_network_refuses_smaller_inputs_and_names_its_smallest_size(
    make: Callable[..., SerNet], frames: int, bins: int
) -> None:
    net = make(CLASSES, bins=bins)
    with pytest.raises(ValueError, match=f"time >= {frames}, {bins} bins"):
        net(torch.randn(2, frames - 1, bins))
    with pytest.raises(ValueError, match=rf"not \(2, {frames}, {bins + 1}\)"):
        net(torch.randn(2, frames, bins + 1))
    with pytest.raises(ValueError, match="not"):
        net(torch.randn(frames, bins))
    with pytest.raises(ValueError, match=f"at least {bins} bins"):
        make(CLASSES, bins=bins - 1)


@pytest.mark.parametrize(
    "name", ["focal-resnet-mfcc-focal", "parallel-cnn-mfcc-sac", "cnn-blstm-ams-s30-m0.4", "sepconv", "lightsernet"]
)
def test_a_network_trains_under_bfloat16_autocast(name: str) -> None:
    torch.manual_seed(0)
    variant = get(name)
    net = build(name, CLASSES).train()
    loss = variant.loss.build(CLASSES, net.embedding_dim, [1, 1, 1, 1])
    frames = torch.from_numpy(probe_frames(variant.features, 4, net.min_frames + 8))
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(net(frames), torch.arange(4), frames=frames)
    value.backward()
    assert value.dtype == torch.float32 and bool(torch.isfinite(value))
    trained = {name: parameter.grad for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert all(grad is not None and bool(torch.isfinite(grad).all()) for grad in trained.values())


def test_channels_last_gives_the_same_logits() -> None:
    torch.manual_seed(0)
    net = build("lightsernet", CLASSES).eval()
    frames = torch.from_numpy(probe_frames(get("lightsernet").features, 3, 100))
    with torch.no_grad():
        plain = net(frames).logits
        moved = net.to(memory_format=torch.channels_last)(frames).logits  # type: ignore[call-overload]
        other = net(frames.flip(0)).logits
    np.testing.assert_allclose(moved, plain, atol=1e-6)
    assert float((other - plain).abs().max()) > 1e-5


def test_a_shared_bidirectional_gru_runs_one_gru_over_the_sequence_and_its_reverse() -> None:
    torch.manual_seed(0)
    gru = SharedBiGru(6, 4)
    x = torch.randn(3, 9, 6)
    steps, last = gru(x)
    mirrored, _ = gru(x.flip(1))
    ahead, behind = steps.chunk(2, dim=2)
    np.testing.assert_allclose(mirrored.chunk(2, dim=2)[0].flip(1).detach(), behind.detach(), atol=1e-6)
    np.testing.assert_allclose(last.detach(), torch.cat([ahead[:, -1], behind[:, 0]], dim=1).detach(), atol=1e-6)
    assert float((ahead - behind).detach().abs().max()) > 0.1


def test_a_shared_bidirectional_gru_follows_the_equations_of_a_gru() -> None:
    torch.manual_seed(0)
    gru = SharedBiGru(3, 2)
    x = torch.randn(1, 5, 3)
    weights = {name: value.detach().numpy() for name, value in gru.gru.named_parameters()}
    w, u, b = weights["weight_ih_l0"], weights["weight_hh_l0"], weights["bias_ih_l0"]

    def sigmoid(value: np.ndarray) -> np.ndarray:
        return 1.0 / (1.0 + np.exp(-value))

    h = np.zeros(2)
    for t in range(5):
        given, kept = w @ x[0, t].numpy() + b, u @ h
        reset, update = sigmoid(given[:2] + kept[:2]), sigmoid(given[2:4] + kept[2:4])
        h = (1.0 - update) * np.tanh(given[4:] + reset * kept[4:]) + update * h
    np.testing.assert_allclose(gru(x)[1][0, :2].detach(), h, atol=1e-6)


def test_a_shared_gru_has_one_bias_even_after_training() -> None:
    gru = SharedBiGru(3, 2)
    optimizer = torch.optim.AdamW([p for p in gru.parameters() if p.requires_grad], lr=0.1)
    gru(torch.randn(2, 4, 3))[0].square().sum().backward()
    optimizer.step()
    assert bool((gru.gru.get_parameter("bias_hh_l0") == 0).all())
    assert bool((gru.gru.get_parameter("bias_ih_l0") != 0).any())


def test_attention_is_a_mean_weighted_by_the_softmax_of_its_scores() -> None:
    x = torch.randn(2, 5, 3)
    np.testing.assert_allclose(attend(x, torch.zeros(2, 5)), x.mean(1), atol=1e-6)
    one = torch.full((2, 5), -50.0)
    one[:, 3] = 50.0
    np.testing.assert_allclose(attend(x, one), x[:, 3], atol=1e-6)


@pytest.mark.parametrize("size", [(2, 2), (7, 9), (8, 5), (30, 31)])
def test_quarter_pooling_takes_the_maximum_of_each_quarter_of_the_plane(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size)
    pooled = F.max_pool2d(x, (size[0] // 2, size[1] // 2))[:, :, :2, :2]
    np.testing.assert_array_equal(_quarters(x), pooled.flatten(1))


def test_combined_pooling_is_the_weighted_mean_and_the_weighted_deviation() -> None:
    torch.manual_seed(0)
    net = CnnBlstm(CLASSES, combined=True).eval()
    frames = torch.from_numpy(probe_frames(get("cnn-blstm-combined").features, 1, 256))
    with torch.no_grad():
        embedding = net(frames).embedding[0].numpy()
        x = net.convolutions(frames.unsqueeze(1)).transpose(1, 2).flatten(2)
        steps = net.lstm(x)[0][0].reshape(-1, 2, 64).numpy()  # (T/32, direction, 64)
    scores = np.einsum("tdk,dk->td", steps, net.queries.detach().numpy())
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    mean = np.einsum("td,tdk->k", weights, steps)
    deviation = np.sqrt(np.einsum("td,tdk->k", weights, (steps - mean) ** 2))
    np.testing.assert_allclose(embedding[:64], mean, atol=1e-5)
    np.testing.assert_allclose(embedding[64:], np.maximum(deviation, 1e-4), atol=1e-5)


def test_a_decoder_reconstructs_no_input_longer_than_its_window() -> None:
    net = ParallelCnn(CLASSES, bins=40, decode_frames=60).eval()
    rebuilt = net(torch.rand(2, 60, 40)).reconstruction
    assert rebuilt is not None and float(rebuilt.detach().min()) > 0.0 and float(rebuilt.detach().max()) < 1.0
    assert net(torch.rand(2, 30, 40)).reconstruction.shape == (2, 30, 40)
    assert net(torch.rand(2, 61, 40)).reconstruction is None


def test_the_network_of_the_lightsernet_report_adds_its_input_to_each_path() -> None:
    torch.manual_seed(0)
    net = LightSerNet(CLASSES, prelu=True, residual=True).eval()
    frames = torch.from_numpy(probe_frames(get("lightsernet").features, 1, 64))
    path = net.paths[0]
    with torch.no_grad():
        with_input = path(frames.unsqueeze(1))
        path.residual = False
        without = path(frames.unsqueeze(1))
    pooled = F.avg_pool2d(frames.unsqueeze(1), 2).expand_as(without)
    np.testing.assert_allclose(with_input - without, pooled, atol=1e-4)


def test_combined_pooling_is_the_plain_mean_until_its_query_is_trained() -> None:
    torch.manual_seed(0)
    net = LightSerNetVariant(CLASSES, pooling="combined").eval()
    frames = torch.from_numpy(probe_frames(get("lightsernet").features, 2, 64))
    assert net.query is not None
    with torch.no_grad():
        places = net.maps(frames).flatten(2)
        begun = net.embed(frames)
        np.testing.assert_allclose(begun[:, :EMBEDDING], places.mean(dim=2), atol=1e-5)
        np.testing.assert_allclose(begun[:, EMBEDDING:], (places.var(dim=2, correction=0) + 1e-5).sqrt(), atol=1e-4)
        net.query.fill_(1.0)
        weights = torch.softmax(places.sum(dim=1), dim=1)
        np.testing.assert_allclose(net.embed(frames)[:, :EMBEDDING], (places @ weights.unsqueeze(2))[..., 0], atol=1e-4)


def test_a_variant_with_a_decoder_reconstructs_inputs_up_to_its_window() -> None:
    net = LightSerNetVariant(CLASSES, decode_frames=60).eval()
    assert net(torch.rand(2, 40, 40)).reconstruction.shape == (2, 40, 40)
    assert net(torch.rand(2, 61, 40)).reconstruction is None
