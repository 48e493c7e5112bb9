"""Augment audio: other voices, rooms, noise, microphones and telephone lines.

`draw(rng)` returns parameters; `apply(samples, drawn)` is deterministic. Nothing clips: a result above full scale is
scaled down to full scale.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from streamser.audio import SAMPLE_RATE, Samples, read_audio
from streamser.corpora.layouts import audio_files
from streamser.corpora.reader import find_corpus
from streamser.errors import CorpusError
from streamser.training.acoustics import (
    COLOURS,
    Colour,
    add_noise,
    band_limit,
    change_speed,
    coloured_noise,
    limit,
    reverberate,
    room_response,
    shift_pitch,
    telephone,
)

Range = tuple[float, float]


class Augmentation(Protocol):
    """One way to change audio."""

    @property
    def name(self) -> str: ...

    def draw(self, rng: np.random.Generator) -> Any:
        """Draw all random parameters."""

    def apply(self, samples: Samples, drawn: Any) -> Samples:
        """Change the audio by the drawn parameters."""


# ---- recordings to draw from


class AudioBank:
    """The audio files of a folder; each is read once and kept in memory as 16-bit samples."""

    def __init__(self, folder: Path) -> None:
        self.paths = audio_files(folder)
        if not self.paths:
            raise CorpusError(f"{folder}: has no audio files to augment with")
        self._kept: dict[int, NDArray[np.int16]] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Samples:
        if index not in self._kept:
            samples = read_audio(self.paths[index])
            peak = max(1.0, float(np.abs(samples).max(initial=0.0)))
            self._kept[index] = np.round(samples * (32767.0 / peak)).astype(np.int16)
        return np.asarray(self._kept[index] / np.float32(32767.0), np.float32)


@lru_cache(maxsize=16)
def audio_bank(folder: str) -> AudioBank:
    """The bank of a folder (or of a corpus by its name), shared by the whole process."""
    return AudioBank(find_corpus(folder))


# ---- the augmentations


class NoiseDrawn(NamedTuple):
    snr_db: float
    folder: str
    """Empty for generated noise."""
    file: float
    """The file's position in the list of files, as a share of their number."""
    start: float
    """The position in the file, as a share of its length."""
    colour: Colour
    seed: int


@dataclass(frozen=True, slots=True)
class Noise:
    """Add noise, from files or generated, at a drawn signal-to-noise ratio."""

    name: ClassVar[str] = "noise"
    snr_db: Range = (0.0, 30.0)
    folders: tuple[str, ...] = ()
    colour_share: float = 0.3
    """Share of generated noise if there are folders; without folders, all noise is generated."""

    def draw(self, rng: np.random.Generator) -> NoiseDrawn:
        generated = not self.folders or rng.random() < self.colour_share
        colours: list[Colour] = list(COLOURS)
        return NoiseDrawn(
            snr_db=float(rng.uniform(*self.snr_db)),
            folder="" if generated else self.folders[int(rng.integers(len(self.folders)))],
            file=float(rng.random()),
            start=float(rng.random()),
            colour=colours[int(rng.integers(len(colours)))],
            seed=int(rng.integers(2**31)),
        )

    def apply(self, samples: Samples, drawn: NoiseDrawn) -> Samples:
        if not drawn.folder:
            return add_noise(samples, coloured_noise(len(samples), drawn.colour, drawn.seed), drawn.snr_db)
        bank = audio_bank(drawn.folder)
        noise = bank[int(drawn.file * len(bank))]
        start = int(drawn.start * len(noise))
        return add_noise(samples, np.resize(np.roll(noise, -start), len(samples)), drawn.snr_db)


class RoomDrawn(NamedTuple):
    folder: str
    """Empty for a synthetic room."""
    file: float
    """The file's position in the list of files, as a share of their number."""
    rt60_s: float
    direct_db: float
    seed: int


@dataclass(frozen=True, slots=True)
class Room:
    """Add reverberation with a room's impulse response, from files or synthetic."""

    name: ClassVar[str] = "room"
    folder: str = ""
    rt60_s: Range = (0.15, 0.8)
    direct_db: Range = (-3.0, 9.0)
    """Level of the direct sound relative to the reverberation, in synthetic rooms."""
    synthetic_share: float = 0.3
    """Share of synthetic rooms if there is a folder."""

    def draw(self, rng: np.random.Generator) -> RoomDrawn:
        synthetic = not self.folder or rng.random() < self.synthetic_share
        return RoomDrawn(
            folder="" if synthetic else self.folder,
            file=float(rng.random()),
            rt60_s=float(rng.uniform(*self.rt60_s)),
            direct_db=float(rng.uniform(*self.direct_db)),
            seed=int(rng.integers(2**31)),
        )

    def apply(self, samples: Samples, drawn: RoomDrawn) -> Samples:
        if not drawn.folder:
            return reverberate(samples, room_response(drawn.rt60_s, drawn.direct_db, drawn.seed))
        bank = audio_bank(drawn.folder)
        return reverberate(samples, bank[int(drawn.file * len(bank))])


@dataclass(frozen=True, slots=True)
class Gain:
    """Make the audio louder or softer."""

    name: ClassVar[str] = "gain"
    gain_db: Range = (-20.0, 20.0)

    def draw(self, rng: np.random.Generator) -> float:
        return float(rng.uniform(*self.gain_db))

    def apply(self, samples: Samples, drawn: float) -> Samples:
        return limit(samples * np.float32(10.0 ** (drawn / 20.0)))


@dataclass(frozen=True, slots=True)
class Speed:
    """Change tempo and pitch together, like a larger or smaller speaker."""

    name: ClassVar[str] = "speed"
    factor: Range = (0.9, 1.1)

    def draw(self, rng: np.random.Generator) -> float:
        return float(rng.uniform(*self.factor))

    def apply(self, samples: Samples, drawn: float) -> Samples:
        return change_speed(samples, drawn)


@dataclass(frozen=True, slots=True)
class Pitch:
    """Change the pitch at the same tempo."""

    name: ClassVar[str] = "pitch"
    semitones: Range = (-2.0, 2.0)

    def draw(self, rng: np.random.Generator) -> float:
        return float(rng.uniform(*self.semitones))

    def apply(self, samples: Samples, drawn: float) -> Samples:
        return shift_pitch(samples, drawn)


class BandDrawn(NamedTuple):
    low_hz: float
    high_hz: float


@dataclass(frozen=True, slots=True)
class Band:
    """Limit the band, as a cheap microphone or a narrow-band line does."""

    name: ClassVar[str] = "band"
    low_hz: Range = (20.0, 300.0)
    high_hz: Range = (3000.0, 7600.0)

    def draw(self, rng: np.random.Generator) -> BandDrawn:
        # uniform in octaves: 3 to 4 kHz is as likely as 5.7 to 7.6 kHz
        low, high = (float(np.exp(rng.uniform(*np.log(ends)))) for ends in (self.low_hz, self.high_hz))
        return BandDrawn(low, high)

    def apply(self, samples: Samples, drawn: BandDrawn) -> Samples:
        return band_limit(samples, drawn.low_hz, drawn.high_hz)


@dataclass(frozen=True, slots=True)
class Telephone:
    """Simulate a telephone line at a drawn level; at lower levels, the 8-bit code is coarser."""

    name: ClassVar[str] = "telephone"
    peak_db: Range = (-30.0, 0.0)

    def draw(self, rng: np.random.Generator) -> float:
        return float(rng.uniform(*self.peak_db))

    def apply(self, samples: Samples, drawn: float) -> Samples:
        return telephone(samples, drawn)


# ---- together


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """Augmentations of training clips, with their probabilities and ranges; a probability of 0 disables one."""

    speed_probability: float = 0.0
    speed: Range = (0.9, 1.1)
    """Factor by which tempo and pitch change together."""
    pitch_probability: float = 0.0
    pitch_semitones: Range = (-2.0, 2.0)
    room_probability: float = 0.0
    room_folder: str = ""
    """Impulse responses: a folder, or a corpus's name; if empty, all rooms are synthetic."""
    room_synthetic_share: float = 0.3
    """Share of synthetic rooms if there is a folder."""
    room_rt60_s: Range = (0.15, 0.8)
    """Time in which the reverberation of a synthetic room decays by 60 dB."""
    room_direct_db: Range = (-3.0, 9.0)
    """Level of the direct sound relative to the reverberation, in synthetic rooms."""
    noise_probability: float = 0.0
    noise_snr_db: Range = (0.0, 30.0)
    """Difference between the voice's active level and the noise's level."""
    noise_folders: tuple[str, ...] = ()
    """Folders, or names of corpora; if empty, all noise is generated (white, pink or brown)."""
    noise_colour_share: float = 0.3
    """Share of generated noise if there are folders."""
    band_probability: float = 0.0
    band_low_hz: Range = (20.0, 300.0)
    band_high_hz: Range = (3000.0, 7600.0)
    telephone_probability: float = 0.0
    telephone_peak_db: Range = (-30.0, 0.0)
    gain_probability: float = 0.0
    gain_db: Range = (-20.0, 20.0)

    def located(self, root: Path | None) -> AugmentConfig:
        """The same settings with the folders of noise and rooms as paths, looked up by name below `root`."""
        room = str(find_corpus(self.room_folder, root)) if self.room_folder else ""
        return replace(
            self, room_folder=room, noise_folders=tuple(str(find_corpus(n, root)) for n in self.noise_folders)
        )

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith(("_probability", "_share")) and not 0.0 <= value <= 1.0:
                raise ValueError(f"{field.name}: {value} is not between 0 and 1")
            if field.type == "Range" and not (len(value) == 2 and value[0] <= value[1]):
                raise ValueError(f"{field.name}: {value} is not (low, high) with low <= high")
        for name in ("speed", "room_rt60_s", "band_low_hz", "band_high_hz"):
            if getattr(self, name)[0] <= 0:
                raise ValueError(f"{name}: {getattr(self, name)} is not positive")
        if self.band_low_hz[1] >= self.band_high_hz[0] or self.band_high_hz[1] > SAMPLE_RATE / 2:
            raise ValueError(
                f"band_low_hz {self.band_low_hz}, band_high_hz {self.band_high_hz}: all values must satisfy "
                f"band_low_hz < band_high_hz <= {SAMPLE_RATE // 2}"
            )

    def steps(self) -> list[tuple[float, Augmentation]]:
        """(probability, augmentation) in the order of application: voice, room, noise, line, level."""
        return [
            (self.speed_probability, Speed(self.speed)),
            (self.pitch_probability, Pitch(self.pitch_semitones)),
            (
                self.room_probability,
                Room(self.room_folder, self.room_rt60_s, self.room_direct_db, self.room_synthetic_share),
            ),
            (self.noise_probability, Noise(self.noise_snr_db, self.noise_folders, self.noise_colour_share)),
            (self.band_probability, Band(self.band_low_hz, self.band_high_hz)),
            (self.telephone_probability, Telephone(self.telephone_peak_db)),
            (self.gain_probability, Gain(self.gain_db)),
        ]


Plan = tuple[tuple[Augmentation, Any], ...]
"""Augmentations with their drawn parameters, in order."""


class Augmenter:
    """Augment clips one after the other; one generator draws all parameters.

    >>> augmenter = Augmenter(AugmentConfig(gain_probability=1.0), np.random.default_rng(0))
    >>> [round(float(augmenter(np.full(3, 0.1, np.float32)).max()), 2) for _ in range(3)]
    [0.29, 0.02, 0.2]
    """

    def __init__(self, config: AugmentConfig, rng: np.random.Generator) -> None:
        self.config = config
        self._rng = rng
        self._steps = config.steps()
        folders = [*config.noise_folders] if config.noise_probability else []
        for folder in [*folders, config.room_folder] if config.room_probability and config.room_folder else folders:
            audio_bank(folder)  # report a missing folder now, not at the thousandth clip

    def draw(self) -> Plan:
        """Draw the changes for the next clip."""
        return tuple((one, one.draw(self._rng)) for probability, one in self._steps if self._rng.random() < probability)

    def __call__(self, samples: Samples) -> Samples:
        return apply_plan(samples, self.draw())


def apply_plan(samples: Samples, plan: Plan) -> Samples:
    """Apply each change in turn; the peak stays within full scale."""
    for augmentation, drawn in plan:
        samples = augmentation.apply(samples, drawn)
    return np.ascontiguousarray(limit(samples), np.float32)
