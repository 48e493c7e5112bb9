"""Measure the voice activity detectors in noise, and write docs/vad.md.

    python tools/vad_table.py --out docs/vad.md

Real speech (LibriSpeech, RAVDESS, EMO-DB, nEMO) with pauses between the clips is mixed with noise at known ratios. The
energy of the clean speech shows where the speech is. The speakers of each corpus are split into two halves: the
detectors' constants were chosen on `--half tune`, and the published table is measured on `--half test` (the default).
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib.util
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamser.audio import SAMPLE_RATE, AudioBlock, Samples, read_audio
from streamser.events import SpeechEnded
from streamser.features import FeatureConfig
from streamser.stream.segmenter import Segmenter, SegmenterConfig
from streamser.stream.vad import Vad, VadConfig, make_vad

TICK = SAMPLE_RATE // 100  # truth and decisions are compared every 10 ms
SNRS_DB = (20, 10, 5, 0)
SPEECH_DBFS = -26.0
SPEECH = ("librispeech_subset", "ravdess", "emodb", "librispeech_subset", "nemo")

Flags = NDArray[np.bool_]


def corpora_folder() -> Path:
    """The folder of the corpora: $STREAMSER_CORPORA, or a folder beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "corpora"
    return Path(os.environ.get("STREAMSER_CORPORA", beside))


def clips(corpus: str, half: str) -> list[tuple[str, Path]]:
    """Speaker and path of every clip whose speaker belongs to the half: "tune", "test", or "all" for both."""
    folder = corpora_folder() / corpus
    with (folder / "manifest.csv").open(newline="") as manifest:
        rows = list(csv.DictReader(manifest))
    speakers = sorted({row["speaker"] for row in rows})
    wanted = set(speakers[:: 2 if half != "all" else 1] if half != "test" else speakers[1::2])
    return [(row["speaker"], folder / row["path"]) for row in rows if row["speaker"] in wanted]


def level(samples: Samples, dbfs: float) -> Samples:
    """Scale audio to an RMS level."""
    gain = 10 ** (dbfs / 20) / max(1e-9, float(np.sqrt(np.mean(np.square(samples)))))
    return (samples * gain).astype(np.float32)


def tick_db(samples: Samples) -> NDArray[np.float64]:
    """The level in dBFS every 10 ms, averaged over 30 ms."""
    n = len(samples) // TICK
    power = np.mean(np.square(samples[: n * TICK].reshape(n, TICK), dtype=np.float64), axis=1)
    return 10 * np.log10(np.convolve(power, np.ones(3) / 3, mode="same") + 1e-12)


def is_clean(samples: Samples) -> bool:
    """Whether the background is so quiet that the energy shows where the speech is."""
    loud, quiet = np.percentile(tick_db(samples), (95, 3))
    return bool(loud > -50 and loud - quiet > 38)


def speech_ticks(samples: Samples) -> Flags:
    """Whether clean audio is speech, every 10 ms: within 30 dB of its loud parts, or a pause under 200 ms."""
    db = tick_db(samples)
    n = len(db)
    flags = db > np.percentile(db, 95) - 30
    edges = np.flatnonzero(np.diff(np.concatenate([[True], flags, [True]]).astype(int)))
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if start > 0 and end < n and end - start < 20:
            flags[start:end] = True
    return flags


@dataclass(frozen=True)
class Speech:
    """A stream of clean speech and pauses, and where the speech is."""

    samples: Samples
    truth: Flags
    speakers: frozenset[str]

    @property
    def rms(self) -> float:
        """RMS of the speech without its pauses; signal-to-noise ratios refer to this level."""
        mask = np.repeat(self.truth, TICK)
        return float(np.sqrt(np.mean(np.square(self.samples[: len(mask)][mask]))))


def compose(rng: np.random.Generator, half: str, seconds: float) -> Speech:
    """Join random clips of the corpora at equal level, with 1 to 2.5 s of silence between them."""
    audio: list[Samples] = [np.zeros(2 * SAMPLE_RATE, np.float32)]
    truth: list[Flags] = [np.zeros(200, bool)]
    speakers = set()
    pools = [clips(corpus, half) for corpus in SPEECH]
    while sum(map(len, audio)) < seconds * SAMPLE_RATE:
        pool = pools[len(audio) % len(pools)]
        speaker, path = pool[rng.integers(len(pool))]
        samples = read_audio(path)[: 8 * SAMPLE_RATE]
        samples = samples[: len(samples) // TICK * TICK]
        if not is_clean(samples):
            continue
        speakers.add(speaker)
        pause = TICK * int(rng.integers(100, 250))
        audio += [level(samples, SPEECH_DBFS), np.zeros(pause, np.float32)]
        truth += [speech_ticks(samples), np.zeros(pause // TICK, bool)]
    return Speech(np.concatenate(audio), np.concatenate(truth), frozenset(speakers))


def white(rng: np.random.Generator, length: int) -> Samples:
    return rng.standard_normal(length).astype(np.float32)


def pink(rng: np.random.Generator, length: int) -> Samples:
    spectrum = np.fft.rfft(rng.standard_normal(length))
    hz = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    return np.fft.irfft(spectrum / np.sqrt(np.maximum(hz, 20.0)), length).astype(np.float32)


def babble(rng: np.random.Generator, length: int, speech: Speech) -> Samples:
    """Mix six voices without pauses, of speakers who are not in the speech."""
    pool = [path for speaker, path in clips("librispeech_subset", "all") if speaker not in speech.speakers]
    total = np.zeros(length, np.float32)
    for _ in range(6):
        voice: list[Samples] = []
        while sum(map(len, voice)) < length:
            samples = read_audio(pool[rng.integers(len(pool))])
            ticks = np.repeat(speech_ticks(samples), TICK)
            voice.append(level(samples[: len(ticks)][ticks], SPEECH_DBFS))
        total += np.concatenate(voice)[:length]
    return total


def music(rng: np.random.Generator, length: int) -> Samples:
    """Synthesize music: four repeated chords, a bass, a pentatonic melody with vibrato, and a snare."""
    total = np.zeros(length + 4 * SAMPLE_RATE, np.float32)
    beat = int(0.5 * SAMPLE_RATE)
    chords = ((0, 4, 7), (7, 11, 14), (9, 12, 16), (5, 9, 12))

    def note(semitone: float, seconds: float, harmonics: int, vibrato: float = 0.0) -> Samples:
        t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        hz = 261.63 * 2 ** (semitone / 12)
        phase = 2 * np.pi * hz * t + vibrato * np.sin(2 * np.pi * 5.5 * t)
        tone: NDArray[np.float64] = sum(np.sin(k * phase) / k**1.3 for k in range(1, harmonics + 1) if k * hz < 7500)
        return (tone * np.minimum(1, t / 0.02) * np.exp(-2 * t / seconds)).astype(np.float32)

    for i in range(length // beat + 1):
        at, chord = i * beat, chords[i // 4 % 4]
        voices = [(note(chord[0] - 24, 0.5, 8), 0.8)]
        if i % 4 == 0:
            voices += [(note(tone, 2.0, 6), 0.35) for tone in chord]
        if rng.random() < 0.8:
            voices.append((note(12 + float(rng.choice([0, 2, 4, 7, 9])), float(rng.choice([0.25, 0.5])), 10, 2.0), 0.5))
        if i % 2:
            decay = np.exp(-np.arange(3200) / 600)
            voices.append(((rng.standard_normal(3200) * decay).astype(np.float32), 0.25))
        for samples, gain in voices:
            total[at : at + len(samples)] += gain * samples
    return total[:length]


def esc10(rng: np.random.Generator, length: int) -> Samples:
    """Random ESC-10 recordings one after another, at equal level; silent recordings are left out."""
    folder = corpora_folder() / "noise_esc10"
    paths = sorted((folder / "audio").iterdir())
    audio: list[Samples] = []
    while sum(map(len, audio)) < length:
        samples = read_audio(paths[rng.integers(len(paths))])
        if float(np.max(np.abs(samples))) > 1e-3:
            audio.append(level(samples, SPEECH_DBFS))
    return np.concatenate(audio)[:length]


def fan(rng: np.random.Generator, length: int) -> Samples:
    """The hum of a motor at 100 to 300 Hz, plus equally strong noise that falls by 6 dB per octave."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    rush = np.fft.irfft(spectrum / np.maximum(np.fft.rfftfreq(length, 1 / SAMPLE_RATE), 50.0), length)
    t = np.arange(length) / SAMPLE_RATE
    tones = [np.sin(2 * np.pi * hz * t) / k for k, hz in enumerate((100, 150, 233, 300), 1)]
    hum: NDArray[np.float64] = np.sum(tones, axis=0)
    total: NDArray[np.float64] = rush / rush.std() + hum / hum.std()
    return total.astype(np.float32)


def noises(rng: np.random.Generator, speech: Speech) -> Iterator[tuple[str, Samples]]:
    """Make each kind of noise, as long as the speech."""
    n = len(speech.samples)
    yield "white", white(rng, n)
    yield "pink", pink(rng, n)
    yield "fan", fan(rng, n)
    yield "babble", babble(rng, n, speech)
    yield "music", music(rng, n)
    yield "ESC-10", esc10(rng, n)


def mix(speech: Speech, noise: Samples, snr_db: float) -> Samples:
    """Mix speech with noise at a signal-to-noise ratio; a mixture that would clip is scaled down."""
    audio = speech.samples + level(noise, 20 * np.log10(speech.rms) - snr_db)
    return (audio / max(1.0, float(np.max(np.abs(audio))))).astype(np.float32)


@dataclass(frozen=True)
class Score:
    """The results of one detector in one condition: shares from 0 to 1, NaN if there is nothing to count."""

    precision: float
    recall: float
    false_positive_rate: float
    covered: float
    """Share of the speech inside the segmenter's utterances."""
    filled: float
    """Share of the silence inside utterances; silence within half a second of speech is not counted."""
    false_a_minute: float
    """Utterances without speech, per minute without speech."""
    cost_us: float
    """CPU time of the detector for 20 ms of audio, in microseconds."""

    @property
    def frames(self) -> str:
        return "/".join(_percent(x) for x in (self.precision, self.recall, self.false_positive_rate))

    @property
    def utterances(self) -> str:
        return f"{_percent(self.covered)} / {_percent(self.filled)} / {self.false_a_minute:.1f}"


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{100 * share:.0f}"


def _share(part: Flags, whole: Flags) -> float:
    return float(np.sum(part & whole)) / float(np.sum(whole)) if whole.any() else float("nan")


def decide(vad: Vad, samples: Samples) -> tuple[Flags, float]:
    """Run a detector; returns its decision every 10 ms, and its CPU time in microseconds for 20 ms of audio."""
    size = vad.frame_samples
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    began = time.process_time()
    flags = [vad.speech(frame) for frame in frames]
    cost_us = (time.process_time() - began) / max(1, len(frames)) * 1e6 * (SAMPLE_RATE // 50) / size
    return np.repeat(flags, size)[TICK // 2 :: TICK], cost_us


def utterances(vad: Vad, samples: Samples) -> list[SpeechEnded]:
    """The utterances that the segmenter cuts with its default settings."""
    segmenter = Segmenter(SegmenterConfig(hop_ms=0, speculate_ms=0), vad, FeatureConfig())
    items = segmenter.feed(AudioBlock(samples, 0)) + segmenter.flush()
    return [item for item in items if isinstance(item, SpeechEnded)]


def score(config: VadConfig, samples: Samples, truth: Flags) -> Score:
    """Measure one detector in one condition; `truth` is True every 10 ms of speech."""
    decided, cost_us = decide(make_vad(config), samples)
    n = min(len(decided), len(truth))
    decided, truth = decided[:n], truth[:n]
    inside, false = np.zeros(n, bool), 0
    for utterance in utterances(make_vad(config), samples):
        span = slice(utterance.start // TICK, utterance.end // TICK)
        inside[span] = True
        false += not truth[span].any()
    far = np.convolve(truth, np.ones(101), mode="same") == 0
    return Score(
        precision=_share(truth, decided) if truth.any() else float("nan"),
        recall=_share(decided, truth),
        false_positive_rate=_share(decided, ~truth),
        covered=_share(inside, truth),
        filled=_share(inside, far),
        false_a_minute=false / (float(np.sum(~truth)) / 6000),
        cost_us=cost_us,
    )


DETECTORS = {
    "webrtcvad alone": VadConfig(mode=2, noise_floor=False),
    "webrtc, the default": VadConfig(),
    "energy": VadConfig(engine="energy"),
    "silero": VadConfig(engine="silero"),
}


def detectors() -> dict[str, VadConfig]:
    """The detectors that are installed."""
    if importlib.util.find_spec("silero_vad") is None:
        print("silero is not installed: pip install --no-deps silero-vad", file=sys.stderr)
        return {name: config for name, config in DETECTORS.items() if config.engine != "silero"}
    return DETECTORS


def conditions(rng: np.random.Generator, speech: Speech) -> Iterator[tuple[str, str, Samples, Flags]]:
    """Yield each condition: the kind of noise, the ratio, the mixture, and whether it is speech every 10 ms."""
    yield "none", "clean", speech.samples, speech.truth
    for name, noise in noises(rng, speech):
        for snr_db in SNRS_DB:
            yield name, f"{snr_db} dB", mix(speech, noise, snr_db), speech.truth
        yield name, "no speech", level(noise[: 60 * SAMPLE_RATE], -36.0), np.zeros_like(speech.truth)
    for gain_db in (-20, -40):  # a quiet microphone with 16-bit samples
        audio = mix(speech, pink(rng, len(speech.samples)), 20) * 10 ** (gain_db / 20)
        quiet = (np.round(audio * 32768) / 32768).astype(np.float32)
        yield "pink 20 dB", f"{gain_db} dB gain", quiet, speech.truth


def table(rows: Sequence[tuple[str, str, Mapping[str, Score]]], cell: Callable[[Score], str]) -> list[str]:
    """A Markdown table with a row for each condition and a column for each detector."""
    lines = [f"| noise | ratio | {' | '.join(DETECTORS)} |", f"| --- | --- |{' --- |' * len(DETECTORS)}"]
    last = ""
    for kind, ratio, scores in rows:
        cells = " | ".join(cell(scores[name]) if name in scores else "-" for name in DETECTORS)
        lines.append(f"| {kind if kind != last else ''} | {ratio} | {cells} |")
        last = kind
    return lines


def document(args: argparse.Namespace, speech: Speech, rows: Sequence[tuple[str, str, Mapping[str, Score]]]) -> str:
    """The text of docs/vad.md."""
    measured = [name for name in DETECTORS if name in rows[0][2]]
    costs = {name: float(np.median([scores[name].cost_us for _, _, scores in rows])) for name in measured}
    command = f"python tools/vad_table.py --half {args.half} --seconds {args.seconds:g} --seed {args.seed}"
    return "\n".join(
        [
            *INTRODUCTION.format(
                command=command,
                date=datetime.date.today().isoformat(),
                machine=f"Python {platform.python_version()}, NumPy {np.__version__}",
                minutes=len(speech.samples) / SAMPLE_RATE / 60,
                share=100 * speech.truth.mean(),
                voices=len(speech.speakers),
                half=args.half,
            ).splitlines(),
            "",
            "## Frames: precision / recall / false-positive rate, %",
            "",
            *table(rows, lambda score: score.frames),
            "",
            "CPU time for 20 ms of audio on one thread: "
            + "; ".join(f"{name} {cost_us:.0f} us" for name, cost_us in costs.items())
            + ".",
            "",
            "## Utterances",
            "",
            *UTTERANCES.splitlines(),
            "",
            *table(rows, lambda score: score.utterances),
            "",
            *FINDINGS.splitlines(),
            "",
        ]
    )


INTRODUCTION = """\
# Voice activity detectors, measured

`{command}`, {date}, {machine}.

- **Detectors**: `webrtc`, the default, is webrtcvad behind a *noise gate*. The noise gate passes only frames that rise
  above the noise of the room. `energy` is the noise gate alone, and `silero` is a neural network. "webrtcvad alone" has
  no noise gate (`vad.noise_floor: false`, `vad.mode: 2`).
- **Speech**: {minutes:.1f} minutes with {voices} voices of LibriSpeech, RAVDESS, EMO-DB and nEMO. {share:.0f} % is
  speech; the pauses between the clips last 1 to 2.5 s and are digital silence before the noise is added.
- **Truth**: every 10 ms of the clean speech count as speech if their level is within 30 dB of the loud parts; so do
  pauses under 200 ms. The columns of the first table compare this with the detectors' decisions every 10 ms.
- **Ratio**: the level of the speech, without its pauses, relative to the level of the noise. "No speech" is the noise
  alone for a minute, at -36 dBFS. In the two last rows, the mixture with pink noise at 20 dB is made 20 or 40 dB
  quieter and rounded to 16 bits, as from a quiet microphone; the ratio does not change.
- **Speakers**: the `{half}` half of each corpus. The detectors' constants were chosen on the other half, with noises of
  the same kinds.
- **Noise**: white, pink and fan noise are generated. Babble is six other LibriSpeech voices at once, without pauses.
  Music is synthesized (chords, bass, a melody with vibrato, snare) and only roughly similar to real music. The rows
  "ESC-10" use the recorded sounds of that collection (rain, dogs, clocks, chainsaws, babies), five seconds of each, one
  after another at equal level, which is difficult for a detector."""

UTTERANCES = """\
Each cell: share of speech inside utterances, % / share of silence inside utterances, % / false utterances per minute.
The segmenter with its default settings cut the utterances. Only silence that is more than half a second from any speech
is counted. An utterance is false if it contains no speech; false utterances are counted per minute without speech."""

FINDINGS = """\
## How to read it

- **webrtcvad alone** mistakes steady noise for speech: all noise at 0 dB, pink noise from 5 dB and a fan from 10 dB.
  Speech is then detected all the time, so utterances end only at the maximum length (20 s).
- **The default** (`engine: webrtc`) passes a frame to webrtcvad only if the noise gate is open. For this, the frame
  must rise above the noise floor, which is tracked in 16 frequency bands, and above the usual range of levels of the
  background. Steady noise gives no utterance at any level. The level of the input is normalized, so a quiet microphone
  works as well. Its weakness is sounds whose level changes: music, clatter or a chatting crowd with nobody near the
  microphone still cause an utterance every two to four seconds.
- **energy** is the noise gate without webrtcvad. In loud noise it is as good as the default, but in quiet rooms it
  mistakes more faint sounds for speech.
- **silero** distinguishes speech from other sounds best. Use it (`pip install 'streamser[silero]'`,
  `vad.engine: silero`) where dogs bark, dishes clatter or music plays. In babble at 10 dB and below, it detects speech
  all the time, since babble is speech; utterances then end only at the maximum length.
- No detector distinguishes a voice on the television from a voice in the room, except by its level.
- A fan that is switched on is mistaken for speech for at most two seconds; a steady note or vowel that is longer than
  1.5 s is mistaken for noise."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--half", choices=("tune", "test"), default="test")
    parser.add_argument("--seconds", type=float, default=300.0, help="length of the speech with its pauses")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="Markdown file to write (default: print to the terminal)")
    args = parser.parse_args(argv)
    rng = np.random.default_rng(args.seed)
    speech = compose(rng, args.half, args.seconds)
    rows = []
    for kind, ratio, samples, truth in conditions(rng, speech):
        scores = {name: score(config, samples, truth) for name, config in detectors().items()}
        rows.append((kind, ratio, scores))
        print(kind, ratio, {name: score.frames for name, score in scores.items()}, file=sys.stderr, flush=True)
    text = document(args, speech, rows)
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
