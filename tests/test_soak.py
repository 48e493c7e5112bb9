"""tools/soak.py for two minutes: with clients of all kinds, each gets the same finals as without a server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from virtualmic import why_missing

SOAK = Path(__file__).parent.parent / "tools" / "soak.py"

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="the soak reads /proc"),
]


def test_two_minutes_of_load_lose_no_final_and_leave_no_client_job_or_thread(tmp_path: Path) -> None:
    words = [sys.executable, str(SOAK), "--minutes", "2", "--clients", "2", "--out", str(tmp_path)]
    done = subprocess.run(words + ([] if why_missing() else ["--mic"]), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "soak.json").read_text())
    assert figures["faults"] == 0
    for kind in ("websocket", "wyoming", "upload"):
        assert figures[f"{kind} streams"] >= 2
    assert figures["finals"] > 50
    assert (tmp_path / "soak.png").stat().st_size > 10_000
