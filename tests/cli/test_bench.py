"""`streamser bench` measures what it says it measures."""

from __future__ import annotations

import json

import pytest

from streamser.bundle import Bundle
from streamser.cli import bench, main


@pytest.fixture(autouse=True)
def one_cold_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of them are for a figure, one is enough to see that it comes."""
    monkeypatch.setattr(bench, "_COLD_STARTS", 1)


def test_json_has_every_figure_and_each_is_plausible(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(bundle.path), "--engine", "onnx", "--seconds", "0.05", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["model"] == "tiny"
    assert figures["window"] == [59, 64]
    assert figures["machine"]["cpus"] >= 1
    assert 0 < figures["features"]["whole_ms_per_s"] < 500
    assert 0 < figures["features"]["stream_ms_per_s"] < 500
    (onnx,) = figures["engines"]
    assert (onnx["engine"], onnx["device"], onnx["threads"]) == ("onnx", "cpu", 1)
    assert 0 < onnx["window_p50_ms"] <= onnx["window_p95_ms"]
    assert onnx["window_p50_ms"] < onnx["sound_p50_ms"]  # the features come on top
    assert 0 < onnx["rtf"] < 1
    assert 0.05 < onnx["cold_start_s"] < 120


def test_the_table_has_a_row_for_the_engine(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(bundle.path), "--engine", "onnx", "--seconds", "0.05"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tiny: windows of 1 s, 59 frames x 64 bins"
    header = next(i for i, line in enumerate(lines) if line.startswith("engine"))
    assert lines[header + 1].startswith("onnx    cpu")


def test_cuda_where_there_is_none_is_one_line(
    bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU, and torch has seen it")
    assert main(["bench", str(bundle.path), "--engine", "cuda", "--seconds", "0.05"]) == 1
    assert capsys.readouterr().err.startswith("streamser: compute cuda: torch sees no CUDA device")
