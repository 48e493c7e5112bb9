#!/usr/bin/env bash
# Build the documentation site into build/site; warnings are errors. Needs pip install -e '.[docs]'.
set -euo pipefail
cd "$(dirname "$0")/.."
export NO_MKDOCS_2_WARNING=1
"${PYTHON:-python}" -m mkdocs build --strict --quiet --clean
echo "build/site/index.html"
