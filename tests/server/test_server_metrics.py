from __future__ import annotations

import pytest

from streamser.server.metrics import Metrics

prometheus = pytest.importorskip("prometheus_client.parser")


def test_the_parser_of_prometheus_reads_the_metrics() -> None:
    metrics = Metrics()
    metrics.count("streamser_refusals_total", reason='say "no"\\\n')
    metrics.count("streamser_refusals_total", 2, reason="origin")
    for seconds in (0.004, 0.3, 7.0):
        metrics.observe("streamser_final_latency_seconds", seconds)
    families = {f.name: f for f in prometheus.text_string_to_metric_families(metrics.text({"streamser_clients": 3}))}
    refusals = {sample.labels["reason"]: sample.value for sample in families["streamser_refusals"].samples}
    assert refusals == {'say "no"\\\n': 1, "origin": 2}
    assert (families["streamser_clients"].type, families["streamser_clients"].samples[0].value) == ("gauge", 3)
    latency = families["streamser_final_latency_seconds"]
    assert latency.type == "histogram"
    buckets = {s.labels["le"]: s.value for s in latency.samples if s.name.endswith("_bucket")}
    assert (buckets["0.005"], buckets["0.25"], buckets["0.5"], buckets["2.5"], buckets["+Inf"]) == (1, 1, 2, 2, 3)
    total = next(s.value for s in latency.samples if s.name.endswith("_sum"))
    assert abs(total - 7.304) < 1e-9
