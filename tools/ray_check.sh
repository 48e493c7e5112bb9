#!/usr/bin/env bash
# Run the tests that need Ray: they start clusters of two workers on this machine and kill some of the clusters' processes.
#   tools/ray_check.sh            installs the extra 'ray' beside 'dev' if it is missing, then runs them (about ten minutes)
#   PYTHON=... tools/ray_check.sh  the same with another Python
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" OPENBLAS_NUM_THREADS="${OPENBLAS_NUM_THREADS:-1}"
python=${PYTHON:-python}
"$python" -c "import ray.data, ray.serve" 2>/dev/null || "$python" -m pip install -q -e '.[ray]'
exec "$python" -m pytest -q -m ray tests/cluster "$@"
