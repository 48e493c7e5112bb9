"""Refuse ONNX graphs that could read another file, run without end or declare more constants than their data holds.

ONNX Runtime follows references to external data wherever they lead, and runs a Loop for as long as the graph asks. The
runtime has no `onnx` package, so this module walks the protobuf wire format itself. It visits every occurrence of a
field, because a protobuf reader merges fields that occur twice.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["check_graph"]

Field = tuple[int, int | memoryview]
"""A field's number and its value: an integer, or the bytes of a string, a message or a fixed-width number."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Field numbers of onnx.proto.
_MODEL_GRAPH, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 20, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_OP_TYPE, _NODE_ATTRIBUTE = 4, 5
_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS, _ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES = 5, 10, 22, 23
_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 6, 11
_SPARSE_VALUES, _SPARSE_INDICES = 1, 2
_TENSOR_DIMS, _TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 1, 13, 14

_ORT_IDENTIFIER = b"ORTM"  # bytes 4 to 8 of ONNX Runtime's own format, which it recognizes by itself


def check_graph(graph: bytes) -> None:
    """ValueError when the bytes are not an ONNX model, or one that streamser does not run.

    >>> check_graph(b"no model")
    Traceback (most recent call last):
    ValueError: is not an ONNX model (unknown wire type 6)
    """
    if graph[4:8] == _ORT_IDENTIFIER:
        raise ValueError("is in ONNX Runtime's own format, not an ONNX model")
    graphs = 0
    for number, value in _fields(memoryview(graph)):
        if number in (_MODEL_FUNCTIONS, _MODEL_TRAINING):
            raise ValueError("has its own functions or training graphs, which no exported checkpoint needs")
        if number == _MODEL_GRAPH:
            graphs += 1
            _check_nodes_and_constants(_message(value))
    if not graphs:
        raise ValueError("is not an ONNX model (it has no graph)")


def _check_nodes_and_constants(graph: memoryview) -> None:
    for number, value in _fields(graph):
        if number == _GRAPH_NODE:
            _check_node(_message(value))
        elif number == _GRAPH_INITIALIZER:
            _check_tensor(_message(value))
        elif number == _GRAPH_SPARSE:
            _check_sparse(_message(value))


def _check_node(node: memoryview) -> None:
    op_type = ""
    has_graph = False
    for number, value in _fields(node):
        if number == _NODE_OP_TYPE:
            op_type = bytes(_message(value)).decode("utf-8", "replace")
        elif number == _NODE_ATTRIBUTE:
            has_graph |= _check_attribute(_message(value))
    if has_graph:
        raise ValueError(
            f"has a {op_type!r} node with a graph inside it (Loop, Scan, If and their like may run without end); "
            "no exported checkpoint needs one"
        )


def _check_attribute(attribute: memoryview) -> bool:
    """Check the tensors of an operator's attribute; returns whether the attribute contains a subgraph."""
    has_graph = False
    tensors = 0
    for number, value in _fields(attribute):
        if number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
            has_graph = True
        elif number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
            tensors += number == _ATTRIBUTE_TENSOR
            if tensors > 1:  # a protobuf reader would merge them into one tensor with more dimensions
                raise ValueError("is not an ONNX model (an attribute has two tensors)")
            _check_tensor(_message(value))
        elif number in (_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES):
            _check_sparse(_message(value))
    return has_graph


def _check_sparse(tensor: memoryview) -> None:
    for number, value in _fields(tensor):
        if number in (_SPARSE_VALUES, _SPARSE_INDICES):
            _check_tensor(_message(value))


def _check_tensor(tensor: memoryview) -> None:
    values = 1
    for number, value in _fields(tensor):
        if number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and value != 0):
            raise ValueError("keeps constants in another file (external data), but a checkpoint must hold all its data")
        if number == _TENSOR_DIMS:
            for size in [value] if isinstance(value, int) else _varints(value):
                values *= size
    if values > 2 * len(tensor):  # the smallest type has two values a byte
        raise ValueError(f"has a constant that claims {values} values but has {len(tensor)} bytes")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("is not an ONNX model (a field has a number instead of a message)")
    return value


def _fields(data: memoryview) -> Iterator[Field]:
    """The fields of one protobuf message."""
    at, end = 0, len(data)
    while at < end:
        key = data[at]
        at += 1
        if key >= 0x80:  # almost all keys and many lengths are one byte: a call for each would double the time
            key, at = _varint(data, at - 1)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"is not an ONNX model (unknown wire type {kind})")
        if at + size > end:
            raise ValueError("is not an ONNX model (the bytes end in the middle of a field)")
        yield key >> 3, data[at : at + size]
        at += size


def _varints(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """An integer of up to 64 bits and the position after it."""
    if at < len(data) and data[at] < 0x80:
        return data[at], at + 1
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("is not an ONNX model (the bytes end in the middle of a field)")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("is not an ONNX model (an integer is longer than 64 bits)")
