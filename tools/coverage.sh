#!/usr/bin/env bash
# Run the tests and print the lines of streamser that no test runs; fail if the coverage falls by more than 0.3 points.
# tools/coverage.txt holds the coverage so far, in percent. A higher coverage is written there: commit the file.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
kept=tools/coverage.txt
"$python" -m pytest -q -n auto --maxprocesses 4 --dist worksteal --cov=streamser --cov-report=term-missing:skip-covered "$@"
total=$("$python" -m coverage report --format=total --precision=1)
before=$(cat "$kept" 2>/dev/null || echo 0)
echo "coverage: $total % (before: $before %)"
"$python" - "$total" "$before" "$kept" <<'END'
import pathlib
import sys

total, before, kept = float(sys.argv[1]), float(sys.argv[2]), pathlib.Path(sys.argv[3])
if total + 0.3 < before:  # 0.3 points, since tests that need a browser, a broker or a GPU may be skipped
    sys.exit(f"coverage has fallen from {before} to {total} %; add tests, or lower the figure in {kept} and explain why")
if total > before:
    kept.write_text(f"{total}\n", encoding="utf-8")
END
