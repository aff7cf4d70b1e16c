"""`RayGenEvalReward`: the reward, scored by a pool of Ray actors."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch

from geneval_reward.errors import ServiceError, UsageError
from geneval_reward.judge.rules import Rules
from geneval_reward.judge.verdict import Verdict
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.ray.runtime import Recipe, await_room, connect, import_ray, share
from geneval_reward.reward import GenEvalReward

if TYPE_CHECKING:
    from geneval_reward.scorer import GenEvalScorer

_TRIES: Final = 3  # workers that one piece of a batch may kill


class RayGenEvalReward(GenEvalReward):
    """A `GenEvalReward` whose scorers live in Ray actors: one a GPU, or a CPU where there is none.

    Called, scored and submitted to like its base class, with None for a sample that cannot be scored. A batch is cut into pieces
    that go to whichever actor is free. An actor that dies is started again by Ray and its piece repeated; each piece is taken
    once, so nothing is lost and nothing counted twice. Pickled, it takes its settings along and starts a pool of its own.

    Args:
        scorer: The name of a backend, or a function that makes a scorer; the nodes must be able to import it.
        credit: See the base class.
        prompts: See the base class.
        workers: Number of actors; None: as many as there is room for.
        cpus_per_worker: CPUs of each.
        gpus_per_worker: GPUs of each; None: one where there are any. A fraction shares a GPU with the trainer.
        piece: Most images in a piece; None: the batch in equal parts, one for each actor, but at most the scorer's batch size.
        address: Of a cluster. None: that of this process, of `RAY_ADDRESS`, or a new one on this machine.
        start_timeout: Seconds that the cluster may take to find room for all actors, at the first batch; loading not counted.
        **options: Passed to `GenEvalScorer.from_pretrained`.

    Raises:
        ModuleNotFoundError: Without the extra `geneval_reward[ray]`; here, and not at the first batch.

    Example:
        >>> from geneval_reward.ray import RayGenEvalReward
        >>> reward = RayGenEvalReward("lite", credit="dense", workers=2)  # starts nothing yet
        >>> reward.__name__
        'geneval_dense'
    """

    def __init__(
        self,
        scorer: str | Callable[[], GenEvalScorer] = "lite",
        credit: str = "official",
        *,
        prompts: Sequence[PromptSpec | Mapping[str, Any] | str] = (),
        workers: int | None = None,
        cpus_per_worker: float = 1,
        gpus_per_worker: float | None = None,
        piece: int | None = None,
        address: str | None = None,
        start_timeout: float = 120.0,
        **options: Any,
    ) -> None:
        import_ray()
        if piece is not None and piece < 1:
            raise UsageError(f"piece: expected an integer >= 1, got {piece!r}")
        if not 0 < start_timeout < math.inf:
            raise UsageError(f"start_timeout: expected seconds > 0, got {start_timeout!r}")
        pool = _PoolSettings(
            Recipe(scorer, options), workers, cpus_per_worker, gpus_per_worker, piece, address, start_timeout
        )
        # A pool has of a scorer all that the base class uses.
        super().__init__(pool, credit, prompts=prompts)  # type: ignore[arg-type]

    def close(self) -> None:
        """End what `submit` has begun, and then the actors; they start again when they are needed."""
        super().close()
        with self._lock:
            pool, self._scorer = self._scorer, None
        if pool is not None:
            pool.close()  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        return f"RayGenEvalReward({self._source!r}, credit={self.credit!r})"


@dataclass(frozen=True)
class _PoolSettings:
    """What makes a pool; what a pickled reward takes along."""

    recipe: Recipe
    workers: int | None
    cpus: float
    gpus: float | None
    piece: int | None
    address: str | None
    start_timeout: float

    def __call__(self) -> ActorPool:
        return ActorPool(self)


class ActorPool:
    """Actors with the face of a scorer.

    Args:
        settings: How many, of what.

    Raises:
        ServiceError: If there is no room for the workers, or one cannot make its scorer.
    """

    def __init__(self, settings: _PoolSettings) -> None:
        self._ray = import_ray()
        self._mine = connect(settings.address)
        how = share(self._ray, settings.workers, settings.cpus, settings.gpus)
        kind = self._ray.remote(num_cpus=how.cpus, num_gpus=how.gpus, max_restarts=-1, max_task_retries=_TRIES - 1)(
            _Worker
        )
        self._actors = [kind.remote(settings.recipe) for _ in range(how.workers)]
        self._piece = settings.piece
        self._lock = threading.Lock()
        try:
            await_room(self._ray, [actor.pid.remote() for actor in self._actors], how, settings.start_timeout)
            facts = self._get([actor.facts.remote() for actor in self._actors])
        except BaseException:
            self.close()
            raise
        self.name, self.fingerprint_id, self.rules, self.batch_size = facts[0]
        different = sorted({fingerprint for _, fingerprint, _, _ in facts})
        if len(different) > 1:
            self.close()
            raise ServiceError(
                f"ray: expected one fingerprint of all workers, got {', '.join(different)}; use equal nodes"
            )

    def score(self, images: Sequence[torch.Tensor], specs: Sequence[PromptSpec]) -> list[Verdict]:
        """Judge images.

        Args:
            images: `(3, h, w)` uint8, on any device.
            specs: One per image.

        Returns:
            One verdict per image, in order.

        Raises:
            ServiceError: If a worker died at the same piece three times, or failed.
        """
        with self._lock:
            size = self._piece or min(self.batch_size, math.ceil(len(images) / len(self._actors)))
            starts = range(0, len(images), size)
            results: dict[int, list[Verdict]] = {}
            waiting = list(reversed(starts))
            idle = list(self._actors)
            running: dict[Any, tuple[int, Any]] = {}
            while waiting or running:
                while waiting and idle:
                    start, actor = waiting.pop(), idle.pop()
                    pixels = [image.cpu().numpy() for image in images[start : start + size]]
                    running[actor.score.remote(pixels, list(specs[start : start + size]))] = start, actor
                for done in self._ray.wait(list(running))[0]:
                    start, actor = running.pop(done)
                    results[start] = self._get(done)
                    idle.append(actor)
        return [verdict for start in starts for verdict in results[start]]

    def pids(self) -> list[int]:
        """Process ids of the workers, for a look from outside."""
        return list(self._ray.get([actor.pid.remote() for actor in self._actors]))

    def close(self) -> None:
        """End the actors, and the cluster if it was started for them."""
        if not self._ray.is_initialized():
            return
        for actor in self._actors:
            self._ray.kill(actor)
        if self._mine:
            self._ray.shutdown()

    def _get(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise ServiceError(
                f"ray: expected verdicts of a worker, got {type(error.cause).__name__}: {error.cause}"
            ) from error
        except self._ray.exceptions.RayError as error:
            raise ServiceError(
                f"ray: expected verdicts of a worker, got none in {_TRIES} tries ({type(error).__name__}); look at its log for "
                "too little memory or a damaged installation"
            ) from error


class _Worker:
    """An actor."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.made: GenEvalScorer | None = None

    @property
    def scorer(self) -> GenEvalScorer:
        # Not in the constructor, whose errors Ray tells as the actor's death.
        if self.made is None:
            self.made = self.recipe.make()
        return self.made

    def facts(self) -> tuple[str, str, Rules, int]:
        return self.scorer.name, self.scorer.fingerprint_id, self.scorer.rules, self.scorer.batch_size

    def score(self, pixels: Sequence[npt.NDArray[np.uint8]], specs: Sequence[PromptSpec]) -> list[Verdict]:
        # Ray's arrays are read-only views of shared memory.
        return self.scorer.score([torch.from_numpy(np.array(image)) for image in pixels], specs)

    def pid(self) -> int:
        import os

        return os.getpid()
