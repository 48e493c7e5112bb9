from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamser.server.forms import FormError, file_of_form

TYPE = "multipart/form-data; boundary=xyz"


def form(*parts: tuple[str, bytes], end: bytes = b"--xyz--\r\n") -> bytes:
    """A form of parts; each part is the rest of its Content-Disposition header, and its content."""
    lines = [
        b"--xyz\r\nContent-Disposition: form-data" + head.encode() + b"\r\n\r\n" + content + b"\r\n"
        for head, content in parts
    ]
    return b"".join(lines) + end


@settings(deadline=None)  # a busy machine is slow
@given(st.binary(max_size=200).filter(lambda content: b"\r\n--xyz" not in b"\r\n" + content))
def test_the_content_of_a_file_in_a_form_is_read_unchanged(content: bytes) -> None:
    body = form(('; name="note"', b"words"), ('; name="sound"; filename="a.wav"', content), ('; name="x"', b""))
    assert file_of_form(body, TYPE) == content


@pytest.mark.parametrize(
    ("head", "is_file"),
    [
        ('; name="file"', True),
        ("; name=file", True),
        ('; name="x"; filename="a.wav"', True),
        ("; name=x; filename=a.wav", True),
        ("; name=\"x\"; filename*=UTF-8''a.wav", True),
        ('; name="x"; filename=""', False),
        ('; name="profile"', False),
        ('; name="filename"', False),
        ("", False),
    ],
)
def test_a_part_is_a_file_if_it_has_a_file_name_or_is_named_file(head: str, is_file: bool) -> None:
    assert file_of_form(form((head, b"RIFF")), TYPE) == (b"RIFF" if is_file else None)


def test_a_file_may_be_empty_and_parts_may_have_no_header() -> None:
    assert file_of_form(form(('; name="file"', b"")), TYPE) == b""
    assert file_of_form(b"--xyz\r\n\r\nwords\r\n" + form(('; name="file"', b"RIFF")), TYPE) == b"RIFF"
    assert file_of_form(b"preamble\r\n" + form(('; name="file"', b"RIFF")), TYPE) == b"RIFF"


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (b"rubbish", TYPE, "the boundary is missing"),
        (b"", TYPE, "the boundary is missing"),
        (form(('; name="file"', b"RIFF"), end=b""), TYPE, "after the last part is missing"),
        (form(*[('; name="x"', b"")] * 65), TYPE, "more than 64 parts"),
        (b"--xyz\r\nX: " + b"y" * 10_000 + b"\r\n\r\n\r\n--xyz--", TYPE, "the header of a part is longer"),
        (form(), "multipart/form-data", "boundary"),
        (form(), "multipart/form-data; boundary=" + "x" * 71, "boundary"),
        (form(), "multipart/form-data; boundary=ä", "boundary"),
    ],
)
def test_an_invalid_form_is_refused_with_the_reason(body: bytes, content_type: str, message: str) -> None:
    with pytest.raises(FormError, match=message):
        file_of_form(body, content_type)


@settings(deadline=None)  # a busy machine is slow
@given(st.lists(st.sampled_from([b"--xyz", b"\r\n", b"--", b'; name="file"', b"Content-Disposition: form-data", b"a"])))
def test_any_bytes_give_a_file_or_none_or_a_form_error(pieces: list[bytes]) -> None:
    body = b"".join(pieces)
    try:
        content = file_of_form(body, TYPE)
    except FormError:
        return
    assert content is None or content in body
