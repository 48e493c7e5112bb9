"""Fixtures for the tests of training."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for the stored features of one test module."""
    return tmp_path_factory.mktemp("cache")
