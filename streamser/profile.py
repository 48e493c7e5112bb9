"""Your voice: what half a minute of one speaker's neutral speech teaches, kept in a small file and applied.

A recognizer takes a low, slow or nasal voice for a mood. A profile holds what the checkpoint says of this speaker, in
this room and on this microphone, when nothing is the matter; by how much that differs from what it says of neutral
speech on average is then taken out of its answers. The file holds one number a class: no sound, no words.
docs/your-voice.md has what this brings, and what else was tried.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamser.audio import SAMPLE_RATE, Samples
from streamser.bundle import Bundle, Neutral
from streamser.errors import AudioError, ConfigError
from streamser.recognizer import Adaptation, Anchor, Recognizer

FORMAT = 2
"""Rises when an older streamser would misread the file."""

LEAST_SPEECH_S = 15.0
"""With less speech the average is one of a few sentences, not of a voice."""
ENOUGH_SPEECH_S = 30.0

LOGIT_STRENGTH = 0.5
"""How much of the difference is taken out; chosen on speakers who do not count in docs/your-voice.md."""

ANCHOR_STRENGTH = 0.25
"""What nearness to one's own neutral speech counts; chosen on the same speakers."""

_QUIET_DBFS = -60.0  # speech below this drowns in the noise of any sound card
_CLIPPED_SHARE = 0.001  # more samples at full scale than this are audible as distortion
_FULL_SCALE = 0.99

_AGAIN = "run `streamser calibrate --overwrite`"


@dataclass(frozen=True, slots=True)
class Profile:
    """One speaker's neutral voice as one checkpoint hears it."""

    name: str
    model: str
    """The checkpoint's name."""
    fingerprint: str
    """SHA-256 of the checkpoint's weights and front end: to another net these averages mean nothing."""
    speech_s: float
    """Seconds of speech that it was made from."""
    logits_mean: tuple[float, ...]
    """What the checkpoint says of this neutral voice: one value a class, before calibration."""
    embedding_mean: tuple[float, ...]
    """Where its last layer sees it."""
    embedding_spread: float
    """How far one utterance of it lies from the mean of the others there."""

    def adaptation(self, bundle: Bundle, strength: float = 1.0) -> Adaptation:
        """What the recognizer has to do for this speaker; 0 does nothing.

        ConfigError when the profile was made for another checkpoint.
        """
        if not 0 <= strength <= 2:
            raise ValueError(f"strength: within 0..2, not {strength}")
        if self.fingerprint != fingerprint(bundle):
            raise ConfigError(
                f"profile '{self.name}' was made for {self.model} ({self.fingerprint[:8]}), not for {bundle.name} "
                f"({fingerprint(bundle)[:8]}): {_AGAIN} with --model {bundle.name}"
            )
        difference = np.array(_neutral(bundle).logits_mean) - np.array(self.logits_mean)
        anchor = Anchor(
            centre=np.asarray(self.embedding_mean, np.float32),
            usual=self.embedding_spread,
            label=bundle.labels.index("neutral"),
            strength=ANCHOR_STRENGTH * strength,
        )
        return Adaptation(np.asarray(LOGIT_STRENGTH * strength * difference, np.float32), anchor)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the profile whole or not at all; returns where it is."""
        place = Path(path)
        values = {"streamser_profile": FORMAT, **asdict(self)}
        plain = json.loads(json.dumps(values))
        text = json.dumps({**plain, "seal": _seal(plain)}, indent=1)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            part = place.with_name(place.name + ".part")
            part.write_text(text + "\n", encoding="utf-8")
            part.replace(place)
        except OSError as error:
            raise ConfigError(f"{place}: cannot be written ({error}); choose another place with --out") from error
        return place

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Profile:
        """Read a profile back; ConfigError when it is not what was saved."""
        place = Path(path)
        values = _read(place)
        version, seal = values.get("streamser_profile"), values.pop("seal", None)
        if version != FORMAT:
            said = "is no streamser profile" if version is None else f"has the format {version}, this is {FORMAT}"
            raise ConfigError(f"{place}: {said}; {_AGAIN}")
        if seal != _seal(values):
            raise ConfigError(f"{place}: was altered since it was saved; {_AGAIN}")
        del values["streamser_profile"]
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        try:
            return cls(**fields)
        except TypeError as error:
            raise ConfigError(f"{place}: holds other values than a profile ({error}); {_AGAIN}") from error


def _seal(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _read(place: Path) -> dict[str, Any]:
    try:
        values = json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = ", ".join(find_profiles()) or "none"
        raise ConfigError(f"{place}: no such profile; there are: {known}; `streamser calibrate` makes one") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{place}: cannot be read as a profile ({error}); {_AGAIN}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{place}: is no streamser profile; {_AGAIN}")
    return values


def fingerprint(bundle: Bundle) -> str:
    """What a profile belongs to: weights and front end. Calibration may be renewed without making it void."""
    weights = sorted((name, digest) for name, digest in bundle.files.items() if not name.endswith(".md"))
    return hashlib.sha256(json.dumps([weights, bundle.features.to_dict()], sort_keys=True).encode()).hexdigest()


def _neutral(bundle: Bundle) -> Neutral:
    if bundle.neutral is None:
        raise ConfigError(
            f"the checkpoint '{bundle.name}' does not say how neutral speech sounds to it (bundle.yaml has no "
            "'neutral'), so that a voice cannot be compared; use another checkpoint or leave --profile out"
        )
    return bundle.neutral


# ---- where profiles are


def profile_folder() -> Path:
    """Where profiles are kept: the system's place for a user's settings."""
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("APPDATA") or home / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    return base / "streamser"


def profile_path(name_or_path: str | PathLike[str]) -> Path:
    """A bare name lies in `profile_folder()`; whatever ends in .json or has a separator is a path.

    >>> profile_path("anna").name, profile_path("here/anna.json").as_posix()
    ('anna.json', 'here/anna.json')
    """
    text = os.fspath(name_or_path)
    path = Path(text).expanduser()
    is_name = isinstance(name_or_path, str) and path.name == text and path.suffix != ".json" and text not in ("", "..")
    return profile_folder() / f"{text}.json" if is_name else path


def find_profiles() -> list[str]:
    """Names of the profiles that --profile knows."""
    folder = profile_folder()
    return sorted(path.stem for path in folder.glob("*.json")) if folder.is_dir() else []


def load_profile(name_or_path: str | PathLike[str]) -> Profile:
    """A profile by its name or path."""
    return Profile.load(profile_path(name_or_path))


def adapt(recognizer: Recognizer, name_or_path: str | PathLike[str], strength: float = 1.0) -> Recognizer:
    """The same recognizer for the speaker of a profile."""
    return recognizer.with_adaptation(load_profile(name_or_path).adaptation(recognizer.bundle, strength))


# ---- learn a voice


def enrol(
    recognizer: Recognizer, sounds: Sequence[Samples], name: str = "me", least_speech_s: float = LEAST_SPEECH_S
) -> Profile:
    """Learn a voice from neutral speech, 16 kHz, an utterance each; AudioError when it is too little or distorted."""
    check_recording(sounds, least_speech_s)
    _neutral(recognizer.bundle)  # say at once that the profile could not be used
    logits, embeddings = recognizer.with_adaptation(None).logits_and_embeddings(list(sounds))
    return Profile(
        name=name,
        model=recognizer.bundle.name,
        fingerprint=fingerprint(recognizer.bundle),
        speech_s=round(sum(map(len, sounds)) / SAMPLE_RATE, 2),
        logits_mean=_rounded(logits.mean(axis=0, dtype=np.float64)),
        embedding_mean=_rounded(embeddings.mean(axis=0, dtype=np.float64)),
        embedding_spread=round(neutral_spread(embeddings.astype(np.float64)), 6),
    )


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)


def neutral_spread(embeddings: NDArray[np.floating[Any]]) -> float:
    """How far each utterance lies from the mean of the others, as one that was not enrolled will."""
    if len(embeddings) < 2:
        return max(float(np.linalg.norm(embeddings)) / 3, 1e-6)
    others = (embeddings.sum(axis=0) - embeddings) / (len(embeddings) - 1)
    return max(float(np.linalg.norm(embeddings - others, axis=1).mean()), 1e-6)


def check_recording(sounds: Sequence[Samples], least_speech_s: float = LEAST_SPEECH_S) -> None:
    """AudioError, with the way out, for speech that no voice can be learnt from."""
    speech_s = sum(map(len, sounds)) / SAMPLE_RATE
    if not sounds or speech_s < least_speech_s:
        raise AudioError(
            f"only {speech_s:.1f} s of speech; a voice needs {least_speech_s:.0f} s, better {ENOUGH_SPEECH_S:.0f}: "
            "speak on for longer, nearer to the microphone"
        )
    whole = np.concatenate(sounds)
    clipped = float(np.mean(np.abs(whole) >= _FULL_SCALE))
    if clipped > _CLIPPED_SHARE:
        raise AudioError(
            f"{100 * clipped:.1f} % of the samples are at full scale: the recording is clipped; "
            "turn the microphone's gain down or move away from it"
        )
    level_db = 10 * math.log10(max(float(np.mean(np.square(whole, dtype=np.float64))), 1e-12))
    if level_db < _QUIET_DBFS:
        raise AudioError(
            f"the speech is at {level_db:.0f} dBFS, below {_QUIET_DBFS:.0f}: too quiet to tell it from the noise of "
            "the sound card; turn the microphone's gain up"
        )


__all__ = [
    "ENOUGH_SPEECH_S",
    "LEAST_SPEECH_S",
    "Profile",
    "adapt",
    "check_recording",
    "enrol",
    "find_profiles",
    "fingerprint",
    "load_profile",
    "neutral_spread",
    "profile_folder",
    "profile_path",
]
