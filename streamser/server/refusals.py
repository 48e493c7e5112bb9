"""Refusals as HTTP responses."""

from __future__ import annotations

from aiohttp import web

from streamser.settings import nearest


class HttpRefusal(Exception):  # noqa: N818 - it is a response to a client, not an error of the server
    """The refusal of a request: a status, a code for programs, a sentence for people."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def response(self) -> web.Response:
        body = {"error": {"code": self.code, "message": str(self)}}
        return web.json_response(body, status=self.status, headers=self.headers)


def check_query(request: web.Request, *known: str) -> None:
    """Refuse an unknown query parameter; a misspelled one would otherwise be ignored silently."""
    for name in request.query:
        if name not in known and name != "token":
            right = nearest(name, known)
            advice = f"did you mean {right!r}?" if right else f"known: {', '.join(known)}"
            raise HttpRefusal(400, "bad_query", f"unknown query parameter {name!r:.40}; {advice}")
