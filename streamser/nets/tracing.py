"""Trace a torch module into an ONNX graph."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx
import torch
from torch import Tensor, nn

__all__ = ["OPSET", "Traceable", "trace"]

OPSET = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Traceable:
    """A module and everything its graph needs: example inputs, names, free axes and metadata."""

    module: nn.Module
    example: tuple[Tensor, ...]
    inputs: Sequence[str]
    outputs: Sequence[str]
    free_axes: Mapping[str, Mapping[int, str]]
    """For each input or output, the axes whose size is free, and a name for each of these sizes."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Further information for the graph's reader."""


def trace(what: Traceable) -> bytes:
    """The module in evaluation mode as an ONNX graph."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # Only the TorchScript exporter keeps a GRU's time axis free (torch 2.11); it warns that it is deprecated.
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=r".*legacy TorchScript-based ONNX.*")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.onnx\.")
        warnings.filterwarnings("ignore", message=r"Constant folding - Only steps=1")
        # The exporter warns that a recurrent layer may fail at other batch sizes; `export.check_onnx` tests those.
        warnings.filterwarnings("ignore", category=UserWarning, message=r"Exporting a model to ONNX with a batch_size")
        # The tracer warns that sizes compared in torch's recurrent layers become constants; they never change here.
        warnings.filterwarnings("ignore", message=r"Converting a tensor to a Python", module=r"torch\.nn\.modules\.rnn")
        torch.onnx.export(
            what.module.eval(),
            what.example,
            buffer,  # type: ignore[arg-type]  # torch also accepts a stream; its annotation does not say so
            input_names=list(what.inputs),
            output_names=list(what.outputs),
            dynamic_axes={name: dict(axes) for name, axes in what.free_axes.items()},
            opset_version=OPSET,
            dynamo=False,
        )
    if not what.metadata:
        return buffer.getvalue()
    model = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(model, dict(what.metadata))
    return bytes(model.SerializeToString())
