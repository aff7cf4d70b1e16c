"""Ray itself: its import, a cluster to run on, and how workers share it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from geneval_reward.errors import ServiceError, UsageError
from geneval_reward.scorer import GenEvalScorer

_log = logging.getLogger(__name__)

_QUIET_SECONDS: Final = 10.0  # a worker's process takes some to start


def import_ray() -> Any:
    """Ray.

    Raises:
        ModuleNotFoundError: If it is not installed; the message says what to install.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"ray: expected it to be installed, got no module {error.name!r}; pip install 'geneval-reward[ray]'"
        ) from error
    return ray


@contextmanager
def cluster(address: str | None = None) -> Iterator[Any]:
    """Ray, connected: to the cluster this process is connected to already, else to `address` or `RAY_ADDRESS`, else to a new
    one on this machine, which ends with the block.

    Args:
        address: Such as `auto` or `ray://head:10001`.
    """
    ray = import_ray()
    mine = connect(address)
    try:
        yield ray
    finally:
        if mine:
            ray.shutdown()


def connect(address: str | None = None) -> bool:
    """Connect, if this process is not; returns whether it was not.

    Args:
        address: See `cluster`.
    """
    ray = import_ray()
    if ray.is_initialized():
        return False
    address = address or os.environ.get("RAY_ADDRESS")
    # Of a cluster that is there, nothing may be set; of a new one, nothing but scoring is wanted.
    options: dict[str, Any] = {} if address else {"include_dashboard": False}
    ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, **options)
    return True


@dataclass(frozen=True)
class Share:
    """How workers share a cluster.

    Attributes:
        workers: Actors, each with one scorer.
        cpus: CPUs of each.
        gpus: GPUs of each; may be a fraction.
    """

    workers: int
    cpus: float
    gpus: float


def share(ray: Any, workers: int | None, cpus: float, gpus: float | None) -> Share:
    """How many workers, with what.

    Args:
        ray: The module, connected.
        workers: None: one for each GPU, or, where there are none, one for `cpus` CPUs.
        cpus: CPUs of each.
        gpus: GPUs of each; None: one where there are any.

    Raises:
        ValueError: If a number is out of range, or the cluster has not room for one worker.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"workers: expected an integer >= 1, got {workers!r}")
    if cpus <= 0 or (gpus is not None and gpus < 0):
        raise UsageError(f"cpus_per_worker, gpus_per_worker: expected numbers > 0 and >= 0, got {cpus!r} and {gpus!r}")
    there = ray.cluster_resources()
    have_cpus, have_gpus = there.get("CPU", 0.0), there.get("GPU", 0.0)
    gpus = (1.0 if have_gpus else 0.0) if gpus is None else gpus
    room = int(min(have_cpus / cpus, have_gpus / gpus if gpus else float("inf")))
    if room < 1:
        raise UsageError(
            f"workers: expected a cluster with {cpus:g} CPUs and {gpus:g} GPUs for each, got {have_cpus:g} and {have_gpus:g} "
            "in all; ask for less or add nodes"
        )
    if workers is not None and workers > room:
        _log.warning("ray: %d workers asked for, room for %d; going on with those", workers, room)
    return Share(min(workers or room, room), cpus, gpus)


def await_room(ray: Any, started: Sequence[Any], how: Share, timeout: float) -> None:
    """Wait until every actor has a place: the cluster is large enough, but others may hold it.

    Args:
        ray: The module, connected.
        started: The first answer of each actor.
        how: What they asked for.
        timeout: Seconds.

    Raises:
        ServiceError: If some have no place when the time is up.
    """
    # `wait` answers for actors that died as well; what became of those is told by the next call to them.
    patience = min(_QUIET_SECONDS, timeout)
    _, waiting = ray.wait(list(started), num_returns=len(started), timeout=patience)
    if waiting and timeout > patience:
        _log.warning("ray: %d of %d workers wait for room; %s", len(waiting), len(started), _free(ray))
        _, waiting = ray.wait(list(started), num_returns=len(started), timeout=timeout - patience)
    if waiting:
        raise ServiceError(
            f"ray: expected room for {how.workers} workers of {how.cpus:g} CPUs and {how.gpus:g} GPUs within {timeout:g} s, "
            f"got it for {len(started) - len(waiting)}; {_free(ray)}: leave them some, set workers, cpus_per_worker or "
            "gpus_per_worker lower, or start_timeout higher"
        )


def _free(ray: Any) -> str:
    there, free = ray.cluster_resources(), ray.available_resources()
    parts = [f"{free.get(kind, 0.0):g} of {there[kind]:g} {kind}s" for kind in ("CPU", "GPU") if kind in there]
    return f"{' and '.join(parts)} are free, others hold the rest"


@dataclass(frozen=True)
class Recipe:
    """How a worker makes its scorer.

    Attributes:
        scorer: The name of a backend, or a function that makes a scorer; the nodes must be able to import it.
        options: Passed to `GenEvalScorer.from_pretrained` with a name.
    """

    scorer: str | Callable[[], GenEvalScorer] = "lite"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.options and not isinstance(self.scorer, str):
            raise UsageError(f"{next(iter(self.options))}: expected no options beside a function; let it set them")
        if isinstance(self.scorer, GenEvalScorer):
            raise UsageError("scorer: expected a name or a function, got a scorer; each worker makes its own")

    def make(self) -> GenEvalScorer:
        """A new scorer, here."""
        return (
            GenEvalScorer.from_pretrained(self.scorer, **self.options)
            if isinstance(self.scorer, str)
            else self.scorer()
        )
