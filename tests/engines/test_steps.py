"""Step graphs give the same scores as the whole window: step graphs with chunks, and windows that share columns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from makers import LABELS, babble, make_bundle, noise, silence, tone
from netmakers import make_net
from onnx import TensorProto, helper

from streamser.audio import SAMPLE_RATE, Samples
from streamser.bundle import Bundle, find_models, load_bundle
from streamser.engines import columns, run_frames
from streamser.engines.columns import WindowTrack
from streamser.engines.onnx import OnnxEngine
from streamser.engines.steps import ChunkSteps, StepEngine
from streamser.errors import BundleError
from streamser.features import FeatureConfig, Frames, cut_window, extract
from streamser.nets import zoo
from streamser.nets.export import export_onnx
from streamser.nets.stepgraph import export_step

FEATURES = FeatureConfig(window_samples=400, hop_samples=160, fft_size=400, n_mels=8)
TOLERANCE = 1e-4  # largest accepted difference between an exported graph and its network


def running_mean(first: int = 6, chunk: int = 4, multiple: int = 2) -> bytes:
    """A step graph whose embedding is the mean of all frames; the state `carried.calls` counts the runs so far."""
    zero = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    size = helper.make_tensor("one", TensorProto.FLOAT, [1, 8], [1.0] * 8)
    weights = np.random.default_rng(0).normal(0, 1, (8, len(LABELS))).astype(np.float32)
    nodes = [
        helper.make_node("ReduceSum", ["frames", "axis"], ["added"], keepdims=0),
        helper.make_node("Add", ["added", "sum"], ["next.sum"]),
        helper.make_node("Mul", ["frames", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "one_each"], ["ones"]),
        helper.make_node("ReduceSum", ["ones", "axis"], ["counted"], keepdims=0),
        helper.make_node("Add", ["counted", "count"], ["next.count"]),
        helper.make_node("Div", ["next.sum", "next.count"], ["embedding"]),
        helper.make_node("MatMul", ["embedding", "weights"], ["scored"]),
        helper.make_node("Add", ["carried.calls", "one"], ["next.carried.calls"]),
        helper.make_node("Identity", ["scored"], ["logits"]),
    ]
    state = ["sum", "count", "carried.calls"]
    graph = helper.make_graph(
        nodes,
        "running mean",
        [
            helper.make_tensor_value_info("frames", TensorProto.FLOAT, [1, "time", 8]),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8]) for name in state),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, len(LABELS)]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, 8]),
            *(helper.make_tensor_value_info(f"next.{name}", TensorProto.FLOAT, ["batch", 8]) for name in state),
        ],
        [
            zero,
            size,
            helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]),
            helper.make_tensor("one_each", TensorProto.FLOAT, [1], [1.0]),
            helper.make_tensor("weights", TensorProto.FLOAT, weights.shape, weights.flatten()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    kind = {"step": "chunks", "first": first, "chunk": chunk, "multiple": multiple}
    helper.set_model_props(model, {f"streamser.{name}": str(value) for name, value in kind.items()})
    return bytes(model.SerializeToString())


def chunk_steps(folder: Path, step: bytes | None = None) -> ChunkSteps:
    engine = OnnxEngine(make_bundle(folder, features=FEATURES, step=step or running_mean()))
    assert isinstance(engine.steps, ChunkSteps)
    return engine.steps


def frames_of(count: int, seed: int = 0) -> Frames:
    return np.random.default_rng(seed).normal(0, 1, (count, 8)).astype(np.float32)


def test_a_checkpoint_without_a_step_graph_has_no_steps(bundle: Bundle) -> None:
    assert bundle.step_path is None
    assert OnnxEngine(bundle).steps is None


@pytest.mark.parametrize("pieces", [[20], [1] * 20, [5, 1, 0, 7, 7], [6, 4, 4, 4, 2]])
def test_the_scores_of_a_track_do_not_depend_on_the_pieces_in_which_frames_are_fed(
    tmp_path: Path, pieces: list[int]
) -> None:
    frames = frames_of(20)
    track = chunk_steps(tmp_path / "mean").track()
    fed = 0
    for size in pieces:
        track.feed(frames[fed : fed + size])
        fed += size
        whole = fed - fed % 2  # `multiple` leaves an odd frame out
        if whole:
            np.testing.assert_allclose(track.scores().embedding[0], frames[:whole].mean(axis=0), atol=1e-5)
    assert track.fed == 20
    np.testing.assert_allclose(track.final(slice(3, 9)).embedding[0], frames.mean(axis=0), atol=1e-5)


def test_opening_a_step_graph_runs_two_windows_whatever_the_window_length(tmp_path: Path) -> None:
    engine = OnnxEngine(make_bundle(tmp_path / "mean", features=replace(FEATURES, length_s=20.0), step=running_mean()))
    assert engine.steps is not None
    assert engine.metrics()["windows"] == 2


def test_a_stream_opens_the_step_graph_only_and_not_the_graph_for_whole_windows(tmp_path: Path) -> None:
    """The graph for whole windows is opened when audio is scored as a whole."""
    bundle = make_bundle(tmp_path / "mean", features=FEATURES, step=running_mean())
    engine = OnnxEngine(bundle)
    bundle.onnx_path.write_bytes(b"altered")
    assert engine.steps is not None
    with pytest.raises(BundleError, match="truncated or altered"):
        engine.run(np.zeros((1, FEATURES.window_frames, FEATURES.bins), np.float32))


def test_asking_a_track_for_scores_does_not_change_its_state(tmp_path: Path) -> None:
    steps = chunk_steps(tmp_path / "mean")
    asked, silent = steps.track(), steps.track()
    for start in range(0, 18, 3):
        asked.feed(frames_of(18)[start : start + 3])
        silent.feed(frames_of(18)[start : start + 3])
        asked.scores(), asked.scores(), asked.final(slice(None))
    np.testing.assert_array_equal(asked.scores().logits, silent.scores().logits)


def test_only_carried_states_continue_in_the_next_utterance(tmp_path: Path) -> None:
    steps = chunk_steps(tmp_path / "mean")
    first = steps.track()
    first.feed(frames_of(10))
    second = steps.track(first)
    assert (second.states["carried.calls"] == 2).all() and not second.states["sum"].any()
    assert not steps.track().states["carried.calls"].any()


def test_a_track_without_frames_or_with_silence_is_not_audible(tmp_path: Path) -> None:
    steps = chunk_steps(tmp_path / "mean")
    track = steps.track()
    assert not track.scores().audible
    track.feed(extract(silence(0.2), FEATURES))
    assert not track.scores().audible
    track.feed(extract(tone(duration_s=0.2), FEATURES))
    assert track.scores().audible


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"streamser.step": "sideways"}, "chunks or window, not 'sideways'"),
        ({"streamser.multiple": "3"}, "multiples of streamser.multiple"),
        ({"streamser.step": "window"}, "export the checkpoint again"),
        ({"streamser.rings": '{"sum": 2}'}, "streamser.rings must name states"),
        ({"streamser.rings": '{"carried.calls": 0}'}, "streamser.rings must name states"),
    ],
)
def test_a_step_graph_with_invalid_metadata_is_refused(tmp_path: Path, change: dict[str, str], message: str) -> None:
    model = onnx.load_from_string(running_mean())
    metadata = {prop.key: prop.value for prop in model.metadata_props} | change
    del model.metadata_props[:]
    helper.set_model_props(model, metadata)
    engine = OnnxEngine(make_bundle(tmp_path / "odd", features=FEATURES, step=model.SerializeToString()))
    with pytest.raises(BundleError, match=message):
        _ = engine.steps


def test_a_step_graph_without_the_next_state_is_refused(tmp_path: Path) -> None:
    model = onnx.load_from_string(running_mean())
    del model.graph.output[-1]
    engine = OnnxEngine(make_bundle(tmp_path / "lame", features=FEATURES, step=model.SerializeToString()))
    with pytest.raises(BundleError, match=r"next\.carried\.calls"):
        _ = engine.steps


# --- windows that share columns, with the shipped weights


@pytest.fixture(scope="module", params=["lightsernet", "lightsernet-emodb"])
def trained(request: pytest.FixtureRequest) -> OnnxEngine:
    return OnnxEngine(load_bundle(find_models()[request.param]))


def spoken(seconds: float, seed: int = 0) -> Samples:
    parts = [babble(1.3, seed=seed), noise(0.4, 0.01, seed), tone(300, 0.5), babble(1.1, seed=seed + 9, level=0.03)]
    audio = np.concatenate(parts)
    return np.resize(audio, round(seconds * SAMPLE_RATE))


def steps_of(engine: OnnxEngine) -> StepEngine:
    steps = engine.steps
    assert steps is not None
    return steps


def differences(engine: OnnxEngine, frames: Frames, hop: int) -> tuple[list[float], Frames]:
    """The largest difference of each hop's scores from those of the full graph for the same window; and the logits."""
    config = engine.steps.features  # type: ignore[union-attr]
    track = steps_of(engine).track()
    worst, logits = [], []
    for end in range(hop, len(frames), hop):
        track.feed(frames[end - hop : end])
        scores = track.scores()
        newest = frames[max(0, end - config.window_frames) : end]
        expected, embedding = engine.run(cut_window(newest, 0, config)[None])
        worst.append(float(max(np.abs(scores.logits - expected).max(), np.abs(scores.embedding - embedding).max())))
        logits.append(scores.logits[0])
    return worst, np.stack(logits)


@pytest.mark.parametrize("hop", [16, 7, 31])
def test_the_logits_of_every_hop_equal_those_of_the_full_window(trained: OnnxEngine, hop: int) -> None:
    frames = extract(spoken(6.0), steps_of(trained).features)  # type: ignore[attr-defined]
    worst, logits = differences(trained, frames, hop)
    assert max(worst) < TOLERANCE
    assert np.ptp(logits, axis=0).max() > 100 * TOLERANCE  # equality of constant logits would prove little


@pytest.mark.parametrize("pooling", ["spread", "attention", "combined"])
def test_every_pooling_gives_the_logits_of_the_full_window_for_every_hop(pooling: str, tmp_path: Path) -> None:
    variant = f"lightsernet-{pooling}"
    features = zoo.get(variant).features
    net = make_net(variant, features)
    with torch.no_grad():  # a random query, because an untrained query weights all places equally
        for name, values in net.named_parameters():
            if name == "query":
                values.normal_(generator=torch.Generator().manual_seed(1))
    graph, step = export_onnx(net, features, len(LABELS)), export_step(net, features)
    engine = OnnxEngine(make_bundle(tmp_path / variant, features=features, onnx=graph, step=step, variant=variant))
    worst, logits = differences(engine, extract(spoken(4.0), features), 16)
    assert max(worst) < TOLERANCE
    assert np.ptp(logits, axis=0).max() > 100 * TOLERANCE


def test_columns_at_the_edges_of_the_window_must_be_computed_again(
    trained: OnnxEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: if columns at the edges of the window are treated like those inside, the scores differ."""
    inside = columns._keys

    def continued(levels: Any, size: int, start: int, frames: int) -> Any:
        if frames < size:
            return inside(levels, size, start, frames)
        around = 2 ** len(levels)  # frames added on both sides, as if the window had no edges
        wider = inside(levels, size + 2 * around, start - around, size + 2 * around + 1)
        return [k[around >> n : (around >> n) + (size >> n)] for n, k in enumerate(wider)]

    columns.plan.cache_clear()
    monkeypatch.setattr(columns, "_keys", continued)
    frames = extract(spoken(6.0), steps_of(trained).features)  # type: ignore[attr-defined]
    worst, _ = differences(trained, frames, 16)
    columns.plan.cache_clear()
    assert max(worst) > 100 * TOLERANCE


@pytest.mark.parametrize("kept", [slice(0, 300), slice(7, 190), slice(5, 40), slice(100, 101)])
def test_a_final_equals_the_mean_over_the_same_windows(trained: OnnxEngine, kept: slice) -> None:
    config = steps_of(trained).features  # type: ignore[attr-defined]
    frames = extract(spoken(6.0, seed=3), config)[:300]
    track = steps_of(trained).track()
    for start in range(0, 300, 50):
        track.feed(frames[start : start + 50])
        track.scores()
    before = track.scores().logits
    scores, (expected,) = track.final(kept), run_frames(trained, [frames[kept]], config)
    np.testing.assert_allclose(scores.logits, expected.logits, atol=TOLERANCE)
    np.testing.assert_allclose(scores.embedding, expected.embedding, atol=TOLERANCE)
    assert scores.audible == expected.audible
    np.testing.assert_array_equal(track.scores().logits, before)


def test_a_hop_of_a_long_utterance_computes_less_than_a_third_of_the_columns(trained: OnnxEngine) -> None:
    steps = steps_of(trained)
    way = columns.plan(steps.levels, steps.size, 16, steps.size, steps.size)  # type: ignore[attr-defined]
    every = columns.plan(steps.levels, steps.size, 0, 0, steps.size)  # type: ignore[attr-defined]
    assert sum(way.computed) / sum(every.computed) < 1 / 3


def test_a_track_without_frames_has_the_scores_of_silence(trained: OnnxEngine) -> None:
    track = steps_of(trained).track()
    assert isinstance(track, WindowTrack)
    (expected,) = run_frames(trained, [np.zeros((0, 40), np.float32)], track._steps.features)
    for scores in (track.scores(), track.final(slice(None))):
        np.testing.assert_allclose(scores.logits, expected.logits, atol=TOLERANCE)
        assert not scores.audible
