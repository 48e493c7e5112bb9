"""ONNX Runtime without its telemetry; every module of streamser takes `onnxruntime` from here.

From version 1.29 on, its packages keep events about models, sessions and errors in the user's cache folder and send
them to Microsoft, from Linux and macOS too, unless a variable is set when it is first imported. On Windows its events
go to the system, until they are turned off by a call.
"""

from __future__ import annotations

import os

__all__ = ["onnxruntime"]

_VARIABLE = "ORT_DISABLE_TELEMETRY"

if _VARIABLE in os.environ:  # the user's own choice
    import onnxruntime
else:
    os.environ[_VARIABLE] = "1"
    try:
        import onnxruntime
    finally:
        del os.environ[_VARIABLE]
    onnxruntime.disable_telemetry_events()  # for Windows, and where a host program has imported it before
