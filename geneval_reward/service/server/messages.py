"""Messages between the server and its workers: a JSON head followed by blobs of bytes. Nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

PipeEnd = Connection
"""One end of the pipe between the server and a worker."""


def send(pipe: PipeEnd, head: dict[str, Any], blobs: Sequence[bytes] = ()) -> None:
    """Send a message; blocks until the other side takes it."""
    pipe.send_bytes(json.dumps(head | {"blobs": len(blobs)}).encode())
    for blob in blobs:
        pipe.send_bytes(blob)


def receive(pipe: PipeEnd) -> tuple[dict[str, Any], list[bytes]]:
    """Receive a message; blocks until one arrives.

    Raises:
        EOFError, OSError: If the other side is gone.
    """
    head = json.loads(pipe.recv_bytes())
    return head, [pipe.recv_bytes() for _ in range(head.pop("blobs"))]
