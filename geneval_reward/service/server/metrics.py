"""What `/metrics` tells, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server, in a registry of their own.

    Attributes:
        content_type: Of `text`.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("geneval_requests", "Requests by status.", ["status"], registry=registry)
        self.items = Counter("geneval_images", "Images by outcome: scored or error.", ["outcome"], registry=registry)
        self.seconds = Histogram(
            "geneval_request_seconds", "From a request's head to its answer.", buckets=_SECONDS, registry=registry
        )
        self.batch_size = Histogram("geneval_batch_images", "Images of a batch.", buckets=_SIZES, registry=registry)
        self.batch_seconds = Histogram("geneval_batch_seconds", "Scoring a batch.", buckets=_SECONDS, registry=registry)
        self.deaths = Counter("geneval_worker_deaths", "Workers that had to be replaced.", registry=registry)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A value that is asked for when somebody looks."""
        Gauge(name, text, registry=self._registry).set_function(value)

    def batch_done(self, size: int, seconds: float) -> None:
        """A batch was scored."""
        self.batch_size.observe(size)
        self.batch_seconds.observe(seconds)

    def worker_died(self) -> None:
        """A worker ended that should not have."""
        self.deaths.inc()

    def text(self) -> bytes:
        """All of it, in Prometheus' format."""
        return generate_latest(self._registry)
