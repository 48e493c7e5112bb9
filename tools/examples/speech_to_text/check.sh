#!/usr/bin/env bash
# Make a virtual environment with the real packages and this checkout, and run these examples' tests in it.
#
#   tools/examples/speech_to_text/check.sh      PYTHON=python3.12 VENV=folder choose another Python or folder
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
venv=${VENV:-${TMPDIR:-/tmp}/streamser-speech-to-text}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e "$root" -r "$here/requirements.txt" \
    pytest pytest-asyncio pytest-timeout onnx safetensors
cd "$root"
"$venv/bin/python" -m pytest -q -p no:cacheprovider tests/integrations/test_speech_to_text.py
