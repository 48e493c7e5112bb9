"""Measure other ways of scoring the same windows (peers): each takes one window of samples at a time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from streamser.audio import SAMPLE_RATE, Samples, to_mono
from streamser.bundle import load_bundle
from streamser.engines import run_frames
from streamser.features import FeatureConfig, Frames, cut_window, extract, from_log_mel
from streamser.recognizer import load

__all__ = ["PEERS", "Peer", "installed_peers", "measure_peer"]

_COMPARED = 8  # windows whose scores are compared with streamser's

Predict = Callable[[Samples], object]


class Peer(NamedTuple):
    """A way of scoring windows that streamser is compared with."""

    title: str
    packages: tuple[str, ...]
    """Modules that the peer imports."""
    make: Callable[[str], Predict]
    """Takes a checkpoint's name, which only some peers use."""
    same_network: bool = False
    """Whether it gives the checkpoint's logits (1, classes), which can be compared with streamser's scores."""


def _net(model: str) -> tuple[Callable[[Frames], Frames], FeatureConfig]:
    """A function that runs the checkpoint's network in torch on one window's frames, and its front end."""
    import torch

    from streamser.nets.zoo import restore

    torch.set_num_threads(1)
    bundle = load_bundle(model)
    net = restore(bundle)

    def predict(frames: Frames) -> Frames:
        with torch.inference_mode():
            logits: Frames = net(torch.from_numpy(frames[None])).logits.numpy()
        return logits

    return predict, bundle.features


def _plain_samples(samples: Samples, config: FeatureConfig) -> Frames:
    whole = len(samples) // config.hop_samples * config.hop_samples
    return samples[:whole].reshape(-1, config.hop_samples)


def _torchaudio(model: str) -> Predict:
    import torch

    predict, config = _net(model)
    if config.kind == "samples":
        return lambda samples: predict(cut_window(_plain_samples(samples, config), 0, config))
    from torchaudio.transforms import MelSpectrogram

    mel = MelSpectrogram(
        SAMPLE_RATE, config.fft_size, config.window_samples, config.hop_samples, config.mel_min_hz, config.mel_max_hz,
        n_mels=config.n_mels, norm=None if config.mel_norm == "none" else config.mel_norm, mel_scale=config.mel_scale,
        center=config.center,
    )  # fmt: skip

    def run(samples: Samples) -> Frames:
        power = mel(torch.from_numpy(samples)).T.numpy()
        return predict(cut_window(from_log_mel(_level(power, config), config), 0, config))

    return run


def _librosa(model: str) -> Predict:
    import librosa

    predict, config = _net(model)
    if config.kind == "samples":
        return lambda samples: predict(cut_window(_plain_samples(samples, config), 0, config))

    def run(samples: Samples) -> Frames:
        power = librosa.feature.melspectrogram(
            y=samples, sr=SAMPLE_RATE, n_fft=config.fft_size, win_length=config.window_samples,
            hop_length=config.hop_samples, center=config.center, n_mels=config.n_mels, fmin=config.mel_min_hz,
            fmax=config.mel_max_hz, htk=config.mel_scale == "htk",
            norm=None if config.mel_norm == "none" else config.mel_norm,
        ).T  # fmt: skip
        return predict(cut_window(from_log_mel(_level(power, config), config), 0, config))

    return run


def _level(power: Frames, config: FeatureConfig) -> Frames:
    level = np.log(np.maximum(power, config.floor) / config.reference)
    return np.asarray(level * (10 / np.log(10)) if config.log == "db" else level, np.float32)


def _egemaps(_: str) -> Predict:
    import opensmile

    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    return lambda samples: smile.process_signal(samples, SAMPLE_RATE)


def _wav2vec2(_: str) -> Predict:
    import torch
    from torchaudio.models import wav2vec2_base

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = wav2vec2_base().eval()  # random weights take as long as trained ones

    def run(samples: Samples) -> object:
        with torch.inference_mode():
            return net(torch.from_numpy(samples[None]))

    return run


def _faster_whisper(_: str) -> Predict:
    from faster_whisper import WhisperModel

    model = WhisperModel("tiny", device="cpu", cpu_threads=1, local_files_only=True)

    def run(samples: Samples) -> object:
        mel = model.feature_extractor(samples)
        return model.encode(mel[:, : model.feature_extractor.nb_max_frames])

    return run


PEERS = {
    "torchaudio": Peer("torch + torchaudio, each window whole", ("torch", "torchaudio"), _torchaudio, True),
    "librosa": Peer("torch + librosa, each window whole", ("torch", "librosa"), _librosa, True),
    "egemaps": Peer("openSMILE eGeMAPS functionals", ("opensmile",), _egemaps),
    "wav2vec2": Peer("wav2vec2-base (random weights)", ("torch", "torchaudio"), _wav2vec2),
    "faster-whisper": Peer("faster-whisper tiny, encoder", ("faster_whisper",), _faster_whisper),
}


def installed_peers() -> list[str]:
    """The peers whose packages are installed."""
    return [name for name, peer in PEERS.items() if all(find_spec(package) for package in peer.packages)]


def measure_peer(
    name: str, model: str, audio: Path, windows: Sequence[tuple[int, int]], seconds: float
) -> dict[str, Any]:
    """CPU and wall time per window, over randomly chosen windows of the stream, for about `seconds`."""
    pcm = np.fromfile(audio, "<i2")
    predict = PEERS[name].make(model)
    order = np.random.default_rng(0).permutation(len(windows))

    def samples(number: int) -> Samples:
        start, end = windows[int(order[number % len(order)])]
        return to_mono(pcm[start:end])

    predict(samples(0))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for number in range(2):
        predict(samples(number))
    walls: list[float] = []
    cpu_s, end_s = time.process_time(), time.perf_counter() + seconds
    while len(walls) < 3 or (time.perf_counter() < end_s and len(walls) < len(windows)):
        window = samples(len(walls))
        began = time.perf_counter()
        predict(window)
        walls.append(time.perf_counter() - began)
    cpu_ms = 1000 * (time.process_time() - cpu_s) / len(walls)
    figures = {
        "window_ms": float(np.median(walls)) * 1000,
        "window_cpu_ms": cpu_ms,
        "cpu_ms_per_s": cpu_ms * len(windows) / (len(pcm) / SAMPLE_RATE),
        "measured": len(walls),
    }
    if PEERS[name].same_network:
        figures["scores_differ"] = _difference(predict, model, [samples(number) for number in range(_COMPARED)])
    return figures


def _difference(predict: Predict, model: str, windows: Sequence[Samples]) -> float:
    """Largest difference of a score from streamser's score of the same window."""
    recognizer = load(model, "cpu", engine="onnx")
    worst = 0.0
    for samples in windows:
        scored = run_frames(recognizer.engine, [extract(samples, recognizer.features)], recognizer.features)
        ours = list(recognizer.predict_scores(scored)[0].scores.values())
        theirs = recognizer.calibrate(np.asarray(predict(samples)))[0]
        worst = max(worst, float(np.abs(theirs - ours).max()))
    return worst
