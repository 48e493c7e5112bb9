#!/usr/bin/env bash
# Run all checks and measurements that need a CUDA device, in under four minutes, and write the results to one JSON file.
#   tools/gpu_check.sh [OUT.json] [--small]     --small: a short trial of the script itself, on the CPU
#   tools/gpu_check.sh out.json --only '^(versions|(streams|streams_agree) whisper fp32|(latency|kernels) whisper)'
#                                               only the parts that match: here the streams of one checkpoint
# The script needs torch, onnxruntime, numpy, safetensors and PyYAML. If PyYAML is missing, put its wheel into the folder that
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
