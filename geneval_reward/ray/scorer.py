"""`RayScorer`: a scorer that is a pool of Ray actors."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from geneval_reward.errors import ScoringError, ServiceError, UsageError
from geneval_reward.judge.rules import Rules
from geneval_reward.judge.verdict import Verdict
from geneval_reward.prompts.suite import Prompt, resolve_all
from geneval_reward.ray.pool import ActorPool, Description
from geneval_reward.ray.runtime import Recipe, Workers, import_ray
from geneval_reward.vision.images import as_images

if TYPE_CHECKING:
    from geneval_reward.scorer import Scorer


class RayScorer:
    """A scorer whose models live in Ray actors: one per GPU, or per CPU if there is no GPU.

    The metric, reward and callback accept it like a local scorer. The actors start on first use. A batch is split into pieces
    that go to whichever actor is free. If an actor dies, Ray restarts it and repeats its piece, so that nothing is lost or
    counted twice. `copy.deepcopy` returns the same object; a pickled copy keeps the settings and starts its own pool.

    Args:
        scorer: Name of a backend, or a function that makes a scorer, which the nodes must be able to import.
        workers: Number of actors; None for as many as fit.
        cpus_per_worker: CPUs per actor.
        gpus_per_worker: GPUs per actor; None for one if the cluster has any. A fraction shares a GPU with the trainer.
        piece: Maximum images per piece; None for equal parts, as many for each actor, of at most the scorer's batch size.
        address: Address of a cluster; None for that of this process, that of `RAY_ADDRESS`, or a new one on this machine.
        start_timeout: Seconds that the cluster may take to find room for the actors on first use; loading is not counted.
        **options: Passed to `GenEvalScorer.from_pretrained`.

    Raises:
        DependencyError: Without the extra `geneval_reward[ray]`; raised here and not at the first batch.
        UsageError: If an argument is invalid.

    Examples:
        >>> from geneval_reward.ray import RayScorer
        >>> from geneval_reward.reward import GenEvalReward
        >>> reward = GenEvalReward(RayScorer("lite", workers=2), credit="dense")  # starts nothing yet
        >>> reward.__name__
        'geneval_dense'
    """

    def __init__(
        self,
        scorer: str | Callable[[], Scorer] = "lite",
        *,
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
        self._recipe = Recipe(scorer, options)
        self._workers = Workers(workers, cpus_per_worker, gpus_per_worker, start_timeout)
        self._piece = piece
        self._address = address
        self._lock = threading.Lock()
        self._running: tuple[ActorPool, Description] | None = None

    @property
    def name(self) -> str:
        """Name of the actors' scorer."""
        return self._started()[1].name

    @property
    def rules(self) -> Rules:
        """The actors' rules."""
        return self._started()[1].rules

    def fingerprint(self) -> dict[str, Any]:
        """What determines the answers besides the rules; equal to the fingerprint of the same local scorer."""
        return dict(self._started()[1].fingerprint)

    def to(self, device: torch.device | str) -> RayScorer:
        """Return self; the weights are in the actors."""
        return self

    def score(self, images: Any, specs: Sequence[Prompt]) -> list[Verdict]:
        """Judge images.

        Args:
            images: Anything that `geneval_reward.vision.images.as_images` accepts.
            specs: One spec, record, JSON record or prompt text of the official suite per image.

        Returns:
            One verdict per image, in order.

        Raises:
            ImageError: If an image is invalid; the message names its index.
            SpecError: If a spec is invalid or unknown; the message names its index.
            ScoringError: If some of the images could not be scored; it carries the verdicts of the others.
            ServiceError: If no actor can be started, or no image could be scored.
        """
        tensors = as_images(images)
        parsed = resolve_all(specs)
        if len(tensors) != len(parsed):
            raise UsageError(f"specs: expected {len(tensors)}, one per image, got {len(parsed)}")
        verdicts: list[Verdict | None] = [None] * len(tensors)
        errors: list[Exception | None] = [None] * len(tensors)
        with self._lock:
            pool, described = self._start()
            size = self._piece or piece_size(len(tensors), len(pool), described.batch_size)
            starts = range(0, len(tensors), size)
            pixels = [image.cpu().numpy() for image in tensors]
            pieces = [(pixels[start : start + size], parsed[start : start + size]) for start in starts]
            for number, answers in pool.map("score", pieces):
                for offset in range(len(pieces[number][0])):
                    index = starts[number] + offset
                    answer = answers if isinstance(answers, ServiceError) else answers[offset]
                    if isinstance(answer, Verdict):
                        verdicts[index] = answer
                    else:
                        errors[index] = answer if isinstance(answer, Exception) else ServiceError(f"ray: {answer}")
        if tensors and all(errors):
            raise ServiceError(str(errors[0]))
        if any(errors):
            raise ScoringError(verdicts, errors)
        return [verdict for verdict in verdicts if verdict is not None]

    def process_ids(self) -> list[int]:
        """Return the process ids of the actors."""
        return self._started()[0].process_ids()

    def close(self) -> None:
        """Stop the actors, and the cluster if it was started for them; the next use starts them again."""
        with self._lock:
            if self._running is not None:
                self._running[0].close()
            self._running = None

    def __deepcopy__(self, memo: dict[int, Any]) -> RayScorer:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_running")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
        self._running = None

    def __repr__(self) -> str:
        return f"RayScorer({self._recipe.scorer!r}, workers={self._workers.count})"

    def _started(self) -> tuple[ActorPool, Description]:
        with self._lock:
            return self._start()

    def _start(self) -> tuple[ActorPool, Description]:
        if self._running is None:
            pool = ActorPool(self._recipe, self._workers, self._address)
            try:
                self._running = pool, pool.describe()
            except BaseException:
                pool.close()
                raise
        return self._running


def piece_size(images: int, workers: int, limit: int) -> int:
    """Return the size of equal pieces of a batch, so that all actors are done at about the same time.

    Args:
        images: Number of images in the batch.
        workers: Number of actors.
        limit: Largest size of a piece.

    Examples:
        >>> piece_size(40, workers=2, limit=16)  # 16 + 16 + 8 would leave one actor idle while the other scores 8
        10
    """
    pieces = workers * math.ceil(images / (workers * limit))
    return math.ceil(images / pieces) if pieces else 1
