#!/usr/bin/env bash
# Measure streamser beside its peers, in an environment of their own; arguments go to `streamser bench`.
#   tools/bench_peers/run.sh lightsernet --minutes 10 --json > peers.json
# faster-whisper's weights must be in its cache already: nothing is downloaded at the time of measuring.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=${VENV:-.venv-peers}
if [ ! -x "$venv/bin/python" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet -r tools/bench_peers/requirements.txt .
fi
exec "$venv/bin/python" -m streamser bench "$@" --vs
