"""The ONNX engine computes the graph, and refuses a graph that does not fit the checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from makers import make_bundle, make_features, make_onnx, make_weights
from onnx import TensorProto, helper

from streamser.bundle import Bundle
from streamser.engines.onnx import OnnxEngine
from streamser.errors import BundleError
from streamser.features import Frames

FEATURES = make_features()
WEIGHTS = make_weights(FEATURES, 4)


def frames(batch: int, time: int = FEATURES.window_frames, seed: int = 0) -> Frames:
    return np.random.default_rng(seed).normal(-40.0, 20.0, (batch, time, FEATURES.bins)).astype(np.float32)


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> OnnxEngine:
    return OnnxEngine(bundle)


@pytest.mark.parametrize("shape", [(1, 59), (7, 59), (3, 1), (2, 200)])
def test_any_batch_and_length_gives_the_logits_and_embeddings_of_the_graph(
    engine: OnnxEngine, shape: tuple[int, int]
) -> None:
    given = frames(*shape)
    logits, embedding = engine.run(given)
    np.testing.assert_allclose(embedding, given.mean(axis=1), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(logits, given.mean(axis=1) @ WEIGHTS["weight"] + WEIGHTS["bias"], atol=1e-4)
    assert logits.dtype == embedding.dtype == np.float32
    assert len(given) == 1 or logits.std(axis=0).min() > 0.01


def test_a_window_gives_identical_logits_alone_and_in_a_batch(engine: OnnxEngine) -> None:
    given = frames(9)
    alone = np.concatenate([engine.run(given[i : i + 1])[0] for i in range(9)])
    np.testing.assert_array_equal(engine.run(given)[0], alone)


def test_an_empty_batch_gives_empty_logits(engine: OnnxEngine) -> None:
    logits, embedding = engine.run(frames(0))
    assert (logits.shape, embedding.shape) == ((0, 4), (0, 64))


def test_doubles_and_strided_views_are_computed_as_float32(engine: OnnxEngine) -> None:
    given = frames(2, 118)
    np.testing.assert_array_equal(engine.run(given[:, ::2].astype(np.float64))[0], engine.run(given[:, ::2].copy())[0])


@pytest.mark.parametrize("shape", [(59, 64), (1, 59, 40), (1, 1, 59, 64)])
def test_frames_of_another_shape_are_a_value_error(engine: OnnxEngine, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"frames must have shape \(batch, time, 64\) for tiny, not"):
        engine.run(np.zeros(shape, np.float32))


def test_an_engine_needs_at_least_one_thread(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="threads: 1 to 256"):
        OnnxEngine(bundle, threads=0)
    assert OnnxEngine(bundle, threads=2).metrics()["threads"] == 2


def test_a_graph_altered_after_loading_never_reaches_the_runtime(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "tiny")
    content = bundle.onnx_path.read_bytes()
    bundle.onnx_path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError, match=r"model\.onnx: SHA-256 is .* truncated or altered"):
        OnnxEngine(bundle)


def altered(change: Callable[[onnx.ModelProto], object], weights: dict[str, Frames] = WEIGHTS) -> bytes:
    model = onnx.load_from_string(make_onnx(weights))
    change(model)
    return bytes(model.SerializeToString())


def rename_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "mel"
    model.graph.node[0].input[0] = "mel"


def take_doubles(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    model.graph.node.insert(0, helper.make_node("Cast", ["frames"], ["cast"], to=TensorProto.FLOAT))
    model.graph.node[1].input[0] = "cast"


GRAPHS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is not an ONNX model"),
    "text": (b"this is not a graph" * 100, "is not an ONNX model"),
    "zeros": (b"\0" * 4_096, "is not an ONNX model"),
    "half": (make_onnx(WEIGHTS)[:700], "is not an ONNX model"),
    "an unknown operator": (altered(lambda m: setattr(m.graph.node[1], "op_type", "Frob")), "can load"),
    "a newer opset": (altered(lambda m: setattr(m.opset_import[0], "version", 99)), "can load"),
    "another input": (altered(rename_input), "maps mel to logits, embedding, but must map frames"),
    "no embedding": (altered(lambda m: m.graph.output.pop()), "maps frames to logits, but must map frames"),
    "doubles": (altered(take_doubles), r"takes frames as tensor\(double\)"),
    "other bins": (make_onnx(make_weights(make_features(n_mels=40), 4)), "takes 40 bins, but features .* give 64"),
    "other classes": (make_onnx(make_weights(FEATURES, 7)), r"shape \(1, 7\), but labels .* has 4 names"),
    "another length": (make_onnx(WEIGHTS, time=17), "fails on one window of 59 frames"),
    "NaN weights": (make_onnx({**WEIGHTS, "bias": np.full(4, np.nan, np.float32)}), "NaN or infinite"),
}


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_graph_that_does_not_fit_the_checkpoint_is_refused_even_with_the_right_hash(
    tmp_path: Path, graph: str
) -> None:
    content, message = GRAPHS[graph]
    with pytest.raises(BundleError, match=rf"odd.model\.onnx: .*{message}"):
        OnnxEngine(make_bundle(tmp_path / "odd", onnx=content))
