"""Size of an encoded image by its first bytes: nothing is decoded, so that a bomb is known before it goes off.

Formats: PNG (W3C recommendation, 11.2.2 IHDR) and WebP (RFC 9649, sections 2.5-2.7).
"""

from __future__ import annotations

import struct

from geneval_reward.errors import ImageError

_PNG = b"\x89PNG\r\n\x1a\n"
_OTHERS = {b"\xff\xd8\xff": "a JPEG", b"GIF8": "a GIF", b"BM": "a BMP", b"II*\x00": "a TIFF", b"MM\x00*": "a TIFF"}


def image_size(data: bytes | memoryview, format: str, where: str) -> tuple[int, int]:
    """`(width, height)` that the header of a PNG or lossless WebP claims.

    Args:
        data: The file's bytes.
        format: `png` or `webp`.
        where: How errors call the image.

    Raises:
        ImageError: If it is not of that format, is cut off within its header, or is a lossy WebP.
    """
    head = bytes(data[:64])
    width, height = _png(head, where) if format == "png" else _webp(data, head, where)
    if width < 1 or height < 1:
        raise ImageError(f"{where}: expected at least one pixel, got {width} x {height}")
    return width, height


def _png(head: bytes, where: str) -> tuple[int, int]:
    if not head.startswith(_PNG) or head[12:16] != b"IHDR" or len(head) < 26:
        raise ImageError(f"{where}: expected a PNG, got {_name(head)}; send PNG, lossless WebP or raw values")
    width, height = struct.unpack_from(">II", head, 16)
    return width, height


def _webp(data: bytes | memoryview, head: bytes, where: str) -> tuple[int, int]:
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < 30:
        raise ImageError(f"{where}: expected a WebP, got {_name(head)}; send PNG, lossless WebP or raw values")
    offset = 12
    # An extended file has its canvas first; the image data comes after it, and one that is animated has frames instead.
    for _ in range(16):
        kind = bytes(data[offset : offset + 4])
        if kind == b"VP8L" and len(data) >= offset + 13:
            bits = int.from_bytes(data[offset + 9 : offset + 13], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        if kind in (b"VP8 ", b"ANIM", b"ANMF", b"ALPH"):
            kinds = {b"VP8 ": "a lossy one", b"ALPH": "a lossy one"}
            raise ImageError(
                f"{where}: expected a lossless WebP, got {kinds.get(kind, 'an animated one')}; encode it lossless"
            )
        if len(kind) < 4 or len(data) < offset + 8:
            break
        length = int.from_bytes(data[offset + 4 : offset + 8], "little")
        offset += 8 + length + (length & 1)
    raise ImageError(f"{where}: expected a whole WebP, got one without image data; generate it again")


def _name(head: bytes) -> str:
    for sign, name in _OTHERS.items():
        if head.startswith(sign):
            return name
    if head.startswith(_PNG):
        return "a PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "a WebP"
    return "something else" if head else "nothing"
