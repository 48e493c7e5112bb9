"""Profiles: the baseline of one speaker's neutral speech in a small file, with which a stream can begin.

`streamser calibrate` makes one with `streamser.enrolment`. The file holds sums of embeddings: no audio, no words.
docs/your-voice.md has the measured gain.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shlex
import sys
from collections.abc import Mapping, Set
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from streamser.baseline import Baseline
from streamser.bundle import INT8_GRAPH, INT8_STEP, WEIGHTS, Bundle
from streamser.errors import ConfigError

__all__ = [
    "Profile",
    "find_profiles",
    "fingerprint",
    "load_profile",
    "profile_folder",
    "profile_path",
]

FORMAT = 3
"""Increased when an older streamser would misread the file."""

_MOST_BYTES = 1 << 20  # a profile has a few kilobytes
_MOST_VALUES = 1 << 16
_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class Profile:
    """One speaker's neutral voice, as one checkpoint encodes it."""

    name: str
    model: str
    """The checkpoint's name."""
    fingerprint: str
    """SHA-256 of the checkpoint's weights and front end: the values are valid only for this network."""
    speech_s: float
    """Seconds of speech that it was made from."""
    utterances: int
    weight: float
    """The sum of the utterances' weights."""
    total: tuple[float, ...]
    """The weighted sum of their embeddings."""

    def __post_init__(self) -> None:
        for name in ("name", "model", "fingerprint"):
            check_name(name, getattr(self, name))
        if not (_is_number(self.speech_s) and self.speech_s > 0):
            raise ValueError(f"speech_s must be a number above 0, not {self.speech_s!r:.80}")
        if type(self.utterances) is not int or self.utterances < 1:
            raise ValueError(f"utterances must be a whole number above 0, not {self.utterances!r:.80}")
        if not (_is_number(self.weight) and 0 < self.weight <= self.utterances):
            raise ValueError(f"weight must be above 0 and at most the number of utterances, not {self.weight!r:.80}")
        total: object = self.total
        if not (isinstance(total, tuple) and 0 < len(total) <= _MOST_VALUES and all(map(_is_number, total))):
            raise ValueError(f"total must be 1 to {_MOST_VALUES} finite numbers")

    def baseline(self, bundle: Bundle) -> Baseline:
        """The first baseline of a stream of this speaker; ConfigError when the profile is for another checkpoint."""
        check_adaptable(bundle)
        if self.fingerprint not in (fingerprint(bundle), *_earlier_fingerprints(bundle)):
            this, that = fingerprint(bundle)[:8], self.fingerprint[:8]
            if self.model == bundle.name:
                raise ConfigError(
                    f"profile '{self.name}' was made with another version of {self.model} ({that}, now {this}); "
                    f"make it again: `streamser calibrate --model {bundle.name} --overwrite` with its --name or --out"
                )
            raise ConfigError(
                f"profile '{self.name}' was made for {self.model} ({that}), not for {bundle.name} ({this}); "
                f"make another with `streamser calibrate --model {bundle.name}` and a new --name"
            )
        return Baseline(np.array(self.total, np.float64), float(self.weight), self.utterances, "profile")

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the profile completely or not at all, readable by its owner only; returns its path."""
        place = Path(path)
        values = {"streamser_profile": FORMAT, **asdict(self)}
        plain = json.loads(json.dumps(values))
        text = json.dumps({**plain, "seal": _seal(plain)})
        part = place.with_name(f"{place.name}.{os.getpid()}.part")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            part.unlink(missing_ok=True)
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # a voice is personal data
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text + "\n")
            part.replace(place)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise ConfigError(f"{place}: cannot be written ({error}); choose another place with --out") from error
        return place

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Profile:
        """Read a profile; ConfigError if the file is not a profile, or was changed after it was saved."""
        place = Path(path)
        again = _way_out(place)
        values = _read(place, again)
        version, seal = values.get("streamser_profile"), values.pop("seal", None)
        if type(version) is int and version > FORMAT:
            raise ConfigError(
                f"{place}: has the format {version!r:.20}, newer than the format {FORMAT} of this streamser; "
                f"pip install -U streamser, or {again}"
            )
        if version != FORMAT:
            problem = (
                "not a streamser profile"
                if type(version) is not int
                else f"has the format {version!r:.20}, older than the format {FORMAT} of this streamser"
            )
            raise ConfigError(f"{place}: {problem}; {again}")
        if seal != _seal(values):
            raise ConfigError(f"{place}: was altered since it was saved; {again}")
        del values["streamser_profile"]
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            wrong = ", ".join(sorted(set(values) ^ names))
            raise ConfigError(f"{place}: has invalid values ({wrong:.80}); {again}")
        given: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in values.items()}
        try:
            return cls(**given)
        except ValueError as error:
            raise ConfigError(f"{place}: {error}; {again}") from error


def check_name(what: str, text: object) -> None:
    """ValueError, beginning with `what`, for an impossible name of a profile or a checkpoint."""
    if not (isinstance(text, str) and 0 < len(text) <= _LONGEST_NAME and text.isprintable()):
        raise ValueError(f"{what} must be 1 to {_LONGEST_NAME} printable characters, not {text!r:.80}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30 and math.isfinite(value)


def _way_out(place: Path) -> str:
    """The command that makes the profile of this file again."""
    named = place.parent == profile_folder()
    option = f"--name {shlex.quote(place.stem)}" if named else f"--out {shlex.quote(str(place))}"
    return f"run `streamser calibrate --overwrite {option}`"


def _seal(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _read(place: Path, again: str) -> dict[str, Any]:
    try:
        if place.stat().st_size > _MOST_BYTES:
            raise ConfigError(f"{place}: is larger than any streamser profile; {again}")
        values = json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = ", ".join(find_profiles()) or "none"
        raise ConfigError(f"{place}: no such profile; known: {known}; `streamser calibrate` makes one") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: cannot be read as a profile ({error}); {again}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{place}: not a streamser profile; {again}")
    return values


def fingerprint(bundle: Bundle) -> str:
    """Hash of the weights and front end, which determine the embeddings.

    A profile stays valid with a new calibration, and when graphs are exported again or added.
    """
    return _hash_of(bundle, {WEIGHTS})


def _earlier_fingerprints(bundle: Bundle) -> list[str]:
    """Fingerprints in older profiles, which covered all graphs: with the 8-bit graphs, and without them."""
    files = {name for name in bundle.files if not name.endswith(".md")}
    return [_hash_of(bundle, files), _hash_of(bundle, files - {INT8_GRAPH, INT8_STEP})]


def _hash_of(bundle: Bundle, names: Set[str]) -> str:
    files = sorted((name, digest) for name, digest in bundle.files.items() if name in names)
    return hashlib.sha256(json.dumps([files, bundle.features.to_dict()], sort_keys=True).encode()).hexdigest()


def check_adaptable(bundle: Bundle, option: str = "--profile") -> None:
    """ConfigError if the checkpoint cannot compare a voice with its baseline, which `option` requires."""
    if bundle.baseline is None:
        raise ConfigError(
            f"the checkpoint '{bundle.name}' has no relative head (relative.onnx), so it cannot adapt to a voice; "
            f"use another checkpoint, or leave {option} out"
        )


# ---- folder of profiles


def profile_folder() -> Path:
    """Folder of the profiles, in the system's place for a user's settings."""
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("APPDATA") or home / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    return base / "streamser"


def profile_path(name_or_path: str | PathLike[str]) -> Path:
    """A bare name is a file in `profile_folder()`; a value that ends in .json or has a separator is a path.

    >>> profile_path("anna").name, profile_path("here/anna.json").as_posix()
    ('anna.json', 'here/anna.json')
    """
    text = os.fspath(name_or_path)
    path = Path(text).expanduser()
    is_name = isinstance(name_or_path, str) and path.name == text and path.suffix != ".json" and text not in ("", "..")
    return profile_folder() / f"{text}.json" if is_name else path


def find_profiles() -> list[str]:
    """Names of the profiles that --profile accepts."""
    folder = profile_folder()
    return sorted(path.stem for path in folder.glob("*.json")) if folder.is_dir() else []


def load_profile(name_or_path: str | PathLike[str]) -> Profile:
    """Load a profile by its name or path."""
    return Profile.load(profile_path(name_or_path))
