"""Measure ways of adapting to a voice: some of a speaker's neutral clips enrol, all of the rest is the test.

    python tools/measure_profile.py BUNDLE... --corpora ravdess emodb nemo [--out TABLE.md]

Each bundle is judged on the speakers of those corpora that neither trained it nor chose anything in it (give the
bundles of a leave-one-corpus-out run). A way's strength is chosen on the bundles' validation speakers, who have
neutral clips too, and applied to the test speakers unseen. Every way is in the table, whatever came of it.
`--first-s 2` tests what a stream says early: only the first seconds of speech of each test clip.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamser.audio import SAMPLE_RATE, Samples, read_audio
from streamser.corpora.clips import Clip
from streamser.corpora.reader import map_labels, read_corpora
from streamser.engines import run_frames
from streamser.evaluation import metrics
from streamser.evaluation.compose import speech_extent
from streamser.evaluation.evaluate import label_mapping
from streamser.evaluation.independence import part_of
from streamser.evaluation.report import md_table
from streamser.features import Frames, extract, trimmed
from streamser.profile import LOGIT_STRENGTH, neutral_spread
from streamser.recognizer import Anchor, Recognizer, load

ENROL_S = 30.0
TEST_CLIPS = 60
"""Of one speaker, evenly over the labels: enough for a recall to some points."""

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Voice:
    """One speaker: enrolment, test clips, and what the plain checkpoint says of them."""

    speaker: str
    enrol_s: float
    enrol_logits: Logits
    enrol_embedding: Frames
    targets: NDArray[np.int64]
    logits: Logits
    embedding: Frames


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """The average of the training speakers' neutral voices, and what each way compares with."""

    recognizer: Recognizer
    logits_mean: NDArray[np.float64]

    @property
    def neutral(self) -> int:
        return self.recognizer.labels.index("neutral")


Way = Callable[[Base, Voice, float], Logits]


def as_it_is(base: Base, voice: Voice, strength: float) -> Logits:
    return voice.logits


def logit_bias(base: Base, voice: Voice, strength: float) -> Logits:
    """Take the voice's mean neutral logits, less those of average neutral speech, out of every answer."""
    return voice.logits + np.float32(strength) * (base.logits_mean - voice.enrol_logits.mean(axis=0)).astype(np.float32)


def shrunk_logit_bias(base: Base, voice: Voice, strength: float) -> Logits:
    """The same, less of it the less speech there was: n / (n + 2) with n utterances."""
    n = len(voice.enrol_logits)
    return logit_bias(base, voice, strength * n / (n + 2))


def probability_bias(base: Base, voice: Voice, strength: float) -> Logits:
    """The bias of the mean log-probabilities, which a few very loud logits cannot pull."""

    def log_softmax(values: NDArray[np.floating]) -> NDArray[np.floating]:
        return (
            values
            - np.log(np.exp(values - values.max(-1, keepdims=True)).sum(-1, keepdims=True))
            - values.max(-1, keepdims=True)
        )

    own = log_softmax(voice.enrol_logits).mean(axis=0)
    return (log_softmax(voice.logits) + strength * (log_softmax(base.logits_mean) - own)).astype(np.float32)


def anchor(base: Base, voice: Voice, strength: float) -> Anchor:
    """The voice's own neutral, as a profile keeps it."""
    own = voice.enrol_embedding
    return Anchor(own.mean(axis=0), neutral_spread(own), base.neutral, strength)


def own_centroid(base: Base, voice: Voice, strength: float) -> Logits:
    """Raise `neutral` by how near the embedding is to the voice's own neutral."""
    return anchor(base, voice, strength).raised(voice.logits, voice.embedding)


def bias_and_centroid(base: Base, voice: Voice, strength: float) -> Logits:
    """The logit bias as it ships, and the nearness to the voice's own neutral."""
    return anchor(base, voice, strength).raised(logit_bias(base, voice, LOGIT_STRENGTH), voice.embedding)


def oracle_bias(base: Base, voice: Voice, strength: float) -> Logits:
    """Not usable: the mean logits of all test clips, labels unknown, taken out. What knowing the voice could bring."""
    mean = voice.logits.mean(axis=0)
    return voice.logits - np.float32(strength) * (mean - mean.mean())


WAYS: dict[str, tuple[Way, tuple[float, ...]]] = {
    "as it is": (as_it_is, (0.0,)),
    "logit bias": (logit_bias, (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)),
    "logit bias, shrunk": (shrunk_logit_bias, (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)),
    "log-probability bias": (probability_bias, (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)),
    "own neutral centroid": (own_centroid, (0.0, 0.25, 0.5, 1.0, 1.5)),
    "logit bias, then own centroid: what ships": (bias_and_centroid, (0.0, 0.25, 0.5, 1.0, 1.5)),
    "(oracle) mean logits of all test clips": (oracle_bias, (1.0,)),
}


def beginning(sound: Samples, first_s: float | None) -> Samples:
    """The first seconds of a clip's speech, or all of it with the silence around."""
    if first_s is None:
        return sound
    start, end = speech_extent(sound)
    return sound[start : min(end, start + round(first_s * SAMPLE_RATE))]


def make_voice(recognizer: Recognizer, speaker: str, clips: Sequence[Clip], first_s: float | None) -> Voice | None:
    """Half of the neutral clips (30 s of them at most) enrol; the others, and other emotions', are the test."""
    neutral = [clip for clip in clips if clip.label == "neutral"]
    others = [clip for clip in clips if clip.label != "neutral"]
    if len(neutral) < 4 or not others:
        return None
    rng = np.random.default_rng(zlib.crc32(speaker.encode()))
    neutral = [neutral[i] for i in rng.permutation(len(neutral))]
    enrol, heard_s = [], 0.0
    while len(enrol) < len(neutral) // 2 and heard_s < ENROL_S:
        enrol.append(read_audio(neutral[len(enrol)].path))
        heard_s += len(enrol[-1]) / SAMPLE_RATE
    by_label: dict[str, list[Clip]] = {}
    for clip in [*neutral[len(enrol) :], *(others[i] for i in rng.permutation(len(others)))]:
        by_label.setdefault(clip.label, []).append(clip)
    test = [clip for same in by_label.values() for clip in same[: TEST_CLIPS // len(by_label)]]
    features = recognizer.features
    tests = [beginning(read_audio(clip.path), first_s) for clip in test]
    frames, enrol_frames = ([extract(trimmed(one, features), features) for one in sounds] for sounds in (tests, enrol))
    heard = run_frames(recognizer.engine, enrol_frames, features)
    plain = run_frames(recognizer.engine, frames, features)
    return Voice(
        speaker,
        heard_s,
        np.stack([one.logits.mean(axis=0) for one in heard]),
        np.stack([one.embedding.mean(axis=0) for one in heard]),
        np.array([recognizer.labels.index(clip.label) for clip in test]),
        np.stack([one.logits.mean(axis=0) for one in plain]),
        np.stack([one.embedding.mean(axis=0) for one in plain]),
    )


def make_base(recognizer: Recognizer, clips: Sequence[Clip]) -> Base:
    """Average neutral speech of the training speakers, eight clips each."""
    of_speaker: dict[str, list[Clip]] = {}
    for clip in clips:
        if clip.label == "neutral":
            of_speaker.setdefault(clip.speaker, []).append(clip)
    logits = [
        recognizer.logits([read_audio(clip.path) for clip in own[:8]]).mean(axis=0, dtype=np.float64)
        for own in of_speaker.values()
    ]
    return Base(recognizer, np.mean(logits, axis=0))


@dataclass(frozen=True, slots=True, eq=False)
class Examined:
    """One bundle with the voices it is chosen and tested on."""

    base: Base
    validation: list[Voice]
    test: list[Voice]


def recall_of(base: Base, voice: Voice, logits: Logits) -> NDArray[np.int64]:
    calibration = base.recognizer.bundle.calibration
    shifted = logits + np.array(calibration.bias or [0.0] * logits.shape[1])
    return metrics.confusion(voice.targets, shifted.argmax(axis=1), logits.shape[1])


def mean_ua(matrices: Sequence[NDArray[np.int64]]) -> float:
    """Mean over the speakers: each counts once, however many clips he has."""
    return float(np.mean([metrics.ua(matrix) for matrix in matrices]))


def choose(examined: Sequence[Examined], way: Way, strengths: Sequence[float]) -> tuple[float, float]:
    """The strength of the highest mean UA over all validation speakers, the weakest of equals, and that UA."""
    pairs = [(one.base, voice) for one in examined for voice in one.validation]
    scores = [mean_ua([recall_of(base, voice, way(base, voice, s)) for base, voice in pairs]) for s in strengths]
    best = int(np.argmax(np.round(scores, 6)))
    return strengths[best], scores[best]


def difference(after: NDArray[np.float64], before: NDArray[np.float64]) -> str:
    """Mean gain in points with its 95 % bootstrap interval over the speakers."""
    gains = 100 * (after - before)
    draws = np.random.default_rng(0).integers(0, len(gains), (4000, len(gains)))
    low, high = np.percentile(gains[draws].mean(axis=1), [2.5, 97.5])
    return f"{gains.mean():+.1f} [{low:+.1f}, {high:+.1f}]"


def examine(path: Path, clips: Sequence[Clip], corpora: Sequence[str], first_s: float | None) -> Examined:
    recognizer = load(path, "cpu")
    mine, _ = map_labels(clips, {**label_mapping(recognizer.labels), "calm": "neutral"})
    parts = part_of(recognizer.bundle)
    base = make_base(recognizer, [clip for clip in mine if parts.get(clip.speaker) == "train"])
    sets: dict[str, list[Voice]] = {"validation": [], "test": []}
    for speaker in sorted({clip.speaker for clip in mine}):
        part = parts.get(speaker, "test")
        if part == "train" or (part == "test" and speaker.partition("/")[0] not in corpora):
            continue
        own = [clip for clip in mine if clip.speaker == speaker]
        voice = make_voice(recognizer, speaker, own, first_s if part == "test" else None)
        if voice is not None:
            sets[part].append(voice)
            print(f"\r{path}: {part} {speaker}      ", end="", file=sys.stderr)
    print(file=sys.stderr)
    return Examined(base, sets["validation"], sets["test"])


def table(examined: Sequence[Examined], strength: float | None) -> str:
    """All ways as rows; `strength` overrides the choice on validation speakers."""
    rows = []
    before = np.zeros(0)
    pairs = [(one.base, voice) for one in examined for voice in one.test]
    corpora = np.array([voice.speaker.partition("/")[0] for _, voice in pairs])
    neutral = examined[0].base.neutral
    for name, (way, strengths) in WAYS.items():
        chosen, validation = choose(examined, way, strengths if strength is None else (strength,))
        matrices = [recall_of(base, voice, way(base, voice, chosen)) for base, voice in pairs]
        ua = np.array([float(metrics.ua(matrix)) for matrix in matrices])
        before = ua if not len(before) else before
        each = [difference(ua[corpora == one], before[corpora == one]) for one in np.unique(corpora)]
        found = 100 * np.mean([metrics.recalls(matrix)[neutral] for matrix in matrices])
        rest = 100 * np.mean([np.nanmean(np.delete(metrics.recalls(matrix), neutral)) for matrix in matrices])
        worse = f"{int(np.sum(ua < before - 1e-9))} of {len(ua)}"
        gain = difference(ua, before)
        figures = (
            f"{100 * validation:.1f}",
            f"{100 * ua.mean():.1f}",
            gain,
            *each,
            f"{found:.0f}",
            f"{rest:.0f}",
            worse,
        )
        rows.append((name, f"{chosen:g}", *figures))
    figures = ("validation UA", "test UA", "gain", *np.unique(corpora), "neutral %", "others %", "speakers worse off")
    return md_table(("way", "strength", *figures), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--corpora", nargs="+", required=True, help="corpora whose unseen speakers are the test")
    parser.add_argument("--train-corpora", nargs="*", default=[], help="more corpora, for the average and the choice")
    parser.add_argument("--strength", type=float, help="use this strength for every way instead of choosing it")
    parser.add_argument("--first-s", type=float, help="test on the first so many seconds of each clip")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    clips, _ = read_corpora(dict.fromkeys([*args.corpora, *args.train_corpora]))
    examined = [examine(path, clips, args.corpora, args.first_s) for path in args.bundles]
    voices = [voice for one in examined for voice in one.test]
    seconds = [voice.enrol_s for voice in voices]
    text = (
        f"{len(voices)} test speakers, enrolled with {min(seconds):.0f} to {max(seconds):.0f} s "
        f"(median {np.median(seconds):.0f} s).\n\n{table(examined, args.strength)}\n"
    )
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
