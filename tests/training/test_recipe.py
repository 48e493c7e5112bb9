"""Recipes: the values they accept and the errors they report."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from streamser.errors import ConfigError
from streamser.training.recipe import changed, load_recipe, recipe_from

SHIPPED = sorted((Path(__file__).parents[2] / "models").glob("**/*.yaml"))


@pytest.mark.parametrize("path", [p for p in SHIPPED if p.name != "bundle.yaml"], ids=lambda p: p.parent.name)
def test_every_shipped_recipe_is_valid_and_names_a_known_network(path: Path) -> None:
    from streamser.nets import zoo

    recipe = load_recipe(path)
    assert zoo.get(recipe.variant).name == recipe.variant


def test_an_unknown_key_is_reported_with_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match="unknown key 'epoch'; did you mean 'epochs'"):
        recipe_from({"name": "x", "variant": "lightsernet", "epoch": 3})
    with pytest.raises(ConfigError, match=r"unknown key 'schedule.warm'; did you mean 'schedule.warmup'"):
        recipe_from({"name": "x", "variant": "lightsernet", "schedule": {"warm": 1}})


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("epochs", 0, "epochs must be at least 1"),
        ("batch", 1, "batch must be at least 2"),
        ("ema", 1.0, "ema must be at least 0 and below 1"),
        ("labels", ["sad", "sad"], "labels must be at least two"),
    ],
)
def test_an_invalid_value_is_refused_with_its_rule(key: str, value: object, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        recipe_from({"name": "x", "variant": "lightsernet", key: value})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer: rmsprop", "r.yaml:2: optimizer: must be one of adam, adamw, adadelta, sgd, not 'rmsprop'"),
        ("precision: fp16", "r.yaml:2: precision: must be one of fp32, bf16, not 'fp16'; did you mean 'bf16'?"),
        ("epochs: ten", "r.yaml:2: epochs: must be a whole number, not 'ten'"),
        ("choose_by: f1", "r.yaml:2: choose_by: must be one of ua, wa, loss, last, not 'f1'"),
        ("lr: fast", "r.yaml:2: lr: must be a number, not 'fast'"),
        ("seeds: 3", "r.yaml:2: seeds: must be a list such as [a, b], each a whole number, not 3"),
        ("labels: [sad, 4]", "r.yaml:2: labels: must be a list such as [a, b], each text, not ['sad', 4]"),
        ("augment: {speed: [0.9]}", "r.yaml:2: augment.speed: must be a list of 2, each a number, not [0.9]"),
        ("augment: 3", "r.yaml:2: augment: must be a mapping of `key: value` or null, not 3"),
        ("augment:\n  gain_probability: 2", "r.yaml:3: augment.gain_probability: 2.0 is not between 0 and 1"),
        ("adversary:\n  weight: 0", "r.yaml:3: adversary.weight: 0.0 is not above 0"),
        ("features: {n_mel: 3}", "r.yaml:2: unknown key 'features.n_mel'; did you mean 'features.n_mels'?"),
        ("epochs: 3\nepochs: 4", "r.yaml:3: key 'epochs' was already given in line 2; keep one of them"),
        ("start: &a x\ndescription: *a", "r.yaml:3: aliases (*name) are not supported; write the value out"),
    ],
)
def test_a_mistake_is_reported_with_its_line_its_rule_and_the_nearest_name(
    tmp_path: Path, text: str, expected: str
) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(f"variant: lightsernet\n{text}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_recipe(file)
    assert str(caught.value).replace(str(file), "r.yaml").startswith(expected)


def test_a_recipe_without_a_variant_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("epochs: 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="variant is missing"):
        load_recipe(file)


def test_an_override_of_one_key_of_a_group_keeps_the_others(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("variant: lightsernet\nschedule: {kind: onecycle, warmup: 0.2}\n", encoding="utf-8")
    recipe = load_recipe(file, {"schedule.warmup": 0.4, "augment.gain_probability": 0.5})
    assert (recipe.schedule.kind, recipe.schedule.warmup) == ("onecycle", 0.4)
    assert recipe.augment is not None and recipe.augment.gain_probability == 0.5
    assert changed(recipe, {"schedule.kind": "cosine"}).schedule == replace(recipe.schedule, kind="cosine")
    with pytest.raises(ConfigError, match=r"--set schedule.wam: unknown key 'schedule.wam'"):
        load_recipe(file, {"schedule.wam": 1})


def test_a_recipe_is_checked_without_torch(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("variant: lightsernet\noptimizer: rmsprop\n", encoding="utf-8")
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from streamser.cli import main\n"
        "sys.exit(main(['train', sys.argv[1]]))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(file)], capture_output=True, text=True, check=False)
    assert "optimizer: must be one of adam, adamw, adadelta, sgd, not 'rmsprop'" in done.stderr
    assert done.returncode == 1


def test_a_file_that_is_not_a_recipe_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such recipe"):
        load_recipe(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1,", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_recipe(broken)
    broken.write_text("- a list", encoding="utf-8")
    with pytest.raises(ConfigError, match="a recipe must be a mapping"):
        load_recipe(broken)


@pytest.mark.parametrize(
    ("capability", "device", "trained"),
    [("AVX2", "cpu", "fp32"), ("AVX512", "cpu", "bf16"), ("AVX2", "cuda", "bf16"), ("AVX2", "cuda:1", "bf16")],
)
def test_a_cpu_without_instructions_for_bf16_trains_in_fp32(
    capability: str, device: str, trained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from streamser.training.setup import fast_precision

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    recipe = recipe_from({"name": "x", "variant": "lightsernet", "precision": "bf16"})
    assert fast_precision(recipe, device) == replace(recipe, precision=trained)
    plain = replace(recipe, precision="fp32")
    assert fast_precision(plain, device) == plain
