"""Counters, gauges and histograms in Prometheus' text format, written without a library: the format is simple."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# From one window on a fast core to the longest acceptable wait.
LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

HELP = {
    "process_max_fds": "Largest number of file handles that the process may open.",
    "process_open_fds": "File handles that the process has open.",
    "process_resident_memory_bytes": "Memory of the process.",
    "process_threads": "Threads of the process.",
    "streamser_connections": "Connections open now, of any kind.",
    "streamser_ready": "1 when the server can do its work, as in /healthz.",
    "streamser_recording_failures_total": "Streams that ended because their audio could not be stored.",
    "streamser_worker_busy_seconds_total": "Time that the inference worker was busy.",
    "streamser_worker_calls_total": "Calls to the recognizer, each for one or more segments.",
    "streamser_worker_partials_skipped_total": "Partial results replaced by newer ones before they were computed.",
    "streamser_worker_errors_total": "Errors of the engine; each lost a partial result, or a final was computed again.",
    "streamser_worker_segments_total": "Segments scored.",
    "streamser_worker_streams": "Streams that the inference worker serves now.",
    "streamser_worker_waiting": "Segments and events that wait for the inference worker.",
    "streamser_clients": "WebSockets open now.",
    "streamser_dropped_total": "Partial results and status messages dropped for clients that read too slowly.",
    "streamser_engine_compute_seconds_total": "Time spent in the network itself.",
    "streamser_engine_windows_total": "Windows that the network computed.",
    "streamser_events_total": "Events sent, by type.",
    "streamser_final_latency_seconds": (
        "Time from an utterance's last sample to its final, including the silence at its end."
    ),
    "streamser_partial_latency_seconds": "From the last sample of the segment to its partial result.",
    "streamser_recording": "1 when audio is written to disk.",
    "streamser_refusals_total": "Clients and requests refused, by reason.",
    "streamser_requests_total": "HTTP requests, by route and status.",
    "streamser_up_seconds": "Seconds since the server started.",
}


class Metrics:
    """The server's counters; used only on the event loop.

    >>> metrics = Metrics()
    >>> metrics.count("streamser_events_total", type="emotion")
    >>> print(metrics.text({"streamser_clients": 2}).splitlines()[2])
    streamser_events_total{type="emotion"} 1
    """

    def __init__(self) -> None:
        self._counters: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._histograms: dict[str, list[float]] = {}

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter."""
        self._counters[name, _labels(labels)] += amount

    def observe(self, name: str, seconds: float) -> None:
        """Add a latency to a histogram."""
        counts = self._histograms.setdefault(name, [0.0] * (len(LATENCY_BUCKETS_S) + 2))
        counts[bisect_left(LATENCY_BUCKETS_S, seconds)] += 1
        counts[-1] += seconds

    def text(self, gauges: Mapping[str, float]) -> str:
        """All metrics in Prometheus' format, with the gauges' current values."""
        lines: list[str] = []
        previous = ""
        for (name, labels), value in sorted(self._counters.items()):
            if name != previous:
                lines += _head(name, "counter")
                previous = name
            lines.append(f"{name}{labels} {_number(value)}")
        for name, value in sorted(gauges.items()):
            lines += [*_head(name, "counter" if name.endswith("_total") else "gauge"), f"{name} {_number(value)}"]
        for name, counts in sorted(self._histograms.items()):
            lines += _histogram(name, counts)
        return "\n".join(lines) + "\n"


def process_gauges() -> dict[str, float]:
    """Figures of this process from the system; on Linux only."""
    try:
        import resource

        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
        return {
            "process_max_fds": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            "process_open_fds": sum(1 for _ in Path("/proc/self/fd").iterdir()),
            "process_resident_memory_bytes": 1024 * int(status["VmRSS"].split()[0]),
            "process_threads": int(status["Threads"]),
        }
    except (ImportError, OSError, KeyError):
        return {}


def _histogram(name: str, counts: list[float]) -> list[str]:
    lines, total = _head(name, "histogram"), 0.0
    for edge, count in zip((*LATENCY_BUCKETS_S, math.inf), counts, strict=False):
        total += count
        lines.append(f'{name}_bucket{{le="{_number(edge)}"}} {_number(total)}')
    return [*lines, f"{name}_sum {_number(counts[-1])}", f"{name}_count {_number(total)}"]


def _head(name: str, kind: str) -> list[str]:
    return [f"# HELP {name} {HELP[name]}", f"# TYPE {name} {kind}"]


def _labels(labels: Mapping[str, str]) -> str:
    words = ",".join(f'{name}="{_escape(value)}"' for name, value in sorted(labels.items()))
    return f"{{{words}}}" if words else ""


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf"
    return str(int(value)) if value == int(value) else repr(float(value))
