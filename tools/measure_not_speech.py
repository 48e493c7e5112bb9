"""Print how many recordings that are not speech come out `uncertain`, by kind.

    python tools/measure_not_speech.py whisper
    python tools/measure_not_speech.py whisper lightsernet --recordings noise_esc10 --corpora-root CORPORA

The sounds are made here: tones, chords, melodies, signals of a telephone, noise, silence. Training has a generator of
its own (`streamser/training/tones.py`), so these are other sounds than those that a network learned from. With
`--recordings`, the audio files of a folder are scored too, except for those that the checkpoint's recipe used.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamser.audio import SAMPLE_RATE, Samples, read_audio
from streamser.bundle import Bundle
from streamser.corpora.layouts import audio_files
from streamser.corpora.reader import find_corpus
from streamser.recognizer import Recognizer, load

PEAK = 0.7
CHORDS = {
    "C major": (261.6, 329.6, 392.0),
    "A minor": (220.0, 261.6, 329.6),
    "low": (130.8, 164.8, 196.0, 261.6),
    "fifth": (65.4, 98.0, 130.8),
    "high": (523.0, 659.0, 784.0),
    "cluster": (220.0, 233.0, 247.0),
    "out of tune": (220.0, 221.3, 277.0, 330.5),
    "unison": (220.0, 220.7),
    "one key": (196.0,),
}
TUNE = (0, 0, 7, 7, 9, 9, 7, 5, 5, 4, 4, 2, 2, 0)  # semitones
KEYPAD = ((697, 1209), (770, 1336), (852, 1477), (941, 1336), (697, 1477), (770, 1209))  # Hz

Values = NDArray[np.float64]


def seconds(duration: float) -> Values:
    """The time of every sample."""
    return np.arange(round(duration * SAMPLE_RATE)) / SAMPLE_RATE


def sine(hz: float, time: Values) -> Values:
    return np.asarray(np.sin(2 * np.pi * hz * time))


def faded(audio: Values, fade_in: float = 0.05, fade_out: float = 0.1) -> Values:
    time = np.arange(len(audio)) / SAMPLE_RATE
    return audio * np.clip(np.minimum(time / fade_in, (time[-1] - time) / fade_out), 0.0, 1.0)


def keys(frequencies: tuple[float, ...], time: Values, slope: float, rng: np.random.Generator) -> Values:
    """Held keys of an organ: eight harmonics of each, with random phases."""
    return np.sum(
        [
            np.sin(2 * np.pi * hz * harmonic * time + rng.uniform(0, 6)) / harmonic**slope
            for hz in frequencies
            for harmonic in range(1, 9)
            if hz * harmonic < SAMPLE_RATE / 2 - 200
        ],
        axis=0,
    )


def sounds() -> Iterator[tuple[str, Values]]:
    """(kind, audio) of each sound; the same every time."""
    rng = np.random.default_rng(5)
    for duration in (1, 2, 5):
        for hz in (80, 150, 220, 440, 700, 1000, 2000, 3500):
            yield "sine", sine(hz, seconds(duration))
    for duration in (1.5, 3, 6):
        for chord in CHORDS.values():
            for slope in (0.6, 1.0, 1.6):
                yield "held chord", faded(keys(chord, seconds(duration), slope, rng))
    time = seconds(3)
    for chord in CHORDS.values():
        audio = keys(chord, time, 1.0, rng)
        yield "plucked chord", audio * np.exp(-2.5 * time)
        yield "tremolo", audio * (1 + 0.6 * sine(5, time))
    for hz in (200, 440, 880):
        decay = np.exp(-2 * time)
        yield "bell", np.sin(2 * np.pi * hz * time + 4 * decay * sine(1.4 * hz, time)) * np.exp(-1.5 * time)
    for hz in (110, 220, 440):
        yield "square or sawtooth wave", np.sign(sine(hz, time))
        yield "square or sawtooth wave", 2 * (hz * time % 1) - 1
    for hz in (50, 60):
        yield "hum", np.sum([sine(hz * harmonic, time) / harmonic for harmonic in (1, 2, 3, 5)], axis=0)
    for first, last in ((100, 3000), (3000, 100), (300, 600)):
        yield "sweep", np.sin(2 * np.pi * (first * time + (last - first) * time**2 / 6))
    yield from telephone()
    for base in (130.8, 261.6, 523.2):
        notes = [base * 2 ** (step / 12) for step in TUNE]
        for slope in (0.7, 1.5):
            yield "tune", np.concatenate([faded(keys((hz,), seconds(0.35), slope, rng), 0.01) for hz in notes])
        yield "tune", np.concatenate([faded(sine(hz, seconds(0.35)), 0.01, 0.05) for hz in notes])
        gliding = np.interp(seconds(5), np.arange(len(TUNE)) * 0.36, TUNE) + 0.36 * sine(6, seconds(5))
        yield "tune", np.sin(2 * np.pi * np.cumsum(base * 2 ** (gliding / 12)) / SAMPLE_RATE)
    yield from noises(rng)


def telephone() -> Iterator[tuple[str, Values]]:
    """Keys, dial tone, busy tone and ringing tone."""
    pause = np.zeros(SAMPLE_RATE)
    presses = [np.concatenate([sine(a, seconds(0.2)) + sine(b, seconds(0.2)), pause[:1600]]) for a, b in KEYPAD]
    yield "telephone", np.concatenate(presses)
    yield "telephone", sine(350, seconds(3)) + sine(440, seconds(3))
    yield "telephone", np.tile(np.concatenate([sine(425, seconds(0.5)), pause[: SAMPLE_RATE // 2]]), 3)
    yield "telephone", np.tile(np.concatenate([sine(440, seconds(1)) + sine(480, seconds(1)), pause]), 2)


def noises(rng: np.random.Generator) -> Iterator[tuple[str, Values]]:
    """White, pink, brown and pulsing noise, clicks, silence and a constant offset."""
    white = rng.standard_normal(4 * SAMPLE_RATE)
    spectrum = np.fft.rfft(white)
    hz = np.maximum(np.fft.rfftfreq(len(white), 1 / SAMPLE_RATE), 20.0)
    for power in (0.0, 0.5, 1.0):
        yield "noise", np.fft.irfft(spectrum / hz**power)
    yield "noise", white * (1 + 0.9 * sine(4, seconds(4)))
    yield "clicks", (np.arange(3 * SAMPLE_RATE) % (SAMPLE_RATE // 2) == 0).astype(np.float64)
    yield "silence or offset", np.zeros(2 * SAMPLE_RATE)
    yield "silence or offset", np.full(2 * SAMPLE_RATE, 0.5)


def at_level(audio: Values) -> Samples:
    peak = float(np.abs(audio).max())
    return np.asarray(PEAK * audio / peak if peak else audio, np.float32)


def unused_recordings(folder: Path, bundle: Bundle) -> list[Path]:
    """The audio files of a folder that were not outliers in the checkpoint's training."""
    used = (bundle.provenance.get("recipe") or {}).get("outliers") or {}
    if Path(str(used.get("folder") or "")).name != folder.name:
        return list(audio_files(folder))
    patterns = used.get("names") or ["*"]
    return [path for path in audio_files(folder) if not any(fnmatch(path.name, pattern) for pattern in patterns)]


def measure(recognizer: Recognizer, material: list[tuple[str, Samples]]) -> dict[str, list[str]]:
    """By kind, the label of each sound; "" stands for `uncertain`."""
    found: dict[str, list[str]] = defaultdict(list)
    for kind, audio in material:
        prediction = recognizer.predict(audio)
        found[kind].append("" if prediction.uncertain else prediction.label)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="CHECKPOINT")
    parser.add_argument("--recordings", metavar="FOLDER", help="a folder of recordings, or the name of a corpus")
    parser.add_argument("--corpora-root", metavar="DIR", help="folder with the corpora (default: $STREAMSER_CORPORA)")
    args = parser.parse_args()
    made = [(kind, at_level(audio)) for kind, audio in sounds()]
    folder = find_corpus(args.recordings, args.corpora_root) if args.recordings else None
    for model in args.models:
        recognizer = load(model)
        material = list(made)
        if folder is not None:
            unused = unused_recordings(folder, recognizer.bundle)
            material += [(f"recordings in {folder.name}", read_audio(path)) for path in unused]
        found = measure(recognizer, material)
        print(recognizer.bundle.name)
        for kind, labels in found.items():
            given = sorted({label for label in labels if label})
            words = f" ({', '.join(given)})" if given else ""
            print(f"  {kind:28s} {labels.count('')} of {len(labels)} uncertain{words}")


if __name__ == "__main__":
    main()
