"""Change sound as rooms, microphones, lines and voices do: each change is drawn first and applied second.

`draw(rng)` gives plain parameters, `apply(samples, drawn)` has no chance left in it. Nothing clips: only a result that
would pass full scale is turned down, to full scale.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from streamser.audio import SAMPLE_RATE, Samples, read_audio
from streamser.errors import CorpusError
from streamser.features import Frames
from streamser.training.clips import Clip
from streamser.training.corpora import find_corpus
from streamser.training.layouts import sound_files

Range = tuple[float, float]
Colour = Literal["white", "pink", "brown"]

COLOURS: dict[Colour, float] = {"white": 0.0, "pink": 1.0, "brown": 2.0}
"""Each noise's power falls with the frequency to this power."""


class Augmentation(Protocol):
    """One way to change sound."""

    @property
    def name(self) -> str: ...

    def draw(self, rng: np.random.Generator) -> Any:
        """All that chance decides."""

    def apply(self, samples: Samples, drawn: Any) -> Samples:
        """The sound changed as drawn."""


# ---- what the augmentations are made of


def active_power(samples: Samples) -> float:
    """Mean power of the 20 ms frames within 30 dB of the loudest: the level of the voice, not of its pauses."""
    size = SAMPLE_RATE // 50
    count = len(samples) // size
    if not count:
        return float(np.mean(np.square(samples))) if len(samples) else 0.0
    powers = np.square(samples[: count * size]).reshape(count, size).mean(axis=1)
    return float(powers[powers >= powers.max() * 1e-3].mean())


def limit(samples: Samples) -> Samples:
    """Turned down to full scale if it would pass it."""
    peak = float(np.abs(samples).max(initial=0.0))
    return samples if peak <= 1.0 else np.asarray(samples / np.float32(peak))


def add_noise(samples: Samples, noise: Samples, snr_db: float) -> Samples:
    """Noise of the same length added, its power so far below the voice's active level."""
    wanted = active_power(samples) * 10.0 ** (-snr_db / 10.0)
    power = float(np.mean(np.square(noise))) if len(noise) else 0.0
    if not wanted or not power:  # there is nothing to hear, or nothing to add
        return samples
    return np.asarray(samples + noise * np.float32(math.sqrt(wanted / power)))


def coloured_noise(length: int, colour: Colour, seed: int) -> Samples:
    """Gaussian noise whose power falls with frequency as the colour says (flat below 20 Hz)."""
    noise = np.random.default_rng(seed).standard_normal(length, np.float32)
    if colour == "white":
        return noise
    size = _fast_size(length)
    hz = np.fft.rfftfreq(size, 1.0 / SAMPLE_RATE)
    shape = np.maximum(hz, 20.0) ** (-COLOURS[colour] / 2.0)
    return np.fft.irfft(np.fft.rfft(noise, size) * shape.astype(np.float32), size)[:length].astype(np.float32)


def reverberate(samples: Samples, response: Samples) -> Samples:
    """The sound in a room: the direct path stays in its place, the active level stays as it was."""
    if not len(samples) or not np.any(response):
        return samples
    direct = int(np.argmax(np.abs(response)))
    size = _fast_size(len(samples) + len(response) - 1)
    whole = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)
    wet = whole[direct : direct + len(samples)].astype(np.float32)
    power = active_power(wet)
    return np.asarray(wet * np.float32(math.sqrt(active_power(samples) / power))) if power else samples


def room_response(rt60_s: float, direct_db: float, seed: int) -> Samples:
    """A simple room: the direct path, then noise that decays by 60 dB in rt60_s, `direct_db` weaker in all."""
    rng = np.random.default_rng(seed)
    time = np.arange(1, round(rt60_s * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(len(time)) * 10.0 ** (-3.0 * time / rt60_s)
    tail[: SAMPLE_RATE // 400] = 0.0  # the first wall is at least 40 cm of detour away
    power = np.sum(np.square(tail))
    tail *= math.sqrt(10.0 ** (-direct_db / 10.0) / power) if power else 0.0
    return np.concatenate([[1.0], tail]).astype(np.float32)


def band_limit(samples: Samples, low_hz: float, high_hz: float) -> Samples:
    """What is left between two frequencies; the slopes are a sixth of an octave wide."""
    size = _fast_size(len(samples) + SAMPLE_RATE // 10)  # room for the filter's ringing, so that no end meets the other
    hz = np.maximum(np.fft.rfftfreq(size, 1.0 / SAMPLE_RATE), 1e-3)
    slope = 1.0 / 6.0
    rising = np.clip(np.log2(hz / low_hz) / slope + 1.0, 0.0, 1.0) if low_hz > 0 else np.ones_like(hz)
    falling = np.clip(np.log2(high_hz / hz) / slope + 1.0, 0.0, 1.0)
    keep = np.sin(0.5 * np.pi * rising * falling).astype(np.float32) ** 2
    return np.fft.irfft(np.fft.rfft(samples, size) * keep, size)[: len(samples)].astype(np.float32)


def mu_law(samples: Samples) -> Samples:
    """Eight bits a sample, as G.711 codes them, and back."""
    mu = 255.0
    squeezed = np.sign(samples) * np.log1p(mu * np.minimum(np.abs(samples), 1.0)) / math.log1p(mu)
    steps = np.round(squeezed * 127.0) / 127.0
    return (np.sign(steps) * np.expm1(np.abs(steps) * math.log1p(mu)) / mu).astype(np.float32)


def telephone(samples: Samples, peak_db: float = -6.0) -> Samples:
    """300 to 3400 Hz, 8000 samples a second, mu-law at a line level of `peak_db`; the level comes back as it was."""
    peak = float(np.abs(samples).max(initial=0.0))
    if not peak:
        return samples
    level = np.float32(10.0 ** (peak_db / 20.0) / peak)
    line = soxr.resample(band_limit(samples, 300.0, 3400.0) * level, SAMPLE_RATE, 8000)
    back = soxr.resample(mu_law(line), 8000, SAMPLE_RATE).astype(np.float32)
    return np.asarray(_fit(back, len(samples)) / level)


def change_speed(samples: Samples, factor: float) -> Samples:
    """Played faster (above 1) or slower: tempo, pitch and timbre change together."""
    if factor == 1.0 or not len(samples):
        return samples
    return np.asarray(soxr.resample(samples, SAMPLE_RATE * factor, SAMPLE_RATE), np.float32)


# 32 ms hold two periods of the deepest voice; a piece may be taken from up to 10 ms beside its ideal place.
_STRETCH_FRAME = 512
_STRETCH_HOP = _STRETCH_FRAME // 2
_STRETCH_SEARCH = 160


def stretch(samples: Samples, factor: float) -> Samples:
    """Longer (factor above 1) or shorter at the same pitch: pieces overlap where their waveforms fit best (WSOLA)."""
    length = round(len(samples) * factor)
    if factor == 1.0 or len(samples) < 2 * _STRETCH_FRAME:
        return samples
    padded = np.pad(samples, (_STRETCH_SEARCH, 2 * _STRETCH_FRAME + 2 * _STRETCH_SEARCH))
    out = np.zeros(length + 2 * _STRETCH_FRAME, np.float32)
    window = np.hanning(_STRETCH_FRAME + 1)[:-1].astype(np.float32)
    window_at = 0  # where the last piece was taken from, in `padded`
    for start in range(0, length + _STRETCH_HOP, _STRETCH_HOP):
        first = min(round(start / factor), len(samples))  # = the ideal place less _STRETCH_SEARCH, in `padded`
        region = padded[first : first + _STRETCH_FRAME + 2 * _STRETCH_SEARCH]
        wanted = padded[window_at + _STRETCH_HOP : window_at + _STRETCH_HOP + _STRETCH_FRAME]
        window_at = first + (_best_fit(region, wanted) if start else _STRETCH_SEARCH)
        out[start : start + _STRETCH_FRAME] += padded[window_at : window_at + _STRETCH_FRAME] * window
    out[:_STRETCH_HOP] = samples[:_STRETCH_HOP]  # nothing overlaps the first half piece
    return out[:length]


def _best_fit(region: Samples, wanted: Samples) -> int:
    """The offset in the region at which it is most like what is wanted."""
    products = np.correlate(region, wanted[: len(region)], "valid")
    energies = np.concatenate([[0.0], np.cumsum(np.square(region, dtype=np.float64))])
    energy = energies[len(wanted) :] - energies[: len(energies) - len(wanted)]
    return int(np.argmax(products / np.sqrt(np.maximum(energy, 1e-12))))


def shift_pitch(samples: Samples, semitones: float) -> Samples:
    """Higher or lower at the same tempo; the timbre moves along."""
    factor = 2.0 ** (semitones / 12.0)
    return _fit(change_speed(stretch(samples, factor), factor), len(samples))


def _fit(samples: Samples, length: int) -> Samples:
    return samples[:length] if len(samples) >= length else np.pad(samples, (0, length - len(samples)))


@lru_cache(maxsize=4096)
def _fast_size(length: int) -> int:
    """The next size with no prime factor above 5: FFTs of other sizes can be several times slower."""
    best = 1 << max(0, length - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            size = three << max(0, -(-length // three) - 1).bit_length()
            best = min(best, size)
            three *= 3
        five *= 5
    return best


# ---- sounds to draw from


class SoundBank:
    """The sound files of a folder, each read once and kept as 16 bits."""

    def __init__(self, folder: Path) -> None:
        self.paths = sound_files(folder)
        if not self.paths:
            raise CorpusError(f"{folder}: holds no sound files to augment with")
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
def sound_bank(folder: str) -> SoundBank:
    """The bank of a folder (or of a corpus by its name), the same one for all who ask in this process."""
    return SoundBank(find_corpus(folder))


# ---- the augmentations


class NoiseDrawn(NamedTuple):
    snr_db: float
    folder: str
    """Empty for generated noise."""
    file: float
    """Which file, as a share of their number."""
    start: float
    """Where in it, as a share of its length."""
    colour: Colour
    seed: int


@dataclass(frozen=True, slots=True)
class Noise:
    """Noise from files, or generated, at a drawn distance below the voice."""

    name: ClassVar[str] = "noise"
    snr_db: Range = (0.0, 30.0)
    folders: tuple[str, ...] = ()
    colour_share: float = 0.3
    """Share of generated noise where there are folders; without them all of it is."""

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
        bank = sound_bank(drawn.folder)
        noise = bank[int(drawn.file * len(bank))]
        start = int(drawn.start * len(noise))
        return add_noise(samples, np.resize(np.roll(noise, -start), len(samples)), drawn.snr_db)


class RoomDrawn(NamedTuple):
    folder: str
    """Empty for a made-up room."""
    file: float
    """Which file, as a share of their number."""
    rt60_s: float
    direct_db: float
    seed: int


@dataclass(frozen=True, slots=True)
class Room:
    """A room's response, from files or made up."""

    name: ClassVar[str] = "room"
    folder: str = ""
    rt60_s: Range = (0.15, 0.8)
    direct_db: Range = (-3.0, 9.0)
    """Direct sound against reverberation."""
    synthetic_share: float = 0.3
    """Share of made-up rooms where there is a folder."""

    def draw(self, rng: np.random.Generator) -> RoomDrawn:
        made_up = not self.folder or rng.random() < self.synthetic_share
        return RoomDrawn(
            folder="" if made_up else self.folder,
            file=float(rng.random()),
            rt60_s=float(rng.uniform(*self.rt60_s)),
            direct_db=float(rng.uniform(*self.direct_db)),
            seed=int(rng.integers(2**31)),
        )

    def apply(self, samples: Samples, drawn: RoomDrawn) -> Samples:
        if not drawn.folder:
            return reverberate(samples, room_response(drawn.rt60_s, drawn.direct_db, drawn.seed))
        bank = sound_bank(drawn.folder)
        return reverberate(samples, bank[int(drawn.file * len(bank))])


@dataclass(frozen=True, slots=True)
class Gain:
    """Louder or softer."""

    name: ClassVar[str] = "gain"
    gain_db: Range = (-20.0, 20.0)

    def draw(self, rng: np.random.Generator) -> float:
        return float(rng.uniform(*self.gain_db))

    def apply(self, samples: Samples, drawn: float) -> Samples:
        return limit(samples * np.float32(10.0 ** (drawn / 20.0)))


@dataclass(frozen=True, slots=True)
class Speed:
    """Tempo and pitch together, as another, larger or smaller speaker."""

    name: ClassVar[str] = "speed"
    factor: Range = (0.9, 1.1)

    def draw(self, rng: np.random.Generator) -> float:
        return float(rng.uniform(*self.factor))

    def apply(self, samples: Samples, drawn: float) -> Samples:
        return change_speed(samples, drawn)


@dataclass(frozen=True, slots=True)
class Pitch:
    """Pitch at the same tempo."""

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
    """What a cheap microphone or a narrow line leaves."""

    name: ClassVar[str] = "band"
    low_hz: Range = (20.0, 300.0)
    high_hz: Range = (3000.0, 7600.0)

    def draw(self, rng: np.random.Generator) -> BandDrawn:
        # evenly in octaves: 3 to 4 kHz costs as much as 6 to 8
        low, high = (float(np.exp(rng.uniform(*np.log(ends)))) for ends in (self.low_hz, self.high_hz))
        return BandDrawn(low, high)

    def apply(self, samples: Samples, drawn: BandDrawn) -> Samples:
        return band_limit(samples, drawn.low_hz, drawn.high_hz)


@dataclass(frozen=True, slots=True)
class Telephone:
    """A telephone line at a drawn level: the softer, the coarser its eight bits."""

    name: ClassVar[str] = "telephone"
    peak_db: Range = (-30.0, 0.0)

    def draw(self, rng: np.random.Generator) -> float:
        return float(rng.uniform(*self.peak_db))

    def apply(self, samples: Samples, drawn: float) -> Samples:
        return telephone(samples, drawn)


# ---- together


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """Which changes a training clip goes through, how often and how far; a probability of 0 switches one off."""

    speed_probability: float = 0.0
    speed: Range = (0.9, 1.1)
    """Tempo and pitch together, by this factor."""
    pitch_probability: float = 0.0
    pitch_semitones: Range = (-2.0, 2.0)
    room_probability: float = 0.0
    room_folder: str = ""
    """Impulse responses: a folder, or a corpus's name; empty makes rooms up."""
    room_synthetic_share: float = 0.3
    """Share of made-up rooms where there is a folder."""
    room_rt60_s: Range = (0.15, 0.8)
    """Of made-up rooms."""
    room_direct_db: Range = (-3.0, 9.0)
    """Of made-up rooms: direct sound against reverberation."""
    noise_probability: float = 0.0
    noise_snr_db: Range = (0.0, 30.0)
    """Below the voice's active level."""
    noise_folders: tuple[str, ...] = ()
    """Folders, or corpora's names; empty generates white, pink and brown noise."""
    noise_colour_share: float = 0.3
    """Share of generated noise where there are folders."""
    band_probability: float = 0.0
    band_low_hz: Range = (20.0, 300.0)
    band_high_hz: Range = (3000.0, 7600.0)
    telephone_probability: float = 0.0
    telephone_peak_db: Range = (-30.0, 0.0)
    gain_probability: float = 0.0
    gain_db: Range = (-20.0, 20.0)

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
                f"band_low_hz < band_high_hz <= {SAMPLE_RATE // 2}: {self.band_low_hz}, {self.band_high_hz}"
            )

    def steps(self) -> list[tuple[float, Augmentation]]:
        """(probability, augmentation) in the order in which sound meets them: voice, room, noise, line, level."""
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
"""Augmentations with what was drawn for them, in order."""


class Augmenter:
    """Clip after clip, each changed as the next numbers of the generator say.

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
            sound_bank(folder)  # a folder that is not there is told now, not at the thousandth clip

    def draw(self) -> Plan:
        """What happens to the next clip."""
        return tuple((one, one.draw(self._rng)) for probability, one in self._steps if self._rng.random() < probability)

    def __call__(self, samples: Samples) -> Samples:
        return apply_plan(samples, self.draw())


def apply_plan(samples: Samples, plan: Plan) -> Samples:
    """Each change in turn."""
    for augmentation, drawn in plan:
        samples = augmentation.apply(samples, drawn)
    return np.ascontiguousarray(limit(samples), np.float32)


# ---- in the domain of features


class MaskDrawn(NamedTuple):
    """Shares of what is possible: width and place of the band, then of the stretch of time."""

    bins: float
    first_bin: float
    frames: float
    first_frame: float


@dataclass(frozen=True, slots=True)
class SpecMask:
    """SpecAugment: a band and a stretch of time, each of a drawn width, are set to the mean."""

    name: ClassVar[str] = "specaugment"
    bins: int = 24
    """Widest band."""
    frames: int = 30
    """Longest stretch."""

    def draw(self, rng: np.random.Generator) -> MaskDrawn:
        return MaskDrawn(*rng.random(4).tolist())

    def where(self, shape: tuple[int, int], drawn: MaskDrawn) -> NDArray[np.bool_]:
        """What is masked in features of that shape, (frames, bins)."""
        mask = np.zeros(shape, np.bool_)
        for axis, most, width, first in (
            (1, self.bins, drawn.bins, drawn.first_bin),
            (0, self.frames, drawn.frames, drawn.first_frame),
        ):
            taken = int(width * (min(most, shape[axis]) + 1))
            begin = int(first * (shape[axis] - taken + 1))
            mask[(slice(None), slice(begin, begin + taken)) if axis else slice(begin, begin + taken)] = True
        return mask

    def apply(self, levels: Frames, drawn: MaskDrawn) -> Frames:
        """Log-mel (frames, bins) with the masked part at its mean."""
        shape = (levels.shape[0], levels.shape[1])
        return np.where(self.where(shape, drawn), levels.mean(dtype=np.float32), levels)


@dataclass(frozen=True, slots=True)
class Mixup:
    """Two clips in one, and both their labels, in the proportion Beta(alpha, alpha) draws."""

    name: ClassVar[str] = "mixup"
    alpha: float = 0.2

    def draw(self, rng: np.random.Generator) -> float:
        return float(rng.beta(self.alpha, self.alpha))

    def apply(self, first: Frames, second: Frames, drawn: float) -> Frames:
        """`drawn` of the first and the rest of the second; for features, samples and one-hot labels alike."""
        return np.asarray(np.float32(drawn) * first + np.float32(1.0 - drawn) * second)


# ---- to be heard


def listen_augment(
    clips: Sequence[Clip],
    out_dir: Path,
    config: AugmentConfig,
    seed: int = 0,
    mask: SpecMask | None = None,
    mixup: Mixup | None = None,
) -> Path:
    """Write each clip as it is, changed by each augmentation alone, and by all together; returns the page of players.

    The augmentations are those that `config` uses, or all when it uses none.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    used = [one for probability, one in config.steps() if probability] or [one for _, one in config.steps()]
    rows = []
    for number, clip in enumerate(clips):
        rng = np.random.default_rng([seed, number])
        samples = read_audio(clip.path)
        versions: list[tuple[str, Samples, str]] = [("original", limit(samples), "")]
        for one in used:
            plan: Plan = ((one, one.draw(rng)),)
            versions.append((one.name, apply_plan(samples, plan), _words(plan)))
        plan = tuple((one, one.draw(rng)) for one in used)
        versions.append(("together", apply_plan(samples, plan), _words(plan)))
        if mask is not None:
            drawn = mask.draw(rng)
            versions.append((mask.name, _audible_mask(samples, mask, drawn), _words(((mask, drawn),))))
        if mixup is not None:
            weight = mixup.draw(rng)
            other = np.resize(read_audio(clips[(number + 1) % len(clips)].path), len(samples))
            versions.append((mixup.name, limit(mixup.apply(samples, other, weight)), f"weight {weight:.2f}"))
        for name, sound, drawn_words in versions:
            file = f"{number:02d}-{name}.wav"
            soundfile.write(out_dir / file, sound, SAMPLE_RATE, subtype="PCM_16")
            rows.append((clip.id, name, file, drawn_words))
    page = out_dir / "index.html"
    page.write_text(_page(rows), encoding="utf-8")
    return page


def _words(plan: Sequence[tuple[Any, Any]]) -> str:
    """What was drawn, for a person."""
    said = []
    for augmentation, drawn in plan:
        values = drawn._asdict().items() if hasattr(drawn, "_asdict") else [(fields(augmentation)[0].name, drawn)]
        shown = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in values if v != "")
        said.append(f"{augmentation.name}: {shown}")
    return "; ".join(said)


def _page(rows: Sequence[tuple[str, str, str, str]]) -> str:
    lines = ["<!doctype html><meta charset=utf-8><title>Augmentations</title><table>"]
    for row in rows:
        clip, name, file, drawn = map(html.escape, row)
        player = f'<audio controls preload=none src="{file}"></audio>'
        lines.append(f"<tr><td>{clip}<td>{name}<td>{player}<td>{drawn}")
    return "\n".join([*lines, "</table>", ""])


def _audible_mask(samples: Samples, mask: SpecMask, drawn: MaskDrawn) -> Samples:
    """The sound with the masked part of its spectrum at one mean level; phases stay as they are."""
    size, hop, bands = 1024, 256, 64
    padded = np.pad(samples, (size, 2 * size))
    window = np.hanning(size + 1)[:-1].astype(np.float32)
    starts = range(0, len(padded) - size, hop)
    spectra = np.fft.rfft(np.stack([padded[s : s + size] for s in starts]) * window)
    # bands as wide as mel bands: linear below 1 kHz, then wider and wider
    edges = 700.0 * np.expm1(np.linspace(0.0, math.log1p(8000.0 / 700.0), bands + 1))
    band = np.clip(np.searchsorted(edges, np.fft.rfftfreq(size, 1.0 / SAMPLE_RATE), "right") - 1, 0, bands - 1)
    masked = mask.where((len(spectra), bands), drawn)[:, band]
    sizes = np.maximum(np.abs(spectra), 1e-9)
    spectra = np.where(masked, spectra / sizes * np.exp(np.log(sizes).mean()), spectra)
    out = np.zeros_like(padded)
    for start, piece in zip(starts, np.fft.irfft(spectra) * window, strict=True):
        out[start : start + size] += piece / np.float32(1.5)  # four Hann squares at this hop add up to 1.5
    return limit(out[size : size + len(samples)])
