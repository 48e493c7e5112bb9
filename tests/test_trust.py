"""Every promise of docs/trust.md names a test that exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRUST = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
TESTS = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TRUST)


def test_each_row_names_a_test() -> None:
    promises = TRUST.partition("## Soak")[0]  # the section below holds the results of one run
    rows = [
        line for line in promises.splitlines() if line.startswith("| ") and not line.startswith(("| ---", "| fault"))
    ]
    assert len(rows) > 40
    for row in rows:
        assert row.count(" | ") == 3, row
        assert re.search(r"`tests/[\w/]+\.py::\w+`", row), row


def test_each_named_test_exists() -> None:
    for path, name in TESTS:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), name
