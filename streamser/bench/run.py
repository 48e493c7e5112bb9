"""Measure contenders in turn, round after round, each in a separate process; figures are medians over the rounds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from streamser.audio import Samples
from streamser.bench.peers import PEERS
from streamser.errors import EngineError

__all__ = ["Contender", "measure", "medians"]

_SINGLE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True, slots=True)
class Contender:
    """A checkpoint on an engine, or a peer on a checkpoint's windows."""

    model: str
    engine: str = ""
    compute: str = "cpu"
    peer: str = ""

    @property
    def title(self) -> str:
        if self.peer:
            return PEERS[self.peer].title
        return f"{Path(self.model).name}, {self.engine}" + ("" if self.compute == "cpu" else f" on {self.compute}")


def measure(
    contenders: Sequence[Contender],
    rounds: Sequence[Samples],
    *,
    threads: int = 1,
    peer_seconds: float = 10.0,
    progress: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Figures of each contender over the audio of each round, with its `title`; a peer that fails has an `error`."""
    found: list[list[dict[str, Any]]] = [[] for _ in contenders]
    with tempfile.TemporaryDirectory(prefix="streamser-bench-") as folder:
        for turn, audio in enumerate(rounds):
            path, windows = Path(folder) / f"{turn}.s16", Path(folder) / f"{turn}.json"
            np.round(np.clip(audio, -1, 1) * 32767).astype("<i2").tofile(path)
            for contender, results in zip(contenders, found, strict=True):
                progress(f"round {turn + 1} of {len(rounds)}: {contender.title}")
                request: dict[str, Any] = {"model": contender.model, "audio": str(path)}
                if contender.peer:
                    request |= {"kind": "peer", "name": contender.peer, "seconds": peer_seconds / len(rounds)}
                    request |= {"windows": str(windows)}
                else:
                    request |= {"kind": "stream", "engine": contender.engine, "compute": contender.compute}
                    request |= {"threads": threads}
                results.append(_run(request, may_fail=bool(contender.peer)))
                scored = results[-1].pop("windows", None)
                if scored and not windows.exists():  # peers score the windows of the first stream
                    windows.write_text(json.dumps(scored), encoding="utf-8")
                    results[-1]["judged"] = len(scored)
    rows = []
    for contender, results in zip(contenders, found, strict=True):
        good = [result for result in results if "error" not in result]
        row = medians(good) if good else results[-1]
        rows.append({"title": contender.title, "peer": contender.peer, "model": Path(contender.model).name, **row})
    return rows


def medians(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The median of each figure over the results; of `scores_differ`, the largest value.

    >>> medians([{"a": 1.0, "b": {"c": 2.0}}, {"a": 3.0, "b": {"c": 2.0}}, {"a": 9.0, "b": {"c": 5.0}}])
    {'a': 3.0, 'b': {'c': 2.0}}
    """
    merged: dict[str, Any] = {}
    for key, first in results[0].items():
        values = [result[key] for result in results if key in result]
        if isinstance(first, dict):
            merged[key] = medians(values)
        elif isinstance(first, int | float) and not isinstance(first, bool):
            # The worst difference of any round counts, not the median.
            merged[key] = max(values) if key == "scores_differ" else float(np.median(values))
        else:
            merged[key] = first
    return merged


def _run(request: dict[str, Any], may_fail: bool) -> dict[str, Any]:
    """The child process's figures, and the time from its start to its first score."""
    command = [sys.executable, "-m", "streamser.bench.child", json.dumps(request)]
    began = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **_SINGLE}
    ) as child:
        assert child.stdout is not None
        ready = child.stdout.readline().strip() == "ready"
        cold_start_s = time.perf_counter() - began
        output, complaint = child.communicate()
    if ready and child.returncode == 0:
        figures: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
        return {"cold_start_s": cold_start_s, **figures}
    reason = (complaint.strip().splitlines() or ["no reason given"])[-1]
    if not may_fail:
        raise EngineError(f"{request['model']} on {request['engine']} could not be measured: {reason}")
    return {"error": reason}
