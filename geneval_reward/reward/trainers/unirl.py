"""The reward for Tencent UniRL: in its reward service, and in the trainer's own process.

Facts about the service, Tencent-Hunyuan/UniRL cb03dcd, `unirl-reward-service/reward_service/scorers/base.py`:

* a scorer is made as `cls(**params)` from the service's YAML and called as `score(items) -> list[dict[str, float]]`, with one
  mapping per item in order; `sub_metric_names` are its keys; an empty list gives an empty list;
* an item has `history`, a list of `(text, PIL image)` turns of which the last one counts, and `metadata`, a mapping or None;
* the trainer's `sub_metric_reduce` (`first`, `mean` or `max`) makes one number of an item's mapping;
* an item that cannot be scored has NaN under its keys, and the trainer drops it; a scorer that cannot work raises an error;
* the service reads `name, version, input_kind, supports_offload, supports_grad` and calls
  `health, onload, offload, drain, close`. It never asks for the base class, so none is needed here.

Its own `geneval` scorer (1a7b501) calls the official rule "strict"; here `strict` counts exactly.

Facts about the trainer, `unirl/reward/service.py` (0e713d6), `base.py` (104aad6), `unirl/types/reward.py` (17863c4):

* `RewardService(backend=...)` asks its backend for `preferred_input_kind`, `get_model_name()`, `compute_rewards(request)`,
  `is_available()`, `onload()`, `offload()` and `dispose()`, and does not look at its class;
* a request has `images` (PIL images), `metadata` (one mapping or None per image, or None) and its prompts: newer versions
  as `original_prompt.texts`, older ones as the list `prompts`;
* the answer is a `RewardResponse` with `rewards`, `component_rewards`, `successes`, `errors` and `compute_time`. The service
  raises an error if a single sample is marked as failed, so no failure becomes a number.

The names were read in those commits; UniRL is in no package registry, so tests use a stand-in with the same names.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, Protocol

from geneval_reward.errors import ImageError, UsageError
from geneval_reward.judge.credits import CREDITS
from geneval_reward.reward.reward import GenEvalReward
from geneval_reward.reward.trainers.shape import records
from geneval_reward.vision.backends import resolve_device


class ScoreItem(Protocol):
    """What the reward service hands to a scorer."""

    history: Sequence[tuple[str, Any]]
    metadata: dict[str, Any] | None


class _Offloading:
    """A reward whose weights can be moved to the CPU and back, if it was made here from the name of a backend."""

    def __init__(self, backend: Any, credit: str, options: dict[str, Any]) -> None:
        if not isinstance(backend, str) and options:
            raise UsageError(
                f"{next(iter(options))}: expected no options beside a ready reward; give them to the reward"
            )
        # Where a ready reward has its weights is not known here, so they could not be moved back.
        self.supports_offload = isinstance(backend, str)
        self.reward: Any = GenEvalReward(backend, credit, **options) if self.supports_offload else backend
        self._device = options.get("device", "auto")

    def offload(self) -> None:
        """Move the weights to the CPU. Those of a ready reward stay where its maker put them."""
        if self.supports_offload and self.reward.loaded:
            self.reward.scorer.to("cpu")

    def onload(self) -> None:
        """Move the weights back to the device that they were made for."""
        if self.supports_offload and self.reward.loaded:
            self.reward.scorer.to(resolve_device(self._device))


class UniRLScorer(_Offloading):
    """A scorer of the reward service.

    Args:
        backend: Name of a backend, or a ready reward.
        credit: Name of the credit that `geneval` is.
        all_credits: Whether to give every credit (or part) too. The trainer's `sub_metric_reduce` makes one number of them
            all; only with `first` is that still the reward.
        **options: Options of the backend: `device`, `precision`, `rules`.

    Examples:
        >>> from types import SimpleNamespace
        >>> from PIL import Image
        >>> from geneval_reward.testing import FakeDetector, scorer_for
        >>> scorer = UniRLScorer(GenEvalReward(scorer_for(FakeDetector({"bench": [[1, 1, 9, 9, 0.8]]}))))
        >>> turn = ("a photo of a bench", Image.new("RGB", (16, 16)))
        >>> scorer.score([SimpleNamespace(history=[turn], metadata=None)])[0]["geneval"]
        1.0
    """

    name = "geneval_reward"
    version = "1"
    input_kind = "image"
    supports_grad = False

    def __init__(
        self, backend: Any = "paper", credit: str = "official", *, all_credits: bool = False, **options: Any
    ) -> None:
        super().__init__(backend, credit, options)
        more: tuple[str, ...] = ()
        if all_credits:
            more = CREDITS if isinstance(self.reward, GenEvalReward) else self.reward.columns
        self.sub_metric_names: tuple[str, ...] = tuple(dict.fromkeys(("geneval", *more)))

    def score(self, items: Sequence[ScoreItem]) -> list[dict[str, float]]:
        """Score a batch.

        Args:
            items: Items with `history` and `metadata`. The image and the text of the last turn count; a record in
                `metadata` takes precedence over the text.

        Returns:
            `geneval` for each item, and every credit with `all_credits`; NaN where an item could not be scored.

        Raises:
            SpecError: If no item says what was asked of it.
        """
        if not items:
            return []
        texts, images = zip(*(item.history[-1] for item in items), strict=True)
        try:
            scored = self.reward.score(list(images), list(texts), records([item.metadata for item in items]))
        except ImageError:  # each of them is broken, which is no fault of the scorer
            return [dict.fromkeys(self.sub_metric_names, math.nan) for _ in items]
        columns = scored.credits() | {"geneval": scored.rewards}
        return [
            {name: math.nan if (value := columns[name][index]) is None else value for name in self.sub_metric_names}
            for index in range(len(items))
        ]

    def health(self) -> dict[str, Any]:
        """What the service shows of a scorer."""
        names = ("name", "version", "input_kind", "supports_offload", "supports_grad")
        return {name: getattr(self, name) for name in names}

    def drain(self) -> None:
        """Nothing to do: no work outlives `score`."""

    def close(self) -> None:
        """End the worker of the reward."""
        self.reward.close()


def register() -> None:
    """Register the scorer with the reward service as `geneval_reward`.

    An actor of the service imports the module that `SCORER_MODULES` names. Put these lines into a module of your own and name
    it there::

        from geneval_reward.reward.trainers.unirl import register

        register()

    Raises:
        ImportError: If the reward service is not installed here.
    """
    from reward_service.scorers.registry import register as register_scorer  # type: ignore[import-not-found]

    register_scorer(UniRLScorer.name, UniRLScorer)


class UniRLLocalReward(_Offloading):
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
        super().__init__(backend, credit, options)

    def get_model_name(self) -> str:
        """Name of the reward in UniRL's logs."""
        return str(self.reward.__name__)

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
            raise UsageError(
                "request: expected generated images, got none; use this backend with a model that makes images"
            )
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

    def dispose(self) -> None:
        """End the worker thread of the reward."""
        self.reward.close()


def _numbers(values: list[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]
