"""`import streamser`: its public names, its duration, and the modules and states that it must not touch."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module

import pytest

import streamser
from streamser.bundle import Bundle

HEAVY = ("torch", "torchaudio", "librosa", "scipy", "matplotlib", "textual", "aiohttp", "onnx", "safetensors")


def python(script: str, *args: str) -> str:
    """Run a script in a new process, with warnings as errors, and return its output."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *args], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_is_sorted_and_every_name_in_it_exists() -> None:
    def order(name: str) -> tuple[int, str]:  # the order of ruff: CONSTANTS, Classes, functions
        return (0 if name.isupper() else 1 if name[0].isupper() else 2), name

    assert streamser.__all__ == sorted(set(streamser.__all__), key=order)
    for name in streamser.__all__:
        assert getattr(streamser, name) is not None
    assert set(streamser.__all__) <= set(dir(streamser))


def test_every_public_name_is_the_object_of_its_module() -> None:
    assert sorted(streamser._MODULE_OF) == sorted(streamser.__all__)
    for name, module in streamser._MODULE_OF.items():
        assert getattr(streamser, name) is getattr(import_module(f"streamser.{module}"), name)


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'streamser' has no attribute 'lisen'"):
        _ = streamser.lisen


def test_type_checkers_see_the_same_public_names_as_running_code() -> None:
    source = (import_module("pathlib").Path(streamser.__file__)).read_text("utf-8")
    block = source.split("if TYPE_CHECKING:\n")[1].split("\n\n")[0]
    modules = re.findall(r"from streamser\.([\w.]+) import (?:\(([^)]*)\)|(.+))", block)
    seen = {name: module for module, many, one in modules for name in re.findall(r"\w+", many or one)}
    assert seen == streamser._MODULE_OF


def test_importing_streamser_takes_less_than_three_tenths_of_a_second() -> None:
    times_us = []
    for _ in range(3):  # the shortest time counts, since other programs may use the processor
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", "import streamser"], capture_output=True, text=True, check=True
        )
        last = done.stderr.strip().splitlines()[-1]
        assert last.endswith(" streamser")
        times_us.append(int(last.split("|")[1]))  # cumulative, including everything that it imports
    assert min(times_us) < 300_000
    assert not re.search(rf"\| +({'|'.join(HEAVY)})$", done.stderr, re.MULTILINE)


def test_a_prediction_on_the_cpu_imports_no_heavy_library(bundle: Bundle) -> None:
    script = (
        "import sys, numpy, streamser\n"
        "streamser.load(sys.argv[1], 'cpu').predict(numpy.full(16_000, 0.1, numpy.float32))\n"
        "print(*(name for name in sys.argv[2:] if name in sys.modules))"
    )
    assert python(script, str(bundle.path), *HEAVY).split() == []


def test_corpora_and_evaluation_are_imported_without_torch() -> None:
    script = (
        "import importlib, pkgutil, sys, streamser.corpora, streamser.evaluation\n"
        "for module in (streamser.corpora, streamser.evaluation):\n"
        "    for module in pkgutil.iter_modules(module.__path__, module.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "print(*(name for name in ('torch', 'onnx', 'safetensors', 'matplotlib') if name in sys.modules))"
    )
    assert python(script).split() == []


def test_the_first_prediction_needs_less_than_a_second_of_cpu_time_from_process_start(bundle: Bundle) -> None:
    script = (
        "import sys, time, numpy, streamser\n"
        "print(streamser.load(sys.argv[1], 'cpu').predict(numpy.ones(48_000)).label, time.process_time())"
    )
    runs = [python(script, str(bundle.path)).split() for _ in range(2)]
    assert all(label in bundle.labels for label, _ in runs)
    # CPU time, since other processes may run beside the tests; `streamser bench` measures wall-clock time.
    assert min(float(seconds) for _, seconds in runs) < 1.0


def test_importing_streamser_does_not_change_the_state_of_the_process() -> None:
    script = (
        "import logging, os, threading, warnings\n"
        "def state(): return (dict(os.environ), threading.active_count(), logging.getLogger().handlers[:],\n"
        "                     logging.getLogger().level, warnings.filters[:])\n"
        "import numpy, yaml, soundfile, soxr, onnxruntime\n"
        "before = state()\n"
        "import streamser, streamser.recognizer, streamser.engines.onnx, streamser.cli.models\n"
        "print(state() == before)"
    )
    assert python(script).strip() == "True"


def test_the_printed_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    from streamser.cli import main

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"streamser {version('streamser')}\n"
