#!/usr/bin/env bash
# Make a virtual environment with pipecat and this checkout; run the processor's tests in it, then the example on a file.
#
#   tools/examples/pipecat/check.sh [FILE [MODEL]]      PYTHON=python3.12 VENV=folder choose another Python or folder
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
audio=$(realpath "${1:-$root/samples/1001_DFA_ANG_XX.opus}")
venv=${VENV:-${TMPDIR:-/tmp}/streamser-pipecat}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e "$root" -r "$here/requirements.txt" \
    pytest pytest-asyncio pytest-timeout onnx safetensors
cd "$root"
"$venv/bin/python" -m pytest -q -p no:cacheprovider tests/integrations/test_pipecat.py
"$venv/bin/python" "$here/example.py" "$audio" ${2:+--model "$2"}
