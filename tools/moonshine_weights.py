"""Take the encoder of Moonshine's tiny English model (MIT licence) out of its package, for `Recipe.start`.

    pip download --no-deps moonshine-voice==0.0.67 -d /tmp
    python tools/moonshine_weights.py /tmp/moonshine_voice-0.0.67-*.whl runs/moonshine-tiny-en.safetensors

The package holds an ONNX Runtime file whose matrices are bytes with a scale each; here they become numbers again, under
the names of `streamser.nets.moonshine.Encoder`. It checks them against the file's own graph.
"""

from __future__ import annotations

import argparse
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import InferenceSession
from safetensors.torch import save_file

from streamser.nets.moonshine import Encoder
from streamser.ort import onnxruntime

MEMBER = "moonshine_voice/assets/tiny-en/encoder_model.ort"
LAYERS = 6
_TYPES = {1: np.float32, 2: np.uint8}  # onnx.TensorProto.DataType
_OUTPUTS_FIELD = 6  # of Graph in onnxruntime's ort.fbs
NAMES = {
    "self_attn/q_proj": "attention.query",
    "self_attn/k_proj": "attention.key",
    "self_attn/v_proj": "attention.value",
    "self_attn/o_proj": "attention.out",
    "mlp/fc1": "mlp.0",
    "mlp/fc2": "mlp.2",
}


def graph_of(file: bytes | bytearray) -> Any:
    return InferenceSession.GetRootAsInferenceSession(file, 0).Model().Graph()


def encoder_weights(file: bytes) -> dict[str, NDArray[np.float32]]:
    """The weights of all layers, by this project's names."""
    graph = graph_of(file)
    stored: dict[str, NDArray[Any]] = {}
    for i in range(graph.InitializersLength()):
        tensor = graph.Initializers(i)
        if tensor.DataType() in _TYPES and tensor.RawDataLength():
            shape = [tensor.Dims(j) for j in range(tensor.DimsLength())]
            raw = np.asarray(tensor.RawDataAsNumpy(), np.uint8).tobytes()
            stored[tensor.Name().decode()] = np.frombuffer(raw, _TYPES[tensor.DataType()]).reshape(shape)
    weights = {f"conv{k}.weight": stored[f"conv{k}.weight_add_tensor"] for k in (1, 2, 3)}
    weights |= {f"conv{k}.bias": stored[f"conv{k}.bias"] for k in (2, 3)}
    nodes = {graph.Nodes(i).Name().decode(): graph.Nodes(i) for i in range(graph.NodesLength())}

    def inputs(name: str) -> list[str]:
        return [nodes[name].Inputs(j).decode() for j in range(nodes[name].InputsLength())]

    weights["norm.weight"] = stored[inputs("/groupnorm/Mul")[1]].ravel()
    weights["norm.bias"] = stored[inputs("/groupnorm/Add")[1]].ravel()
    for k in range(LAYERS):
        for theirs, ours in NAMES.items():
            matrix = next(
                n for n in inputs(f"/layers.{k}/{theirs}/MatMul_quant") if n in stored and n.endswith("_quantized")
            )
            scale, zero = (stored[matrix.replace("_quantized", end)] for end in ("_scale", "_zero_point"))
            values = (stored[matrix].astype(np.float32) - zero.astype(np.float32)) * scale
            weights[f"layers.{k}.{ours}.weight"] = values.T
            if f"layers.{k}.{theirs.replace('/', '.')}.bias" in stored:
                weights[f"layers.{k}.{ours}.bias"] = stored[f"layers.{k}.{theirs.replace('/', '.')}.bias"]
        weights[f"layers.{k}.before_attention.weight"] = stored[f"layers.{k}.input_layernorm.weight"]
        weights[f"layers.{k}.before_mlp.weight"] = stored[f"layers.{k}.post_attention_layernorm.weight"]
    return {name: np.ascontiguousarray(value, np.float32) for name, value in weights.items()}


def with_output(file: bytes, name: str) -> bytes:
    """The same model with one inner tensor for its output: a new list of names at the file's end."""
    out = bytearray(file)
    table = graph_of(out)._tab
    field = table.Pos + table.Offset(4 + 2 * _OUTPUTS_FIELD)
    out += b"\0" * (-len(out) % 4)
    start = len(out)
    out += struct.pack("<III", 1, 4, len(name)) + name.encode() + b"\0"  # one entry, 4 bytes on: its length and text
    out[field : field + 4] = struct.pack("<I", start - field)
    return bytes(out)


def difference(file: bytes, weights: dict[str, NDArray[np.float32]], layers: int) -> float:
    """By how much torch and the package's graph differ after so many layers, as a share of the values (RMS)."""
    session = onnxruntime.InferenceSession(with_output(file, f"/layers.{layers - 1}/Add_1_output_0"))
    time = np.arange(32_000) / 16_000
    hum = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 20)) * (1 + np.sin(2 * np.pi * 4 * time))
    samples = (0.05 * hum + np.random.default_rng(0).normal(0, 0.01, len(time))).astype(np.float32)[None]
    (theirs,) = session.run(None, {"input_values": samples, "attention_mask": np.ones(samples.shape, np.int64)})
    encoder = Encoder(layers).eval()
    encoder.load_state_dict({name: torch.from_numpy(weights[name].copy()) for name in encoder.state_dict()})
    with torch.no_grad():
        ours = encoder(torch.from_numpy(samples)).numpy()
    return float(np.sqrt(np.square(ours - theirs).mean() / np.square(theirs).mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    with zipfile.ZipFile(args.wheel) as wheel:
        file = wheel.read(MEMBER)
    weights = encoder_weights(file)
    for layers in range(1, LAYERS):
        print(f"after layer {layers}: differs from the package's own graph by {difference(file, weights, layers):.4f}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    # half precision keeps of these bytes with a scale more than they had, and halves the checkpoints that hold them
    save_file({f"encoder.{name}": torch.from_numpy(value.copy()).half() for name, value in weights.items()}, args.out)
    print(f"{args.out}: {sum(value.size for value in weights.values()):,} values")


if __name__ == "__main__":
    main()
