"""Find the file in a multipart form that was received whole."""

from __future__ import annotations

import re
from email.message import Message

__all__ = ["FormError", "file_of_form"]

_MOST_PARTS = 64  # a form that sends an audio file has few parts
_MOST_HEADER_BYTES = 8192
_DISPOSITION = re.compile(rb"^content-disposition:[ \t]*form-data[ \t]*(;.*)$", re.IGNORECASE | re.MULTILINE)
_HAS_FILE_NAME = re.compile(rb';[ \t]*filename\*?=[ \t]*(?!"")[^;\s]', re.IGNORECASE)
_IS_NAMED_FILE = re.compile(rb';[ \t]*name="?file"?[ \t\r]*(;|$)', re.IGNORECASE)


class FormError(ValueError):
    """The body does not match its Content-Type."""


def file_of_form(body: bytes, content_type: str) -> bytes | None:
    """The content of the first part that has a file name or is named "file"; None if there is no such part.

    >>> body = b'--x\\r\\nContent-Disposition: form-data; name="file"\\r\\n\\r\\nRIFF...\\r\\n--x--\\r\\n'
    >>> file_of_form(body, "multipart/form-data; boundary=x")
    b'RIFF...'
    """
    delimiter = b"--" + _boundary(content_type)
    at = 0 if body.startswith(delimiter) else body.find(b"\r\n" + delimiter) + 2
    if at == 1:
        raise FormError("the boundary is missing")
    for _ in range(_MOST_PARTS):
        at += len(delimiter)
        if body.startswith(b"--", at):
            return None
        # A part without any header begins with the empty line itself, so the search starts right after the boundary.
        header_end = body.find(b"\r\n\r\n", at, at + _MOST_HEADER_BYTES)
        if header_end < 0:
            raise FormError(f"the header of a part is longer than {_MOST_HEADER_BYTES} bytes")
        content = header_end + 4
        end = body.find(b"\r\n" + delimiter, header_end + 2)
        if end < 0:
            raise FormError("the boundary after the last part is missing")
        disposition = _DISPOSITION.search(body[at:header_end])
        if disposition and (_HAS_FILE_NAME.search(disposition[1]) or _IS_NAMED_FILE.search(disposition[1])):
            return body[content : max(content, end)]
        at = end + 2
    raise FormError(f"there are more than {_MOST_PARTS} parts before the file")


def _boundary(content_type: str) -> bytes:
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_boundary()
    if not boundary or len(boundary) > 70 or not boundary.isascii():  # RFC 2046, 5.1.1
        raise FormError("the Content-Type has no boundary of 1 to 70 ASCII characters")
    return boundary.encode()
