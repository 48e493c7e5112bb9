"""A server that every test of this folder may talk to."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from talking import serving

from streamser.recognizer import Recognizer
from streamser.server.app import Server


@pytest.fixture
async def server(recognizer: Recognizer) -> AsyncIterator[Server]:
    """The tiny checkpoint, served on a free port of loopback."""
    async with serving(recognizer) as running:
        yield running
