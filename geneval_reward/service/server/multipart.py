"""A form's parts, parsed from a body that is in memory already: no temporary files, and a bounded number of parts."""

from __future__ import annotations

from typing import Any, Final

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from geneval_reward.service.server.frames import Blob

_MAX_HEADER: Final = 4096


class FormError(ValueError):
    """A body that is not a form."""


class TooManyPartsError(FormError):
    """A form of more parts than are taken; fewer may be."""


class _Collector:
    def __init__(self, max_parts: int) -> None:
        self.parts: list[tuple[str, Blob]] = []
        self._max = max_parts
        self._field = bytearray()
        self._value = bytearray()
        self._name = ""
        self._data: list[memoryview] = []
        self.ended = False

    def on_part_begin(self) -> None:
        if len(self.parts) >= self._max:
            raise TooManyPartsError(f"form: expected at most {self._max} parts, got more; send fewer images")
        self._name, self._data = "", []

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._grow(self._field, data[start:end])

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._grow(self._value, data[start:end])

    def on_header_end(self) -> None:
        if bytes(self._field).lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self._name = options.get(b"name", b"").decode("utf-8", "replace")
        elif bytes(self._field).lower() == b"content-transfer-encoding" and bytes(self._value).lower() not in (
            b"binary",
            b"8bit",
            b"7bit",
        ):
            raise FormError(f"form: expected parts as plain bytes, got the encoding {bytes(self._value)!r}")
        self._field.clear()
        self._value.clear()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        # A view: images are not copied on their way to a worker.
        self._data.append(memoryview(data)[start:end])

    def on_part_end(self) -> None:
        self.parts.append((self._name, self._data[0] if len(self._data) == 1 else b"".join(self._data)))

    def on_end(self) -> None:
        self.ended = True

    @staticmethod
    def _grow(buffer: bytearray, data: bytes) -> None:
        buffer += data
        if len(buffer) > _MAX_HEADER:
            raise FormError(f"form: expected part headers of at most {_MAX_HEADER} bytes, got longer ones")


def parse_form(body: bytes | bytearray, content_type: str, max_parts: int) -> list[tuple[str, Blob]]:
    """The parts of a `multipart/form-data` body as `(name, data)`, in order; data are views into the body.

    Args:
        body: The whole body.
        content_type: The request's header, with its boundary.
        max_parts: More are refused.

    Raises:
        FormError: If the body is not such a form or is cut off.
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:
        raise FormError("form: expected a boundary of 1 to 70 characters in Content-Type, got none or a longer one")
    found = _Collector(max_parts)
    names = ("part_begin", "header_field", "header_value", "header_end", "part_data", "part_end", "end")
    callbacks: Any = {f"on_{name}": getattr(found, f"on_{name}") for name in names}
    parser = MultipartParser(boundary, callbacks)
    try:
        parser.write(body)  # type: ignore[arg-type]
        parser.finalize()
    except FormParserError as error:
        raise FormError(f"form: expected multipart/form-data, got something else ({error})") from error
    if not found.ended:
        raise FormError("form: expected a closing boundary, got a body that is cut off; send it again")
    return found.parts
