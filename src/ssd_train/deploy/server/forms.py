"""Read the file in a multipart/form-data body (RFC 7578), as sent by curl -F."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

from ssd_train.deploy.codec import BAD_REQUEST, RequestError, truncate
from ssd_train.errors import require_extra

with require_extra("serve"):
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

FORM = b"multipart/form-data"
ANY_IMAGE = "application/x-image"
# Limit of the boundary and the part's headers. python-multipart 0.0.20 (for Python 3.8 and 3.9) has none, and
# takes half a minute for 6 MB of headers.
HEAD_BYTES = 16 << 10
_UNTOLD = ("", "application/octet-stream")  # curl sends the second for an unknown suffix


def is_form(content_type: str) -> bool:
    """Return whether a content type is multipart/form-data."""
    return parse_options_header(content_type)[0] == FORM


def file_in_form(body: bytes, content_type: str) -> Tuple[bytes, str]:
    """Return the bytes and the content type of a form's only part.

    A part of unknown type counts as an image.

    Raises:
        RequestError: 400, the form is malformed, or has no part or several.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    part = _OnePart()
    try:
        parser = MultipartParser(boundary, part.callbacks())
        parser.write(body[:HEAD_BYTES])
        if part.has_headers:
            parser.write(body[HEAD_BYTES:])
    except (FormParserError, ValueError) as error:
        raise _no_form(str(error)) from None
    if not part.complete:
        raise _no_form("it is cut off, or has no part")
    kind = part.headers.get(b"content-type", b"").decode("latin-1")
    return b"".join(part.data), ANY_IMAGE if kind in _UNTOLD else kind


class _OnePart:
    """Parser callbacks that collect the data and headers of a form's only part."""

    def __init__(self) -> None:
        self.data: List[bytes] = []
        self.headers: Dict[bytes, bytes] = {}
        self.has_headers = self.complete = False
        self._parts = 0
        self._name = self._value = b""

    def callbacks(self) -> Any:
        """Return the callbacks of the parser by name."""
        names = ("part_begin", "part_data", "header_field", "header_value", "header_end", "headers_finished", "end")
        return {f"on_{name}": getattr(self, f"_{name}") for name in names}

    def _part_begin(self) -> None:
        self._parts += 1
        if self._parts > 1:
            raise RequestError(BAD_REQUEST, "request: found a form with several parts, expected one image")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self.data.append(data[start:end])

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self.headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _headers_finished(self) -> None:
        self.has_headers = True

    def _end(self) -> None:
        self.complete = self._parts == 1


def _no_form(reason: str) -> RequestError:
    return RequestError(BAD_REQUEST, f"request: found no form ({truncate(reason)}), expected one image as a file")
