"""Refusals as HTTP responses."""

from __future__ import annotations

from aiohttp import web


class HttpRefusal(Exception):  # noqa: N818 - it is an answer to a client, not a fault of ours
    """A refused request: a status, a code for programs, a sentence for people."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def response(self) -> web.Response:
        body = {"error": {"code": self.code, "message": str(self)}}
        return web.json_response(body, status=self.status, headers=self.headers)
