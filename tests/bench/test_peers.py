"""The peers of the benchmark give the same results as streamser for a window, so that their times can be compared."""

from __future__ import annotations

import numpy as np
import pytest
from makers import babble

from streamser.bench.peers import PEERS, installed_peers
from streamser.bench.run import medians
from streamser.bench.speech import compose
from streamser.recognizer import load

TOLERANCE = 1e-3  # of a logit


@pytest.mark.parametrize("name", ["torchaudio", "librosa"])
def test_a_peer_computes_the_same_logits_for_a_window_as_streamser(name: str) -> None:
    assert name in installed_peers()
    recognizer = load("lightsernet", "cpu", engine="onnx")
    windows = [babble(seconds, seed=seed) for seed, seconds in enumerate((2.992, 2.992, 1.3))]
    predict = PEERS[name].make("lightsernet")
    naive = np.concatenate([np.asarray(predict(window)) for window in windows])
    # Neither the windows of a partial result nor those of the peers are trimmed.
    from streamser.engines import run_frames
    from streamser.features import extract

    frames = [extract(window, recognizer.features) for window in windows]
    ours = np.concatenate([scores.logits for scores in run_frames(recognizer.engine, frames, recognizer.features)])
    np.testing.assert_allclose(naive, ours, atol=TOLERANCE)  # the peers compute the FFT in float32
    assert np.ptp(ours, axis=0).max() > 100 * TOLERANCE  # equality of constant logits would prove little


def test_composed_speech_is_the_same_each_time_and_has_the_given_length() -> None:
    first, again = compose(0.1), compose(0.1)
    np.testing.assert_array_equal(first, again)
    assert len(first) == 96_000 and 0.01 < np.abs(first).max() <= 1.0


def test_rounds_are_merged_by_the_median_but_differences_by_the_maximum() -> None:
    merged = medians(
        [{"scores_differ": 1e-8, "x": 1.0}, {"scores_differ": 1e-3, "x": 5.0}, {"scores_differ": 0.0, "x": 2.0}]
    )
    assert merged == {"scores_differ": 1e-3, "x": 2.0}
