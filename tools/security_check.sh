#!/usr/bin/env bash
# Check for weaknesses: the code (bandit), the Dockerfile (hadolint), the dependencies (pip-audit, osv-scanner if it is
# installed, and safety-db, which needs no network) and their pins (tools/lock.py). Also list the dependencies (CycloneDX
# SBOM).
#   tools/security_check.sh [FOLDER]     the SBOM and the reports go to FOLDER (default: build/security)
# The tools are installed by hash into their own virtual environment. Exit code: 0 nothing found, 1 something found,
# 3 nothing found, but the audit was NOT DONE: no database of vulnerabilities could be asked about every package.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-build/security}
python=${PYTHON:-python3}
tools=${STREAMSER_SECURITY_ENV:-build/security-env}
mkdir -p "$out"
if [ ! -x "$tools/bin/bandit" ]; then
  "$python" -m venv "$tools"
  "$tools/bin/pip" install --quiet --require-hashes --only-binary :all: -r tools/security_requirements.txt
fi

echo "== bandit"
# Left out: B101 assertions (they inform mypy), B404 and B603 subprocesses that get a list and no shell, B105 variables
# that are named like passwords.
"$tools/bin/bandit" --quiet --recursive streamser --skip B101,B404,B603,B105 --format txt --output "$out/bandit.txt" ||
  { cat "$out/bandit.txt"; exit 1; }

echo "== hadolint"
"$tools/bin/hadolint" Dockerfile

echo "== pins"
"$tools/bin/python" tools/lock.py --check

echo "== installed packages"
"$python" -m pip list --format=freeze --exclude streamser 2>/dev/null |
  sed -E 's/\+(cpu|cu[0-9]+)$//' >"$out/installed.txt"
wc -l <"$out/installed.txt"

echo "== SBOM"
"$tools/bin/cyclonedx-py" requirements "$out/installed.txt" --pyproject pyproject.toml --output-reproducible \
  --output-format JSON --output-file "$out/sbom.cdx.json"

echo "== safety-db (ends in July 2021), for the installed packages and the oldest versions that pyproject.toml allows"
"$tools/bin/python" - "$out/installed.txt" <<'PY'
import importlib.util
import json
import sys
from pathlib import Path

from packaging.specifiers import SpecifierSet

sys.path.insert(0, "tools")
import lock

spec = importlib.util.find_spec("safety_db")
known = json.loads((Path(spec.origin).parent / "insecure_full.json").read_text())
pairs = [tuple(line.split("==", 1)) for line in Path(sys.argv[1]).read_text().split()]
installed = len(pairs)
pairs += [
    (each.name, clause.version)
    for requirements in lock.wanted().values()
    for each in requirements
    for clause in each.specifier
    if clause.operator == ">="
]
found = [
    f"{name} {version}: {entry['id']} {entry['cve'] or ''}"
    for name, version in pairs
    for entry in known.get(name.lower(), [])
    if any(SpecifierSet(specs).contains(version, prereleases=True) for specs in entry["specs"])
]
print("\n".join(found) or f"{installed} installed and {len(pairs) - installed} oldest versions: no known vulnerability")
sys.exit(1 if found else 0)
PY

echo "== known vulnerabilities (pip-audit, and osv-scanner if it is installed)"
exec "$python" tools/audit.py "$out/installed.txt" "$out" --pip-audit "$tools/bin/pip-audit"
