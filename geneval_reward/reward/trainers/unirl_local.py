"""The reward for the trainer of Tencent UniRL, in the trainer's own process.

Facts, Tencent-Hunyuan/UniRL, `unirl/reward/service.py` (0e713d6), `base.py` (104aad6), `unirl/types/reward.py` (17863c4):

* `RewardService(backend=...)` asks its backend for `preferred_input_kind`, `get_model_name()`, `compute_rewards(request)`,
  `is_available()`, `onload()`, `offload()` and `dispose()`, and does not look at its class;
* a request has `images` (PIL images), `metadata` (one mapping or None per image, or None) and its prompts: newer versions
  as `original_prompt.texts`, older ones as the list `prompts`;
* the answer is a `RewardResponse` with `rewards`, `component_rewards`, `successes`, `errors` and `compute_time`. The service
  raises if a single sample is marked as failed, so no failure becomes a number.

The names were read in those commits; UniRL is in no package registry, so tests use a stand-in with the same names.
"""

from __future__ import annotations

import math
import time
from typing import Any

from geneval_reward.errors import UsageError
from geneval_reward.reward.reward import GenEvalReward
from geneval_reward.reward.trainers.shape import records
from geneval_reward.vision.backends import resolve_device


class UniRLLocalReward:
    """A local reward backend for UniRL's `RewardService`.

    Args:
        backend: The name of a backend of `GenEvalReward`, or a ready reward.
        credit: Which credit is the reward.
        **options: Passed to `GenEvalReward`: `device`, `precision`, `rules`.

    Raises:
        UsageError: If options are given beside a ready reward.

    Examples:
        >>> from geneval_reward.testing import FakeDetector, scorer_for
        >>> backend = UniRLLocalReward(GenEvalReward(scorer_for(FakeDetector({}))))
        >>> backend.get_model_name(), backend.preferred_input_kind
        ('geneval', 'image')
    """

    preferred_input_kind = "image"

    def __init__(self, backend: Any = "paper", credit: str = "official", **options: Any) -> None:
        if not isinstance(backend, str) and options:
            raise UsageError(
                f"{next(iter(options))}: expected no options beside a ready reward; give them to the reward"
            )
        self.reward: GenEvalReward = GenEvalReward(backend, credit, **options) if isinstance(backend, str) else backend
        self._device = options.get("device", "auto") if isinstance(backend, str) else None

    def get_model_name(self) -> str:
        """Name of the reward in UniRL's logs."""
        return self.reward.__name__

    def compute_rewards(self, request: Any) -> Any:
        """Score a request of UniRL.

        Args:
            request: A `RewardRequest` with `n` images. A record in `metadata` goes before the prompt.

        Returns:
            A `RewardResponse`. A sample that could not be scored has the reward NaN and is marked as failed, with the reason.

        Raises:
            UsageError: If the request has no images.
            ImageError, SpecError: If no sample at all can be scored.
            ImportError: Outside of UniRL.
        """
        from unirl.types.reward import RewardResponse  # type: ignore[import-not-found]

        if request.images is None:
            raise UsageError("request: expected generated images, got none; give this backend a model that paints")
        original = getattr(request, "original_prompt", None)
        prompts = list(request.prompts if original is None else original.texts)
        begin = time.perf_counter()
        batch = self.reward.score(list(request.images), prompts, records(request.metadata or [None] * len(prompts)))
        columns = {name: _numbers(values) for name, values in batch.credits().items()}
        return RewardResponse(
            rewards=_numbers(batch.rewards),
            component_rewards=columns,
            successes=[value is not None for value in batch.rewards],
            errors=list(batch.errors),
            compute_time=time.perf_counter() - begin,
        )

    def is_available(self) -> bool:
        """Whether `compute_rewards` can be called; weights are loaded at the first call."""
        return True

    def offload(self) -> None:
        """Move the weights to the CPU. Those of a ready reward stay where its maker put them."""
        if self._device is not None and self.reward.loaded:
            self.reward.scorer.to("cpu")

    def onload(self) -> None:
        """Move the weights back to the device that they were made for."""
        if self._device is not None and self.reward.loaded:
            self.reward.scorer.to(resolve_device(self._device))

    def dispose(self) -> None:
        """End the worker thread of the reward."""
        self.reward.close()


def _numbers(values: list[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]
