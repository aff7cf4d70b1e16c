"""The reward for TRL's `reward_funcs`.

Facts, TRL 1.16.0, `trl/trainer/grpo_trainer.py` (`_calculate_rewards`) and `trl/trainer/utils.py`:

* `RewardFunc = str | PreTrainedModel | Callable[..., list[float | None]]`; a callable is called as
  `f(prompts=, completions=, completion_ids=, **columns, trainer_state=, log_extra=, log_metric=)` (with `environments=` where
  there are some), and each column is a list with one value per completion;
* `None` becomes NaN; anything but one reward per completion raises an error;
* `log_extra(column, values)` adds a column to the table of completions, `log_metric(name, value)` a curve;
* a callable whose `__call__` is `async` is awaited, all of them together, in a loop in a thread of the trainer's own.
  Before `is_async_callable` (commit f2cd577 for one) `inspect.iscoroutinefunction(f)` decided;
* curves are named `rewards/{f.__name__}/mean`; an `nn.Module` would be taken for a classifier.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from geneval_reward.errors import SpecError, UsageError
from geneval_reward.reward.batch import RewardBatch
from geneval_reward.reward.reward import GenEvalReward
from geneval_reward.reward.trainers.shape import FunctionLike, NamedReward, records


class TRLReward(FunctionLike):
    """A reward as an element of `GRPOTrainer(reward_funcs=[...])`.

    `GenEvalReward` itself can be one too. This view also adds a column of reasons to the table of completions, finds
    images within chat turns, renders them where the policy writes text, and can leave the rows of other tasks alone.

    Args:
        reward: The reward.
        render: Makes the images of a batch from its completions as TRL passes them, for a policy that writes SVG, a
            layout, or a better prompt for a generator. Without it, each completion is an image or chat turns that hold one.
        mixed: Whether the data set has rows of other tasks. The rewards of a batch in which no row asks for an image are
            then all None; otherwise such a batch is an error.

    Examples:
        >>> import numpy as np
        >>> from geneval_reward.reward import GenEvalReward
        >>> from geneval_reward.testing import FakeDetector, scorer_for
        >>> reward = TRLReward(GenEvalReward(scorer_for(FakeDetector({"bench": [[1, 1, 9, 9, 0.8]]}))))
        >>> image = np.zeros((16, 16, 3), np.uint8)
        >>> reward(prompts=["a photo of a bench", "a photo of a cow"], completions=[image] * 2, completion_ids=[[1], [2]])
        [1.0, 0.0]
        >>> reward.__name__
        'geneval'
    """

    def __init__(self, reward: NamedReward, *, render: Callable[[Any], Any] | None = None, mixed: bool = False) -> None:
        super().__init__(reward.__name__)
        self.reward, self.render, self.mixed = reward, render, mixed
        # One name for all credits, whichever is trained; another reward's columns stand under its own.
        self._prefix = "geneval" if isinstance(reward, GenEvalReward) else reward.__name__

    def __call__(
        self, prompts: Sequence[Any], completions: Any, completion_ids: Any = None, **columns: Any
    ) -> list[float | None]:
        """Return the rewards of a batch.

        Args:
            prompts: Texts or chats.
            completions: What the policy made.
            completion_ids: Not read.
            **columns: The data set's columns and TRL's functions. `metadata` holds records as mappings or JSON; without it,
                `tag`, `include` and `exclude` together make the records. `log_extra` gets a column of reasons, and
                `log_metric` the mean of every credit. The rest is not read.

        Returns:
            One reward per completion; None where there is none.

        Raises:
            UsageError: If the numbers of prompts, completions and records differ.
            ImageError, SpecError: If not one completion can be scored.
        """
        asked = _records(columns, len(prompts))
        try:
            scored = self.reward.score(self._images(completions), prompts, asked)
        except SpecError:
            if not self.mixed:
                raise
            return [None] * len(prompts)
        return self._log_and_return(scored, columns)

    def _log_and_return(self, scored: RewardBatch, columns: Mapping[str, Any]) -> list[float | None]:
        """Log the means of the credits and a column of reasons; returns the rewards."""
        log_metric, log_extra = columns.get("log_metric"), columns.get("log_extra")
        if log_metric is not None:
            for name, mean in scored.mean_credits().items():
                log_metric(f"{self._prefix}/{name}", mean)
        if log_extra is not None and any(scored.verdicts):
            reasons = [
                error or "" if verdict is None else verdict.reason
                for verdict, error in zip(scored.verdicts, scored.errors, strict=True)
            ]
            log_extra("geneval_reason", reasons)
        return scored.rewards

    def _images(self, completions: Any) -> Any:
        if self.render is not None:
            return self.render(completions)
        return completions if hasattr(completions, "ndim") else [_image_of(completion) for completion in completions]


class AsyncTRLReward(TRLReward):
    """`TRLReward` as a coroutine function: TRL runs all of its asynchronous rewards at once.

    The reward's own thread scores (`GenEvalReward.submit`) and another one renders, so that the event loop stays free.

    Examples:
        >>> import inspect
        >>> from geneval_reward.reward import GenEvalReward
        >>> inspect.iscoroutinefunction(AsyncTRLReward(GenEvalReward("lite")))
        True
    """

    async def __call__(  # type: ignore[override]
        self, prompts: Sequence[Any], completions: Any, completion_ids: Any = None, **columns: Any
    ) -> list[float | None]:
        """Return the rewards of a batch; arguments are those of `TRLReward`."""
        asked = _records(columns, len(prompts))
        images = await asyncio.to_thread(self._images, completions)
        try:
            future: Future[Any] = self.reward.submit(images, prompts, asked)
            scored = await asyncio.wrap_future(future)
        except SpecError:
            if not self.mixed:
                raise
            return [None] * len(prompts)
        return self._log_and_return(scored, columns)


def _records(columns: Mapping[str, Any], count: int) -> list[Any] | None:
    """Records of the batch, None for a row of another task: Arrow fills its columns with None."""
    metadata: Sequence[Any] | None = columns.get("metadata")
    if metadata is None:
        names = [name for name in ("tag", "include", "exclude") if columns.get(name) is not None]
        if "include" not in names:
            return None
        rows = zip(*(columns[name] for name in names), strict=True)
        metadata = [dict(zip(names, row, strict=True)) for row in rows]
    if len(metadata) != count:
        raise UsageError(f"metadata: expected {count}, one per prompt, got {len(metadata)}")
    return records(metadata)


def _image_of(completion: Any) -> Any:
    """The last image within chat turns; anything else as it is."""
    if isinstance(completion, list) and completion and isinstance(completion[-1], Mapping):
        content = completion[-1].get("content")
        parts = content if isinstance(content, list) else [{"type": "image", "image": content}]
        images = [part["image"] for part in parts if isinstance(part, Mapping) and part.get("image") is not None]
        return images[-1] if images else None
    return completion
