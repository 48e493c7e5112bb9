"""tools/embedding_pair.py draws the embeddings of the same clips by two runs, side by side."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from corpus_maker import make_corpus
from makers import make_bundle, make_features

from streamser.errors import ProtocolError
from streamser.evaluation.folds import FoldResult, save_fold
from streamser.training.material import Material, gather, write_recipe
from streamser.training.recipe import recipe_from

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import embedding_pair


def make_run(folder: Path, material: Material, seed: int) -> Path:
    """Save a run with one fold and its checkpoint; the test part of the fold is every second clip."""
    recipe = recipe_from(
        {"name": folder.name, "variant": "lightsernet", "corpora": ["tiny"], "labels": ["angry", "sad"]}
    )
    write_recipe(recipe, folder)
    clips = material.clips[::2]
    fold = FoldResult(
        name=recipe.name, protocol="honest", fold="fold-1-of-2", seed=0, labels=recipe.labels,
        targets=np.zeros(len(clips), np.int64), logits=np.zeros((len(clips), 2), np.float32),
        speakers=tuple(clip.speaker for clip in clips), clips=tuple(clip.id for clip in clips),
    )  # fmt: skip
    save_fold(folder / "fold-1-of-2-s0" / "fold.json", fold)
    features = make_features(mel_max_hz=7600.0 - 3000.0 * seed)
    make_bundle(folder / "fold-1-of-2-s0" / "bundle", ("angry", "sad"), seed, features=features)
    return folder


def test_the_embeddings_of_the_same_clips_by_two_runs_are_drawn_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_corpus(tmp_path / "tiny", speakers=4, takes=3)
    recipe = recipe_from({"name": "x", "variant": "lightsernet", "corpora": ["tiny"], "labels": ["angry", "sad"]})
    material = gather(recipe, tmp_path, tmp_path)
    runs = [make_run(tmp_path / name, material, seed) for seed, name in enumerate(("s", "sc"))]
    drawn: list[object] = []
    monkeypatch.setattr(embedding_pair, "plot_embedding_pair", lambda *all_of_it: drawn.append(all_of_it))
    words = [*map(str, runs), str(tmp_path / "pair.png"), "--corpora-root", str(tmp_path)]
    assert embedding_pair.main(words) == 0
    assert "24 clips of fold-1-of-2" in capsys.readouterr().out
    ((maps, labels, titles, _),) = drawn  # type: ignore[misc]
    assert Counter(labels) == {"angry": 12, "sad": 12} and titles == ["s", "sc"]
    assert [points.shape for points in maps] == [(24, 2), (24, 2)]
    assert not np.allclose(maps[0], maps[1])  # the two checkpoints differ
    assert embedding_pair.main([*words, "--part", "test"]) == 0
    assert "12 clips" in capsys.readouterr().out
    assert len(embedding_pair.chosen_clips(material.clips, 3, 0)) == 6
    with pytest.raises(ProtocolError, match="no checkpoint of fold-2"):
        embedding_pair.embeddings(runs[0], "fold-2", material.clips)


def test_an_embedding_pair_is_drawn_as_png(tmp_path: Path) -> None:
    from streamser.evaluation.plots import plot_embedding_pair

    points = np.random.default_rng(0).standard_normal((20, 2))
    plot_embedding_pair([points, -points], ["sad", "angry"] * 10, ["S", "S+C"], tmp_path / "pair.png")
    assert (tmp_path / "pair.png").read_bytes().startswith(b"\x89PNG")
