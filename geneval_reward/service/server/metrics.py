"""The Prometheus metrics of `/metrics`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server, in their own registry.

    Attributes:
        content_type: Content type of `text`.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("geneval_requests", "Requests by status.", ["status"], registry=registry)
        self._images = Counter("geneval_images", "Images by outcome: scored or error.", ["outcome"], registry=registry)
        self._seconds = Histogram(
            "geneval_request_seconds",
            "Seconds from a request's head to its answer.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._batch_size = Histogram("geneval_batch_images", "Images per batch.", buckets=_SIZES, registry=registry)
        self._batch_seconds = Histogram(
            "geneval_batch_seconds", "Seconds to score a batch.", buckets=_SECONDS, registry=registry
        )
        self._deaths = Counter("geneval_worker_deaths", "Workers that had to be replaced.", registry=registry)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is computed on each scrape."""
        Gauge(name, text, registry=self._registry).set_function(value)

    def request_done(self, status: int, seconds: float, images: int, failed: int) -> None:
        """Count a `/score` request and its images."""
        self.request_refused(status)
        self._seconds.observe(seconds)
        self._images.labels("scored").inc(images - failed if status == 200 else 0)
        self._images.labels("error").inc(failed)

    def request_refused(self, status: int) -> None:
        """Count a request by its status."""
        self._requests.labels(status).inc()

    def batch_done(self, size: int, seconds: float) -> None:
        """Count a scored batch."""
        self._batch_size.observe(size)
        self._batch_seconds.observe(seconds)

    def worker_died(self) -> None:
        """Count a worker that ended unexpectedly."""
        self._deaths.inc()

    def text(self) -> bytes:
        """Return all values in Prometheus format."""
        return generate_latest(self._registry)
