"""Fixtures for every test. Since this file is in tests/, `from makers import ...` also works in every test."""

from __future__ import annotations

import os

# One thread per pool: threads of a pool spin while they wait for each other, so two threads are several times slower
# than one if the machine has other work.
for pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(pool, "1")

import pytest  # noqa: E402  # after the settings that numpy and torch read once, when they are first imported
from makers import make_adaptive, make_bundle  # noqa: E402

from streamser.bundle import Bundle  # noqa: E402
from streamser.recognizer import Recognizer, load  # noqa: E402


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny checkpoint, shared by all tests; a test that changes a checkpoint makes its own."""
    return make_bundle(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def recognizer(bundle: Bundle) -> Recognizer:
    """The tiny checkpoint, loaded on the CPU."""
    return load(bundle.path, "cpu")


@pytest.fixture(scope="session")
def adaptive(tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    """A tiny checkpoint with a relative head, loaded on the CPU."""
    return load(make_adaptive(tmp_path_factory.mktemp("models") / "adaptive").path, "cpu")
