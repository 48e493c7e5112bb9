#!/usr/bin/env bash
# Run the tests in every supported Python version that is installed, each in its own virtual environment.
#   tools/check_pythons.sh                  the whole suite in 3.10, 3.11, 3.12 and 3.13 (installs torch four times)
#   tools/check_pythons.sh --runtime        without torch: the runtime and the tests that need no training
#   tools/check_pythons.sh --runtime 3.13   only these versions
# Interpreters are found with uv if it is installed, otherwise on PATH or in pyenv. Missing versions are listed at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
runtime=false
[ "${1:-}" = --runtime ] && { runtime=true; shift; }
versions=("$@")
[ ${#versions[@]} -gt 0 ] || versions=(3.10 3.11 3.12 3.13)
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT

find_python() { # print the full path of a version's interpreter
  if command -v uv >/dev/null; then
    uv python find --no-python-downloads "$1" 2>/dev/null && return
  fi
  if command -v "python$1" >/dev/null && "python$1" -c 'pass' 2>/dev/null; then
    "python$1" -c 'import sys; print(sys.executable)'
  else
    ls "$HOME"/.pyenv/versions/"$1".*/bin/"python$1" 2>/dev/null | tail -1
  fi
}

missing=() failed=()
for version in "${versions[@]}"; do
  python=$(find_python "$version" || true)
  if [ -z "$python" ]; then
    missing+=("$version")
    continue
  fi
  echo "== Python $version ($python)"
  "$python" -m venv "$home/$version"
  pip="$home/$version/bin/python -m pip install -q --disable-pip-version-check"
  if $runtime; then
    $pip -e '.[serve]' onnx safetensors pytest pytest-asyncio pytest-timeout pytest-rerunfailures jsonschema
    tests=(tests/test_audio.py tests/test_config.py tests/test_errors.py tests/test_events.py tests/test_import.py
      tests/test_outputs.py tests/test_recognizer.py tests/stream/test_bus.py tests/stream/test_pipeline.py
      tests/stream/test_segmenter.py tests/server/test_sockets.py tests/cli/test_replay.py)
    "$home/$version/bin/python" -m pytest -q -p no:cacheprovider -m "not slow" "${tests[@]}" || failed+=("$version")
  else
    $pip -e '.[dev]'
    PYTHON="$home/$version/bin/python" tools/check.sh || failed+=("$version")
  fi
done
[ ${#missing[@]} -eq 0 ] || echo "not on this machine: ${missing[*]}"
[ ${#failed[@]} -eq 0 ] || { echo "FAILED: ${failed[*]}"; exit 1; }
