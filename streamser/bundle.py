"""A checkpoint on disk: a folder with its labels, front end, weights, graphs, figures and card, checked by SHA-256.

    models/<name>/
    ├── bundle.yaml           read and written by this module; lists the SHA-256 of the other files
    ├── weights.safetensors   for torch: fine-tuning, CUDA
    ├── model.onnx            for the CPU: "frames" (batch, time, bins) -> "logits", "embedding"
    ├── step.onnx             optional, for streams: computes only new frames; see `streamser.engines.steps`
    ├── relative.onnx         optional, for known voices: "embedding" and a baseline -> "logits"; see `BaselineRule`
    ├── model.int8.onnx, step.int8.onnx   optional, the same graphs with 8-bit weights, for the engine onnx-int8
    └── README.md             the card

Nothing here is a pickle, and no byte reaches native code before its hash has been checked. The seal in
bundle.yaml is the hash of its other values, so that swapped labels are detected as reliably as a damaged file.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from streamser.calibration import BaselineRule, Calibration
from streamser.errors import BundleError, MissingExtraError
from streamser.events import UNCERTAIN
from streamser.features import FeatureConfig
from streamser.manifest import FORMAT, GET_ANEW, MANIFEST, read_manifest, seal_of
from streamser.onnxgraph import check_graph

DEFAULT_MODEL = "whisper"
NEUTRAL = "neutral"
"""The label whose probability decides an utterance's weight in a baseline."""
PRETRAINED_ON = "pretrained_on"
"""Key in a checkpoint's provenance and in a start file's metadata: the corpora of the pretraining without labels."""

WEIGHTS = "weights.safetensors"
GRAPH = "model.onnx"
STEP = "step.onnx"
RELATIVE = "relative.onnx"
INT8_GRAPH = "model.int8.onnx"
INT8_STEP = "step.int8.onnx"
CARD = "README.md"

_OPTIONAL = {STEP, RELATIVE, INT8_GRAPH, INT8_STEP}

_WINDOW_VALUES = 1 << 24  # frames x bins of one window; 64 MiB is far above any published network's


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleValues:
    """The values in bundle.yaml, without the hashes of the files."""

    labels: tuple[str, ...]
    """In the order of the network's outputs."""
    features: FeatureConfig
    variant: str
    """Name of the row in the zoo that built the network."""
    calibration: Calibration
    provenance: Mapping[str, Any]
    """Corpora, speakers, recipe and versions of the training."""
    scores: Mapping[str, Any]
    """Measured figures, and the data they were measured on."""
    licence: str
    """Licence of the weights, and of the corpora they were trained on."""
    baseline: BaselineRule | None = None
    """How streams use relative.onnx; None if the checkpoint has no such file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleContents:
    """The contents of the files beside bundle.yaml."""

    weights: Mapping[str, NDArray[Any]]
    onnx: bytes
    """The graph for whole windows."""
    card: str
    """README.md."""
    step: bytes | None = None
    """The step graph, if the network has one."""
    relative: bytes | None = None
    """The relative head, if one was trained."""
    int8: bytes | None = None
    """The graph for whole windows with 8-bit weights, if these are as accurate."""
    int8_step: bytes | None = None
    """The step graph with 8-bit weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle(BundleValues):
    """A verified checkpoint folder."""

    path: Path
    name: str
    """The folder's name."""
    files: Mapping[str, str]
    """SHA-256 of each file beside bundle.yaml."""

    def __post_init__(self) -> None:
        """Check the rules between the values; the engines check the graph's shape."""
        labels, features, classes = self.labels, self.features, len(self.labels)
        if classes < 2 or not all(isinstance(label, str) and label and label.isprintable() for label in labels):
            raise ValueError(f"labels must be two or more names, not {list(labels)!r}")
        if len(set(labels)) != classes:
            raise ValueError(f"labels must all be different, not {list(labels)!r}")
        if UNCERTAIN in labels:
            raise ValueError(
                f"labels must not contain {UNCERTAIN!r}, which stands for a confidence below the threshold"
            )
        if (self.baseline is None) != (RELATIVE not in self.files):
            raise ValueError(f"a checkpoint must have both {RELATIVE} and the section 'baseline', or neither")
        both = (self.calibration, *(() if self.baseline is None else (self.baseline.calibration,)))
        for one in both:
            if len(one.bias) not in (0, classes):
                raise ValueError(f"calibration.bias has {len(one.bias)} values but labels has {classes}")
        if NEUTRAL not in labels and (self.baseline or any(one.neutral_prior is not None for one in both)):
            raise ValueError(f"baseline and neutral_prior are for checkpoints with the label {NEUTRAL!r}")
        if not features.window_frames * features.bins <= _WINDOW_VALUES:
            raise ValueError(f"features.length_s is {features.length_s:g}: no network takes a window that long")
        if not (isinstance(self.variant, str) and self.variant and isinstance(self.licence, str) and self.licence):
            raise ValueError("variant and licence must be non-empty text")

    @property
    def pretrained_on(self) -> tuple[str, ...]:
        """The corpora that the weights were pretrained on without labels, before the training."""
        return tuple(self.provenance.get(PRETRAINED_ON) or ())

    @property
    def values(self) -> BundleValues:
        """The values in bundle.yaml, to save the checkpoint again."""
        return BundleValues(**_fields_of(self))

    def contents(self) -> BundleContents:
        """The contents of its files, to save the checkpoint again."""
        step, relative, int8, int8_step = (
            self.graph(name) if name in self.files else None for name in (STEP, RELATIVE, INT8_GRAPH, INT8_STEP)
        )
        return BundleContents(
            weights=self.weights(), onnx=self.graph(), card=self.card, step=step, relative=relative,
            int8=int8, int8_step=int8_step,
        )  # fmt: skip

    @property
    def weights_path(self) -> Path:
        return self.path / WEIGHTS

    @property
    def onnx_path(self) -> Path:
        return self.path / GRAPH

    @property
    def step_path(self) -> Path | None:
        """The step graph; None if the checkpoint has none."""
        return self.path / STEP if STEP in self.files else None

    @property
    def relative_path(self) -> Path | None:
        """The relative head; None if the checkpoint has none."""
        return self.path / RELATIVE if RELATIVE in self.files else None

    @property
    def has_int8(self) -> bool:
        """Whether the checkpoint also has its graphs with 8-bit weights."""
        return INT8_GRAPH in self.files and (INT8_STEP in self.files or STEP not in self.files)

    @property
    def card(self) -> str:
        """The text of README.md."""
        return self.read(CARD).decode("utf-8", "replace")

    @property
    def size_bytes(self) -> int:
        """Size of the graph, which the CPU engine loads."""
        return self.onnx_path.stat().st_size

    def read(self, name: str) -> bytes:
        """One file's bytes, after their hash was checked; BundleError if they differ from the saved ones."""
        path = self.path / name
        if path.is_symlink():
            raise BundleError(f"{path}: is a symbolic link, but a checkpoint has its own files; copy the target here")
        if not path.is_file():
            raise BundleError(f"{path}: missing, but {MANIFEST} lists it; {GET_ANEW}")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BundleError(f"{path}: cannot be read ({error}); check its permissions") from error
        found = hashlib.sha256(content).hexdigest()
        if found != self.files[name]:
            raise BundleError(
                f"{path}: SHA-256 is {found[:12]}..., but {MANIFEST} lists {self.files[name][:12]}...: "
                f"the file ({len(content)} bytes) is truncated or altered; {GET_ANEW}"
            )
        return content

    def graph(self, name: str = GRAPH) -> bytes:
        """An ONNX model, verified, that reads no other files, runs no endless loop and claims no excessive memory."""
        graph = self.read(name)
        try:
            check_graph(graph)
        except ValueError as error:
            raise BundleError(f"{self.path / name}: {error}; do not use this checkpoint, or export it again") from error
        return graph

    def weights(self) -> dict[str, NDArray[Any]]:
        """The network's parameters and statistics by name; needs the extra 'torch' (safetensors)."""
        try:
            from safetensors import SafetensorError
            from safetensors.numpy import load
        except ImportError as error:
            raise MissingExtraError(f"reading {WEIGHTS}", "torch") from error
        try:
            return load(self.read(WEIGHTS))
        except (SafetensorError, KeyError, ValueError) as error:
            raise BundleError(f"{self.weights_path}: not a safetensors file ({error}); {GET_ANEW}") from error


def model_folders() -> list[Path]:
    """Folders that are searched for checkpoints, in this order: $STREAMSER_MODELS, then streamser's own."""
    package = Path(__file__).resolve().parent
    own = package / "_models" if (package / "_models").is_dir() else package.parent / "models"
    theirs = os.environ.get("STREAMSER_MODELS")
    return [_expand(theirs), own] if theirs else [own]


def find_models() -> dict[str, Path]:
    """The checkpoints that can be loaded by name."""
    found: dict[str, Path] = {}
    for folder in model_folders():
        if folder.is_dir():
            for manifest in sorted(folder.glob(f"*/{MANIFEST}")):
                found.setdefault(manifest.parent.name, manifest.parent)
    return dict(sorted(found.items()))


def load_bundle(name_or_path: str | os.PathLike[str], verify: bool = True) -> Bundle:
    """Read a checkpoint by its name or its folder; BundleError if it differs from the saved one.

    `verify=False` leaves out the hashes of the files (for a quick listing); an engine always checks what it loads.
    """
    folder = _locate(name_or_path)
    manifest = read_manifest(folder / MANIFEST)
    bundle = _parse(folder, manifest)
    if verify:
        for name in bundle.files:
            bundle.graph(name) if name.endswith(".onnx") else bundle.read(name)
    return bundle


def save_bundle(folder: str | os.PathLike[str], values: BundleValues, contents: BundleContents) -> Bundle:
    """Write a checkpoint folder and read it back; a program that is killed leaves no bundle with wrong contents.

    Every file is written whole under another name and then renamed, bundle.yaml last. Other files in the folder stay.
    """
    try:
        from safetensors.numpy import save
    except ImportError as error:
        raise MissingExtraError(f"writing {WEIGHTS}", "torch") from error
    path = Path(folder)
    written = {
        WEIGHTS: save({name: np.ascontiguousarray(value) for name, value in contents.weights.items()}),
        GRAPH: contents.onnx,
        CARD: contents.card.encode(),
        **({} if contents.step is None else {STEP: contents.step}),
        **({} if contents.relative is None else {RELATIVE: contents.relative}),
        **({} if contents.int8 is None else {INT8_GRAPH: contents.int8}),
        **({} if contents.int8_step is None else {INT8_STEP: contents.int8_step}),
    }
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in written.items()}
    bundle = Bundle(path=path, name=path.name, files=hashes, **_fields_of(values))
    manifest = yaml.safe_dump(
        _manifest(bundle), sort_keys=False, allow_unicode=True, default_flow_style=None, width=120
    )
    path.mkdir(parents=True, exist_ok=True)
    _write_all(path, {**written, MANIFEST: manifest.encode()})
    return load_bundle(path)


def _fields_of(values: BundleValues) -> dict[str, Any]:
    return {field.name: getattr(values, field.name) for field in fields(BundleValues)}


def _write_all(folder: Path, contents: Mapping[str, bytes]) -> None:
    suffix = f".{uuid.uuid4().hex}.tmp"
    try:
        for name, content in contents.items():
            with (folder / (name + suffix)).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for name in contents:
            (folder / (name + suffix)).replace(folder / name)
    finally:
        for name in contents:
            (folder / (name + suffix)).unlink(missing_ok=True)


def _manifest(bundle: Bundle) -> dict[str, Any]:
    """The content of bundle.yaml in plain values, with its seal."""
    values = {
        "format": FORMAT,
        "labels": bundle.labels,
        "variant": bundle.variant,
        "licence": bundle.licence,
        "features": bundle.features.to_dict(),
        "calibration": asdict(bundle.calibration),
        **({} if bundle.baseline is None else {"baseline": asdict(bundle.baseline)}),
        "scores": bundle.scores,
        "provenance": bundle.provenance,
        "files": bundle.files,
    }
    # NumPy's numbers and tuples become values that YAML and JSON both have; NaN raises, since JSON has none.
    plain = json.loads(json.dumps(values, allow_nan=False, default=lambda value: value.item()))
    return {**plain, "seal": seal_of(plain)}


def _locate(name_or_path: str | os.PathLike[str]) -> Path:
    """A checkpoint's folder, by its installed name or by its path; a text with a separator is always a path."""
    text = os.fspath(name_or_path)
    is_name = isinstance(name_or_path, str) and not text.startswith((".", "~")) and not {"/", os.sep} & set(text)
    models = find_models() if is_name else {}
    if text in models:
        return models[text]
    path = _expand(text)
    if text and os.path.isdir(path):  # noqa: PTH112  # pathlib's raises for a name that is too long
        if not (path / MANIFEST).exists():
            raise BundleError(f"{path}: has no {MANIFEST}, so it is not a checkpoint; {_known(find_models())}")
        return path
    if os.path.isfile(path):  # noqa: PTH113
        raise BundleError(f"{path}: is a file, but a checkpoint is a folder; give the folder with {MANIFEST}")
    if not is_name:
        raise BundleError(f"{path}: no such folder; {_known(find_models())}")
    import difflib  # slow to import, and only for this error

    near = difflib.get_close_matches(text, models, 1, 0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise BundleError(f"no checkpoint is named {text!r}; {hint}{_known(models)}")


def _expand(text: str) -> Path:
    return Path(os.path.expanduser(text))  # noqa: PTH111  # pathlib's raises for a user that is not there


def _known(models: Mapping[str, Path]) -> str:
    """The checkpoints that exist instead, for the end of an error message."""
    if models:
        return f"there are: {', '.join(models)}; or give a folder's path"
    searched = ", ".join(str(folder) for folder in model_folders())
    return f"no checkpoint is in {searched}; give a folder's path, or set STREAMSER_MODELS to a folder of them"


def _parse(folder: Path, values: Mapping[str, Any]) -> Bundle:
    """The manifest's values as a Bundle; every broken rule is a BundleError that names the file."""
    try:
        files = values["files"]
        if not (isinstance(files, dict) and set(files) - _OPTIONAL == {WEIGHTS, GRAPH, CARD}):
            raise ValueError(
                f"files must list {WEIGHTS}, {GRAPH} and {CARD}, may list {', '.join(sorted(_OPTIONAL))}, "
                "and must list no other file"
            )
        if not all(isinstance(digest, str) for digest in files.values()):
            raise ValueError("files must map each name to its SHA-256 in hexadecimal")
        # Older checkpoints have sections 'neutral' and 'drift', for methods of adaptation that were removed.
        baseline = values.get("baseline")
        return Bundle(
            path=folder,
            name=folder.resolve().name,
            labels=tuple(values["labels"]),
            features=FeatureConfig.from_dict(values["features"]),
            variant=values["variant"],
            calibration=Calibration(**_tuples(values["calibration"])),
            provenance=dict(values["provenance"]),
            scores=dict(values["scores"]),
            licence=values["licence"],
            baseline=None if baseline is None else _baseline_rule(baseline),
            files=files,
        )
    except KeyError as error:
        raise BundleError(f"{folder / MANIFEST}: key {error} is missing; {GET_ANEW}") from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BundleError(f"{folder / MANIFEST}: {error}; {GET_ANEW}") from error


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def _baseline_rule(values: Mapping[str, Any]) -> BaselineRule:
    return BaselineRule(**{**values, "calibration": Calibration(**_tuples(values["calibration"]))})
