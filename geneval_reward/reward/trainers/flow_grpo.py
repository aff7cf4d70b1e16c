"""The reward for Flow-GRPO, DiffusionNFT and the DDPO lineage.

Facts, yifan123/flow_grpo 54809b5, `flow_grpo/rewards.py` (DiffusionNFT's is the same but for `ref_images`):

* a trainer makes one `reward_fn = multi_score(device, {name: weight})` and calls it in a `ThreadPoolExecutor`,
  `reward_fn(images, prompts, metadata, only_strict=True)` in training and `only_strict=False` in evaluation,
  several calls at a time (the image editing trainers pass `ref_images` fourth);
* it returns `({name: one number per sample, ..., "avg": the weighted sum}, {})`. The trainer makes a tensor of each column and
  gathers it, so every column must have one finite number per sample;
* images are a float tensor `(n, 3, h, w)` in [0, 1] or a uint8 array `(n, h, w, 3)`; metadata a list of records;
* `multi_score` calls the factory of each part, with the device if `"device" in factory.__code__.co_varnames`, and then the result
  as `f(images, prompts, metadata) -> (scores, meta)`. Only the part named `geneval` is called as
  `f(images, prompts, metadata, only_strict)` and returns the five values of `GenEvalScores`;
* evaluation leaves values of -10 out of its means.

To keep their `multi_score`, replace the factory before it is called::

    import flow_grpo.rewards
    from geneval_reward.reward.trainers.flow_grpo import geneval_score

    flow_grpo.rewards.geneval_score = geneval_score

To replace all of it, make `reward_fn` a `MultiScore`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from geneval_reward.errors import UsageError
from geneval_reward.prompts import TAGS
from geneval_reward.reward.reward import GenEvalReward
from geneval_reward.reward.trainers.shape import FunctionLike, NamedReward, as_numbers, records

ABSENT: Final = -10.0
"""The value that Flow-GRPO's evaluation leaves out of its means; used only where its protocol has it."""

FiveTuple = tuple[list[float], list[float], list[float], dict[str, list[float]], dict[str, list[float]]]


class MultiScore(FunctionLike):
    """A complete `reward_fn`, as `multi_score(device, {...})` of those trainers returns it.

    Args:
        reward: The reward; a `CompositeReward` for several.
        unscorable: Reward of a sample that cannot be scored, since the trainers do not know None; by default this is an error.

    Examples:
        >>> import torch
        >>> from geneval_reward.reward import GenEvalReward
        >>> from geneval_reward.testing import FakeDetector, scorer_for
        >>> reward_fn = MultiScore(GenEvalReward(scorer_for(FakeDetector({"bench": [[1, 1, 9, 9, 0.8]]}))))
        >>> details, meta = reward_fn(torch.zeros(2, 3, 16, 16), ["a photo of a bench", "a photo of a cow"], [{}, {}])
        >>> details["avg"], details["strict_accuracy"], meta
        ([1.0, 0.0], [1.0, 0.0], {})
    """

    def __init__(self, reward: NamedReward, *, unscorable: float | None = None) -> None:
        super().__init__(reward.__name__)
        self.reward, self.unscorable = reward, unscorable

    def __call__(
        self,
        images: Any,
        prompts: Sequence[str],
        metadata: Sequence[Any] | None = None,
        ref_images: Any = None,
        only_strict: bool = True,
    ) -> tuple[dict[str, list[float]], dict[str, Any]]:
        """Score a batch.

        Args:
            images: Float `(n, 3, h, w)` in [0, 1], uint8 `(n, h, w, 3)`, or what `GenEvalReward` takes.
            prompts: Texts.
            metadata: Records; for a row without `include`, the prompt is used.
            ref_images: Not read.
            only_strict: Not read, since the other credits cost nothing here.

        Returns:
            Columns of one number per sample, and an empty mapping. `avg` and the reward's own name are the reward;
            `accuracy` is the official credit and `strict_accuracy` the strict one, if the reward has them.

        Raises:
            GenEvalError: If a sample has no reward and `unscorable` is not given.
        """
        scored = self.reward.score(images, prompts, records(metadata))
        rewards = as_numbers(scored, self.unscorable, "multi_score")
        fill = 0.0 if self.unscorable is None else self.unscorable
        details = {name: [fill if v is None else v for v in values] for name, values in scored.credits().items()}
        for theirs, ours in (("accuracy", "official"), ("strict_accuracy", "strict")):
            if ours in details:
                details[theirs] = details.pop(ours)
        return details | {self.reward.__name__: rewards, "avg": list(rewards)}, {}


class PlainScore(FunctionLike):
    """One part of their `multi_score`, and DDPO-pytorch's reward: `f(images, prompts, metadata) -> (scores, meta)`.

    Args:
        reward: The reward.
        unscorable: Reward of a sample that cannot be scored; by default this is an error.
    """

    def __init__(self, reward: NamedReward, *, unscorable: float | None = None) -> None:
        super().__init__(reward.__name__)
        self.reward, self.unscorable = reward, unscorable

    def __call__(
        self, images: Any, prompts: Sequence[str], metadata: Sequence[Any] | None = None
    ) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
        """Score a batch; returns float64 `(n,)` and an empty mapping. Arguments are those of `MultiScore`."""
        scored = self.reward.score(images, prompts, records(metadata))
        return np.array(as_numbers(scored, self.unscorable, "score")), {}


class GenEvalScores(FunctionLike):
    """The part of their `multi_score` that is named `geneval` and returns five values.

    Args:
        reward: The reward. Its credit is what is trained; `credit="flow_grpo"` is the public reward's.
        unscorable: Score of a sample that cannot be scored; it has -10 in the other columns, so that evaluation leaves it out.
            By default this is an error.

    Examples:
        >>> import torch
        >>> from geneval_reward.testing import FakeDetector, scorer_for
        >>> geneval = GenEvalScores(GenEvalReward(scorer_for(FakeDetector({"bench": [[1, 1, 9, 9, 0.8]]}))))
        >>> scores, rewards, strict, by_tag, _ = geneval(torch.zeros(1, 3, 16, 16), ["a photo of a bench"], [{}], True)
        >>> scores, by_tag["single_object"], by_tag["counting"]
        ([1.0], [1.0], [-10.0])
    """

    def __init__(self, reward: GenEvalReward, *, unscorable: float | None = None) -> None:
        super().__init__(reward.__name__)
        if not isinstance(reward, GenEvalReward):
            raise UsageError(
                f"reward: expected a GenEvalReward, whose verdicts say the tags, got {type(reward).__name__}; use MultiScore"
            )
        self.reward, self.unscorable = reward, unscorable

    def __call__(
        self, images: Any, prompts: Sequence[str], metadatas: Sequence[Any] | None = None, only_strict: bool = False
    ) -> FiveTuple:
        """Score a batch.

        Args:
            images: What `MultiScore` takes.
            prompts: Texts.
            metadatas: Records.
            only_strict: Not read. The public reward returns 0 as `rewards` if it is true; here they are always computed.

        Returns:
            `(scores, rewards, strict_rewards, group_rewards, group_strict_rewards)`: the reward's credit, the official and the
            strict one, one number per sample; and the last two by task, with -10 for a sample of another task.
        """
        scored = self.reward.score(images, prompts, records(metadatas))
        scores = as_numbers(scored, self.unscorable, "geneval")
        credits = scored.credits()
        rewards, strict = ([ABSENT if v is None else v for v in credits[name]] for name in ("official", "strict"))
        tags = [None if verdict is None else verdict.spec.tag for verdict in scored.verdicts]

        def by_tag(values: list[float]) -> dict[str, list[float]]:
            return {tag: [v if own == tag else ABSENT for v, own in zip(values, tags, strict=True)] for tag in TAGS}

        return scores, rewards, strict, by_tag(rewards), by_tag(strict)


def geneval_score(device: Any, backend: str = "paper", credit: str = "flow_grpo") -> GenEvalScores:
    """Replace `flow_grpo.rewards.geneval_score`: the same arguments and the same five values, without a server.

    Args:
        device: Where to score.
        backend: Name of the backend.
        credit: Name of the credit that is trained. The default is the public reward's rule. The detector still sees other
            pixels than there: channels are not swapped, and images are not JPEG-compressed (docs/rewards.md).

    Returns:
        The function; weights are loaded at its first call.
    """
    return GenEvalScores(GenEvalReward(backend, credit, device=device))


def geneval_score_factory(backend: str = "paper", credit: str = "flow_grpo") -> Callable[[Any], GenEvalScores]:
    """Choose the backend and credit of `geneval_score`.

    Their `multi_score` reads the `__code__` of what it is given, which a `functools.partial` does not have.

    Examples:
        >>> factory = geneval_score_factory(backend="lite", credit="partial")  # flow_grpo.rewards.geneval_score = factory
        >>> "device" in factory.__code__.co_varnames, factory("cpu").reward.credit
        (True, 'partial')
    """

    def geneval_score_of_backend(device: Any) -> GenEvalScores:
        return geneval_score(device, backend, credit)

    return geneval_score_of_backend
