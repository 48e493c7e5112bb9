"""tools/gpu_check.py runs with --small on the CPU, and gives the expected results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent.parent / "tools" / "gpu_check.py"


def group(name: str, folder: Path) -> dict[str, Any]:
    out = folder / f"{name}.json"
    subprocess.run([sys.executable, str(SCRIPT), str(out), "--small", "--group", name], check=True, timeout=200)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.mark.slow
def test_the_check_of_equality_passes_on_logits_that_vary(tmp_path: Path) -> None:
    found = group("equality", tmp_path)
    for part in (found["engines_agree"]["lightsernet"], found["streams_agree"]["lightsernet fp32"]):
        assert part["within_1e-3"] and part["logits_vary"] > 0.5


@pytest.mark.slow
def test_the_check_of_speed_gives_figures_and_a_cpu_does_not_serve_20000_streams(tmp_path: Path) -> None:
    found = group("speed", tmp_path)
    assert found["latency"]["lightsernet"]["window_onnx_cpu"]["p50_ms"] > 0
    streams = found["streams"]["lightsernet fp32"]
    assert streams["chunks_per_s"] > 0 and streams["tried"]
    assert streams["reaches_20000"] is False
