"""Messages between the server and its worker processes: a JSON head and blobs, length first. No pickle."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from typing import Any, Final

_PREFIX: Final = struct.Struct("!II")
PREFIX_BYTES: Final = _PREFIX.size

Blob = bytes | memoryview


def pack(head: dict[str, Any], blobs: Sequence[Blob] = ()) -> bytes:
    """The first bytes of a message; its blobs follow, one after the other."""
    lengths = [len(blob) for blob in blobs]
    text = json.dumps(head | {"lengths": lengths}).encode()
    return _PREFIX.pack(len(text), sum(lengths)) + text


def lengths(prefix: bytes) -> tuple[int, int]:
    """Of head and blobs, from the first `PREFIX_BYTES` bytes."""
    head, blobs = _PREFIX.unpack(prefix)
    return head, blobs


def unpack(text: bytes | bytearray | memoryview, body: memoryview) -> tuple[dict[str, Any], list[memoryview]]:
    """Head and blobs of a message."""
    head = json.loads(bytes(text))
    blobs, offset = [], 0
    for length in head.pop("lengths"):
        blobs.append(body[offset : offset + length])
        offset += length
    return head, blobs


def send(sock: socket.socket, head: dict[str, Any], blobs: Sequence[Blob] = ()) -> None:
    """Send a message, blocking."""
    sock.sendall(pack(head, blobs))
    for blob in blobs:
        sock.sendall(blob)


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[memoryview]] | None:
    """The next message, blocking; None when the other side is gone."""
    prefix = _exactly(sock, PREFIX_BYTES)
    if prefix is None:
        return None
    head, blobs = lengths(bytes(prefix))
    whole = _exactly(sock, head + blobs)
    if whole is None:
        return None
    return unpack(whole[:head], whole[head:])


def _exactly(sock: socket.socket, count: int) -> memoryview | None:
    # A fresh buffer for each message: images are views into it while they are scored.
    buffer = memoryview(bytearray(count))
    filled = 0
    while filled < count:
        try:
            got = sock.recv_into(buffer[filled:])
        except ConnectionError:
            return None
        if not got:
            return None
        filled += got
    return buffer
