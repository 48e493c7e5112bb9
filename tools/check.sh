#!/usr/bin/env bash
# The whole ritual: format, lint, types, the house's contract, tests. Warnings are errors.
#   tools/check.sh            everything
#   tools/check.sh --fast     everything but the tests that are marked slow
#   python -m pytest -m soak  two minutes of load, which neither of them runs
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" OPENBLAS_NUM_THREADS="${OPENBLAS_NUM_THREADS:-1}"
python=${PYTHON:-python}
tests=()
[ "${1:-}" = --fast ] && tests=(-m "not slow and not soak")
# One command a line: in a chain of && only the last one's failure would stop the script.
echo "== ruff"
"$python" -m ruff format --check .
"$python" -m ruff check .
echo "== mypy"
"$python" -m mypy
echo "== imports"
"$python" -c "import sys; from importlinter.cli import lint_imports_command as run; sys.exit(run())"
echo "== pytest"
"$python" -m pytest -q "${tests[@]}"
