"""A relative head scores one utterance against a baseline; an invalid relative head is refused when it is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from makers import babble, make_adaptive, make_features, make_relative, make_weights

from streamser.baseline import Baseline
from streamser.bundle import Bundle
from streamser.calibration import Calibration
from streamser.engines.relative import open_relative
from streamser.errors import BundleError
from streamser.recognizer import Recognizer, load

WEIGHTS = make_weights(make_features(), 4)


def renamed(old: str, new: str) -> bytes:
    """The graph of a relative head with one input or output renamed."""
    model = onnx.load_from_string(make_relative(WEIGHTS))
    for value in (*model.graph.input, *model.graph.output):
        value.name = new if value.name == old else value.name
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    return bytes(model.SerializeToString())


def test_the_relative_head_computes_logits_of_the_difference_to_the_shrunken_mean(adaptive: Recognizer) -> None:
    assert adaptive.relative is not None
    rng = np.random.default_rng(0)
    embedding, total = rng.normal(size=(2, 64)).astype(np.float32)
    expected = (embedding - total / (3.0 + 2.0)) @ WEIGHTS["weight"]
    np.testing.assert_allclose(adaptive.relative.run(embedding, total.astype(np.float64), 3.0), expected, atol=1e-4)


def test_a_bundle_without_a_relative_head_opens_none(bundle: Bundle) -> None:
    assert open_relative(bundle) is None


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (lambda: renamed("weight", "number"), "must map embedding, total and weight to logits"),
        (lambda: renamed("logits", "scores"), "must map embedding, total and weight to logits"),
        (lambda: make_relative(make_weights(make_features(), 3)), "must give 4 finite float32 logits"),
        (
            lambda: make_relative({"weight": np.full((64, 4), np.nan, np.float32)}),
            "must give 4 finite float32 logits",
        ),
        (lambda: b"no graph", "is not an ONNX model"),
    ],
)
def test_a_relative_graph_with_wrong_names_shapes_or_values_is_refused(
    graph: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match=rf"relative\.onnx: .*{message}"):
        load(make_adaptive(tmp_path / "broken", relative=graph()).path, "cpu")


def test_a_relative_head_for_embeddings_of_another_size_is_refused(tmp_path: Path) -> None:
    relative = make_relative({"weight": np.zeros((32, 4), np.float32)})
    with pytest.raises(BundleError, match=r"takes embeddings of 32 values, but the network gives 64"):
        load(make_adaptive(tmp_path / "other", relative=relative).path, "cpu")


def test_the_predictions_of_both_heads_are_mixed_by_the_weight_of_the_baseline(adaptive: Recognizer) -> None:
    audio = babble(2.0, seed=4)
    absolute = np.array(list(adaptive.predict(audio).scores.values()))
    total = np.full(64, 5.0)
    shares = []
    for weight in (0.0, 0.5, 1e9):
        baseline = Baseline(total if weight else np.zeros(64), weight, 1)
        mixed = np.array(list(adaptive.predict(audio, baseline).scores.values()))
        shares.append(float(np.abs(mixed - absolute).max()))
        assert mixed.sum() == pytest.approx(1.0)
    assert shares[0] == 0.0 < shares[1]
    relative = adaptive.relative
    assert relative is not None
    logits = relative.run(adaptive.embed(audio)[0], total, 0.5).astype(np.float64)
    odds = np.exp(logits - logits.max())
    half = 0.5 * absolute + 0.5 * odds / odds.sum()  # the share of the relative head is 0.5 at this weight
    found = adaptive.predict(audio, Baseline(total, 0.5, 1)).scores.values()
    assert list(found) == pytest.approx(half, abs=1e-6)


def test_predict_takes_one_baseline_for_all_recordings_or_one_for_each(adaptive: Recognizer) -> None:
    recordings = [babble(1.0, seed=seed) for seed in range(3)]
    one = Baseline(np.full(64, 5.0), 2.0, 2)
    both = adaptive.predict(recordings, [one, None, one])
    assert both[0] == adaptive.predict(recordings[0], one) != adaptive.predict(recordings[0])
    assert both[1] == adaptive.predict(recordings[1])
    assert adaptive.predict(recordings, one) == [adaptive.predict(audio, one) for audio in recordings]
    with pytest.raises(ValueError, match=r"baseline\.total must have 64 values for adaptive, not shape \(63,\)"):
        adaptive.predict(recordings[0], Baseline(np.zeros(63), 1.0, 1))


def test_the_neutral_prior_applies_to_both_heads(tmp_path: Path) -> None:
    path = make_adaptive(tmp_path / "calm", calibration=Calibration()).path
    audio, baseline = babble(2.0, seed=4), Baseline(np.full(64, 5.0), 1e12, 1)
    plain = load(path, "cpu").predict(audio, baseline).scores["neutral"]
    prior = load(path, "cpu", neutral_prior=0.7).predict(audio, baseline).scores["neutral"]
    assert prior / (1 - prior) == pytest.approx(plain / (1 - plain) * 0.7 / 0.3 * 3, rel=1e-6)
