#!/usr/bin/env bash
# All checks: format, lint, types, import contracts, JavaScript, tests. Warnings are errors.
#   tools/check.sh             everything
#   tools/check.sh --fast      without the tests that are marked slow
#   tools/check.sh --coverage  everything, and how much of the code the tests run (see tools/coverage.sh)
# Not included: tools/ray_check.sh (the tests that need Ray), `python -m pytest -m papers` (rows of the papers' tables that
# take minutes to train) and `python -m pytest -m soak` (two minutes of load).
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" OPENBLAS_NUM_THREADS="${OPENBLAS_NUM_THREADS:-1}"
python=${PYTHON:-python}
# One command per line: in a chain of &&, only a failure of the last command would stop the script.
echo "== ruff"
"$python" -m ruff format --check .
"$python" -m ruff check .
echo "== mypy"
"$python" -m mypy
echo "== imports"
"$python" -c "import sys; from importlinter.cli import lint_imports_command as run; sys.exit(run())"
echo "== JavaScript"
if [ -x node_modules/.bin/biome ] || { command -v npm >/dev/null && npm ci --silent --no-audit --no-fund; }; then
  node_modules/.bin/biome check --error-on-warnings
  node_modules/.bin/tsc -p tsconfig.json
else
  echo "skipped: npm, or its registry, cannot be reached"
fi
echo "== pytest"
tests=("$python" -m pytest -q -n auto --maxprocesses 4 --dist worksteal)
case "${1:-}" in
  --fast) "${tests[@]}" -m "not slow and not soak and not ray and not papers" ;;
  --coverage) PYTHON="$python" tools/coverage.sh ;;
  *) "${tests[@]}" ;;
esac
