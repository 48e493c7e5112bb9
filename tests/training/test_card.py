"""A card states what its predictions assume, and the commands that give its figures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from streamser.calibration import Calibration
from streamser.nets import zoo
from streamser.training.card import with_int8, write_card
from streamser.training.recipe import Recipe

PROVENANCE: dict[str, Any] = {
    "corpora": {"one": 8},
    "train_speakers": ["one/a"],
    "validation_speakers": ["one/b"],
    "parameters": 10,
    "protocol": "honest",
    "split": "ship",
    "seed": 0,
    "torch": "2",
    "created": "2026-01-01",
}


def card(calibration: Calibration | None = None, recipe: dict[str, Any] | None = None, **provenance: Any) -> str:
    settled = replace(Recipe(name="tiny", variant="lightsernet", corpora=("one",)), **(recipe or {}))
    scores = {"calibrated_on": "left-out corpora"}
    return write_card(
        settled, zoo.get("lightsernet"), calibration or Calibration(), {**PROVENANCE, **provenance}, scores
    )


@pytest.mark.parametrize(
    ("prior", "words"), [(None, "all labels are equally frequent"), (0.7, "70 % of the utterances are neutral")]
)
def test_a_card_states_the_prior_of_neutral(prior: float | None, words: str) -> None:
    assert f"The predictions assume that {words}" in card(Calibration(neutral_prior=prior))
    assert "The predictions assume" not in card(recipe={"labels": ("angry", "sad")})


def test_the_commands_of_a_card_name_the_seeds_of_the_run_that_left_corpora_out() -> None:
    several = card(left_out_seeds=[0, 1, 2])
    assert "--set protocol=leave-one-corpus-out --seeds 0,1,2 --out" in several and "means over 3 seeds" in several
    one = card(left_out_seeds=[0])
    assert "--seeds" not in one and "means over" not in one


def test_a_card_states_what_eight_bits_cost() -> None:
    ways = {"whole_32": 72.3, "whole_8": 72.1, "steps_32": 72.3, "steps_8": 71.9}
    scores = {"int8": {"clips": 40, **{way: {"ua": ua} for way, ua in ways.items()}}}
    text = with_int8(card(), scores, "python tools/add_int8.py models/tiny CORPORA")
    assert "UA is 71.9 in streams and 72.1 on whole files, 72.3 with 32-bit weights: 40 clips" in text
    assert text.index("8-bit weights") < text.index("## Limits")
    again = with_int8(text, {"int8": {**scores["int8"], "clips": 50}}, "python tools/add_int8.py models/tiny CORPORA")
    assert again == text.replace("40 clips", "50 clips")


def test_a_card_shows_the_further_figures_of_its_recipe_before_the_limits() -> None:
    text = card(recipe={"figures": "CPU time: 3 ms\n"})
    assert "\n\nCPU time: 3 ms\n\n## Limits" in text
    assert "\n\n\n" not in text and "\n\n\n" not in card()


def test_a_card_names_the_corpora_of_the_pretraining_and_the_plain_speech_among_them() -> None:
    row = {"neutral": 0.9, "mood": 0.05, "uncertain": 0.05}
    scores = {"plain_speech": {"calls": row, "talks": row}, "plain_speech_mood": 0.05}
    settled = Recipe(name="tiny", variant="lightsernet", corpora=("one",), start="start.safetensors")

    def text(**more: Any) -> str:
        return write_card(settled, zoo.get("lightsernet"), Calibration(), {**PROVENANCE, "learnt": 4, **more}, scores)

    pretrained = text(pretrained_on=["readings", "calls"], frozen=False)
    assert "learned without labels on readings, calls |" in pretrained
    assert "Without labels, the start weights were trained on calls before." in pretrained
    nothing = {"plain_speech": {}, "plain_speech_mood": None}  # of a run that leaves out no source of plain speech
    assert "Plain speech" not in write_card(settled, zoo.get("lightsernet"), Calibration(), PROVENANCE, nothing)
    assert "copied unchanged" not in pretrained  # `parameters` counts statistics, which are not trained
    frozen = text(frozen=True)
    assert "parameters: 10, 4 of them trained on these corpora; the others were copied unchanged" in frozen
    assert "without labels" not in frozen.lower()
