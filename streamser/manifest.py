"""Read a checkpoint's bundle.yaml: plain values with a valid seal, within limits that protect the reader."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from streamser.errors import BundleError
from streamser.settings import SAFE_LOADER

__all__ = ["FORMAT", "GET_ANEW", "MANIFEST", "read_manifest", "seal_of"]

FORMAT = 1
"""Increased when an older streamser would misread the folder."""
MANIFEST = "bundle.yaml"
GET_ANEW = "download the folder again, or train again"
"""Advice for a damaged checkpoint."""

_MOST_BYTES = 1 << 20  # a manifest has a few kilobytes; a larger one is damaged or an attack


def seal_of(values: Mapping[str, Any]) -> str:
    """SHA-256 of the values themselves, so that comments and line ends do not matter."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, allow_nan=False).encode()).hexdigest()


def read_manifest(path: Path) -> dict[str, Any]:
    """The values of bundle.yaml, after the seal was checked; the seal itself is left out."""
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{path}: must be a plain file; copy the checkpoint's own {MANIFEST} here")
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise BundleError(f"{path}: has {size} bytes; the limit is {_MOST_BYTES}; {GET_ANEW}")
        text = path.read_bytes().decode()
        _check_events(path, text)
        values = yaml.load(text, Loader=SAFE_LOADER)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error}); check its permissions") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BundleError(f"{path}: is not readable YAML ({reason}); {GET_ANEW}") from error
    _check_format(path, values)
    sealed = values.pop("seal", None)
    try:
        seal = seal_of(values)
    except (TypeError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: has invalid values ({error}); {GET_ANEW}") from error
    if sealed != seal:
        raise BundleError(
            f"{path}: its values do not give the hash in 'seal', so they were altered after saving; {GET_ANEW} "
            "(a threshold can be set in config.yaml or by --set, without touching the checkpoint)"
        )
    return dict(values)


_DEPTH = 32  # save_bundle writes some four levels


def _check_events(path: Path, text: str) -> None:
    """Refuse YAML that expands into gigabytes or hours: aliases, and deeply nested brackets."""
    depth = 0
    for event in yaml.parse(text, Loader=SAFE_LOADER):
        if isinstance(event, yaml.AliasEvent):
            raise BundleError(f"{path}: has YAML aliases, which are not allowed; {GET_ANEW}")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEPTH:
            raise BundleError(f"{path}: nests values more than {_DEPTH} deep, which is not allowed; {GET_ANEW}")


def _check_format(path: Path, values: Any) -> None:
    version = values.get("format") if isinstance(values, dict) else None
    if type(version) is not int or version < 1:
        raise BundleError(f"{path}: has no 'format: {FORMAT}', so it is not a checkpoint; give another folder")
    if version > FORMAT:
        raise BundleError(
            f"{path}: has format {version}, newer than format {FORMAT} of this streamser; pip install -U streamser"
        )
