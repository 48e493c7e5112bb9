"""Every row of the zoo can be built and run, and every architecture learns."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from zoo_parts import ARCHITECTURES, CLASSES, ROWS, overfitted

from streamser.corpora.benchmarks import BENCHMARKS
from streamser.corpora.protocols import PAPERS
from streamser.errors import ConfigError
from streamser.nets.export import probe_frames
from streamser.nets.layers import CosineHead, count_parameters
from streamser.nets.parallel_cnn import ParallelCnn
from streamser.nets.variant import Variant
from streamser.nets.zoo import OWN_VARIANTS, VARIANTS, build, get

every_row = pytest.mark.parametrize("variant", ROWS.values(), ids=ROWS.keys())
every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


def test_the_zoo_has_every_row_of_the_papers() -> None:
    families = Counter(variant.paper.split()[0].rstrip(",") for variant in VARIANTS.values())
    # Tripathi: 4 rows in one paper; in the other paper 8 rows, and the row "A only" for each of the two inputs. Zhong:
    # 17 rows, each in two readings of the paper. Scardino: 3 rows, each with two schedules.
    assert families == {"Tripathi": 4 + 10, "Discriminative": 14, "Zhong": 34, "Aftab": 4, "Scardino": 6}
    assert not set(VARIANTS) & set(OWN_VARIANTS)


@every_row
def test_a_row_names_its_paper_its_table_and_the_published_figures(variant: Variant) -> None:
    assert ROWS[variant.name] is variant
    assert variant.paper and variant.table
    if variant.name in VARIANTS:
        assert variant.recipe.protocol in PAPERS
        assert variant.published
        for benchmark, figures in variant.published.items():
            assert benchmark in BENCHMARKS
            assert all(20 < value < 100 for name, value in figures.items() if name != "mse_e4")
    else:
        assert variant.recipe.protocol == "honest"


@every_row
def test_the_network_of_a_row_accepts_its_window_length_and_shorter_inputs(variant: Variant) -> None:
    torch.manual_seed(0)
    net = variant.build(CLASSES).eval()
    features = variant.features
    assert net.bins == features.bins
    assert features.window_frames >= net.min_frames
    for batch, frames in [(1, features.window_frames), (3, net.min_frames + 5)]:
        with torch.no_grad():
            output = net(torch.from_numpy(probe_frames(features, batch, frames)))
        assert output.logits.shape == (batch, CLASSES)
        assert output.embedding.shape == (batch, net.embedding_dim)
        assert bool(torch.isfinite(output.logits).all())
        # The logits are computed from the embedding that is returned.
        np.testing.assert_allclose(net.head(output.embedding).detach(), output.logits, atol=1e-5)
        if variant.loss.reconstruction:
            assert output.reconstruction is not None
            assert output.reconstruction.shape == (batch, frames, features.bins)
        else:
            assert output.reconstruction is None


@every_row
def test_the_loss_of_a_row_fits_its_network(variant: Variant) -> None:
    net = variant.build(CLASSES)
    assert isinstance(net.head, CosineHead) == (variant.loss.kind == "am_softmax")
    if isinstance(net.head, CosineHead):
        assert net.head.scale == variant.loss.scale
    if variant.loss.reconstruction and isinstance(net, ParallelCnn):
        assert variant.features.scale == "unit"  # a sigmoid can only reconstruct values in [0, 1]


@every_architecture
def test_an_architecture_overfits_eight_clips(name: str) -> None:
    trained = overfitted(name)
    with torch.no_grad():
        predicted = trained.net.eval()(trained.frames).logits.argmax(1)
    assert predicted.tolist() == trained.targets.tolist()
    assert trained.sure > 0.5
    assert trained.last_loss < 0.5 * trained.first_loss


def test_architectures_are_overfitted_with_every_kind_of_loss() -> None:
    losses = [variant.loss for variant in ARCHITECTURES.values()]
    assert {loss.kind for loss in losses} == {"softmax", "focal", "difficulty_focal", "am_softmax"}
    for term in ("weighted", "centre", "reconstruction"):
        assert any(getattr(loss, term) for loss in losses)


def test_parameter_counts_equal_the_published_ones() -> None:
    def count(name: str, **options: bool) -> int:
        return count_parameters(build(name, 4), **options)

    assert count("lightsernet-3s-ce", statistics=True) == 462_468
    assert [count(f"sepconv-n{n}-wce") for n in range(1, 7)] == [860_166 + 17_728 * n for n in range(1, 7)]
    assert count("sepconv-n5-focal") == 948_806
    # Table 4 prints them cut after two digits, in units of 2^20.
    printed = [int(count(f"sepconv-n{n}-focal") / 2**20 * 100 + 0.5) / 100 for n in range(1, 7)]
    assert printed == [0.84, 0.85, 0.87, 0.89, 0.9, 0.92] or printed == [0.83, 0.85, 0.87, 0.88, 0.9, 0.92]
    assert count("parallel-cnn-mel-sc") == count("parallel-cnn-mfcc-s") == 260_452
    assert round(count("focal-resnet-mel-focal") / 1e6, 2) == 11.17
    assert round(count("focal-resnet-mfcc-focal") / 1e6, 2) == 11.17


def test_cnn_blstm_has_more_parameters_than_its_paper_states() -> None:
    # The paper states "less than 360K" and "383K"; the docstring of nets/cnn_blstm.py explains the difference.
    baseline, combined = (count_parameters(build(f"cnn-blstm-{row}", 4)) for row in ("softmax", "combined"))
    assert (baseline, combined) == (401_412, 401_668)
    assert combined - baseline == 256  # 64 values by four classes: 0.07 % of the paper's 383K
    assert count_parameters(build("cnn-blstm-focal-g2-a2", 4)) == baseline
    assert count_parameters(build("cnn-blstm-ams-s10-m0.4", 4)) == baseline - 4  # no bias


def test_rows_can_be_built_with_any_number_of_classes() -> None:
    for name in ("lightsernet", "sepconv", "focal-resnet-mfcc-focal", "parallel-cnn-mfcc-s", "cnn-blstm-ams-s30-m0.1"):
        assert build(name, 7).n_classes == 7
    with pytest.raises(ValueError, match="at least 2 classes"):
        build("lightsernet", 1)


def test_an_unknown_name_is_reported_with_the_nearest() -> None:
    assert get("sepconv").name == "sepconv"
    with pytest.raises(ConfigError, match="did you mean 'lightsernet'"):
        get("lightsernett")
    with pytest.raises(ConfigError, match="did you mean 'sepconv-n5-focal'"):
        build("sepconv_n5_focal", 4)


@pytest.mark.parametrize("name", ["parallel-cnn-mel-sc", "parallel-cnn-mfcc-sac"])
def test_the_centre_loss_does_not_outweigh_the_labels(name: str) -> None:
    torch.manual_seed(0)
    variant = VARIANTS[name]
    net = variant.build(4).train()
    frames, labels = torch.rand(16, 24, variant.features.bins), torch.arange(16) % 4
    output = net(frames)._replace(reconstruction=None)
    spec = replace(variant.loss, reconstruction=0.0)
    with_labels = replace(spec, centre=0.0).build(4, net.embedding_dim)(output, labels)
    with_both = spec.build(4, net.embedding_dim)(output, labels)
    # with half the sum over the embedding instead of the mean, the ratio is above 20 and the embedding collapses
    assert 1.2 < (with_both / with_labels).item() < 4
