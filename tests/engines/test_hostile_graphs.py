"""The graph of an untrusted checkpoint cannot read other files, run without end or fill the memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from makers import make_bundle, make_features, make_onnx, make_weights
from onnx import TensorProto, helper, numpy_helper

from streamser.bundle import find_models, load_bundle
from streamser.engines.onnx import OnnxEngine
from streamser.errors import BundleError
from streamser.onnxgraph import check_graph

FEATURES = make_features()


def valid_model() -> onnx.ModelProto:
    return onnx.load_from_string(make_onnx(make_weights(FEATURES, 4)))


def elsewhere(location: str) -> TensorProto:
    """A constant whose 16 bytes are in another file."""
    tensor = TensorProto(name="secret", data_type=TensorProto.UINT8, dims=[16], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def reads(location: str) -> onnx.ModelProto:
    model = valid_model()
    model.graph.initializer.append(elsewhere(location))
    return model


def reads_by_attribute() -> onnx.ModelProto:
    model = valid_model()
    model.graph.node.append(helper.make_node("Constant", [], ["secret"], value=elsewhere("/etc/passwd")))
    return model


def reads_sparsely() -> onnx.ModelProto:
    model = valid_model()
    values = elsewhere("/etc/passwd")
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, helper.make_tensor("i", TensorProto.INT64, [16], range(16)), [16])
    )
    return model


def loops_for_ever() -> onnx.ModelProto:
    """A graph whose `logits` come from a Loop node that never ends."""
    model = valid_model()
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c_out"]), helper.make_node("Identity", ["x"], ["x_out"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("c_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x_out", TensorProto.FLOAT, None),
        ],
    )
    model.graph.node[-1].output[0] = "before"
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "go"))
    model.graph.node.append(helper.make_node("Loop", ["", "go", "before"], ["logits"], body=body))
    return model


def unfolds_functions() -> onnx.ModelProto:
    model = valid_model()
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.functions.append(
        helper.make_function(
            "mine", "Twice", ["x"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"])], model.opset_import[:1]
        )
    )
    return model


def claims_a_terabyte() -> onnx.ModelProto:
    model = valid_model()
    model.graph.initializer.append(
        TensorProto(name="big", data_type=TensorProto.FLOAT, dims=[1 << 20, 1 << 18], raw_data=b"\0" * 64)
    )
    return model


def fills_the_memory() -> onnx.ModelProto:
    """A small graph that computes a constant of 16 GiB."""
    model = valid_model()
    model.graph.node[-1].output[0] = "before"
    # The size depends on the input, so that no optimizer computes the constant while the graph is loaded.
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 1], np.int64), "both"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 32], np.int64), "size"))
    model.graph.node.extend(
        [
            helper.make_node("ReduceMin", ["frames", "both"], ["least"]),
            helper.make_node("ReduceMin", ["least"], ["lowest"], keepdims=0),
            helper.make_node("Mul", ["lowest", "lowest"], ["square"]),
            helper.make_node("Sign", ["square"], ["one"]),
            helper.make_node("Cast", ["one"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Mul", ["size", "whole"], ["asked"]),
            helper.make_node("ConstantOfShape", ["asked"], ["big"]),
            helper.make_node("ReduceSum", ["big"], ["sum"]),
            helper.make_node("Add", ["before", "sum"], ["logits"]),
        ]
    )
    return model


def of(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (lambda: reads("/etc/passwd"), r"keeps constants in another file \(external data\)"),
        (lambda: reads("../../../../../../etc/passwd"), r"keeps constants in another file"),
        (lambda: reads("beside.bin"), r"keeps constants in another file"),
        (reads_by_attribute, r"keeps constants in another file"),
        (reads_sparsely, r"keeps constants in another file"),
        (loops_for_ever, r"has a 'Loop' node with a graph inside it"),
        (unfolds_functions, r"has its own functions"),
        (claims_a_terabyte, r"has a constant that claims 274877906944 values but has \d+ bytes"),
    ],
    ids=["absolute", "parents", "beside", "attribute", "sparse", "loop", "functions", "terabyte"],
)
def test_a_hostile_graph_is_refused_before_it_reaches_native_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Callable[[], onnx.ModelProto], rule: str
) -> None:
    monkeypatch.setattr("streamser.engines.onnx.Session", lambda *_, **__: pytest.fail("native code was reached"))
    with pytest.raises(BundleError, match=rf"model\.onnx: {rule}"):
        make_bundle(tmp_path / "hostile", onnx=of(model()))  # with a valid seal
    bundle = load_bundle(tmp_path / "hostile", verify=False)
    with pytest.raises(BundleError, match=rf"model\.onnx: {rule}"):
        OnnxEngine(bundle)


def test_a_graph_that_needs_too_much_memory_is_refused_and_the_process_continues(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "hungry", onnx=of(fills_the_memory()))
    began = time.monotonic()
    with pytest.raises(BundleError, match=r"(?s)the graph fails on one window of \d+ frames \(.*ConstantOfShape"):
        OnnxEngine(bundle)
    assert time.monotonic() - began < 30  # filling 16 GiB would take longer
    OnnxEngine(make_bundle(tmp_path / "valid")).run(np.zeros((1, 9, 64), np.float32))


def test_onnx_runtimes_own_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ONNX Runtime's own format"):
        check_graph(b"\x1c\0\0\0ORTM" + bytes(100))


@pytest.mark.parametrize("keep", [0, 1, 7, 100, -1])
def test_a_truncated_graph_is_refused(keep: int) -> None:
    with pytest.raises(ValueError, match="is not an ONNX model"):
        check_graph(make_onnx(make_weights(FEATURES, 4))[:keep])


def test_two_tensors_that_a_protobuf_reader_would_merge_are_refused() -> None:
    model = valid_model()
    small = helper.make_tensor("v", TensorProto.FLOAT, [4], [0.0] * 4)
    attribute = helper.make_attribute("value", small)
    twice = attribute.SerializeToString() + attribute.SerializeToString()
    node = helper.make_node("Constant", [], ["v"]).SerializeToString() + bytes([0x2A, len(twice)]) + twice
    graph = bytes([0x0A, len(node)]) + node
    with pytest.raises(ValueError, match="an attribute has two tensors"):
        check_graph(of(model) + bytes([0x3A, len(graph)]) + graph)


@pytest.mark.parametrize("name", find_models())
def test_the_graph_of_every_shipped_checkpoint_passes_the_check(name: str) -> None:
    check_graph(load_bundle(name, verify=False).onnx_path.read_bytes())
