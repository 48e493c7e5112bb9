"""tools/ops_check.sh, which checks the unit and the image, lists its checks and names missing tools."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tools" / "ops_check.sh"
pytestmark = pytest.mark.skipif(shutil.which("bash") is None or sys.platform == "win32", reason="needs bash")


def started(*arguments: str, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": path, "PYTHON": sys.executable}
    bash = shutil.which("bash") or "bash"
    command = [bash, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)


def listed() -> list[str]:
    """The checks that the script lists, each as `part: promise`."""
    done = started("list")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_bash_can_parse_ops_check_sh() -> None:
    done = subprocess.run(["bash", "-n", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_results_of_each_check_are_in_the_documentation() -> None:
    trust = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
    table = trust.partition("## Unit and image")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (unit|image) \| (.+?) \| (.+) \|$", table, re.MULTILINE)
    assert [f"{part}: {promise}" for part, promise, _ in rows] == listed()
    assert {part for part, _, _ in rows} == {"unit", "image"}


def test_ops_check_exits_with_code_3_and_names_the_missing_tool(tmp_path: Path) -> None:
    needed = ("bash", "dirname", "id", "sed")
    for tool in needed:
        (tmp_path / tool).symlink_to(shutil.which(tool) or f"/usr/bin/{tool}")
    done = started("unit", str(tmp_path / "folder"), path=str(tmp_path))
    assert done.returncode == 3
    expected = "debootstrap is not installed" if os.geteuid() == 0 else "needs root"
    assert done.stdout.startswith("not done: ") and expected in done.stdout
    assert not (tmp_path / "folder").exists()


def test_ops_check_refuses_an_unknown_part() -> None:
    done = started("everything")
    assert done.returncode == 2
    assert "[unit|image|all]" in done.stderr


def test_the_checks_of_ops_check_do_not_run_outside_the_system_made_for_them() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "STREAMSER_OPS_CHECK"}
    command = [sys.executable, str(ROOT / "tools" / "ops_check"), "unit"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert "use tools/ops_check.sh" in done.stderr
