"""A renamed option works under its old name for one release, with a warning."""

from __future__ import annotations

import argparse

import pytest

from streamser.cli.oldoptions import add_old_option


def test_the_old_name_sets_the_new_option_and_warns_with_the_new_name(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--new-name", type=int, default=1)
    add_old_option(parser, "--old-name", "--new-name", type=int)
    assert parser.parse_args([]).new_name == 1
    assert not capsys.readouterr().err
    assert parser.parse_args(["--old-name", "7"]).new_name == 7
    assert "--old-name is now --new-name" in capsys.readouterr().err
    assert "--old-name" not in parser.format_help()
