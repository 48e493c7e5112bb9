#!/usr/bin/env bash
# Everything that needs a CUDA device, in one go and in under four minutes; the results are one JSON file.
#   tools/gpu_check.sh [OUT.json] [--small]     --small: seconds, on the CPU, to try the script itself
# It needs torch, onnxruntime, numpy, safetensors and PyYAML. Where PyYAML is missing, put its wheel into the folder that
# $WHEELS names (default: wheels/); nothing is downloaded.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export PYTHONPATH="$PWD"
if ! "$python" -c "import yaml" 2>/dev/null; then
  "$python" -m pip install --quiet --no-index --find-links "${WHEELS:-wheels}" pyyaml ||
    "$python" -m pip install --quiet --no-index --break-system-packages --find-links "${WHEELS:-wheels}" pyyaml
fi
exec "$python" tools/gpu_check.py "$@"
