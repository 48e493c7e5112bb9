"""What the tests of training share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where features of one test module are kept."""
    return tmp_path_factory.mktemp("cache")
