"""The chunk-causal Whisper encoder gives the same result in chunks and for the whole, in torch and in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from streamser.engines import Counters
from streamser.engines import steps as engine_steps
from streamser.engines.steps import ChunkSteps
from streamser.nets import streaming, zoo
from streamser.nets.export import export_onnx
from streamser.nets.int8 import quantized
from streamser.nets.stepgraph import export_step
from streamser.nets.whisper import (
    CHUNK_FRAMES,
    CONTEXT_TOKENS,
    FIRST_FRAMES,
    State,
    Whisper,
)


@pytest.fixture(scope="module")
def net() -> Whisper:
    torch.manual_seed(0)
    return Whisper(4).eval()


def frames(count: int, seed: int = 0) -> Tensor:
    """Log-mel whose level changes from frame to frame, (1, count, 80)."""
    rng = np.random.default_rng(seed)
    level = rng.normal(-8.0, 2.0, (1, count, 1)) + rng.normal(0.0, 1.5, (1, count, 80))
    return torch.from_numpy(level.astype(np.float32))


def in_chunks(net: Whisper, x: Tensor, first: int = FIRST_FRAMES, chunk: int = CHUNK_FRAMES) -> Tensor:
    state, at = State.begin(1, len(net.encoder.layers)), 0
    with torch.inference_mode():
        while at < x.shape[1]:
            size = first if at == 0 else chunk
            after = net.encoder.step(x[:, at : at + size], state)
            for ring, new in zip((*state.keys, *state.values), (*after.keys, *after.values), strict=True):
                streaming.write(ring, torch.tensor([0]), state.seen[:, 0].long() // 2, new)
            state = after._replace(keys=state.keys, values=state.values)
            at += size
    return state.statistics()


@pytest.mark.parametrize("count", [2, 40, FIRST_FRAMES, FIRST_FRAMES + CHUNK_FRAMES, 300, 2 * CONTEXT_TOKENS + 500])
def test_an_utterance_in_chunks_gives_the_same_statistics_as_the_whole_utterance(net: Whisper, count: int) -> None:
    x = frames(count)
    with torch.inference_mode():
        whole = net.encode(x)
    assert whole.std() > 0.01, "constant statistics would make this test pass with any steps"
    torch.testing.assert_close(in_chunks(net, x), whole, atol=1e-4, rtol=1e-4)


def test_other_chunks_give_other_statistics(net: Whisper) -> None:
    """The control: the comparison above detects chunks that begin at other frames."""
    x = frames(300)
    with torch.inference_mode():
        whole = net.encode(x)
    assert (in_chunks(net, x, first=50) - whole).abs().max() > 1e-3


def test_a_chunk_does_not_change_the_encoding_of_earlier_chunks(net: Whisper) -> None:
    x = frames(300)
    changed = x.clone()
    changed[:, FIRST_FRAMES + CHUNK_FRAMES :] += 3.0
    with torch.inference_mode():
        before, after = net.encoder(x)[-1], net.encoder(changed)[-1]
    tokens = (FIRST_FRAMES + CHUNK_FRAMES) // 2
    torch.testing.assert_close(before[:, :tokens], after[:, :tokens])
    assert (before[:, tokens:] - after[:, tokens:]).abs().max() > 1e-3


def test_a_constant_gain_does_not_change_the_encoding(net: Whisper) -> None:
    x = frames(200)
    with torch.inference_mode():
        torch.testing.assert_close(net.encode(x), net.encode(x + 4.6), atol=1e-4, rtol=1e-4)


def steps_of(net: Whisper, changed: Callable[[bytes], bytes | None] = lambda graph: graph) -> ChunkSteps:
    """The network's step graph, opened as an engine opens it."""
    features = zoo.get("whisper").features
    graph = changed(export_step(net, features) or b"")
    assert graph is not None
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    bundle: Any = SimpleNamespace(features=features, step_path=None)
    return ChunkSteps(bundle, session, Counters(), session.get_modelmeta().custom_metadata_map)


def differences(
    net: Whisper, steps: ChunkSteps, changed: Callable[[bytes], bytes | None] = lambda graph: graph
) -> list[float]:
    """Largest differences between the step graph's scores and those of the graph for whole utterances, at several ends.

    The audio is so long that the rings of the step graph are overwritten twice.
    """
    graph = changed(export_onnx(net, zoo.get("whisper").features, 4))
    assert graph is not None
    whole = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    x = frames(5 * CONTEXT_TOKENS).numpy()
    track, worst = steps.track(), []
    for end in (40, FIRST_FRAMES, 300, 390, 412, 700, x.shape[1]):  # some ends lie within a chunk
        track.feed(x[0, track.fed : end])
        scores = track.scores()
        expected = whole.run(["logits", "embedding"], {"frames": x[:, :end]})
        worst.append(max(float(np.abs(a - b).max()) for a, b in zip(scores[:2], expected, strict=True)))
    return worst


def test_the_step_graph_gives_the_same_scores_as_the_graph_for_whole_utterances(net: Whisper) -> None:
    steps = steps_of(net)
    assert (steps.first, steps.chunk) == (FIRST_FRAMES, CHUNK_FRAMES)
    assert max(differences(net, steps)) < 1e-4


def test_the_comparison_detects_keys_written_to_a_wrong_position_of_the_ring(
    net: Whisper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: new entries of a ring must overwrite the oldest ones."""
    monkeypatch.setattr(engine_steps, "_write", lambda ring, new, written: ring.__setitem__(slice(len(new)), new))
    assert max(differences(net, steps_of(net))) > 1e-2


def test_with_8_bit_weights_chunks_give_nearly_the_same_scores_as_the_whole_utterance(net: Whisper) -> None:
    """The scores differ slightly, because only the step graph computes convolutions with 8-bit weights."""
    steps = steps_of(net, quantized)
    assert max(differences(net, steps, quantized)) < 5e-3
    assert 5e-3 < max(differences(net, steps)) < 5e-2  # the effect of the 8-bit weights
