"""A corpus small enough to learn in seconds: two emotions, told by pitch and level, from a few synthetic speakers."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import soundfile

from streamser.audio import SAMPLE_RATE


def make_corpus(folder: Path, *, speakers: int = 6, takes: int = 3, duration_s: float = 0.8, seed: int = 7) -> Path:
    """`folder` with a manifest and WAV files; angry is high and rough, sad is low and soft."""
    rng = np.random.default_rng(seed)
    (folder / "audio").mkdir(parents=True)
    rows = []
    for speaker in range(speakers):
        for label, hz, level in (("angry", 320.0, 0.4), ("sad", 110.0, 0.08)):
            for take in range(takes):
                t = np.arange(round(duration_s * SAMPLE_RATE)) / SAMPLE_RATE
                pitch = hz * (1 + 0.05 * speaker) * (1 + 0.1 * rng.random())
                voice = sum(np.sin(2 * np.pi * k * pitch * t) / k for k in range(1, 8))
                sound = level * voice + 0.01 * rng.standard_normal(len(t))
                intensity = ("normal", "strong")[take % 2]
                name = f"audio/s{speaker}-{label}-{take}.wav"
                soundfile.write(folder / name, sound.astype(np.float32), SAMPLE_RATE)
                rows.append(
                    {"path": name, "speaker": f"s{speaker}", "gender": "fm"[speaker % 2], "emotion": label,
                     "intensity": intensity, "text_id": f"t{take}", "language": "xx", "split_hint": ""}
                )  # fmt: skip
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder
