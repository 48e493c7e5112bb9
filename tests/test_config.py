"""config.yaml, its overrides, and the errors about invalid settings."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from streamser.config import SECTIONS, Config, load_config, shipped_config
from streamser.errors import ConfigError


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def message(path: Path | None, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value).replace(str(path), "config.yaml")


def test_the_shipped_config_has_the_defaults_of_the_dataclasses() -> None:
    assert load_config(shipped_config()) == load_config() == Config()


def test_the_shipped_config_has_the_texts_of_the_docstrings() -> None:
    tool = Path(__file__).parents[1] / "tools" / "write_config.py"
    done = subprocess.run([sys.executable, str(tool), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = shipped_config().read_text(encoding="utf-8").splitlines()
    values = yaml.safe_load("\n".join(lines))
    assert {section: list(keys) for section, keys in values.items()} == {
        section: [field.name for field in fields(kind)] for section, kind in SECTIONS.items()
    }
    knobs = [number for number, line in enumerate(lines) if line.startswith("  ") and not line.lstrip().startswith("#")]
    assert len(knobs) == sum(len(fields(kind)) for kind in SECTIONS.values())
    assert all(lines[number - 1].startswith("  # ") and lines[number - 1].endswith(".") for number in knobs)


def test_a_file_changes_only_the_settings_that_it_contains(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "vad:\n  mode: 3\nsegmenter:\n  end_silence_ms: 600\nserver:\n"))
    assert (config.vad.mode, config.segmenter.end_silence_ms) == (3, 600.0)
    assert (config.vad.engine, config.server) == ("webrtc", Config().server)


def test_an_empty_config_has_all_defaults(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "# nothing\n")) == Config()


def test_an_override_has_priority_over_the_file_and_the_last_override_over_the_first(tmp_path: Path) -> None:
    path = written(tmp_path, "vad: {mode: 1}\n")
    assert load_config(path, ["vad.mode=2", "vad.mode=3"]).vad.mode == 3


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("source.device=USB", "USB"),
        ("source.device=3", 3),
        ("source.device=null", None),
        ("recognizer.threshold=1e-2", 0.01),
        ("server.allowed_origins=[https://a.example]", ("https://a.example",)),
        ("server.microphone=true", True),
        ("segmenter.hop_ms=0", 0.0),
    ],
)
def test_values_are_converted_to_the_type_of_their_field(override: str, value: object) -> None:
    section, key = override.partition("=")[0].split(".")
    found = getattr(getattr(load_config(overrides=[override]), section), key)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vad:\n  treshold: 0.5\n", "config.yaml:2: unknown key 'vad.treshold'; did you mean 'vad.threshold'?"),
        ("vda:\n  mode: 3\n", "config.yaml:1: unknown section 'vda'; did you mean 'vad'?"),
        ("mode: 3\n", "config.yaml:1: unknown key 'mode'; did you mean 'vad.mode'?"),
        ("vad:\n  hop_ms: 3\n", "config.yaml:2: unknown key 'vad.hop_ms'; did you mean 'segmenter.hop_ms'?"),
        ("vad:\n  mode: 7\n", "config.yaml:2: vad.mode: must be 0, 1, 2 or 3, not 7"),
        ("\nvad:\n\n  mode: loud\n", "config.yaml:4: vad.mode: must be a whole number, not 'loud'"),
        ("vad:\n  mode: true\n", "config.yaml:2: vad.mode: must be a whole number, not True"),
        (
            "vad:\n  engine: webrct\n",
            "config.yaml:2: vad.engine: must be one of webrtc, silero, energy, not 'webrct'; did you mean 'webrtc'?",
        ),
        ("source:\n  device: [1]\n", "config.yaml:2: source.device: must be text or a whole number or null, not [1]"),
        ("vad:\n  mode: 1\n  mode: 2\n", "config.yaml:3: key 'mode' was already given in line 2; keep one of them"),
        ("vad: 3\n", "config.yaml:1: section 'vad' must be a mapping of `key: value` lines"),
        ("- 3\n", "config.yaml:1: a configuration must be a mapping of `key: value` lines"),
    ],
)
def test_an_invalid_config_is_an_error_with_the_line_the_rule_and_a_suggestion(
    tmp_path: Path, text: str, expected: str
) -> None:
    assert message(written(tmp_path, text)) == expected


def test_an_error_about_two_settings_names_the_one_that_the_file_contains(tmp_path: Path) -> None:
    error = message(written(tmp_path, "segmenter:\n  hop_ms: 128\n  post_roll_ms: 500\n"))
    assert error.startswith("config.yaml:3: segmenter.post_roll_ms: ")


def test_invalid_yaml_is_an_error_with_its_line(tmp_path: Path) -> None:
    error = message(written(tmp_path, "vad:\n  mode: [1\nsource:\n"))
    assert error.startswith("config.yaml:3: is not YAML: ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vad: &a {mode: 1}\nsource: *a\n", "config.yaml:2: aliases (*name) are not supported; write the value out"),
        ("vad:\n  mode: " + "[" * 30 + "\n", "config.yaml:2: is nested more than 20 deep"),
        ("vad:\n  mode: !!int x\n", "config.yaml:2: cannot be read as a YAML value"),
        ("vad:\n  mode: 2026-99-99\n", "config.yaml:2: cannot be read as a YAML value"),
        ("vad:\n  mode: " + "9" * 400 + "\n", "config.yaml:2: a number of 400 digits is too long"),
        ("vad:\n  mode: .inf\n", "config.yaml:2: vad.mode: must be a whole number, not inf"),
        ("vad:\n  mode: !!python/name:os.system\n", "config.yaml:2: cannot be read as a YAML value"),
    ],
)
def test_hostile_yaml_is_an_error_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    assert message(written(tmp_path, text)).startswith(expected)


def test_a_missing_config_is_an_error_that_names_the_shipped_one(tmp_path: Path) -> None:
    assert str(shipped_config()) in message(tmp_path / "none.yaml")


def test_a_config_that_is_no_utf_8_text_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert message(path) == "config.yaml: is not UTF-8 text; save it as UTF-8"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("vad.mode", "--set vad.mode: write section.key=value, for example vad.mode=3"),
        ("mode=3", "--set mode=3: unknown key 'mode'; did you mean 'vad.mode'?"),
        ("vda.mode=3", "--set vda.mode=3: unknown key 'vda.mode'; did you mean 'vad.mode'?"),
        ("vad.mode=9", "--set vad.mode=9: vad.mode: must be 0, 1, 2 or 3, not 9"),
        ("vad.mode=[", "--set vad.mode=[: '[' is no YAML value"),
    ],
)
def test_an_invalid_override_is_an_error_with_a_suggestion(override: str, expected: str) -> None:
    assert message(None, override) == expected


def test_an_unknown_section_without_a_similar_name_is_an_error_that_lists_all_sections(tmp_path: Path) -> None:
    error = message(written(tmp_path, "qqq: {}\n"))
    assert error == (
        "config.yaml:1: unknown section 'qqq'; known: source, vad, segmenter, pipeline, recognizer, server"
    )


def test_the_old_name_of_a_renamed_key_works_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("recognizer:\n  device: cpu\n")
    assert load_config(file).recognizer.compute == "cpu"
    assert f"{file}:2: recognizer.device is now recognizer.compute" in caplog.text
    assert load_config(overrides=["recognizer.device=cuda:1"]).recognizer.compute == "cuda:1"


def test_a_removed_key_is_an_error_that_names_its_replacement(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("pipeline:\n  settle: true\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config.yaml:2: pipeline\.settle was removed: .* pipeline\.adapt: false"):
        load_config(file)
    with pytest.raises(ConfigError, match=r"pipeline\.settle was removed"):
        load_config(overrides=["pipeline.settle=true"])
