"""The wheel and the source archive are complete, and the wheel alone runs the demo without a network."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ("build", "hatchling", "twine", "check_wheel_contents")
missing = [name for name in TOOLS if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)} (extra 'dev')"),
]


def run(*words: object, **options: object) -> str:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=550, env=env, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return str(done.stdout)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def test_the_wheel_and_the_source_archive_pass_twine_and_check_wheel_contents(dist: Path) -> None:
    assert run(sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir()).count("PASSED") == 2
    assert ": OK" in run(sys.executable, "-m", "check_wheel_contents", only(dist, "*.whl"))


def test_the_wheel_and_the_source_archive_contain_exactly_the_intended_files(dist: Path) -> None:
    with zipfile.ZipFile(only(dist, "*.whl")) as wheel:
        names = set(wheel.namelist())
        inside = {name.partition("/")[0] for name in names}
    assert all(name == "streamser" or name.endswith(".dist-info") for name in inside)
    samples = {path.name for path in (ROOT / "samples").iterdir()}
    assert {f"streamser/_samples/{name}" for name in samples} <= names
    assert {"streamser/_config.yaml", "streamser/py.typed", "streamser/_models/whisper/model.onnx"} <= names
    with tarfile.open(only(dist, "*.tar.gz")) as archive:
        top = {name.split("/")[1] for name in archive.getnames()}
    folders = {"streamser", "models", "samples", "docs", "tests", "tools"}
    files = {"config.yaml", "conftest.py", "pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"}
    assert top == folders | files | {"PKG-INFO", ".gitignore"}


def test_the_wheel_alone_runs_the_demo_without_a_network(dist: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "fresh")
    programs = tmp_path / "fresh" / ("Scripts" if os.name == "nt" else "bin")
    try:
        run(programs / "python", "-m", "pip", "install", "-q", only(dist, "*.whl"))
    except AssertionError as error:
        if "No matching distribution" in str(error) or "connection" in str(error).lower():
            pytest.skip("no package index can be reached")
        raise
    offline = ["unshare", "--map-root-user", "--net"] if _can_unshare() else []
    shown = run(*offline, programs / "streamser", "demo", "--speed", "max", cwd=tmp_path)
    assert "  timeline  " in shown and shown.count("streamser ") >= 3
    assert "whisper" in run(programs / "streamser", "models", cwd=tmp_path)


def _can_unshare() -> bool:
    """Whether this system can start a program without a network."""
    try:
        return subprocess.run(["unshare", "--map-root-user", "--net", "true"], capture_output=True).returncode == 0
    except OSError:
        return False
