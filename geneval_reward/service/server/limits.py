"""`Limits`: all limits of the server."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Final

from geneval_reward.errors import UsageError

DEFAULT_PORT: Final = 8321
DEFAULT_COMPAT_PORT: Final = 18085
"""The port on which Flow-GRPO's client expects its server."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the server. Anything beyond one gets an error that names the limit, and uses no memory.

    Attributes:
        max_body: Bytes per request body.
        max_items: Images per request.
        max_pixels: Pixels per image, read from its header before it is decoded.
        max_queue: Images waiting for a worker, at least `max_items`; 429 beyond that.
        max_memory: Bytes of all bodies being received, queued or scored; 503 beyond that.
        max_connections: Open connections; 503 beyond that.
        deadline: Seconds from a request's headers to its answer, unless the request asks for less.
        upload_timeout: Seconds to receive a request's body.
        drain_timeout: Seconds that requests in flight get after SIGTERM.
        decode_timeout: Seconds to decode the images of a batch.
        stall_timeout: Seconds after which a worker that does not answer is killed and replaced.
        max_attempts: Workers that may die while holding an image before it gets an error.

    Raises:
        UsageError: If a limit is not a positive number, or is too small for another.
    """

    max_body: int = 64 * 2**20
    max_items: int = 128
    max_pixels: int = 4096 * 4096
    max_queue: int = 1024
    max_memory: int = 2**30
    max_connections: int = 512
    deadline: float = 120.0
    upload_timeout: float = 60.0
    drain_timeout: float = 30.0
    decode_timeout: float = 20.0
    stall_timeout: float = 300.0
    max_attempts: int = 3

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
                raise UsageError(f"{field.name}: expected a positive number, got {value!r}")
        if self.max_memory < self.max_body:
            raise UsageError(
                f"max_memory: expected at least max_body ({self.max_body}), got {self.max_memory}; raise one or lower the other"
            )
        if self.max_queue < self.max_items:
            # Clients would retry a request that never fits for ever.
            raise UsageError(
                f"max_queue: expected at least max_items ({self.max_items}), got {self.max_queue}; raise one or lower the other"
            )

    @classmethod
    def parse(cls, text: str) -> Limits:
        """Read `field=value` pairs, such as `max_items=64,deadline=30`; other limits keep their defaults.

        Raises:
            UsageError: If a field is unknown or a value is not a number; the message names it.

        Examples:
            >>> Limits.parse("max_items=64, deadline=30").deadline
            30.0
        """
        known: dict[str, type[int] | type[float]] = {
            field.name: int if isinstance(field.default, int) else float for field in fields(cls)
        }
        values: dict[str, Any] = {}
        for pair in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = (part.strip() for part in pair.partition("="))
            if name not in known:
                raise UsageError(f"limits: expected one of {', '.join(known)}, got {name!r}")
            try:
                values[name] = known[name](value)
            except ValueError:
                kind = "an integer" if known[name] is int else "a number"
                raise UsageError(f"limits: {name}: expected {kind}, got {value!r}") from None
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the limits by name, for `/info`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
