"""Render a recipe's augmentations as audio: each change alone, then all together, on an HTML page with players.

Log-mel augmentations are drawn by the code that training uses; the change of each band in each frame then becomes a
gain on the recording's spectrum, with unchanged phases. Mixup mixes waveforms here; in training it mixes features (or
the embeddings of a frozen encoder).
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from streamser.audio import SAMPLE_RATE, Samples, read_audio
from streamser.corpora.clips import Clip
from streamser.features import FeatureConfig, Frames, extract, mel_corners
from streamser.training.acoustics import limit
from streamser.training.augment import Augmentation, AugmentConfig, Plan, apply_plan
from streamser.training.batches import BatchMaker
from streamser.training.featureaugment import FeatureAugment
from streamser.training.store import LevelStore, level_config

SHOWN = FeatureAugment(mask_mels=24, mask_frames=30, mixup=0.4)
"""Log-mel augmentations that are rendered, in addition to all of `AugmentConfig`, for a recipe without any."""

_GRAIN = SAMPLE_RATE // 100  # samples in a frame for changes in time only (`_in_time`)
_PIECE = 1024  # samples of one piece of a spectrum
_LOUDEST_DB = 40.0  # largest gain: a band at the floor has no audio to raise

Recordings = list[Samples]


def preview_augment(
    clips: Sequence[Clip],
    out_dir: Path,
    features: FeatureConfig,
    augment: AugmentConfig | None = None,
    drawn: FeatureAugment | None = None,
    *,
    window_s: float = 0.0,
    seed: int = 0,
) -> Path:
    """Write each clip unchanged, changed by each augmentation alone, and by all together; returns the page.

    `augment` and `drawn` are the augmentations of a recipe; if both are off, all augmentations are rendered. In
    training, `augment` changes a clip once, before the features; `drawn` changes windows of `window_s` (0: the
    network's window), separately for every batch.
    """
    augment, drawn = augment or AugmentConfig(), drawn or FeatureAugment()
    drawn.check(features)
    steps = [(share, one) for share, one in augment.steps() if share]
    if not steps and drawn == FeatureAugment():
        mel = features.kind == "mel"
        widest, longest = (min(SHOWN.mask_mels, features.n_mels), SHOWN.mask_frames) if mel else (0, 0)
        steps, drawn = augment.steps(), replace(SHOWN, mask_mels=widest, mask_frames=longest)
    length_s = window_s or features.length_s
    parts = _alone(drawn)
    if len(clips) < 2:  # there is no other clip to use
        parts = {name: part for name, part in parts.items() if name not in ("mixup", "drawn-channel")}
    out_dir.mkdir(parents=True, exist_ok=True)
    originals = [read_audio(clip.path) for clip in clips]
    rows: list[tuple[str, str, str, str]] = []

    def write(number: int, name: str, audio: Samples, words: str) -> None:
        file = f"{number:02d}-{name}.wav"
        soundfile.write(out_dir / file, limit(audio), SAMPLE_RATE, subtype="PCM_16")
        rows.append((clips[number].id, name, file, words))

    together: list[tuple[Samples, str]] = []
    for number, audio in enumerate(originals):
        rng = np.random.default_rng([seed, number])
        write(number, "original", audio, "")
        for _, one in steps:
            plan: Plan = ((one, one.draw(rng)),)
            write(number, one.name, apply_plan(audio, plan), _words(plan))
        plan = tuple((one, one.draw(rng)) for _, one in steps)
        together.append((apply_plan(audio, plan), _words(plan)))
    for index, (name, (part, words)) in enumerate(parts.items()):
        rng = np.random.default_rng([seed, len(clips) + index])
        for number, audio in enumerate(_changed(originals, part, features, length_s, rng)):
            write(number, name, audio, words)
    rng = np.random.default_rng([seed, len(clips) + len(parts)])
    recordings, descriptions = [audio for audio, _ in together], [words for _, words in together]
    if parts:
        recordings = _changed(recordings, drawn, features, length_s, rng)
        rest = ", ".join(parts) + " as often and as far as the recipe draws them"
        descriptions = [f"{words}; {rest}" if words else rest for words in descriptions]
    for number, (audio, words) in enumerate(zip(recordings, descriptions, strict=True)):
        write(number, "together", audio, words)
    page = out_dir / "index.html"
    page.write_text(_page(sorted(rows, key=lambda row: row[2].split("-")[0])), encoding="utf-8")
    return page


def _alone(drawn: FeatureAugment) -> dict[str, tuple[FeatureAugment, str]]:
    """Each enabled change, applied alone and to every clip, with a description of its range."""
    plain = FeatureAugment()
    always: dict[str, dict[str, Any]] = {
        "drawn-gain": {"gain_db": drawn.gain_db},
        "drawn-level": {"level_db": drawn.level_db},
        "drawn-channel": {"channel_swap": float(drawn.channel_swap > 0)},
        "drawn-tilt": {"tilt_db": drawn.tilt_db},
        "drawn-room": {
            "room_probability": float(drawn.room_probability > 0),
            "room_rt60_s": drawn.room_rt60_s,
            "room_direct_db": drawn.room_direct_db,
        },
        "drawn-noise": {"noise_probability": float(drawn.noise_probability > 0), "noise_snr_db": drawn.noise_snr_db},
        "drawn-warp": {"shift_mels": drawn.shift_mels},
        "specaugment": {"mask_mels": drawn.mask_mels, "mask_frames": drawn.mask_frames},
        "mixup": {"mixup": drawn.mixup},
        "trim": {"trim_probability": float(drawn.trim_probability > 0)},
        "pause": {"pause_probability": float(drawn.pause_probability > 0)},
        "crop": {"crop_probability": float(drawn.crop_probability > 0), "crop_min_s": drawn.crop_min_s},
    }
    found = {}
    for name, values in always.items():
        switch = next(iter(values))  # the first field is its probability or strength
        if values[switch] != getattr(plain, switch) or (name == "specaugment" and drawn.mask_frames):
            part = replace(plain, **values)
            far = {key: value for key, value in values.items() if not key.endswith(("_probability", "_swap"))}
            found[name] = (part, ", ".join(f"{key} {value}" for key, value in far.items()))
    for name, settings in drawn.changes.items():
        found[f"drawn-{name}"] = (replace(plain, changes={name: settings}), str(dict(settings)))
    return found


def _changed(
    recordings: Recordings, augment: FeatureAugment, features: FeatureConfig, length_s: float, rng: np.random.Generator
) -> Recordings:
    """One window of each recording, as in a training batch of these recordings."""
    windows = [_in_time(audio, augment, features, length_s, rng) for audio in recordings]
    if features.kind == "mel":
        windows = _in_bands(windows, augment, features, rng)
    if augment.mixup:
        share = np.float32(rng.beta(augment.mixup, augment.mixup))
        others = [*windows[1:], windows[0]]  # each clip's partner; training draws the partners
        windows = [share * one + (1 - share) * other for one, other in zip(windows, others, strict=True)]
    return windows


def _in_time(
    audio: Samples, augment: FeatureAugment, features: FeatureConfig, length_s: float, rng: np.random.Generator
) -> Samples:
    """Trim, crop or add pauses as `BatchMaker` does, over frames of plain samples."""
    grains = np.resize(audio, max(len(audio) // _GRAIN, 1) * _GRAIN).reshape(-1, _GRAIN)
    of_samples = FeatureConfig(
        kind="samples", window_samples=_GRAIN, hop_samples=_GRAIN, fft_size=_GRAIN, length_s=length_s,
        short=features.short, long=features.long,
    )  # fmt: skip
    store = LevelStore(grains.astype(np.float32), np.array([[0]]), np.array([[len(grains)]]))
    of_time = {name: getattr(augment, name) for name in ("trim_probability", "pause_probability", "crop_probability")}
    maker = BatchMaker(store, of_samples, FeatureAugment(**of_time, crop_min_s=augment.crop_min_s))
    return np.asarray(maker.draw(np.array([0]), rng)[0].numpy().ravel(), np.float32)


def _in_bands(
    windows: Recordings, augment: FeatureAugment, features: FeatureConfig, rng: np.random.Generator
) -> Recordings:
    """Apply changes of log-mel as gains on the recordings' own spectra."""
    plain = level_config(features)
    levels = np.stack([extract(window, plain) for window in windows])
    empty = np.zeros((1, 0), np.int64)
    maker = BatchMaker(LevelStore(levels[:, :0, 0], empty, empty), plain, augment)
    after = maker.augmented(torch.from_numpy(levels.astype(np.float32)), rng).numpy()
    per_db = 1.0 if plain.log == "db" else np.log(10.0) / 10.0
    # A piece of the spectrum is longer than a frame: a gain in a pause must not raise the word beside it.
    rise = np.minimum(after - levels, _loudest_near(after, plain) - _loudest_near(levels, plain))
    return [with_gains(window, gains, plain) for window, gains in zip(windows, rise / per_db, strict=True)]


def _loudest_near(levels: Frames, features: FeatureConfig) -> Frames:
    """The loudest level of each band within half a `_PIECE` of each frame, (clips, frames, bands)."""
    reach = int(np.ceil(_PIECE / 2 / SAMPLE_RATE / features.hop_s))
    padded = np.pad(levels, ((0, 0), (reach, reach), (0, 0)), mode="edge")
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=1).max(axis=-1))


def with_gains(samples: Samples, gains_db: Frames, features: FeatureConfig) -> Samples:
    """Apply gains in decibels, (frames, bands), to each band of each frame of the audio."""
    size, hop = _PIECE, _PIECE // 4
    padded = np.pad(samples, (size, 2 * size))
    window = np.hanning(size + 1)[:-1].astype(np.float32)
    starts = np.arange(0, len(padded) - size, hop)
    spectra = np.fft.rfft(np.stack([padded[start : start + size] for start in starts]) * window)
    seconds = (starts - size / 2) / SAMPLE_RATE  # time of each piece's middle
    if not features.center:  # a frame's middle is half a window after its beginning
        seconds -= features.window_samples / 2 / features.sample_rate
    frame = np.clip(np.round(seconds / features.hop_s).astype(np.int64), 0, len(gains_db) - 1)
    peaks = mel_corners(features)[1:-1]
    band: NDArray[np.int64] = np.abs(np.fft.rfftfreq(size, 1 / SAMPLE_RATE)[:, None] - peaks).argmin(axis=1)
    spectra *= 10 ** (np.clip(gains_db, -2 * _LOUDEST_DB, _LOUDEST_DB)[frame][:, band] / 20)
    out = np.zeros_like(padded)
    for start, piece in zip(starts.tolist(), np.fft.irfft(spectra) * window, strict=True):
        out[start : start + size] += piece / np.float32(1.5)  # four Hann squares at this hop add up to 1.5
    return np.asarray(out[size : size + len(samples)], np.float32)


def _words(plan: Sequence[tuple[Augmentation, Any]]) -> str:
    """The drawn parameters as text for the page."""
    descriptions = []
    for augmentation, drawn in plan:
        named = drawn._asdict().items() if hasattr(drawn, "_asdict") else [(_first_field(augmentation), drawn)]
        shown = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in named if v != "")
        descriptions.append(f"{augmentation.name}: {shown}")
    return "; ".join(descriptions)


def _first_field(augmentation: Any) -> str:
    return fields(augmentation)[0].name


def _page(rows: Sequence[tuple[str, str, str, str]]) -> str:
    lines = ["<!doctype html><meta charset=utf-8><title>Augmentations</title><table>"]
    for row in rows:
        clip, name, file, drawn = map(html.escape, row)
        player = f'<audio controls preload=none src="{file}"></audio>'
        lines.append(f"<tr><td>{clip}<td>{name}<td>{player}<td>{drawn}")
    return "\n".join([*lines, "</table>", ""])


__all__ = ["preview_augment", "with_gains"]
