#!/usr/bin/env bash
# Measure streamser and its peers in a virtual environment that is made for this; arguments go to `streamser bench`.
#   tools/bench_peers/run.sh lightsernet --minutes 10 --json > peers.json
# The weights of faster-whisper must be in its cache already: nothing is downloaded while measuring.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=${VENV:-.venv-peers}
if [ ! -x "$venv/bin/python" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet -r tools/bench_peers/requirements.txt .
fi
exec "$venv/bin/python" -m streamser bench "$@" --vs
