"""`streamser bench` prints plausible figures, as a table and as JSON."""

from __future__ import annotations

import json

import pytest

from streamser.bundle import Bundle
from streamser.cli import main

SMALL = ["--engine", "onnx", "--minutes", "0.2", "--rounds", "1"]


def test_json_has_every_figure_with_a_plausible_value(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(bundle.path), *SMALL, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["machine"]["cpus"] >= 1
    (row,) = figures["rows"]
    assert row["title"] == "tiny, onnx" and row["compared"] > 3
    assert row["scores_differ"] < 1e-5
    assert 0 < row["cpu_ms_per_s"] < 1000
    assert row["streams_per_core"] == pytest.approx(1000 / row["cpu_ms_per_s"])
    assert 0 < row["final_ms"]["p50"] <= row["final_ms"]["p99"]
    assert row["final_total_ms"]["p50"] >= 400  # the silence that ends an utterance
    assert 0.05 < row["cold_start_s"] < 120


def test_the_table_has_a_row_for_each_contender(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(bundle.path), *SMALL]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("0.2 minutes of speech in 1 rounds")
    assert lines[2].startswith("one live stream  CPU ms/s")
    assert lines[3].startswith("tiny, onnx")


@pytest.mark.slow
def test_peers_score_the_windows_of_the_stream(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamser.cli.bench.installed_peers", lambda: ["torchaudio"])
    assert main(["bench", "lightsernet", *SMALL, "--vs", "--json"]) == 0
    stream, peer = json.loads(capsys.readouterr().out)["rows"]
    assert peer["peer"] == "torchaudio" and peer["measured"] >= 3
    assert 0 < peer["scores_differ"] < 2e-2  # the peer computes the FFT in float32
    assert stream["judged"] > 5
    assert peer["cpu_ms_per_s"] > 0  # 12 s are too short to compare costs; see bench/test_guard.py


def test_an_impossible_number_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--rounds", "0"]) != 0
    assert "--rounds must be at least 1" in capsys.readouterr().err
