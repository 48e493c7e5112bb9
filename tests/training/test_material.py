"""The clips that each row of the table of networks trains on, with their labels and counts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from corpus_maker import make_corpus, make_iemocap

from streamser.corpora.benchmarks import BENCHMARKS
from streamser.corpora.clips import Clip
from streamser.errors import ConfigError
from streamser.nets import zoo
from streamser.training.material import gather, label_shares, recipe_of
from streamser.training.recipe import recipe_from


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora")
    make_iemocap(folder / "IEMOCAP")
    return folder


@pytest.mark.parametrize(
    ("row", "benchmark", "counts"),
    [
        ("sepconv-n5-focal", "iemocap", {"angry": 20, "happy": 40, "neutral": 20, "sad": 20}),
        ("cnn-blstm-softmax", "iemocap", {"angry": 20, "happy": 40, "neutral": 20, "sad": 20}),
        ("lightsernet-7s-ce", "iemocap-improvised", {"angry": 10, "happy": 20, "neutral": 10, "sad": 10}),
        (
            "parallel-cnn-mel-s",
            "iemocap-improvised-happy",
            {"angry": 10, "happy": 10, "neutral": 10, "sad": 10},
        ),
        (
            "lightsernet-report-iemocap",
            "iemocap-session1",
            dict.fromkeys(("angry", "excited", "frustration", "happy", "neutral", "sad", "xxx"), 4),
        ),
    ],
)
def test_a_row_trains_on_the_clips_that_its_paper_used(
    root: Path, row: str, benchmark: str, counts: dict[str, int]
) -> None:
    variant = zoo.get(row)
    assert benchmark in variant.published
    material = gather(recipe_of(variant, BENCHMARKS[benchmark]), root, root / "cache")
    assert Counter(clip.label for clip in material.clips) == counts


def test_a_missing_session_is_refused_with_a_list_of_the_existing_ones(root: Path) -> None:
    from dataclasses import replace

    recipe = replace(recipe_of(zoo.get("sepconv-n5-wce"), BENCHMARKS["iemocap"]), sessions=("Ses09",))
    with pytest.raises(ConfigError, match="no clip is of sessions Ses09; there are Ses01, Ses02"):
        gather(recipe, root, root / "cache")


def test_a_missing_label_is_reported_with_the_number_of_files_left_out(tmp_path: Path) -> None:
    folder = make_corpus(tmp_path / "tiny", speakers=3, takes=1)
    for path in folder.glob("audio/*-sad-*.wav"):
        path.write_bytes(b"no sound")
    recipe = recipe_from({"name": "x", "variant": "lightsernet", "corpora": ["tiny"], "labels": ["angry", "sad"]})
    with pytest.raises(ConfigError, match=r"no clip is labelled sad; .* \(files left out: unreadable file 3\)"):
        gather(recipe, tmp_path, tmp_path / "cache")


def test_label_shares_count_every_annotation_under_the_row_s_labels() -> None:
    votes = ("happy", "excited+happy", "frustration", "sad")
    clips = [Clip(Path("a.wav"), "c", "c/1", "happy", votes=votes), Clip(Path("b.wav"), "c", "c/1", "sad")]
    shares = label_shares(clips, ("happy", "sad"), {"excited": "happy"})
    assert shares.tolist() == [[0.75, 0.25], [0.0, 1.0]]
