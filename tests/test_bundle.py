"""A checkpoint folder is loaded exactly as it was saved, or an error names the fault."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from makers import (
    LABELS,
    make_adaptive,
    make_bundle,
    make_features,
    make_onnx,
    make_relative,
    make_rule,
    make_weights,
)

from streamser.bundle import Bundle, find_models, load_bundle
from streamser.calibration import BaselineRule, Calibration
from streamser.errors import BundleError, MissingExtraError
from streamser.manifest import seal_of

RULE = BaselineRule(exponent=1.5, full_s=2.5, memory=40, half=3.0, calibration=Calibration(0.8, threshold=0.5))
FILES = ("weights.safetensors", "model.onnx", "README.md")


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint, which a test may damage."""
    return shutil.copytree(bundle.path, tmp_path / "tiny")


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object], *, seal: bool = True) -> None:
    """Change the values of bundle.yaml; with `seal`, the file gets a valid seal again."""
    path = folder / "bundle.yaml"
    values = yaml.safe_load(path.read_text("utf-8"))
    old_seal = values.pop("seal")
    change(values)
    values["seal"] = seal_of(values) if seal else old_seal
    path.write_text(yaml.safe_dump(values, sort_keys=False), "utf-8")


# Saving and loading


def test_a_saved_checkpoint_is_loaded_with_the_same_values(tmp_path: Path) -> None:
    features = make_features(scale="standard", mean=(-50.0,) * 64, std=(12.5,) * 64, clip=(-80.0, 0.0))
    saved = make_bundle(
        tmp_path / "full",
        features=features,
        calibration=Calibration(1.7, (0.1, -0.2, 0.0, 1e-9), 0.55, 0.12, 0.4),
        relative=make_relative(make_weights(features, 4)),
        baseline=RULE,
        provenance={"corpora": ["a", "b"], "speakers": np.int64(12), "date": "2025-01-01", "note": "zwölf: #1"},
        scores={"ua": np.float32(0.5), "per corpus": {"x": {"ua": 0.25}}},
        licence="CC-BY-NC-SA-4.0",
    )
    loaded = load_bundle(tmp_path / "full")
    assert loaded == saved
    assert loaded.name == "full"
    assert loaded.labels == LABELS
    assert loaded.features == features
    assert loaded.calibration == Calibration(1.7, (0.1, -0.2, 0.0, 1e-9), 0.55, 0.12, 0.4)
    assert loaded.baseline == RULE
    assert loaded.relative_path == tmp_path / "full" / "relative.onnx"
    assert loaded.graph("relative.onnx") == make_relative(make_weights(features, 4))
    assert loaded.provenance == {"corpora": ["a", "b"], "speakers": 12, "date": "2025-01-01", "note": "zwölf: #1"}
    assert loaded.scores == {"ua": 0.5, "per corpus": {"x": {"ua": 0.25}}}
    assert loaded.card.startswith("# full")
    assert loaded.size_bytes == len(loaded.read("model.onnx"))


def test_weights_are_loaded_exactly_as_saved(tmp_path: Path) -> None:
    weights = make_weights(make_features(), 4, seed=3)
    bundle = make_bundle(tmp_path / "tiny", seed=3)
    assert bundle.weights().keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(bundle.weights()[name], value)


def test_a_bundle_without_a_relative_head_has_no_baseline(bundle: Bundle) -> None:
    assert bundle.baseline is None and bundle.relative_path is None


def test_the_removed_sections_of_older_checkpoints_are_ignored(folder: Path) -> None:
    rewrite(folder, lambda v: v.update(neutral={"logits_mean": [0.0] * 4}, drift={"means": [[1.0]]}))
    rewrite(folder, lambda v: v["calibration"].pop("neutral_prior"))
    assert load_bundle(folder) == load_bundle(folder)
    assert load_bundle(folder).baseline is None


def test_a_relative_head_without_its_rule_or_a_rule_alone_is_refused(tmp_path: Path) -> None:
    for half in ({"baseline": RULE}, {"relative": make_relative(make_weights(make_features(), 4))}):
        with pytest.raises(ValueError, match=r"must have both relative.onnx and the section 'baseline', or neither"):
            make_bundle(tmp_path / "half", **half)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exponent": -1.0}, r"baseline\.exponent must be 0 or more, not -1\.0"),
        ({"exponent": float("nan")}, r"baseline\.exponent must be 0 or more, not nan"),
        ({"full_s": 0.0}, r"baseline\.full_s must be above 0, not 0\.0"),
        ({"memory": 1}, r"baseline\.memory must be a whole number of 2 or more, not 1"),
        ({"memory": 2.5}, r"baseline\.memory must be a whole number of 2 or more, not 2\.5"),
        ({"half": float("inf")}, r"baseline\.half must be 0 or more, not inf"),
    ],
)
def test_an_invalid_baseline_rule_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_rule(**change)


def test_an_invalid_baseline_rule_in_the_manifest_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    folder = make_adaptive(tmp_path / "adaptive").path
    rewrite(folder, lambda v: v["baseline"].update(half=-1))
    with pytest.raises(BundleError, match=r"bundle\.yaml: baseline\.half must be 0 or more, not -1"):
        load_bundle(folder)


def test_a_baseline_needs_the_label_neutral(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="are for checkpoints with the label 'neutral'"):
        make_adaptive(tmp_path / "others", labels=("angry", "happy", "calm", "sad"))


def test_a_checkpoint_folder_has_four_files_and_no_pickle(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "bundle.yaml"])
    for path in folder.iterdir():
        assert not path.read_bytes().startswith((b"\x80\x02", b"\x80\x04", b"\x80\x05", b"PK"))


def test_saving_again_replaces_the_checkpoint_and_keeps_other_files(folder: Path) -> None:
    (folder / "training.log").write_text("epoch 1")
    before = load_bundle(folder)
    after = make_bundle(folder, seed=1)
    assert after.files["model.onnx"] != before.files["model.onnx"]
    assert (folder / "training.log").read_text() == "epoch 1"
    assert not list(folder.glob("*.tmp"))


def test_an_invalid_checkpoint_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="labels must all be different"):
        make_bundle(tmp_path / "bad", labels=("sad", "sad"))
    assert not (tmp_path / "bad").exists()
    with pytest.raises(ValueError, match="JSON compliant"):
        make_bundle(tmp_path / "bad", scores={"ua": float("nan")})
    assert not (tmp_path / "bad").exists()


def test_comments_and_other_line_ends_in_the_manifest_do_not_matter(folder: Path) -> None:
    path = folder / "bundle.yaml"
    before = load_bundle(folder)
    path.write_bytes(b"# copied by hand\r\n" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_bundle(folder) == before


# Damaged checkpoints


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncated", "altered", "emptied", "longer"])
def test_a_damaged_file_is_an_error_with_its_name_the_rule_and_a_solution(folder: Path, name: str, damage: str) -> None:
    content = (folder / name).read_bytes()
    middle = len(content) // 2
    damaged = {
        "truncated": content[:middle],
        "altered": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "emptied": b"",
        "longer": content + b"\n",
    }
    (folder / name).write_bytes(damaged[damage])
    with pytest.raises(BundleError, match=rf"{name}: SHA-256 is .* truncated or altered; download the folder again"):
        load_bundle(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_an_error_that_names_it(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=rf"{name}: missing, but bundle\.yaml lists it"):
        load_bundle(folder)


@pytest.mark.parametrize("name", [*FILES, "bundle.yaml"])
def test_a_symbolic_link_is_refused(folder: Path, name: str, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    shutil.move(folder / name, target)
    try:
        (folder / name).symlink_to(target)
    except OSError:
        pytest.skip("this system does not allow symbolic links")
    with pytest.raises(BundleError, match=rf"{name}: (is a symbolic link|must be a plain file)"):
        load_bundle(folder)


def test_a_file_that_is_replaced_after_loading_is_refused_when_it_is_read(folder: Path) -> None:
    bundle = load_bundle(folder)
    (folder / "model.onnx").write_bytes(make_onnx(make_weights(bundle.features, 4, seed=9)))
    with pytest.raises(BundleError, match="truncated or altered"):
        bundle.read("model.onnx")


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values["labels"].reverse(),
        lambda values: values["features"].update(hop_samples=255),
        lambda values: values["calibration"].update(temperature=2.0),
        lambda values: values.update(licence="MIT"),
        lambda values: values["scores"].update(ua=0.99),
        lambda values: values["files"].update({"README.md": "0" * 64}),
    ],
    ids=["labels", "features", "calibration", "licence", "scores", "files"],
)
def test_one_changed_value_in_the_manifest_breaks_its_seal(
    folder: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    rewrite(folder, change, seal=False)
    with pytest.raises(BundleError, match=r"bundle\.yaml: its values do not give the hash in 'seal'"):
        load_bundle(folder)


def test_a_newer_format_is_an_error_that_suggests_an_update(folder: Path) -> None:
    rewrite(folder, lambda values: values.update(format=2, shape="unknown"))
    with pytest.raises(
        BundleError, match=r"bundle\.yaml: has format 2, newer than format 1 .*pip install -U streamser"
    ):
        load_bundle(folder)


@pytest.mark.parametrize(
    "text",
    ["", "just words", "- a\n- list\n", "name: something else\n", "format: '1'\n", "format: true\n", "format: 0\n"],
)
def test_a_manifest_of_another_program_is_refused(folder: Path, text: str) -> None:
    (folder / "bundle.yaml").write_text(text)
    with pytest.raises(BundleError, match=r"bundle\.yaml: has no 'format: 1', so it is not a checkpoint"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"format: 1\nlabels: [",
        b"\x00\x01\x02",
        b"format: \xff\xfe",
        b"format: 1\nx: !!python/object/apply:os.system ['true']\n",
        b"format: 1\nx: " + b"9" * 6_000 + b"\n",
        b"format: 1\nformat: 1\n? [a]\n: b\n",
    ],
    ids=["torn", "binary", "not UTF-8", "object", "long number", "key that is a list"],
)
def test_an_unreadable_manifest_is_a_bundle_error(folder: Path, content: bytes) -> None:
    (folder / "bundle.yaml").write_bytes(content)
    with pytest.raises(BundleError, match=r"bundle\.yaml: (is not readable YAML|has values)"):
        load_bundle(folder)


def test_a_date_in_the_manifest_is_refused(folder: Path) -> None:
    (folder / "bundle.yaml").write_text("format: 1\nday: 2025-01-01\n")
    with pytest.raises(BundleError, match=r"bundle\.yaml: has invalid values"):
        load_bundle(folder)


def test_yaml_aliases_that_would_expand_to_gigabytes_are_refused(folder: Path) -> None:
    lines = ["format: 1", "a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    (folder / "bundle.yaml").write_text("\n".join(lines))
    with pytest.raises(BundleError, match=r"bundle\.yaml: has YAML aliases"):
        load_bundle(folder)


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_deeply_nested_yaml_is_refused_quickly(folder: Path, opening: str) -> None:
    (folder / "bundle.yaml").write_text("format: 1\nx: " + "\n  " * (opening == "- ") + opening * 50_000)
    started = time.perf_counter()
    with pytest.raises(BundleError, match=r"bundle\.yaml: .*(nests values more than 32 deep|maximum nesting depth)"):
        load_bundle(folder)
    assert time.perf_counter() - started < 2.0


def test_a_manifest_that_is_too_large_is_refused(folder: Path) -> None:
    with (folder / "bundle.yaml").open("ab") as file:
        file.write(b"# " + b"x" * (1 << 20))
    with pytest.raises(BundleError, match=r"bundle\.yaml: has \d+ bytes; the limit is"):
        load_bundle(folder)


RULES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "one label": (lambda v: v.update(labels=["sad"]), "labels must be two or more names"),
    "labels that are numbers": (lambda v: v.update(labels=[1, 2]), "labels must be two or more names"),
    "a label twice": (lambda v: v.update(labels=["sad", "sad"]), "labels must all be different"),
    "uncertain as a label": (lambda v: v.update(labels=["sad", "uncertain"]), "must not contain 'uncertain'"),
    "labels that are text": (lambda v: v.update(labels=7), "not iterable"),
    "no labels": (lambda v: v.pop("labels"), "key 'labels' is missing"),
    "no features": (lambda v: v.pop("features"), "key 'features' is missing"),
    "an unknown feature": (lambda v: v["features"].update(n_mells=64), "unknown keys n_mells"),
    "a feature that is text": (lambda v: v["features"].update(n_mels="64"), "FeatureConfig"),
    "a broken feature rule": (lambda v: v["features"].update(hop_samples=0), "1 <= hop_samples"),
    "an endless window": (lambda v: v["features"].update(length_s=1e9), "no network takes a window that long"),
    "an infinite window": (lambda v: v["features"].update(length_s=1e308), r"bundle\.yaml"),
    "features that is a list": (lambda v: v.update(features=[1]), r"bundle\.yaml"),
    "temperature zero": (
        lambda v: v["calibration"].update(temperature=0),
        "temperature must be a positive number, not 0",
    ),
    "temperature below zero": (
        lambda v: v["calibration"].update(temperature=-1.0),
        "temperature must be a positive number",
    ),
    "temperature as text": (
        lambda v: v["calibration"].update(temperature="warm"),
        "temperature must be a positive number",
    ),
    "a bias too short": (lambda v: v["calibration"].update(bias=[0.0]), "bias has 1 values but labels has 4"),
    "a bias of words": (lambda v: v["calibration"].update(bias=["a"] * 4), "bias must be finite numbers"),
    "a threshold of 7": (lambda v: v["calibration"].update(threshold=7), "threshold must be 0 to 1, not 7"),
    "a risk of 2": (lambda v: v["calibration"].update(risk=2), "risk must be 0 to 1 or null, not 2"),
    "an unknown calibration": (lambda v: v["calibration"].update(heat=1), "heat"),
    "calibration as text": (lambda v: v.update(calibration="warm"), r"bundle\.yaml"),
    "an unlikely prior": (
        lambda v: v["calibration"].update(neutral_prior=1),
        "neutral_prior must be above 0 and below 1",
    ),
    "variant as a number": (lambda v: v.update(variant=3), "variant and licence must be non-empty text"),
    "no licence": (lambda v: v.update(licence=""), "variant and licence must be non-empty text"),
    "a path outside": (lambda v: v["files"].update({"../../secret": "0" * 64}), "files must list"),
    "a file too few": (lambda v: v["files"].pop("README.md"), "files must list"),
    "files as a list": (lambda v: v.update(files=["model.onnx"]), "files must list"),
    "a hash that is a number": (
        lambda v: v["files"].update({"README.md": 0}),
        "map each name to its SHA-256 in hexadecimal",
    ),
    "scores as a list": (lambda v: v.update(scores=[1]), r"bundle\.yaml"),
}


@pytest.mark.parametrize("rule", RULES)
def test_an_invalid_manifest_with_a_valid_seal_is_an_error_that_names_the_rule(folder: Path, rule: str) -> None:
    change, message = RULES[rule]
    rewrite(folder, change)
    with pytest.raises(BundleError, match=message) as caught:
        load_bundle(folder)
    assert "bundle.yaml: " in str(caught.value)
    assert "download the folder again" in str(caught.value)


def test_any_changed_byte_in_the_manifest_is_detected_or_harmless(folder: Path) -> None:
    path = folder / "bundle.yaml"
    before, content = load_bundle(folder), path.read_bytes()
    rng = np.random.default_rng(0)
    noticed = 0
    for place in rng.integers(0, len(content), 60):
        path.write_bytes(content[:place] + bytes([content[place] ^ int(rng.integers(1, 128))]) + content[place + 1 :])
        try:
            assert load_bundle(folder) == before  # only white space has changed
        except BundleError:
            noticed += 1
    assert noticed > 50


def test_a_checkpoint_whose_saving_was_killed_is_loaded_correctly_or_refused(folder: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from makers import make_bundle\n"
        "real, left = Path.replace, int(sys.argv[3])\n"
        "def replace(self, target):\n"
        "    global left\n"
        "    if not left: os._exit(9)\n"
        "    left -= 1\n"
        "    return real(self, target)\n"
        "Path.replace = replace\n"
        "make_bundle(Path(sys.argv[1]), labels=('happy', 'angry', 'sad', 'neutral'), seed=5)\n"
    )
    before = load_bundle(folder)
    outcomes = []
    for renames in (0, 2, 4):
        here = str(Path(__file__).parent)
        done = subprocess.run([sys.executable, "-c", script, str(folder), here, str(renames)], check=False)
        assert done.returncode == (0 if renames == 4 else 9)
        try:
            outcomes.append(load_bundle(folder).labels)
        except BundleError:
            outcomes.append(())
    assert outcomes == [before.labels, (), ("happy", "angry", "sad", "neutral")]


# Finding checkpoints


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two checkpoints, which is searched before the shipped checkpoints."""
    folder = tmp_path / "models"
    for name in ("lightsernet-tess", "sepconv"):
        make_bundle(folder / name)
    monkeypatch.setenv("STREAMSER_MODELS", str(folder))
    return folder


def test_the_folder_of_streamser_models_is_searched_first(models: Path) -> None:
    found = find_models()
    assert found["sepconv"] == models / "sepconv"
    assert list(found) == sorted(found)
    assert load_bundle("sepconv").path == models / "sepconv"


def test_an_unknown_checkpoint_is_an_error_that_lists_the_known_ones_and_the_nearest(models: Path) -> None:
    with pytest.raises(BundleError, match="no checkpoint is named 'sepcov'; did you mean 'sepconv'") as caught:
        load_bundle("sepcov")
    assert "lightsernet-tess, " in str(caught.value)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../models", "nowhere/at/all", "~nobody-of-that-name/x", "x" * 5_000, "a\0b"]
)
def test_a_path_without_a_checkpoint_is_a_bundle_error(
    models: Path, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match=r"no checkpoint is named|no such folder|has no bundle\.yaml"):
        load_bundle(name)


def test_a_file_of_a_checkpoint_instead_of_its_folder_is_an_error(folder: Path) -> None:
    with pytest.raises(BundleError, match=r"is a file, but a checkpoint is a folder; give the folder with"):
        load_bundle(folder / "model.onnx")


def test_a_relative_folder_is_found_but_a_known_name_has_priority(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_bundle(tmp_path / "mine", seed=7)
    make_bundle(tmp_path / "sepconv", seed=7)
    assert load_bundle("mine").name == "mine"
    assert load_bundle("sepconv").path == models / "sepconv"
    assert load_bundle("./sepconv").files["model.onnx"] == load_bundle("mine").files["model.onnx"]


def test_without_any_checkpoint_the_error_names_the_searched_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamser.bundle.model_folders", lambda: [tmp_path / "none"])
    assert find_models() == {}
    with pytest.raises(BundleError, match=r"no checkpoint is in .*none; .* set STREAMSER_MODELS"):
        load_bundle("lightsernet")


def test_without_safetensors_reading_weights_is_an_error_that_names_the_extra(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'streamser\[torch\]'"):
        bundle.weights()


def test_a_weights_file_that_is_no_safetensors_file_is_refused(folder: Path) -> None:
    for content in (b"", b"\xff" * 8, os.urandom(64), (2**62).to_bytes(8, "little") + b"{}", b"\x80\x04."):
        (folder / "weights.safetensors").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        rewrite(folder, lambda values, digest=digest: values["files"].update({"weights.safetensors": digest}))
        with pytest.raises(BundleError, match=r"weights\.safetensors: not a safetensors file"):
            load_bundle(folder).weights()


def test_the_manifest_is_readable_yaml_without_tags(folder: Path) -> None:
    text = (folder / "bundle.yaml").read_text("utf-8")
    assert text.startswith("format: 1\nlabels: [angry, happy, neutral, sad]\nvariant: tiny-linear\n")
    assert "!!" not in text
    assert json.loads(json.dumps(yaml.safe_load(text)))["files"].keys() == set(FILES)
