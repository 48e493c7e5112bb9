"""The checkpoints that clients can choose: the server's own, and installed ones, loaded at their first use."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamser.bundle import find_models, load_bundle
from streamser.colors import color_of
from streamser.errors import BundleError, StreamserError
from streamser.recognizer import Recognizer, load
from streamser.server.protocol import CLOSE_NOT_FOUND, CLOSE_TRY_LATER, Refusal, without_paths
from streamser.stream.worker import InferenceWorker, PipelineConfig

logger = logging.getLogger(__name__)

MOST_OTHERS = 4
"""Checkpoints in memory beside the server's own; one more is refused."""

OpenModel = Callable[[str], Recognizer]


class Checkpoints:
    """One inference worker for each checkpoint in use; made, used and closed on one event loop."""

    def __init__(self, recognizer: Recognizer, pipeline: PipelineConfig, open_model: OpenModel | None = None) -> None:
        self.own = _worker_for(recognizer, pipeline)
        self._pipeline = pipeline
        self._open = open_model or (lambda path: load(path, recognizer.engine.compute))
        self._others: dict[str, InferenceWorker] = {}
        self._turn = asyncio.Lock()

    @property
    def workers(self) -> list[InferenceWorker]:
        """The workers of all checkpoints in memory, the server's own first."""
        return [self.own, *self._others.values()]

    async def worker(self, name: str | None) -> InferenceWorker:
        """The worker of the checkpoint of this name, loaded if it is not yet; None is the server's own.

        Only installed checkpoints have names: a client cannot make the server read a folder of its choice.
        """
        if name is None or name == self.own.recognizer.bundle.name:
            return self.own
        async with self._turn:
            if name not in self._others:
                self._others[name] = await asyncio.to_thread(self._load, name)
            return self._others[name]

    def _load(self, name: str) -> InferenceWorker:
        path = find_models().get(name)
        if path is None:
            raise Refusal("no_model", f"no checkpoint is named {name!r:.80}; see /v1/models", CLOSE_NOT_FOUND)
        if len(self._others) >= MOST_OTHERS:
            words = f"{MOST_OTHERS} other checkpoints are in use already; choose one of them"
            raise Refusal("too_many_models", words, CLOSE_TRY_LATER)
        try:
            worker = _worker_for(self._open(str(path)), self._pipeline)
        except StreamserError as error:
            logger.error("checkpoint %s: %s", name, error)
            raise Refusal(
                "no_model", f"{name} cannot be used on this server; its log has the reason", CLOSE_NOT_FOUND
            ) from error
        worker.start()
        return worker

    async def close(self, timeout_s: float) -> None:
        """Stop all workers; each has up to `timeout_s` to finish its queued jobs, and the rest are discarded."""
        await asyncio.gather(*(asyncio.to_thread(worker.close, timeout_s) for worker in self.workers))


def _worker_for(recognizer: Recognizer, pipeline: PipelineConfig) -> InferenceWorker:
    """The checkpoint's worker; its step graph is opened now, because the first stream is opened on the event loop."""
    _ = recognizer.steps
    return InferenceWorker(recognizer, pipeline)


def describe(recognizer: Recognizer) -> dict[str, Any]:
    """The description of a checkpoint for clients; the colors are those of the terminal and the pictures."""
    bundle = recognizer.bundle
    return {
        "model": bundle.name,
        "labels": list(bundle.labels),
        "colours": {label: color_of(label) for label in bundle.labels},
        "threshold": round(recognizer.threshold, 4),
    }


def catalogue() -> list[dict[str, Any]]:
    """Every installed checkpoint; a damaged one has an `error` instead of labels."""
    return [_listed(name, path) for name, path in find_models().items()]


def _listed(name: str, path: Path) -> dict[str, Any]:
    try:
        bundle = load_bundle(path, verify=False)
    except BundleError as error:
        return {"name": name, "error": without_paths(str(error))}
    return {"name": name, "labels": list(bundle.labels), "licence": bundle.licence}
