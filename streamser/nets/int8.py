"""Store the large matrices of a graph in 8 bits; ONNX Runtime then multiplies 8-bit integers.

Each output column of a matrix has a scale of its own. The other factor is brought to 8 bits as it arrives, with one
scale for all of it. Convolutions and small matrices stay in 32 bits.
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

_LEAST = 10_000  # values of a matrix; smaller ones cost little
_KEPT = "hidden"  # the layer on top of an encoder's statistics: one row for each result
_DOMAIN = "com.microsoft"  # of ONNX Runtime's own operators


def quantized(graph: bytes) -> bytes | None:
    """The graph with 8-bit matrices; None where it multiplies by no large one.

    >>> from onnx import TensorProto, helper
    >>> weights = helper.make_tensor("w", TensorProto.FLOAT, (100, 200), np.ones(20_000, np.float32))
    >>> x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    >>> node = helper.make_node("MatMul", ["x", "w"], ["y"])
    >>> model = helper.make_model(helper.make_graph([node], "one", [x], [y], [weights]))
    >>> smaller = quantized(model.SerializeToString())
    >>> len(smaller) < 30_000, [node.op_type for node in onnx.load_from_string(smaller).graph.node]
    (True, ['DynamicQuantizeMatMul'])
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
        scale = (np.maximum(np.abs(weights).max(axis=0), 1e-12) / 127).astype(np.float32)
        name = f"int8.{len(added) // 2}"
        added.append(onnx.numpy_helper.from_array(np.rint(weights / scale).astype(np.int8), name))
        added.append(onnx.numpy_helper.from_array(scale, f"{name}.scale"))
        inputs = [node.input[0], name, f"{name}.scale", *(["", node.input[2]] if len(node.input) > 2 else [])]
        nodes.append(
            onnx.helper.make_node("DynamicQuantizeMatMul", inputs, node.output, name=node.name, domain=_DOMAIN)
        )
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
    """The matrix (inputs, outputs) that a node multiplies by, if it is a large constant and nothing else happens."""
    if node.op_type not in ("MatMul", "Gemm") or _KEPT in node.name:
        return None
    values = constants.get(casts.get(node.input[1], node.input[1]))
    if values is None or values.ndim != 2 or values.size < _LEAST:
        return None
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if given.get("transA", 0) or given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0:
        return None
    weights = values.astype(np.float32)
    return np.ascontiguousarray(weights.T if given.get("transB", 0) else weights)
