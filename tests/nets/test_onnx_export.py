"""An exported graph gives the same outputs as the network, at every length and batch size."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from zoo_parts import CLASSES, GRAPHS, exported, overfitted

from streamser.errors import BundleError
from streamser.features import FeatureConfig
from streamser.nets.export import (
    TOLERANCE,
    check_onnx,
    compare_graphs,
    export_onnx,
    frozen_copy,
    largest_difference,
    open_session,
    probe_frames,
    run_session,
)
from streamser.nets.layers import SerNet
from streamser.nets.lightsernet import LightSerNet
from streamser.nets.stepgraph import export_step
from streamser.nets.tracing import OPSET, Traceable
from streamser.nets.zoo import build, get

every_graph = pytest.mark.parametrize("name", GRAPHS)
LIGHT = next(name for name in GRAPHS if name.startswith("LightSerNet"))


@every_graph
def test_graph_and_network_agree_at_several_lengths_and_batch_sizes(name: str) -> None:
    trained = overfitted(name)
    net, features = trained.net, trained.variant.features
    session = open_session(exported(name))
    for batch, frames in [(1, features.window_frames), (4, net.min_frames + 3), (2, net.min_frames + 50)]:
        probe = probe_frames(features, batch, frames, seed=7)
        with torch.no_grad():
            expected, expected_embedding = net.eval().served(torch.from_numpy(probe))
        logits, embedding = run_session(session, probe)
        assert logits.shape == (batch, CLASSES) and embedding.shape == expected_embedding.shape
        np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4, rtol=1e-5)
        np.testing.assert_allclose(embedding, expected_embedding.numpy(), atol=1e-4, rtol=1e-5)
        # The control: the logits of another input differ by far more than the tolerance.
        others, _ = run_session(session, probe_frames(features, batch, frames, seed=8))
        assert np.abs(logits - others).max() > 100 * TOLERANCE


@every_graph
def test_graph_classifies_the_training_clips_as_the_network_does(name: str) -> None:
    trained = overfitted(name)
    session = open_session(exported(name))
    logits, _ = run_session(session, trained.frames.numpy())
    assert logits.argmax(1).tolist() == trained.targets.tolist()
    assert float(np.ptp(logits, axis=0).max()) > 0.1


def test_the_graph_is_valid_onnx_with_variable_batch_and_time() -> None:
    graph = onnx.load_from_string(export_onnx(build("lightsernet", 6), get("lightsernet").features, 6))
    onnx.checker.check_model(graph)
    assert graph.opset_import[0].version == OPSET
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.graph.input, *graph.graph.output)
    }
    assert shapes["frames"] == ["batch", "time", 40]
    assert shapes["logits"] == ["batch", 6]
    assert shapes["embedding"][0] == "batch"


def test_constants_that_half_precision_represents_exactly_are_stored_in_half_precision() -> None:
    features, net = get("whisper-1").features, build("whisper-1", 4)
    plain = export_onnx(net, features, 4)
    for values in net.parameters():
        values.data = values.data.half().float()
    half = export_onnx(net.eval(), features, 4)
    assert len(half) < 0.55 * len(plain)
    assert check_onnx(frozen_copy(net), features, half) <= TOLERANCE
    onnx.checker.check_model(onnx.load_from_string(half))


def test_a_graph_with_other_weights_is_refused() -> None:
    trained = overfitted(LIGHT)
    features = trained.variant.features
    graph = exported(LIGHT)
    assert check_onnx(frozen_copy(trained.net), features, graph) <= TOLERANCE
    other = copy.deepcopy(trained.net).eval()
    head = other.head
    assert isinstance(head, torch.nn.Linear)
    with torch.no_grad():
        head.bias[0] += 0.01
    with pytest.raises(BundleError, match="differs from the network by"):
        check_onnx(other, features, graph)
    moved = export_onnx(other, features, CLASSES)
    assert compare_graphs(graph, moved, trained.net, features) == pytest.approx(0.01, rel=0.01)


def test_a_network_that_gives_nan_cannot_be_exported() -> None:
    class Broken(LightSerNet):
        def embed(self, frames: torch.Tensor) -> torch.Tensor:
            return super().embed(frames) * float("nan")

    with pytest.raises(BundleError, match="differs from the network by nan"):
        export_onnx(Broken(CLASSES), get("lightsernet").features, CLASSES)


def test_differences_of_large_values_are_measured_relative_to_float32_precision() -> None:
    ones = np.ones(2, np.float32)
    assert largest_difference(ones, ones + 0.5) == pytest.approx(0.5)
    assert largest_difference(1000 * ones, 1000 * ones + 0.5) == pytest.approx(0.005, rel=0.01)
    assert largest_difference(ones, ones + 0.5, terms=1000.0) == pytest.approx(0.05)


def test_export_does_not_change_the_network() -> None:
    net = build("lightsernet", 4).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    export_onnx(net, get("lightsernet").features, 4)
    assert net.training and all(parameter.requires_grad for parameter in net.parameters())
    weight = net.body[0][0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_export_of_a_network_in_training_has_no_dropout() -> None:
    torch.manual_seed(0)
    net = build("sepconv", 4).train()
    features = get("sepconv").features
    session = open_session(export_onnx(net, features, 4))
    probe = probe_frames(features, 2, 50)
    first, second = (run_session(session, probe)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    with torch.no_grad():
        np.testing.assert_allclose(first, net.eval()(torch.from_numpy(probe)).logits, atol=1e-4)


def test_export_refuses_a_network_of_another_shape() -> None:
    with pytest.raises(ValueError, match="4 classes and 40 bins"):
        export_onnx(build("lightsernet", 4), get("lightsernet").features, 7)
    with pytest.raises(ValueError, match="but 4 classes and 64 bins"):
        export_onnx(build("lightsernet", 4), get("sepconv").features, 4)


class WithStep(LightSerNet):
    """A network outside the package that defines its own step graph."""

    def step_graph(self, features: FeatureConfig) -> Traceable:
        return Traceable(
            module=torch.nn.Linear(self.bins, self.n_classes),
            example=(torch.zeros(1, self.bins),),
            inputs=["frames"],
            outputs=["logits"],
            free_axes={"frames": {0: "time"}, "logits": {0: "time"}},
            metadata={"streamser.step": "mine"},
        )


def test_a_network_outside_the_package_can_define_its_own_step_graph() -> None:
    features = get("lightsernet").features
    graph = export_step(WithStep(4, bins=features.bins), features)
    assert graph is not None
    model = onnx.load_from_string(graph)
    assert [(prop.key, prop.value) for prop in model.metadata_props] == [("streamser.step", "mine")]
    assert export_step(WithStep(4, bins=features.bins), replace(features, center=True)) is None


def test_the_step_graph_of_a_base_network_is_none() -> None:
    assert SerNet(4, bins=8, embedding_dim=8, min_frames=1, min_bins=1).step_graph(get("lightsernet").features) is None
