"""The reward for Flow-GRPO, DiffusionNFT and the DDPO lineage.

Facts, yifan123/flow_grpo 54809b5, `flow_grpo/rewards.py` (DiffusionNFT's is the same but for `ref_images`):

* a trainer makes one `reward_fn = multi_score(device, {name: weight})` and calls it in a `ThreadPoolExecutor`,
  `reward_fn(images, prompts, metadata, only_strict=True)` in training and `only_strict=False` in evaluation,
  several calls at a time (the image editing trainers pass `ref_images` fourth);
* it answers `({name: one number per sample, ..., "avg": the weighted sum}, {})`, each column of which the trainer makes
  a tensor of and gathers: every column has one finite number per sample;
* images are a float tensor `(n, 3, h, w)` in [0, 1] or a uint8 array `(n, h, w, 3)`; metadata a list of records;
* `multi_score` calls each part's factory with the device if `"device" in factory.__code__.co_varnames` and the
  result as `f(images, prompts, metadata) -> (scores, meta)`, but for the name `geneval`, which is called as
  `f(images, prompts, metadata, only_strict)` and gives the five values of `GenEvalScores`;
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
"""What Flow-GRPO's evaluation leaves out of its means; here only where its protocol has it."""

FiveTuple = tuple[list[float], list[float], list[float], dict[str, list[float]], dict[str, list[float]]]


class MultiScore(FunctionLike):
    """A whole `reward_fn`: what `multi_score(device, {...})` of those trainers returns.

    Args:
        reward: The reward; a `CompositeReward` for several.
        unscorable: What a sample without a reward counts, since the trainers know no None; by default it is an error.

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
        """Scores of a batch.

        Args:
            images: Float `(n, 3, h, w)` in [0, 1], uint8 `(n, h, w, 3)`, or what `GenEvalReward` takes.
            prompts: Texts.
            metadata: Records; a row without `include` falls back on its prompt.
            ref_images: Not read.
            only_strict: Not read: the other credits cost nothing here.

        Returns:
            Columns of one number per sample, and an empty mapping. `avg` and the reward's own name are the reward;
            `accuracy` is the official credit and `strict_accuracy` the strict one, where the reward tells them.

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
        unscorable: As in `MultiScore`.
    """

    def __init__(self, reward: NamedReward, *, unscorable: float | None = None) -> None:
        super().__init__(reward.__name__)
        self.reward, self.unscorable = reward, unscorable

    def __call__(
        self, images: Any, prompts: Sequence[str], metadata: Sequence[Any] | None = None
    ) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
        """Scores of a batch, float64 `(n,)`, and an empty mapping; arguments as in `MultiScore.__call__`."""
        scored = self.reward.score(images, prompts, records(metadata))
        return np.array(as_numbers(scored, self.unscorable, "score")), {}


class GenEvalScores(FunctionLike):
    """The part named `geneval` of their `multi_score`: five values.

    Args:
        reward: The reward. Its credit is what is trained; `credit="flow_grpo"` is the public reward's.
        unscorable: What a sample without a reward counts in the scores; it is -10 in the other columns, so that evaluation
            leaves it out. By default it is an error.

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
        """Scores of a batch.

        Args:
            images: As in `MultiScore.__call__`.
            prompts: Texts.
            metadatas: Records.
            only_strict: Not read. The public reward gives 0 for `rewards` where it is true; these are the real ones.

        Returns:
            `(scores, rewards, strict_rewards, group_rewards, group_strict_rewards)`: the reward's credit, the official and the
            strict one, one per sample; and the last two by tag, -10 for a sample of another tag.
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
    """Drop-in for `flow_grpo.rewards.geneval_score`: same name, same arguments, same five values, no server.

    Args:
        device: Where to score.
        backend: As for `GenEvalReward`.
        credit: What is trained. The default is the public reward's rule; it still differs in what it sees (true colours
            in place of swapped channels, no JPEG), see docs/rewards.md.

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
