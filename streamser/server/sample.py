"""GET /v1/sample: the recordings that come with streamser as one WAV file, for "Try a sample"."""

from __future__ import annotations

import asyncio
import io

import numpy as np
import soundfile
from aiohttp import web

from streamser.audio import SAMPLE_RATE, Samples, read_audio
from streamser.samples import find_samples
from streamser.server.refusals import HttpRefusal

_PAUSE_S = 0.9  # pause between two sentences: longer than the silence that ends an utterance


async def response(_: web.Request) -> web.Response:
    """Handle GET /v1/sample."""
    try:
        body = await asyncio.to_thread(_joined)
    except OSError as error:
        raise HttpRefusal(404, "no_sample", "this installation of streamser has no sample recordings") from error
    return web.Response(body=body, content_type="audio/wav")


def _joined() -> bytes:
    pause: Samples = np.zeros(int(_PAUSE_S * SAMPLE_RATE), np.float32)
    parts = [pause]
    for sample in find_samples():
        parts += [read_audio(sample.path), pause]
    file = io.BytesIO()
    soundfile.write(file, np.concatenate(parts), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()
