"""The `Reward` protocol that recipes take, and the batch that a reward answers with."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from geneval_reward.judge.credits import CREDITS
from geneval_reward.judge.verdict import Verdict


class Reward(Protocol):
    """What a training recipe asks for rewards: `GenEvalReward`, `CompositeReward`, or a class of your own.

    A class of your own needs `submit` and `close` and no base class. `submit` must not block: a recipe hands in one
    batch after the other while it generates, and collects the futures at the end.

    Examples:
        >>> from concurrent.futures import Future
        >>> from geneval_reward.reward import RewardBatch
        >>> class Constant:
        ...     def submit(self, images, specs):
        ...         future = Future()
        ...         future.set_result(RewardBatch([1.0] * len(specs), [None] * len(specs), [None] * len(specs)))
        ...         return future
        ...     def close(self):
        ...         pass
        >>> Constant().submit([], ["a photo of a bench"]).result().rewards
        [1.0]
    """

    def submit(self, images: Any, specs: Sequence[Any], /) -> Future[RewardBatch]:
        """Score images in the background.

        Args:
            images: One image per spec: uint8, or floats in [0, 1], in any form that
                `geneval_reward.vision.images.as_images` takes.
            specs: A `PromptSpec`, record or known prompt text per image.

        Returns:
            A future of the batch; its `result()` raises what scoring raised.
        """
        ...

    def close(self) -> None:
        """End the worker threads after what they have begun."""
        ...


@dataclass(frozen=True, repr=False)
class RewardBatch:
    """Rewards of a batch with their verdicts and errors: three lists with one entry per image.

    Attributes:
        rewards: The reward; None where an image or its prompt could not be scored.
        verdicts: The verdict, or None.
        errors: Why an image could not be scored, or None.
    """

    rewards: list[float | None]
    verdicts: list[Verdict | None]
    errors: list[str | None]

    def __repr__(self) -> str:
        known = [reward for reward in self.rewards if reward is not None]
        mean = f", mean reward {sum(known) / len(known):.3f}" if known else ""
        failed = next((error for error in self.errors if error is not None), None)
        without = len(self.rewards) - len(known)
        count = f"{len(self.rewards)} image{'' if len(self.rewards) == 1 else 's'}"
        return f"RewardBatch({count}{mean}" + (f", {without} without a reward; {failed})" if without else ")")

    def credits(self) -> dict[str, list[float | None]]:
        """Every credit of every image by name, for logging or for normalising each on its own."""
        return {
            name: [None if verdict is None else verdict.credit(name) for verdict in self.verdicts] for name in CREDITS
        }

    def mean_credits(self) -> dict[str, float]:
        """The mean of each column of `credits` over the images that have a value; columns without any are left out."""
        means = {}
        for name, column in self.credits().items():
            known = [value for value in column if value is not None]
            if known:
                means[name] = sum(known) / len(known)
        return means
