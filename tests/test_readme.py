"""The README's promises that a machine can check."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from streamser.cli import VERBS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    return [line for block in re.findall(r"```\n(.*?)```", README, re.S) for line in block.splitlines() if line]


def test_the_ci_runs_the_readmes_own_test_command() -> None:
    (command,) = [line for line in commands() if "tools/check.sh" in line]
    last = command.split("&&", 2)[2].strip()
    assert last in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_file_that_the_readme_points_to_is_there() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r"(samples/\S+|models/\S+\.yaml)", README)
    missing = [target for target in targets if not (ROOT / target.rstrip(",.`")).exists()]
    assert targets and not missing


def test_every_verb_is_in_the_readme_and_every_verb_in_the_readme_exists() -> None:
    named = set(re.findall(r"streamser ([a-z]+)\b", README))
    assert named >= {"live", "replay", "label", "serve", "devices", "calibrate", "train", "evaluate", "models"}
    words = {"live", *VERBS}
    assert set(re.findall(r"`streamser ([a-z]+)", README)) <= words


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    from streamser import cli

    with pytest.raises(SystemExit) as stop:
        cli.main([verb, "--help"])
    assert stop.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 5
