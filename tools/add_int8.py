"""Add graphs with 8-bit weights to a checkpoint, if they are about as accurate and faster.

    python tools/add_int8.py models/whisper CORPORA

UA is measured on clips of the checkpoint's validation speakers and of corpora that it was not trained on (emovo,
casia), with the graph that files use and with the step graph that streams use. Both must lose at most 0.5 points of UA
and take less CPU time. Then the graphs and the figures are added to the folder; otherwise nothing changes. CORPORA is
the folder that contains the corpora. On a processor without AVX-512, 8-bit weights save no time; `--any-speed` adds the
graphs there too, if they are accurate.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamser.audio import read_audio
from streamser.bundle import Bundle, load_bundle, save_bundle
from streamser.engines import run_frames
from streamser.engines.onnx import OnnxEngine
from streamser.engines.steps import StepEngine
from streamser.features import Frames, extract, trimmed
from streamser.nets.int8 import quantized
from streamser.training.card import with_int8

UNSEEN = ("emovo", "casia")
OTHERS = ("ased", "cremad_part", "emodb", "nemo", "ravdess")
MOST_LOST = 0.5


def held_out_clips(bundle: Bundle, corpora: Path, most: int) -> list[tuple[str, Path, int]]:
    """Draw at most `most` clips per corpus at random; returns (corpus, file, class) for each."""
    known = set(bundle.provenance["validation_speakers"])
    same = bundle.provenance["recipe"].get("label_map") or {}
    rng = np.random.default_rng(0)
    clips: list[tuple[str, Path, int]] = []
    for corpus in (*OTHERS, *UNSEEN):
        with (corpora / corpus / "manifest.csv").open(encoding="utf-8") as file:
            rows = [(row, same.get(row["emotion"], row["emotion"])) for row in csv.DictReader(file)]
        fit = [
            (corpus, corpora / corpus / row["path"], bundle.labels.index(label))
            for row, label in rows
            if label in bundle.labels and (corpus in UNSEEN or f"{corpus}/{row['speaker']}" in known)
        ]
        clips += [fit[place] for place in rng.permutation(len(fit))[:most]]
    return clips


def ways(bundle: Bundle, folder: Path) -> dict[str, Callable[[Frames], Frames]]:
    """Functions from a clip's frames to its logits: whole clip or step graph, 32-bit or 8-bit weights.

    `folder` receives a trial copy of the checkpoint.
    """
    contents = bundle.contents()
    small = replace(
        contents, int8=quantized(contents.onnx), int8_step=None if contents.step is None else quantized(contents.step)
    )
    if small.int8 is None:
        raise SystemExit(f"{bundle.name}: no large matrix; 8-bit weights are only for these, not for convolutions")
    trial = save_bundle(folder, bundle.values, small)
    found: dict[str, Callable[[Frames], Frames]] = {}
    for bits in (32, 8):
        engine = OnnxEngine(trial, int8=bits == 8)
        found[f"whole {bits}"] = lambda frames, engine=engine: _whole(engine, bundle, frames)  # type: ignore[misc]
        if engine.steps is not None:
            found[f"steps {bits}"] = lambda frames, steps=engine.steps: _stepwise(steps, frames)  # type: ignore[misc]
    return found


def _whole(engine: OnnxEngine, bundle: Bundle, frames: Frames) -> Frames:
    return run_frames(engine, [frames], bundle.features)[0].logits.mean(axis=0)


def _stepwise(steps: StepEngine, frames: Frames) -> Frames:
    track = steps.track()
    track.feed(frames)
    return track.final(slice(None)).logits.mean(axis=0)


def measure(bundle: Bundle, clips: list[tuple[str, Path, int]], folder: Path) -> dict[str, dict[str, Any]]:
    """UA, CPU time per second of audio, and difference from 32-bit weights, for each graph that `ways` lists."""
    by = ways(bundle, folder)
    logits: dict[str, list[Frames]] = {way: [] for way in by}
    cpu_s, seconds = dict.fromkeys(by, 0.0), 0.0
    for _, file, _ in clips:
        frames = extract(trimmed(read_audio(file), bundle.features), bundle.features)
        seconds += len(frames) * bundle.features.hop_s
        for way, predict in by.items():  # all graphs for each clip, so that other work on the machine slows all alike
            began = time.thread_time()
            logits[way].append(predict(frames))
            cpu_s[way] += time.thread_time() - began
    truth, corpora = np.array([label for *_, label in clips]), np.array([corpus for corpus, *_ in clips])
    scores = {way: _probabilities(np.stack(values), bundle) for way, values in logits.items()}
    result = {}
    for way, values in scores.items():
        full = scores[way.split()[0] + " 32"]
        result[way] = {
            "ua": round(float(np.mean([_ua(values, truth, corpora == one) for one in dict.fromkeys(corpora)])), 2),
            "by_corpus": {str(one): round(_ua(values, truth, corpora == one), 1) for one in dict.fromkeys(corpora)},
            "same_label": round(float(np.mean(values.argmax(axis=1) == full.argmax(axis=1))), 4),
            "largest_difference": round(float(np.abs(values - full).max()), 4),
            "cpu_ms_per_s": round(1000 * cpu_s[way] / seconds, 2),
        }
    return result


def _probabilities(logits: Frames, bundle: Bundle) -> NDArray[np.float64]:
    calibration = bundle.calibration
    scaled = (logits + np.array(calibration.bias or [0.0] * len(bundle.labels))) / calibration.temperature
    weights: NDArray[np.float64] = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def _ua(scores: NDArray[np.float64], truth: NDArray[Any], chosen: NDArray[np.bool_]) -> float:
    labels, predictions = truth[chosen], scores[chosen].argmax(axis=1)
    return 100 * float(np.mean([np.mean(predictions[labels == one] == one) for one in np.unique(labels)]))


def passes(result: dict[str, dict[str, Any]], any_speed: bool) -> bool:
    """Whether 8-bit weights lose little UA and (unless `any_speed`) are faster, on whole clips and, if possible, in
    steps.
    """
    kinds = {way.split()[0] for way in result}
    pairs = [(result[f"{kind} 32"], result[f"{kind} 8"]) for kind in kinds]
    return all(
        few["ua"] >= all_["ua"] - MOST_LOST and (any_speed or few["cpu_ms_per_s"] < all_["cpu_ms_per_s"])
        for all_, few in pairs
    )


def main(folder: Path, corpora: Path, most: int, scratch: Path, any_speed: bool) -> None:
    """Measure, print the figures, and add the graphs if they pass."""
    bundle = load_bundle(folder)
    clips = held_out_clips(bundle, corpora, most)
    result = measure(bundle, clips, scratch)
    print(f"{bundle.name}: {len(clips)} clips")
    for way, row in result.items():
        print(f"{way:9}", *(f"{key} {value}" for key, value in row.items()))
    if not passes(result, any_speed):
        print(f"not added: 8 bits must lose at most {MOST_LOST} points of UA" + (" and be faster" * (not any_speed)))
        return
    trial = load_bundle(scratch)
    figures = {way.replace(" ", "_"): {key: row[key] for key in ("ua", "same_label")} for way, row in result.items()}
    scores = {**bundle.scores, "int8": {"clips": len(clips), **figures}}
    contents = trial.contents()
    command = f"python tools/add_int8.py models/{bundle.name} CORPORA --most {most}" + " --any-speed" * any_speed
    card = with_int8(contents.card, scores, command)
    save_bundle(folder, replace(bundle.values, scores=scores), replace(contents, card=card))
    print(f"added to {folder}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--most", type=int, default=200, help="clips of each corpus (default: 200)")
    parser.add_argument("--any-speed", action="store_true", help="judge the accuracy only, not the time")
    parser.add_argument("--scratch", type=Path, default=Path("int8-trial"), help="folder for the trial copy")
    given = parser.parse_args()
    main(given.folder, given.corpora, given.most, given.scratch, given.any_speed)
