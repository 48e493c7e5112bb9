"""ONNX Runtime without its telemetry; every module of streamser takes `onnxruntime` from here.

From version 1.29 on, ONNX Runtime keeps events about models, sessions and errors in the user's cache folder and sends
them to Microsoft, unless `ORT_DISABLE_TELEMETRY` is set when it is first imported; on Windows it gives them to the
system until `disable_telemetry_events` is called. This module sets the variable during the import and makes the call.
If the user has set the variable, to any value, it does neither.
"""

from __future__ import annotations

import os
from typing import Any

from streamser.native import native_call

__all__ = ["Session", "onnxruntime"]

_VARIABLE = "ORT_DISABLE_TELEMETRY"

if _VARIABLE in os.environ:  # the user's own choice
    import onnxruntime
else:
    os.environ[_VARIABLE] = "1"
    try:
        import onnxruntime
    finally:
        del os.environ[_VARIABLE]
    onnxruntime.disable_telemetry_events()  # for Windows, or if a host program had imported onnxruntime already


class Session(onnxruntime.InferenceSession):  # type: ignore[misc]  # onnxruntime has no types
    """An InferenceSession for streams: the end of the process waits for its calls."""

    def __init__(self, *args: Any, **options: Any) -> None:
        with native_call:
            super().__init__(*args, **options)

    def run(self, *args: Any) -> Any:
        with native_call:
            return super().run(*args)
