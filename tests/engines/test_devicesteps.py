"""Tracks on a torch device give the scores of tracks in ONNX Runtime, in batches and when something fails."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from makers import babble

from streamser.bundle import Bundle, find_models, load_bundle
from streamser.engines import FallbackEngine
from streamser.engines.devicesteps import DeviceSteps
from streamser.engines.onnx import OnnxEngine
from streamser.engines.steps import Track, advance
from streamser.engines.torch import TorchEngine
from streamser.errors import EngineError
from streamser.features import Frames, extract

TOLERANCE = 1e-4  # of a logit; they differ by more than 1 between the recordings


@pytest.fixture(scope="module")
def checkpoint() -> Bundle:
    return load_bundle(find_models()["whisper"])


@pytest.fixture(scope="module")
def onnx(checkpoint: Bundle) -> OnnxEngine:
    return OnnxEngine(checkpoint)


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
        ),
    ]
)
def engine(checkpoint: Bundle, request: pytest.FixtureRequest) -> TorchEngine:
    return TorchEngine(checkpoint, request.param)


@pytest.fixture(scope="module")
def utterances(checkpoint: Bundle) -> list[Frames]:
    """Of different lengths: one is shorter than the first chunk, one longer than twice the context."""
    lengths = (0.5, 1.0, 3.1, 8.6)
    return [extract(babble(s, seed=n, level=0.02 + 0.03 * n), checkpoint.features) for n, s in enumerate(lengths)]


def steps_of(engine: TorchEngine) -> DeviceSteps:
    steps = engine.steps
    assert steps is not None
    return steps


def assert_equal(track: Track, expected: Track, tolerance: float = TOLERANCE) -> None:
    given, wanted = track.scores(), expected.scores()
    np.testing.assert_allclose(given.logits, wanted.logits, atol=tolerance)
    np.testing.assert_allclose(given.embedding, wanted.embedding, atol=10 * tolerance)
    assert given.audible == wanted.audible


def test_interleaved_tracks_give_the_scores_of_onnx_runtime_after_pieces_of_any_length(
    engine: TorchEngine, onnx: OnnxEngine, utterances: list[Frames]
) -> None:
    steps, rng = steps_of(engine), np.random.default_rng(0)
    assert onnx.steps is not None
    pairs = [(steps.track(), onnx.steps.track()) for _ in utterances]
    seen = []
    while any(track.fed < len(frames) for (track, _), frames in zip(pairs, utterances, strict=True)):
        for (track, expected), frames in zip(pairs, utterances, strict=True):
            size = rng.integers(0, 60)  # a step of none, one or several chunks, most with a rest
            for one in (track, expected):
                one.feed(frames[one.fed :][:size])
        advance(steps, [track for track, _ in pairs])
        for track, expected in pairs:
            assert_equal(track, expected)
            seen.append(track.scores().logits[0])
    assert np.ptp(np.stack(seen), axis=0).max() > 1.0, "equality of constant logits would prove little"


def test_tracks_advance_together_in_one_step(
    engine: TorchEngine, utterances: list[Frames], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = steps_of(engine)
    sizes: list[tuple[int, ...]] = []

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda slots, chunks: (sizes.append(chunks.shape[:2]), call(slots, chunks))[1]  # type: ignore[func-returns-value]

    monkeypatch.setattr(steps._slots, "step", counted(steps._slots.step))
    monkeypatch.setattr(steps._slots, "peek", counted(steps._slots.peek))
    tracks = [steps.track() for _ in range(3)]
    for track in tracks:
        track.feed(utterances[3][: steps.first + steps.chunk + 11])
    advance(steps, tracks)
    assert sizes == [(3, steps.first), (3, steps.chunk), (3, 10)]
    for track in tracks:
        track.scores()
    assert len(sizes) == 3, "the scores were computed already"


def test_a_slot_is_free_again_after_close_and_after_a_track_is_dropped(engine: TorchEngine) -> None:
    steps = steps_of(engine)
    before = steps.free
    first, second = steps.track(), steps.track()
    assert steps.free == before - 2
    first.close()
    first.close()
    assert steps.free == before - 1
    with pytest.raises(EngineError, match="was lost"):  # its slot may belong to another utterance
        first.scores()
    del second
    gc.collect()
    assert steps.free == before


def test_a_slot_used_again_holds_nothing_of_the_earlier_utterance(
    engine: TorchEngine, onnx: OnnxEngine, utterances: list[Frames]
) -> None:
    steps = steps_of(engine)
    assert onnx.steps is not None
    for frames in utterances[::-1]:
        track, expected = steps.track(), onnx.steps.track()
        for one in (track, expected):
            one.feed(frames)
        assert_equal(track, expected)
        track.close()


def test_without_a_free_slot_an_utterance_gets_the_same_scores(
    engine: TorchEngine, onnx: OnnxEngine, utterances: list[Frames], caplog: pytest.LogCaptureFixture
) -> None:
    steps = steps_of(engine)
    assert onnx.steps is not None
    owners = [steps.track() for _ in range(steps.free)]
    for frames in utterances:
        track, expected = steps.track(), onnx.steps.track()
        for end in (1, 30, 101, len(frames)):
            for one in (track, expected):
                one.feed(frames[one.fed : end])
            assert_equal(track, expected)
    assert owners and not steps.free
    assert [record.getMessage().split()[0] for record in caplog.records] == ["all"]


def failing_after(steps: DeviceSteps, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device fails after this number of steps, as if its memory were full."""
    step, counter = steps._slots.step, iter(range(1 << 30))

    def failing(slots: Any, chunks: Frames) -> Any:
        if next(counter) >= calls:
            raise EngineError("cuda:0: CUDA out of memory")
        return step(slots, chunks)

    monkeypatch.setattr(steps._slots, "step", failing)


def test_after_a_failure_the_tracks_of_the_step_are_lost_and_the_others_are_not(
    engine: TorchEngine, utterances: list[Frames], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = steps_of(engine)
    early, late = steps.track(), steps.track()
    early.feed(utterances[2][: steps.first])
    before = early.scores()
    failing_after(steps, 0, monkeypatch)
    late.feed(utterances[2])
    with pytest.raises(EngineError, match="out of memory"):
        advance(steps, [early, late])
    np.testing.assert_array_equal(early.scores().logits, before.logits)
    with pytest.raises(EngineError, match="was lost"):
        late.scores()


@pytest.mark.parametrize("together", [False, True])
def test_if_the_device_fails_the_utterances_continue_on_the_other_engine(
    engine: TorchEngine,
    onnx: OnnxEngine,
    utterances: list[Frames],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    together: bool,
) -> None:
    fallback = FallbackEngine(lambda: engine, lambda: onnx, engine._bundle.features)
    failing_after(steps_of(engine), 5, monkeypatch)
    steps = fallback.steps
    assert steps is not None and onnx.steps is not None
    pairs = [(steps.track(), onnx.steps.track()) for _ in utterances]
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            for (track, expected), frames in zip(pairs, utterances, strict=True):
                for one in (track, expected):
                    one.feed(frames[one.fed :][:45])
            if together:
                advance(steps, [track for track, _ in pairs])
            for track, expected in pairs:
                assert_equal(track, expected)
    assert fallback.metrics()["fallback"] == "cuda:0: CUDA out of memory"
    assert sum("from here on the onnx engine" in record.getMessage() for record in caplog.records) == 1
    assert fallback.steps is onnx.steps


def test_a_checkpoint_without_a_step_graph_or_without_chunks_has_no_steps(
    checkpoint: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert TorchEngine(load_bundle(find_models()["lightsernet"]), "cpu").steps is None
    monkeypatch.setattr(Bundle, "step_path", None)
    assert TorchEngine(checkpoint, "cpu").steps is None


def test_if_the_states_do_not_fit_on_the_device_streams_are_computed_in_windows(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from streamser.engines import devicestreams

    def full(*_: object, **__: object) -> None:
        raise EngineError("cuda:0: CUDA out of memory")

    monkeypatch.setattr(devicestreams, "DeviceStreams", full)
    assert engine.steps is None
    assert "streams are computed in whole windows" in caplog.text
