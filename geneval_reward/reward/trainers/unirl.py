"""The reward for Tencent UniRL's reward service.

Facts, Tencent-Hunyuan/UniRL cb03dcd, `unirl-reward-service/reward_service/scorers/base.py`:

* a scorer is made as `cls(**params)` from the service's YAML and called as ``score(items) -> list[dict[str,
  float]]`, one mapping an item in order; `sub_metric_names`` are its keys; an empty list gives an empty list;
* an item has `history`, a list of `(text, PIL image)` turns of which the last one counts, and `metadata`, a
  mapping or None;
* what an item has is made one number by the trainer's `sub_metric_reduce`, `first`, `mean` or `max`;
* an item that cannot be scored has NaN in its keys (the trainer drops it); a scorer that cannot work, or whose metadata
  is not wired, raises;
* the service reads `name, version, input_kind, supports_offload, supports_grad` and calls
  `health, onload, offload, drain, close`. It never asks for the base class, so that none is needed here.

Its own `geneval` scorer (1a7b501) calls the official rule "strict"; here `strict` counts exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from geneval_reward.errors import ImageError, UsageError
from geneval_reward.judge.verdict import CREDITS
from geneval_reward.reward.reward import GenEvalReward
from geneval_reward.reward.trainers.shape import records
from geneval_reward.vision.backends import resolve_device


class ScoreItem(Protocol):
    """What the service hands to a scorer."""

    history: Sequence[tuple[str, Any]]
    metadata: dict[str, Any] | None


class UniRLScorer:
    """A scorer of the reward service.

    Args:
        backend: As for `GenEvalReward`, or a ready reward.
        credit: What `geneval` is.
        all_credits: Whether to answer every credit (or part) beside it. The trainer makes one number of all that an item
            has by its `sub_metric_reduce`; only with `first` is that still the reward.
        **options: As for `GenEvalReward`: `device`, `precision`, `rules`.

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
        if not isinstance(backend, str) and options:
            raise UsageError(
                f"{next(iter(options))}: expected no options beside a ready reward; give them to the reward"
            )
        self.reward: Any = backend
        if isinstance(backend, str):
            self.reward = GenEvalReward(backend, credit, **options)
        own: bool = isinstance(self.reward, GenEvalReward)
        # Where a ready reward has its weights is not known here, so they could not be moved back.
        self.supports_offload = isinstance(backend, str)
        self._device = options.get("device", "auto")
        more: tuple[str, ...] = ()
        if all_credits:
            more = CREDITS if own else self.reward.columns
        self.sub_metric_names: tuple[str, ...] = tuple(dict.fromkeys(("geneval", *more)))
        self._offloaded = False

    def score(self, items: Sequence[ScoreItem]) -> list[dict[str, float]]:
        """Scores of a batch.

        Args:
            items: With `history` and `metadata`; the image and the text of the last turn count, and the record in
                `metadata`, where it has `include`, goes before the text.

        Returns:
            `geneval` for each item, and every credit if told so; NaN where it could not be scored.

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

    def offload(self) -> None:
        """Move the weights to the CPU, until `onload`."""
        if self.supports_offload and not self._offloaded:
            self._offloaded = True
            self.reward.scorer.to("cpu")

    def onload(self) -> None:
        """Move the weights back to the device that the scorer was made for."""
        if self._offloaded:
            self._offloaded = False
            self.reward.scorer.to(resolve_device(self._device))

    def drain(self) -> None:
        """Nothing to do: no work outlives `score`."""

    def close(self) -> None:
        """End the worker of the reward."""
        self.reward.close()


def register() -> None:
    """Make the service know the scorer as `geneval_reward`.

    An actor of the service imports the module that `SCORER_MODULES` names. Put these lines into a module of yours and name it
    there::

        from geneval_reward.reward.trainers.unirl import register

        register()

    Raises:
        ImportError: If the reward service is not installed here.
    """
    from reward_service.scorers.registry import register as register_scorer  # type: ignore[import-not-found]

    register_scorer(UniRLScorer.name, UniRLScorer)
