"""tools/share_folds.py classifies a corpus with the checkpoint of a fold that was not trained on it either."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import soundfile
from makers import babble

from streamser.audio import SAMPLE_RATE
from streamser.corpora.clips import Clip
from streamser.errors import ProtocolError
from streamser.evaluation.folds import FoldResult

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import share_folds

TRAINED = FoldResult(
    name="x", protocol="leave-one-corpus-out", fold="without-one", seed=3, labels=("angry", "neutral"),
    targets=np.zeros(1, np.int64), logits=np.zeros((1, 2), np.float32), speakers=("one/a",), clips=("one/1",),
    train_speakers=("three/a", "four/b"), test_corpora=("one",), figures={"training_wa": 90.0},
    embeddings=np.zeros((1, 4), np.float32),
)  # fmt: skip


class Loud:
    """A recognizer whose first logit and embedding are the largest sample."""

    def logits_and_embeddings(self, audio: list[Any]) -> tuple[Any, Any]:
        peaks = np.array([np.abs(one).max() for one in audio])
        return np.stack([peaks, np.zeros(len(audio))], axis=1), np.repeat(peaks[:, None], 4, axis=1)


def clips_in(folder: Path, count: int) -> list[Clip]:
    found = []
    for number in range(count):
        path = folder / f"{number}.wav"
        soundfile.write(path, babble(0.5, level=0.1 + 0.01 * number), SAMPLE_RATE)
        found.append(Clip(path, "two", f"two/{number % 3}", ("angry", "neutral")[number % 2]))
    return found


def test_the_new_fold_has_the_clips_of_the_other_corpus_and_the_training_of_the_first(tmp_path: Path) -> None:
    clips = clips_in(tmp_path, 40)  # more than are classified at once
    found = share_folds.scored(cast(Any, Loud()), TRAINED, "without-two", clips)
    assert (found.fold, found.seed, found.test_corpora) == ("without-two", 3, ("two",))
    assert found.clips == tuple(clip.id for clip in clips)
    assert found.speakers == tuple(clip.speaker for clip in clips)
    assert found.targets.tolist() == [number % 2 for number in range(40)]
    assert np.all(np.diff(found.logits[:, 0]) > 0)  # in the order of the clips, which become louder
    assert found.embeddings is not None and found.embeddings.shape == (40, 4)
    assert found.train_speakers == TRAINED.train_speakers and not found.figures


def test_a_network_that_was_trained_on_the_corpus_is_refused(tmp_path: Path) -> None:
    taught = replace(TRAINED, train_speakers=("three/a", "two/0"))
    with pytest.raises(ProtocolError, match="without-one, seed 3: was trained on two"):
        share_folds.scored(cast(Any, Loud()), taught, "without-two", clips_in(tmp_path, 2))
