"""Importing Ray, connecting to a cluster, and dividing it among workers."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from geneval_reward.errors import ServiceError, UsageError
from geneval_reward.scorer import GenEvalScorer, LazyScorer, Scorer
from geneval_reward.support.imports import require

_log = logging.getLogger(__name__)

_QUIET_SECONDS: Final = 10.0  # a worker process takes a few seconds to start


def import_ray() -> Any:
    """Import Ray.

    Raises:
        DependencyError: If Ray is not installed; the message says what to install.
    """
    return require("ray", "ray", "ray")


def connect(address: str | None = None) -> bool:
    """Connect this process to a cluster, unless it is already connected.

    The cluster is the one at `address` or `RAY_ADDRESS`, or else a new one on this machine.

    Args:
        address: Address of the cluster, such as `auto` or `ray://head:10001`.

    Returns:
        Whether a connection was made, which the caller must then end with `ray.shutdown()`.

    Raises:
        ServiceError: If there is no cluster at the address, or a new one does not start.
    """
    ray = import_ray()
    if ray.is_initialized():
        return False
    address = address or os.environ.get("RAY_ADDRESS")
    # An existing cluster allows no settings; a new one needs only what scoring needs.
    options: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, **options)
    except Exception as error:  # Ray raises a dozen types here, each with a long message
        ray.shutdown()
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        remedy = (
            "check that it runs (`ray status`) and that RAY_ADDRESS or address= names it"
            if address
            else "free memory and processors, or set RAY_raylet_start_wait_time_s=240 on a busy machine"
        )
        place = f"at {address}" if address else "to start on this machine"
        raise ServiceError(f"ray: expected a cluster {place}, got {reason}; {remedy}") from error
    return True


@dataclass(frozen=True)
class Workers:
    """Requested workers and their resources.

    Attributes:
        count: Number of actors, each with one scorer; None for as many as fit.
        cpus: CPUs per actor.
        gpus: GPUs per actor, which may be a fraction; None for one if the cluster has any.
        start_timeout: Seconds that the cluster may take to find room for them; loading is not counted.

    Raises:
        UsageError: If a number is out of range.
    """

    count: int | None = None
    cpus: float = 1
    gpus: float | None = None
    start_timeout: float = 120.0

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise UsageError(f"workers: expected an integer >= 1, got {self.count!r}")
        if self.cpus <= 0 or (self.gpus is not None and self.gpus < 0):
            raise UsageError(
                f"cpus_per_worker, gpus_per_worker: expected numbers > 0 and >= 0, got {self.cpus!r} and {self.gpus!r}"
            )
        if not 0 < self.start_timeout < math.inf:
            raise UsageError(f"start_timeout: expected seconds > 0, got {self.start_timeout!r}")


@dataclass(frozen=True)
class Share:
    """Workers that a cluster has room for.

    Attributes:
        count: Number of actors.
        cpus: CPUs per actor.
        gpus: GPUs per actor.
    """

    count: int
    cpus: float
    gpus: float


def share(ray: Any, workers: Workers, at_most: int | None = None) -> Share:
    """Compute how many workers a cluster has room for if it is otherwise idle.

    Args:
        ray: The connected `ray` module.
        workers: The requested workers.
        at_most: Number of workers that the current work can use.

    Raises:
        UsageError: If the cluster is too small for one worker.
    """
    resources = ray.cluster_resources()
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    gpus_each = (1.0 if gpus else 0.0) if workers.gpus is None else workers.gpus
    room = int(min(cpus / workers.cpus, gpus / gpus_each if gpus_each else math.inf))
    if room < 1:
        raise UsageError(
            f"workers: expected a cluster with {workers.cpus:g} CPUs and {gpus_each:g} GPUs for each, got {cpus:g} and {gpus:g} "
            "in all; ask for less or add nodes"
        )
    if workers.count is not None and workers.count > room:
        _log.warning("ray: %d workers asked for, room for %d; going on with those", workers.count, room)
    return Share(min(workers.count or room, room, at_most or room), workers.cpus, gpus_each)


def await_room(
    ray: Any, first_calls: Sequence[Any], granted: Share, timeout: float, enough: int | None = None
) -> list[int]:
    """Wait until actors are placed, since other jobs may be using a cluster that is large enough.

    Args:
        ray: The connected `ray` module.
        first_calls: The first call to each actor.
        granted: The resources that the actors requested.
        timeout: Seconds.
        enough: Number of actors that suffices if the others are not placed after ten seconds; None for all.

    Returns:
        Numbers of the actors that have been placed.

    Raises:
        ServiceError: If fewer than `enough` have been placed when the time is up.
    """
    calls = list(first_calls)
    enough = len(calls) if enough is None else enough
    # `wait` also returns calls to actors that died; the next call to one of them reports why.
    patience = min(_QUIET_SECONDS, timeout)
    placed, waiting = ray.wait(calls, num_returns=len(calls), timeout=patience)
    if waiting:
        _log.warning("ray: %d of %d workers wait for room; %s", len(waiting), len(calls), _free_resources(ray))
        if len(placed) < enough and timeout > patience:
            placed, waiting = ray.wait(calls, num_returns=enough, timeout=timeout - patience)
    if len(placed) < enough:
        raise ServiceError(
            f"ray: expected room for {granted.count} workers of {granted.cpus:g} CPUs and {granted.gpus:g} GPUs within "
            f"{timeout:g} s, got it for {len(placed)}; {_free_resources(ray)}: leave them some, set workers, cpus_per_worker or "
            "gpus_per_worker lower, or start_timeout higher"
        )
    return [calls.index(call) for call in placed]


def _free_resources(ray: Any) -> str:
    total, free = ray.cluster_resources(), ray.available_resources()
    parts = [f"{free.get(kind, 0.0):g} of {total[kind]:g} {kind}s" for kind in ("CPU", "GPU") if kind in total]
    return f"{' and '.join(parts)} are free, others hold the rest"


@dataclass(frozen=True)
class Recipe:
    """How a worker makes its scorer.

    Attributes:
        scorer: Name of a backend, or a function that makes a scorer, or its import path; the nodes must be able to import it.
        options: Passed to `GenEvalScorer.from_pretrained` if `scorer` is a name.

    Raises:
        UsageError: If `scorer` is a scorer object, or options are given with a function.
    """

    scorer: str | Callable[[], Scorer] = "lite"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.options and not isinstance(self.scorer, str):
            raise UsageError(f"{next(iter(self.options))}: expected no options beside a function; let it set them")
        if isinstance(self.scorer, GenEvalScorer):
            raise UsageError("scorer: expected a name or a function, got a scorer; each worker makes its own")

    def make(self) -> Scorer:
        """Make a new scorer in this process."""
        if isinstance(self.scorer, str):
            return LazyScorer(self.scorer, **self.options).load()
        return self.scorer()
