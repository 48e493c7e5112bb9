"""One measurement in a separate process: a request in JSON on the command line, figures in JSON as the last line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(request: dict[str, Any]) -> dict[str, Any]:
    """The figures that the request asks for."""
    kind, audio = request.pop("kind"), Path(request.pop("audio"))
    if kind == "stream":
        from streamser.bench.stream import measure_stream

        return measure_stream(audio=audio, **request)
    from streamser.bench.peers import measure_peer

    windows = json.loads(Path(request.pop("windows")).read_text(encoding="utf-8"))
    return measure_peer(audio=audio, windows=windows, **request)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]))) + "\n")
