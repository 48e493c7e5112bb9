"""Recipes: what they say, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamser.errors import ConfigError
from streamser.training.recipe import load_recipe, recipe_from

SHIPPED = sorted((Path(__file__).parents[2] / "models").glob("**/*.yaml"))


@pytest.mark.parametrize("path", [p for p in SHIPPED if p.name != "bundle.yaml"], ids=lambda p: p.parent.name)
def test_every_shipped_recipe_is_valid_and_names_a_row_of_the_zoo(path: Path) -> None:
    from streamser.nets import zoo

    recipe = load_recipe(path)
    assert zoo.get(recipe.variant).name == recipe.variant


def test_an_unknown_key_is_named_with_the_nearest_right_one() -> None:
    with pytest.raises(ConfigError, match="unknown key 'epoch'; did you mean 'epochs'"):
        recipe_from({"name": "x", "variant": "lightsernet", "epoch": 3})
    with pytest.raises(ConfigError, match="schedule: unknown key 'warm'"):
        recipe_from({"name": "x", "variant": "lightsernet", "schedule": {"warm": 1}})


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("epochs", 0, "epochs is at least 1"),
        ("batch", 1, "batch is at least 2"),
        ("ema", 1.0, "ema < 1"),
        ("labels", ["sad", "sad"], "labels are at least two"),
    ],
)
def test_an_impossible_value_is_refused_by_its_rule(key: str, value: object, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        recipe_from({"name": "x", "variant": "lightsernet", key: value})


def test_a_file_that_is_no_recipe_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such recipe"):
        load_recipe(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1,", encoding="utf-8")
    with pytest.raises(ConfigError, match="not YAML"):
        load_recipe(broken)
    broken.write_text("- a list", encoding="utf-8")
    with pytest.raises(ConfigError, match="a recipe is a mapping"):
        load_recipe(broken)
