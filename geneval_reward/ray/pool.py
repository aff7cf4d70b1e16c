"""Ray actors that each hold a scorer, and the calls to them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from geneval_reward.errors import ServiceError
from geneval_reward.judge.rules import Rules
from geneval_reward.judge.verdict import Verdict
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.ray.runtime import Recipe, Workers, await_room, connect, import_ray, share
from geneval_reward.service.isolation import score_separately

if TYPE_CHECKING:
    from geneval_reward.ray.work import ShardReport
    from geneval_reward.results.shards import Shard
    from geneval_reward.scorer import Scorer

MAX_DEATHS: Final = 3
"""Number of actors that one piece of a batch may kill before the pool gives up on it."""


class Description(NamedTuple):
    """Name, rules, fingerprint and batch size of an actor's scorer."""

    name: str
    rules: Rules
    fingerprint: dict[str, Any]
    batch_size: int


class ActorPool:
    """A pool of actors. If an actor dies, Ray restarts it and repeats its call.

    Args:
        recipe: The argument of each actor, such as how it makes its scorer.
        workers: Number of actors and their resources.
        address: Address of a cluster; None for that of this process, that of `RAY_ADDRESS`, or a new one on this machine.
        max_deaths: Number of actors that one call may kill; None for no limit.
        at_most: Number of actors that the current work can use.
        actor: Class of the actors; it needs a method `process_id()`.

    Raises:
        ServiceError: If Ray cannot be reached or started, or has no room for the actors in time.
    """

    def __init__(
        self,
        recipe: Any,
        workers: Workers,
        address: str | None = None,
        *,
        max_deaths: int | None = MAX_DEATHS,
        at_most: int | None = None,
        actor: type | None = None,
    ) -> None:
        self._ray = import_ray()
        self._owns_cluster = connect(address)
        self._actors: list[Any] = []
        self._starting: dict[Any, Any] = {}
        try:
            granted = share(self._ray, workers, at_most)
            kind = self._ray.remote(
                num_cpus=granted.cpus,
                num_gpus=granted.gpus,
                max_restarts=-1,
                max_task_retries=-1 if max_deaths is None else max_deaths - 1,
            )(actor or ScoringActor)
            self._actors = [kind.remote(recipe) for _ in range(granted.count)]
            first_calls = [actor.process_id.remote() for actor in self._actors]
            enough = 1 if workers.count is None else granted.count
            ready = await_room(self._ray, first_calls, granted, workers.start_timeout, enough)
            # Actors that have not been placed yet get work as soon as they are.
            self._starting = {call: self._actors[i] for i, call in enumerate(first_calls) if i not in ready}
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._actors)

    def describe(self) -> Description:
        """Ask the actors to describe their scorers, which must be identical.

        Raises:
            ServiceError: If an actor cannot make its scorer, or the scorers differ.
        """
        calls = [actor.describe.remote() for actor in self._placed()]
        found: list[Description] = [self._result(call) for call in calls]
        if any(one != found[0] for one in found):
            raise ServiceError("ray: expected equal scorers in all workers, got different ones; use equal nodes")
        return found[0]

    def map(self, method: str, calls: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """Make each call on whichever actor is free.

        Args:
            method: Name of a method of the actors.
            calls: Arguments of each call.

        Yields:
            The number of each call with its result or `ServiceError`, in the order in which the calls finish.
        """
        waiting = list(reversed(range(len(calls))))
        idle = self._placed()
        running: dict[Any, tuple[int, Any]] = {}
        while waiting or running:
            while waiting and idle:
                number, actor = waiting.pop(), idle.pop()
                running[getattr(actor, method).remote(*calls[number])] = number, actor
            for reference in self._ray.wait([*running, *self._starting])[0]:
                if reference in self._starting:
                    idle.append(self._starting.pop(reference))
                    continue
                number, actor = running.pop(reference)
                idle.append(actor)
                try:
                    yield number, self._result(reference)
                except ServiceError as error:
                    yield number, error

    def process_ids(self) -> list[int]:
        """Return the process ids of the actors."""
        return list(self._ray.get([actor.process_id.remote() for actor in self._placed()]))

    def close(self) -> None:
        """Stop the actors, and the cluster if it was started for them."""
        if not self._ray.is_initialized():
            return
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []
        if self._owns_cluster:
            self._ray.shutdown()

    def _placed(self) -> list[Any]:
        waiting = list(self._starting.values())
        return [actor for actor in self._actors if actor not in waiting]

    def _result(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise ServiceError(
                f"ray: expected an answer of a worker, got {type(error.cause).__name__}: {error.cause}"
            ) from error
        except self._ray.exceptions.RayError as error:
            raise ServiceError(
                f"ray: expected an answer of a worker, got none in {MAX_DEATHS} tries ({type(error).__name__}); look at its log "
                "for too little memory or a damaged installation"
            ) from error


class ScoringActor:
    """An actor that holds a scorer.

    Args:
        recipe: How the actor makes its scorer.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._scorer: Scorer | None = None

    @property
    def scorer(self) -> Scorer:
        """The scorer, made on first use because errors in an actor's constructor reach the driver only as its death."""
        if self._scorer is None:
            self._scorer = self._recipe.make()
        return self._scorer

    def describe(self) -> Description:
        """Describe the scorer."""
        return Description(
            self.scorer.name, self.scorer.rules, self.scorer.fingerprint(), getattr(self.scorer, "batch_size", 16)
        )

    def score(self, pixels: Sequence[npt.NDArray[np.uint8]], specs: Sequence[PromptSpec]) -> list[Verdict | str]:
        """Score images and return a verdict or an error message per image."""
        # Ray's arrays are read-only views of shared memory.
        images = [torch.from_numpy(np.array(image)) for image in pixels]
        return [
            f"{type(answer).__name__}: {answer}" if isinstance(answer, Exception) else answer
            for answer in score_separately(self.scorer, images, specs)
        ]

    def score_shard(self, shard: Shard, path: Path) -> ShardReport:
        """Score a shard and write its results file."""
        from geneval_reward.ray.work import score_shard

        return score_shard(self.scorer, shard, path)

    def process_id(self) -> int:
        """Return the id of this actor's process."""
        return os.getpid()
