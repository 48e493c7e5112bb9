"""The audit of known vulnerabilities reports it if no database could be asked about every package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

AUDIT = Path(__file__).parents[1] / "tools" / "audit.py"
CLEAN = {
    "dependencies": [{"name": "one", "version": "1.0", "vulns": []}, {"name": "two", "version": "2.0", "vulns": []}]
}
WEAK = {
    "dependencies": [
        {"name": "one", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]},
        {"name": "two", "version": "2.0", "vulns": []},
    ]
}
UNKNOWN = {"dependencies": [CLEAN["dependencies"][0], {"name": "two", "skip_reason": "not found on PyPI"}]}
OSV_CLEAN: dict[str, Any] = {"results": []}
OSV_WEAK = {
    "results": [
        {"packages": [{"package": {"name": "two", "version": "2.0"}, "vulnerabilities": [{"id": "GHSA-1"}]}]},
    ]
}
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the scanners here are scripts with a #! line")


def scanner(path: Path, code: int, report: object = None) -> str:
    """Make a program that writes this report to its --output, and ends with this exit code."""
    path.write_text(
        f"#!{sys.executable}\nimport sys\nfrom pathlib import Path\n"
        f"report = {json.dumps(report) if report is not None else ''!r}\n"
        "if report:\n    Path(sys.argv[sys.argv.index('--output') + 1]).write_text(report)\n"
        f"sys.exit({code})\n"
    )
    path.chmod(0o755)
    return str(path)


def audit(folder: Path, pip_audit: str, osv_scanner: str) -> tuple[int, str]:
    installed = folder / "installed.txt"
    installed.write_text("one==1.0\ntwo==2.0\n")
    command = [sys.executable, str(AUDIT), str(installed), str(folder)]
    done = subprocess.run(
        [*command, "--pip-audit", pip_audit, "--osv-scanner", osv_scanner], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("code", "report", "reason"), [(1, None, "no report"), (2, None, "no report"), (0, UNKNOWN, "1 of 2 packages")]
)
def test_an_audit_that_does_not_cover_every_package_ends_with_code_3(
    tmp_path: Path, code: int, report: object, reason: str
) -> None:
    (tmp_path / "pip-audit.json").write_text(json.dumps(CLEAN))  # the report of an earlier run
    ended, printed = audit(tmp_path, scanner(tmp_path / "pip-audit", code, report), str(tmp_path / "missing"))
    assert ended == 3
    assert "pip-audit: NOT DONE: " in printed and reason in printed
    assert "osv-scanner: NOT DONE: it is not installed" in printed
    assert "VULNERABILITY AUDIT NOT DONE" in printed


def test_an_audit_without_findings_ends_with_code_0_and_counts_the_packages(tmp_path: Path) -> None:
    ended, printed = audit(tmp_path, scanner(tmp_path / "pip-audit", 0, CLEAN), str(tmp_path / "missing"))
    assert (ended, "pip-audit: 2 packages, no known vulnerability" in printed) == (0, True)
    assert "AUDIT NOT DONE" not in printed


def test_an_audit_that_finds_a_vulnerability_ends_with_code_1_and_names_it(tmp_path: Path) -> None:
    ended, printed = audit(tmp_path, scanner(tmp_path / "pip-audit", 1, WEAK), str(tmp_path / "missing"))
    assert (ended, "one 1.0: PYSEC-1, fixed in 1.1" in printed) == (1, True)


@pytest.mark.parametrize(("code", "report", "expected"), [(0, OSV_CLEAN, 0), (1, OSV_WEAK, 1), (127, None, 3)])
def test_osv_scanner_decides_if_pip_audit_fails(tmp_path: Path, code: int, report: object, expected: int) -> None:
    osv = scanner(tmp_path / "osv-scanner", code, report)
    ended, printed = audit(tmp_path, scanner(tmp_path / "pip-audit", 1), osv)
    assert ended == expected
    assert ("two 2.0: GHSA-1" in printed) is (expected == 1)
    assert ("AUDIT NOT DONE" in printed) is (expected == 3)
