"""Make corpora of synthetic voices, small enough to train on in seconds; the emotions differ in pitch and level."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import soundfile

from streamser.audio import SAMPLE_RATE


def make_corpus(folder: Path, *, speakers: int = 6, takes: int = 3, duration_s: float = 0.8, seed: int = 7) -> Path:
    """Make a corpus with a manifest and WAV files in `folder`: angry is high and loud, sad is low and soft."""
    rng = np.random.default_rng(seed)
    (folder / "audio").mkdir(parents=True)
    rows = []
    for speaker in range(speakers):
        for label, hz, level in (("angry", 320.0, 0.4), ("sad", 110.0, 0.08)):
            for take in range(takes):
                t = np.arange(round(duration_s * SAMPLE_RATE)) / SAMPLE_RATE
                pitch = hz * (1 + 0.05 * speaker) * (1 + 0.1 * rng.random())
                voice = sum(np.sin(2 * np.pi * k * pitch * t) / k for k in range(1, 8))
                audio = level * voice + 0.01 * rng.standard_normal(len(t))
                intensity = ("normal", "strong")[take % 2]
                name = f"audio/s{speaker}-{label}-{take}.wav"
                soundfile.write(folder / name, audio.astype(np.float32), SAMPLE_RATE)
                rows.append(
                    {"path": name, "speaker": f"s{speaker}", "gender": "fm"[speaker % 2], "emotion": label,
                     "intensity": intensity, "text_id": f"t{take}", "language": "xx", "split_hint": ""}
                )  # fmt: skip
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


VOICES = {  # pitch in Hz, level, depth of a 6 Hz vibrato
    "ang": (320.0, 0.40, 0.00),
    "hap": (240.0, 0.25, 0.15),
    "exc": (260.0, 0.30, 0.15),
    "neu": (160.0, 0.12, 0.00),
    "sad": (110.0, 0.05, 0.00),
    "fru": (200.0, 0.15, 0.05),
    "xxx": (180.0, 0.10, 0.02),
}
"""A synthetic voice for each of IEMOCAP's label codes."""
WORDS = {
    "ang": "Anger", "hap": "Happiness", "exc": "Excited", "neu": "Neutral", "sad": "Sadness", "fru": "Frustration",
}  # fmt: skip


def voice(code: str, speaker: int, rng: np.random.Generator, duration_s: float = 0.8) -> np.ndarray:
    """An utterance with the label `code` of one speaker."""
    hz, level, vibrato = VOICES[code]
    t = np.arange(round(duration_s * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = hz * (1 + 0.03 * speaker) * (1 + 0.05 * rng.random()) * (1 + vibrato * np.sin(2 * np.pi * 6 * t))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    whole = level * sum(np.sin(k * phase) / k for k in range(1, 8)) + 0.01 * rng.standard_normal(len(t))
    return np.asarray(whole / 2, np.float32)


def make_iemocap(folder: Path, *, takes: int = 1, seed: int = 3) -> Path:
    """Make a corpus in IEMOCAP's official layout: five sessions of two speakers, improvised and scripted, and votes."""
    rng = np.random.default_rng(seed)
    for session in range(1, 6):
        base = folder / f"Session{session}"
        for dialog in (f"Ses0{session}F_impro01", f"Ses0{session}M_script01_1"):
            lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
            for gender in "FM":
                for number, code in enumerate([*VOICES] * takes):
                    turn = f"{dialog}_{gender}{number:03d}"
                    path = base / "sentences" / "wav" / dialog / f"{turn}.wav"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    duration_s = 0.7 + 0.3 * rng.random()
                    soundfile.write(path, voice(code, 2 * session + (gender == "M"), rng, duration_s), SAMPLE_RATE)
                    lines += [f"[1.0000 - 2.0000]\t{turn}\t{code}\t[2.5000, 2.5000, 2.5000]", *_votes(code), ""]
            place = base / "dialog" / "EmoEvaluation"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{dialog}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def _votes(code: str) -> list[str]:
    if code == "xxx":
        return ["C-E2:\tAnger;\t()", "C-E3:\tSadness;\t()", "C-E4:\tNeutral;\t()"]
    own = WORDS[code]
    return [f"C-E2:\t{own};\t()", f"C-E3:\t{own};\t()", f"C-E4:\t{own}; Neutral;\t()", f"C-F1:\t{own};\t()"]


def make_asvp(folder: Path, *, actors: int = 6, seed: int = 5) -> Path:
    """Make a corpus in ASVP-ESD's official layout: twelve emotions of a few actors."""
    rng = np.random.default_rng(seed)
    codes = [*VOICES]
    for actor in range(1, actors + 1):
        place = folder / "Audio" / f"actor_{actor}"
        place.mkdir(parents=True)
        for emotion in range(1, 13):
            name = f"03-01-{emotion:02d}-01-01-{actor:02d}-02-01-01-16.wav"
            soundfile.write(place / name, voice(codes[emotion % len(codes)], emotion, rng), SAMPLE_RATE)
    return folder
