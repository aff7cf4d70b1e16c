"""The reward for verl-omni, which makes many asynchronous calls of one sample each.

Facts, verl-project/verl-omni 1486d9c, `verl_omni/reward_loop/reward_manager/{visual,multi}.py`:

* `reward.custom_reward_function.{path,name}`, or `reward.reward_functions.<key>.{path,name,weight}` for several,
  name a module and a function in it; other keys of the latter become keywords of the call;
* it is called by keyword, `f(data_source=, solution_image=, ground_truth=, extra_info=, **more)`, with one sample at a
  time, and awaited if `inspect.iscoroutinefunction(f)`; `more` may have `reward_router_address`, `reward_model_tokenizer` and
  `model_name`;
* `solution_image` is a uint8 tensor `(3, h, w)` (float in [0, 1] before that commit); `ground_truth` comes from
  the data set's `reward_model` column, `extra_info` from the column of that name;
* it returns a number or `{"score": number, ...}`, the rest of which is logged;
* if there is one function, an error in it ends the step; an error in one of several is logged and counts as 0 unless the entry
  is `required`.

In the configuration::

    reward:
      custom_reward_function:
        path: pkg://geneval_reward.reward.trainers.verl_omni
        name: compute_score
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from typing import Any

from geneval_reward.errors import ImageError, SpecError
from geneval_reward.reward.reward import GenEvalReward
from geneval_reward.reward.trainers.batching import MicroBatcher
from geneval_reward.reward.trainers.shape import FunctionLike, NamedReward, record_of

Sample = tuple[Any, Any]
"""An image, and its prompt or record."""


class SampleReward(FunctionLike):
    """An asynchronous reward of one sample; samples that are awaited at the same time are scored together.

    Args:
        reward: The reward.
        max_batch: Samples per batch.
        max_wait: Seconds that the first sample of a batch waits for others.
        unscorable: Reward of a sample that cannot be scored; by default its call raises the error.

    Examples:
        >>> import asyncio, torch
        >>> from geneval_reward.testing import FakeDetector, scorer_for
        >>> compute_score = SampleReward(GenEvalReward(scorer_for(FakeDetector({"bench": [[1, 1, 9, 9, 0.8]]}))))
        >>> image = torch.zeros(3, 16, 16, dtype=torch.uint8)
        >>> call = compute_score(data_source="geneval", solution_image=image, ground_truth="a photo of a bench", extra_info={})
        >>> asyncio.run(call)["score"]
        1.0
    """

    def __init__(
        self, reward: NamedReward, *, max_batch: int = 32, max_wait: float = 0.02, unscorable: float | None = None
    ) -> None:
        super().__init__("compute_score")
        self.reward, self.unscorable = reward, unscorable
        self.batcher: MicroBatcher[Sample, dict[str, float]] = MicroBatcher(self.score, max_batch, max_wait)

    async def __call__(
        self, data_source: str, solution_image: Any, ground_truth: Any, extra_info: Any = None, **more: Any
    ) -> dict[str, float]:
        """Return the reward of one sample.

        Args:
            data_source: Not read.
            solution_image: `(3, h, w)`, uint8, or floating in [0, 1].
            ground_truth: The prompt, or the record as a mapping or JSON.
            extra_info: A mapping; a record in it, or under its key `metadata`, takes precedence over `ground_truth`.
            **more: Not read.

        Returns:
            `score`, and every credit by name.

        Raises:
            GenEvalError: If this sample cannot be scored; other samples are not affected.
        """
        try:
            asked = _asked(ground_truth, extra_info)
            return await asyncio.wrap_future(self.batcher.submit((solution_image, asked)))
        except (ImageError, SpecError):
            if self.unscorable is None:
                raise
            return {"score": self.unscorable}

    def score(self, samples: Sequence[Sample]) -> list[dict[str, float] | Exception]:
        """Score a batch; returns an exception in place of a reward for what cannot be scored."""
        images, asked = zip(*samples, strict=True)
        try:
            scored = self.reward.score(list(images), list(asked))
        except (ImageError, SpecError) as error:
            # No sample can be scored. Scoring them one at a time finds the reason of each, without running the detector.
            return [error] if len(samples) == 1 else [self.score([sample])[0] for sample in samples]
        columns = scored.credits()
        results: list[dict[str, float] | Exception] = []
        for index, (value, reason) in enumerate(zip(scored.rewards, scored.errors, strict=True)):
            if value is None:
                kind = ImageError if "images[" in (reason or "") else SpecError
                results.append(kind(f"sample: {reason}"))
            else:
                known = {name: column[index] for name, column in columns.items()}
                results.append({name: v for name, v in known.items() if v is not None} | {"score": value})
        return results


_SHARED: dict[str, SampleReward] = {}
_LOCK = threading.Lock()


async def compute_score(
    data_source: str,
    solution_image: Any,
    ground_truth: Any,
    extra_info: Any = None,
    *,
    backend: str = "paper",
    credit: str = "official",
    device: str = "auto",
    max_batch: int = 32,
    max_wait: float = 0.02,
    unscorable: float | None = None,
    **more: Any,
) -> dict[str, float]:
    """Return the reward of one sample, for verl-omni's configuration; the weights are loaded once per process.

    Args:
        data_source: Name of the data set, as `SampleReward.__call__` takes it.
        solution_image: The image, as `SampleReward.__call__` takes it.
        ground_truth: What was asked, as `SampleReward.__call__` takes it.
        extra_info: Further columns of the sample, as `SampleReward.__call__` takes them.
        backend: Name of the backend.
        credit: Name of the credit that is the reward.
        device: Where to score.
        max_batch: Samples per batch.
        max_wait: Seconds that the first sample of a batch waits for others.
        unscorable: Reward of a sample that cannot be scored; by default its call raises the error.
        **more: Not read.

    Returns:
        `score`, and every credit by name.

    Raises:
        GenEvalError: If this sample cannot be scored.
    """
    key = json.dumps([backend, credit, str(device), max_batch, max_wait, unscorable])
    with _LOCK:
        if key not in _SHARED:
            reward = GenEvalReward(backend, credit, device=device)
            _SHARED[key] = SampleReward(reward, max_batch=max_batch, max_wait=max_wait, unscorable=unscorable)
        shared = _SHARED[key]
    return await shared(data_source, solution_image, ground_truth, extra_info)


def _asked(ground_truth: Any, extra_info: Any) -> Any:
    """Return the record of a sample if there is one, else its prompt."""
    found = record_of(extra_info)
    if found is not None:
        return found
    if ground_truth is None:
        raise SpecError("ground_truth: expected a prompt or a record, got None, and extra_info has no record")
    return ground_truth
