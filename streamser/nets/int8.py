"""Store the large matrices of a graph in 8 bits; ONNX Runtime then multiplies 8-bit integers.

Each block of 128 values in a column of the matrix has its own scale, and so has each block of 128 values in a row of
the input. A row's result thus does not depend on other rows, so the size of a chunk does not change it. Convolution
nodes and small matrices stay in 32 bits. A step graph that computes a convolution as a matrix product has 8-bit weights
there too, so its scores differ slightly from those of the whole graph. One scale for all rows together
(`DynamicQuantizeMatMul`) is faster but costs accuracy; docs/performance.md compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
from numpy.typing import NDArray

from streamser.features import Frames

__all__ = ["quantized"]

_LEAST = 10_000  # a matrix with fewer values stays in 32 bits, since it costs little
_KEPT = "hidden"  # the layer of this name stays in 32 bits: it has one row for each result, so it costs little
_BLOCK = 128  # values that share a scale
_INT8 = 4  # the operator's `accuracy_level` at which it also rounds the input to 8 bits
_DOMAIN = "com.microsoft"  # the domain of ONNX Runtime's own operators


def quantized(graph: bytes) -> bytes | None:
    """The graph with 8-bit matrices; None if it has no large matrix.

    >>> from onnx import TensorProto, helper
    >>> weights = helper.make_tensor("w", TensorProto.FLOAT, (128, 200), np.ones(25_600, np.float32))
    >>> x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    >>> node = helper.make_node("MatMul", ["x", "w"], ["y"])
    >>> model = helper.make_model(helper.make_graph([node], "one", [x], [y], [weights]))
    >>> smaller = quantized(model.SerializeToString())
    >>> len(smaller) < 30_000, [node.op_type for node in onnx.load_from_string(smaller).graph.node]
    (True, ['MatMulNBits'])
    """
    model = onnx.load_from_string(graph)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    casts = {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if node.op_type == "Cast" and node.input[0] in constants
    }
    nodes: list[onnx.NodeProto] = []
    added: list[onnx.TensorProto] = []
    for node in model.graph.node:
        weights = _weights(node, constants, casts)
        if weights is None:
            nodes.append(node)
            continue
        inner, outer = weights.shape
        blocks = weights.T.reshape(outer, -1, _BLOCK)
        scale = (np.maximum(np.abs(blocks).max(axis=2), 1e-12) / 127).astype(np.float32)
        name = f"int8.{len(added) // 2}"
        stored = (np.rint(blocks / scale[..., None]) + 128).astype(np.uint8)  # 128 stands for zero
        added.append(onnx.numpy_helper.from_array(stored, name))
        added.append(onnx.numpy_helper.from_array(scale, f"{name}.scale"))
        inputs = [node.input[0], name, f"{name}.scale", *(["", "", node.input[2]] if len(node.input) > 2 else [])]
        shape = {"K": inner, "N": outer, "bits": 8, "block_size": _BLOCK, "accuracy_level": _INT8}
        nodes.append(onnx.helper.make_node("MatMulNBits", inputs, node.output, name=node.name, domain=_DOMAIN, **shape))
    if not added:
        return None
    used = {name for node in nodes for name in node.input}
    nodes = [node for node in nodes if node.output[0] not in casts or node.output[0] in used]
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend([*kept, *added])
    model.opset_import.append(onnx.helper.make_opsetid(_DOMAIN, 1))
    return bytes(model.SerializeToString())


def _weights(node: onnx.NodeProto, constants: Mapping[str, NDArray[Any]], casts: Mapping[str, str]) -> Frames | None:
    """The matrix (inputs, outputs) that a node multiplies by, if the node is a plain product with a large constant."""
    if node.op_type not in ("MatMul", "Gemm") or _KEPT in node.name:
        return None
    values = constants.get(casts.get(node.input[1], node.input[1]))
    if values is None or values.ndim != 2 or values.size < _LEAST:
        return None
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if given.get("transA", 0) or given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0:
        return None
    weights = values.astype(np.float32)
    weights = np.ascontiguousarray(weights.T if given.get("transB", 0) else weights)
    return None if len(weights) % _BLOCK else weights
