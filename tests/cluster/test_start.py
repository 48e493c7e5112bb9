"""What the Ray options do without Ray: their help, and the error that says how to install it."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamser.bundle import Bundle
from streamser.cli import main
from streamser.cluster import start
from streamser.errors import MissingExtraError


def test_the_help_of_label_tells_of_ray_and_imports_it_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["label", "--help"])
    said = capsys.readouterr().out
    assert "--ray [ADDRESS]" in said and "extra 'ray'" in said


def test_without_ray_the_error_says_what_to_install(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(start, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'streamser\[ray\]'"):
        start.require_ray("streamser label --ray")
    out = tmp_path / "labels.jsonl"
    assert main(["label", str(tmp_path), "--model", str(bundle.path), "--out", str(out), "--ray"]) == 1
    said = capsys.readouterr().err
    assert said == "streamser: streamser label --ray needs the extra 'ray': pip install 'streamser[ray]'\n"
    assert not out.exists()
