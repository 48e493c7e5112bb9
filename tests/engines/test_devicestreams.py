"""Many streams in one batched step: each stream's logits equal those that it would get alone, on CPU and CUDA."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from makers import babble, noise, tone
from torch import Tensor

from streamser.audio import SAMPLE_RATE, Samples, read_audio
from streamser.bundle import Bundle, find_models, load_bundle
from streamser.engines import devicestreams
from streamser.engines.devicestreams import DeviceStreams
from streamser.engines.onnx import OnnxEngine
from streamser.features import FeatureConfig, cut_window, extract
from streamser.nets import streaming
from streamser.samples import find_samples

STREAMS = 5
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def checkpoint() -> Bundle:
    return load_bundle(find_models()["lightsernet"])


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
        ),
    ]
)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def recordings() -> list[Samples]:
    """One recording per stream, long enough that the window fills and slides."""
    voices = [
        babble(4.2, seed=1),
        noise(4.2, 0.05),
        tone(330, 4.2),
        babble(4.2, seed=2, level=0.02),
        babble(4.2, seed=3),
    ]
    assert len(voices) == STREAMS
    return voices


def expected(engine: OnnxEngine, audio: Samples, frames: int, config: FeatureConfig) -> np.ndarray:  # type: ignore[type-arg]
    newest = extract(audio, config)[max(0, frames - config.window_frames) : frames]
    return engine.run(cut_window(newest, 0, config)[None])[0][0]


def test_the_logits_of_every_chunk_and_stream_equal_those_of_the_window_on_the_cpu(
    checkpoint: Bundle, device: str
) -> None:
    config = checkpoint.features
    many = DeviceStreams(checkpoint, device, STREAMS, sizes=(1, 4))
    engine = OnnxEngine(checkpoint)
    chunk, size = many.chunks[1], many.samples(many.chunks[1])
    slots = np.array([3, 0, 4, 1, 2])
    many.begin(slots)
    scored = []
    for step in range(15):
        at = step * chunk * config.hop_samples
        logits, embedding = many.step(slots, np.stack([recordings()[slot][at : at + size] for slot in slots]))
        assert embedding.shape == (STREAMS, 320)
        for slot, of_slot in zip(slots, logits, strict=True):
            whole = expected(engine, recordings()[slot][: at + size], (step + 1) * chunk, config)
            np.testing.assert_allclose(of_slot, whole, atol=TOLERANCE)
        scored.append(logits)
    assert (
        np.ptp(np.stack(scored), axis=(0, 1)).max() > 100 * TOLERANCE
    )  # equality of constant logits would prove little


def speech(duration_s: float) -> list[Samples]:
    """Three voices, each repeated to this length; for artificial sounds `whisper` gives nearly constant logits."""
    spoken = [read_audio(sample.path) for sample in find_samples()[:3]]
    return [np.resize(audio, round(duration_s * SAMPLE_RATE)) * np.float32(n + 1) / 3 for n, audio in enumerate(spoken)]


def whisper_differences(device: str) -> list[float]:
    """Differences between the last logits of streams of `whisper` and those of the whole utterances on the CPU.

    The streams have other levels, begin one chunk after the other and share their batches with unowned rows. Most are
    longer than the context, so their rings are overwritten twice; their last chunks are shorter than the others.
    """
    bundle = load_bundle(find_models()["whisper"])
    config, engine = bundle.features, OnnxEngine(bundle)
    many = DeviceStreams(bundle, device, STREAMS, sizes=(1, 4))
    first, later = many.chunks
    whole_chunks, rest = 33, 10  # 8.6 s and 100 ms after the first chunk; the context is 4 s
    voices = speech(9.6)
    many.begin(np.arange(STREAMS))
    places = {0: 4, 1: 0, 2: 2}  # a stream's slot
    given, logits = dict.fromkeys(places, 0), {}
    for turn in range(whole_chunks + len(places) + 2):
        for chunk in (first, later, rest):
            due = [n for n in places if chunk_at(turn - n, whole_chunks, first, later, rest) == chunk]
            if due:
                audio = [voices[n][given[n] * config.hop_samples :][: many.samples(chunk)] for n in due]
                scored, _ = many.step(np.array([places[n] for n in due]), np.stack(audio))
                for n, of_stream in zip(due, scored, strict=True):
                    given[n] += chunk
                    logits[n] = of_stream
    assert set(given.values()) == {first + whole_chunks * later + rest}
    wholes = [engine.run(extract(voices[n], config)[None, : given[n]])[0][0] for n in places]
    assert np.ptp(np.stack(wholes), axis=0).max() > 0.5
    return [float(np.abs(logits[n] - wholes[n]).max()) for n in places]


def chunk_at(turn: int, whole_chunks: int, first: int, later: int, rest: int) -> int:
    """Frames of a stream's chunk in this turn: the first chunk, the later ones, the rest, and then none."""
    sizes = [first, *[later] * whole_chunks, rest]
    return sizes[turn] if 0 <= turn < len(sizes) else 0


def test_streams_longer_than_the_context_give_the_logits_of_the_whole_utterances(device: str) -> None:
    assert max(whisper_differences(device)) < TOLERANCE


@pytest.mark.parametrize("wrong", ["always at the start", "one entry too late"])
def test_the_comparison_detects_entries_written_to_a_wrong_position(
    monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """The control: new entries must overwrite the oldest ones."""

    def misplaced(ring: Tensor, slots: Tensor, written: Tensor, new: Tensor) -> None:
        streaming.write(ring, slots, written * 0 if wrong == "always at the start" else written + 1, new)

    monkeypatch.setattr(devicestreams, "write", misplaced)
    assert min(whisper_differences("cpu")) > 3 * TOLERANCE


def test_beginning_a_stream_again_does_not_affect_the_others(checkpoint: Bundle, device: str) -> None:
    many = DeviceStreams(checkpoint, device, STREAMS, sizes=(4,))
    size = many.samples(many.chunks[1])
    slots, audio = np.array([0, 1]), np.stack([babble(1.0, seed=seed)[:size] for seed in (1, 2)])
    first, _ = many.step(slots, audio)
    second, _ = many.step(slots, audio[::-1].copy())
    many.begin(np.array([1]))
    again, _ = many.step(slots, audio)
    np.testing.assert_allclose(again[1], first[1], atol=TOLERANCE)
    assert np.abs(again[0] - first[0]).max() > 10 * TOLERANCE
    assert np.abs(second - first).max() > 10 * TOLERANCE


def test_16_bit_samples_give_the_same_logits_as_float_samples(checkpoint: Bundle, device: str) -> None:
    floats, shorts = (DeviceStreams(checkpoint, device, 2, sizes=(2,), takes=takes) for takes in ("float", "pcm16"))
    pcm = (babble(1.0)[: floats.samples(floats.chunks[1])] * 32767).astype(np.int16)[None]
    slot = np.array([1])
    np.testing.assert_allclose(
        shorts.step(slot, pcm)[0], floats.step(slot, pcm.astype(np.float32) / 32768)[0], atol=TOLERANCE
    )


def test_launch_refuses_more_streams_than_its_largest_batch_but_step_splits_them(checkpoint: Bundle) -> None:
    many = DeviceStreams(checkpoint, "cpu", 4, sizes=(2,))
    audio = np.zeros((3, many.samples(many.chunks[1])), np.float32)
    with pytest.raises(ValueError, match="a step takes 1 to 2 streams, not 3"):
        many.launch(np.arange(3), audio)
    assert many.step(np.arange(3), audio)[0].shape == (3, 4)
