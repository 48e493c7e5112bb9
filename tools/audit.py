#!/usr/bin/env python3
"""Look up installed packages in databases of known vulnerabilities, with pip-audit, and osv-scanner if it is installed.

audit.py INSTALLED FOLDER [--pip-audit PROGRAM] [--osv-scanner PROGRAM]

INSTALLED lists name==version, a line for each package; the reports go to FOLDER. Exit code: 0 one of the two programs
knew every package, and none found a vulnerability; 1 a vulnerability was found; 3 not done: neither program could
answer for every package.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

FOUND, NOT_DONE = 1, 3


class NotDoneError(Exception):
    """The scanner did not run, or its database does not contain every package; the message is the reason."""


def report_of(command: list[str], report: Path) -> Any:
    """Run a scanner that writes `report`, and return its content; an earlier run's report is deleted first."""
    log = report.with_suffix(".log")
    report.unlink(missing_ok=True)
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(command, stdout=file, stderr=file, check=False)
    if done.returncode not in (0, FOUND) or not report.is_file() or not report.stat().st_size:
        raise NotDoneError(f"exit code {done.returncode} and no report; is the network closed? See {log}")
    return json.loads(report.read_text(encoding="utf-8"))


def pip_audit(program: str, installed: Path, folder: Path) -> tuple[int, list[str]]:
    """Run pip-audit; returns the number of packages and a line for each vulnerability."""
    report = folder / "pip-audit.json"
    options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json", "--output", str(report)]
    packages = report_of([program, "--requirement", str(installed), *options], report)["dependencies"]
    found = [
        f"{each['name']} {each['version']}: {one['id']}, fixed in {', '.join(one['fix_versions']) or 'no version'}"
        for each in packages
        for one in each.get("vulns", [])
    ]
    skipped = [each["name"] for each in packages if "skip_reason" in each]
    if skipped and not found:
        raise NotDoneError(f"{len(skipped)} of {len(packages)} packages are unknown to PyPI: {', '.join(skipped[:5])}")
    return len(packages), found


def osv_scanner(program: str, installed: Path, folder: Path) -> tuple[int, list[str]]:
    """Run osv-scanner; returns the number of packages and a line for each vulnerability."""
    report = folder / "osv-scanner.json"
    options = ["--lockfile", f"requirements.txt:{installed}", "--format", "json", "--output", str(report)]
    results = report_of([program, "scan", *options], report)["results"] or []
    found = [
        f"{each['package']['name']} {each['package']['version']}: {one['id']}"
        for result in results
        for each in result["packages"]
        for one in each.get("vulnerabilities", [])
    ]
    return len(installed.read_text(encoding="utf-8").split()), found


def main() -> int:
    """Run both programs, print what each found, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("installed", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pip-audit", default="pip-audit")
    parser.add_argument("--osv-scanner", default="osv-scanner")
    args = parser.parse_args()
    answered, weak = 0, False
    for name, program, ask in (
        ("pip-audit", args.pip_audit, pip_audit),
        ("osv-scanner", args.osv_scanner, osv_scanner),
    ):
        try:
            if shutil.which(program) is None:
                raise NotDoneError("it is not installed")
            packages, found = ask(program, args.installed, args.folder)
        except NotDoneError as reason:
            print(f"{name}: NOT DONE: {reason}")
            continue
        answered += 1
        weak = weak or bool(found)
        print("\n".join(f"{name}: {line}" for line in found) or f"{name}: {packages} packages, no known vulnerability")
    if weak:
        return FOUND
    if not answered:
        print("VULNERABILITY AUDIT NOT DONE: no database of known vulnerabilities could be asked about every package")
        return NOT_DONE
    return 0


if __name__ == "__main__":
    sys.exit(main())
