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
    from geneval_reward.ray.shards import Shard
    from geneval_reward.ray.work import ShardReport
    from geneval_reward.scorer import GenEvalScorer

MAX_DEATHS: Final = 3
"""Actors that one piece of a batch may kill before it is given up."""


class Description(NamedTuple):
    """Name, rules, fingerprint and batch size of an actor's scorer."""

    name: str
    rules: Rules
    fingerprint: dict[str, Any]
    batch_size: int


class ActorPool:
    """A pool of actors. Ray starts one that dies again and repeats its call.

    Args:
        recipe: How each actor makes its scorer.
        workers: How many actors, and with what.
        address: Address of a cluster; None for that of this process, of `RAY_ADDRESS`, or a new one on this machine.
        max_deaths: Actors that one call may kill; None for any number.
        at_most: Number of actors that the work at hand can use.

    Raises:
        ServiceError: If Ray cannot be reached or started, or has no room for the actors in time.
    """

    def __init__(
        self,
        recipe: Recipe,
        workers: Workers,
        address: str | None = None,
        *,
        max_deaths: int | None = MAX_DEATHS,
        at_most: int | None = None,
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
            )(ScoringActor)
            self._actors = [kind.remote(recipe) for _ in range(granted.count)]
            first_calls = [actor.process_id.remote() for actor in self._actors]
            enough = 1 if workers.count is None else granted.count
            ready = await_room(self._ray, first_calls, granted, workers.start_timeout, enough)
            # Those without a place yet get work as soon as they have one.
            self._starting = {call: self._actors[i] for i, call in enumerate(first_calls) if i not in ready}
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._actors)

    def describe(self) -> Description:
        """Ask the actors for a description of their scorers, which must be equal.

        Raises:
            ServiceError: If one cannot make its scorer, or they differ.
        """
        calls = [actor.describe.remote() for actor in self._placed()]
        found: list[Description] = [self._result(call) for call in calls]
        if any(one != found[0] for one in found):
            raise ServiceError("ray: expected equal scorers in all workers, got different ones; use equal nodes")
        return found[0]

    def map(self, method: str, calls: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """Call a method of whichever actor is free.

        Args:
            method: Name of a method of `ScoringActor`.
            calls: Arguments of each call.

        Yields:
            The number of each call with its result or its `ServiceError`, in the order in which the calls end.
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
        """Process ids of the actors."""
        return list(self._ray.get([actor.process_id.remote() for actor in self._placed()]))

    def close(self) -> None:
        """End the actors, and the cluster if it was started for them."""
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
    """Holds a scorer in an actor.

    Args:
        recipe: How it makes its scorer.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._scorer: GenEvalScorer | None = None

    @property
    def scorer(self) -> GenEvalScorer:
        """The scorer, made at the first use: errors of a constructor reach the driver only as the actor's death."""
        if self._scorer is None:
            self._scorer = self._recipe.make()
        return self._scorer

    def describe(self) -> Description:
        """Describe the scorer."""
        return Description(self.scorer.name, self.scorer.rules, self.scorer.fingerprint(), self.scorer.batch_size)

    def score(self, pixels: Sequence[npt.NDArray[np.uint8]], specs: Sequence[PromptSpec]) -> list[Verdict | str]:
        """Score images; returns a verdict or the text of an error per image."""
        # Ray's arrays are read-only views of shared memory.
        images = [torch.from_numpy(np.array(image)) for image in pixels]
        return [
            f"{type(answer).__name__}: {answer}" if isinstance(answer, Exception) else answer
            for answer in score_separately(self.scorer, images, specs)
        ]

    def score_shard(self, shard: Shard, path: Path) -> ShardReport:
        """Score a shard into its results file."""
        from geneval_reward.ray.work import score_shard

        return score_shard(self.scorer, shard, path)

    def process_id(self) -> int:
        """Id of this actor's process."""
        return os.getpid()
