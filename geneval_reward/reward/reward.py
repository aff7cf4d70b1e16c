"""`GenEvalReward`: a plain callable from images and prompts to rewards."""

from __future__ import annotations

import logging
import re
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import cached_property
from typing import Any

import torch

from geneval_reward.errors import GenEvalError, ImageError, ScoringError, SpecError, UsageError
from geneval_reward.judge.credits import Credit, check_credit
from geneval_reward.judge.verdict import Verdict
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.suite import Prompt, resolve
from geneval_reward.reward.batch import RewardBatch
from geneval_reward.reward.inputs import prompts_per_image, text_of
from geneval_reward.reward.worker import Worker
from geneval_reward.scorer import GenEvalScorer, LazyScorer, Scorer, refusal
from geneval_reward.vision.images import try_images

_log = logging.getLogger(__name__)


class GenEvalReward:
    """Rewards for images by what their prompts asked for.

    A plain object: picklable, thread-safe, and loaded at the first use, so that making one is free. It never returns a
    silent 0: a sample that cannot be scored gets None, a batch in which no sample can be scored is an error, and a batch of
    zeros warns once.

    Args:
        scorer: Any `Scorer` (such as a `GenEvalScorer` or a `RemoteScorer`), a function that makes one, or the name of
            a backend.
        credit: `official` (the benchmark's 0/1), `strict`, `partial`, `dense` or `flow_grpo` (see `Verdict`); the import path
            of a function of a verdict; or such a function.
        prompts: Specs whose texts are understood as prompts, besides the official suite: usually the training prompts.
        **options: Keyword arguments of `GenEvalScorer.from_pretrained`, such as `device`; only with the name of a
            backend.

    Raises:
        UsageError: If the credit is unknown, or `scorer` is none of the above.

    Examples:
        >>> import numpy as np
        >>> from geneval_reward.reward import GenEvalReward
        >>> from geneval_reward.testing import FakeDetector, scorer_for
        >>> reward = GenEvalReward(scorer_for(FakeDetector({"bench": [[1, 1, 9, 9, 0.8]]})), credit="partial")
        >>> reward(images=[np.zeros((16, 16, 3), np.uint8)] * 2, prompts=["a photo of a bench", "a photo of a cow"])
        [1.0, 0.0]
    """

    def __init__(
        self,
        scorer: GenEvalScorer | Scorer | LazyScorer | Callable[[], Scorer] | str = "lite",
        credit: Credit = "official",
        *,
        prompts: Sequence[PromptSpec | Mapping[str, Any] | str] = (),
        **options: Any,
    ) -> None:
        check_credit(credit)
        self.credit = credit
        self.lazy_scorer = scorer if isinstance(scorer, LazyScorer) else LazyScorer(scorer, **options)
        self._specs = {spec.prompt: spec for spec in (PromptSpec.parse(prompt) for prompt in prompts)}
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._worker = Worker("geneval-reward")
        self._warned_zero = False
        # Trainers name their curves by this.
        self.__name__ = "geneval" if self.credit == "official" else f"geneval_{check_credit(self.credit)}"

    @cached_property
    def scorer(self) -> Scorer:
        """The scorer; loaded at the first use."""
        return self.lazy_scorer.load()

    @property
    def loaded(self) -> bool:
        """Whether the scorer has been made."""
        return self.lazy_scorer.loaded is not None

    def __call__(
        self,
        images: Any = None,
        prompts: Sequence[Any] | None = None,
        metadata: Sequence[Any] | Mapping[str, Any] | None = None,
        completions: Any = None,
        **columns: Any,
    ) -> list[float | None]:
        """Return the rewards of a batch.

        Args:
            images: What `GenEvalScorer.score` takes.
            prompts: Specs, records or prompt texts, one per image. Texts must be known (from the official suite or the
                `prompts` of the constructor) unless there is metadata.
            metadata: Records as mappings or JSON strings, one per image, or the columns that
                `torch.utils.data.default_collate` makes of them. They take precedence over prompts; an entry of None
                or NaN falls back on the prompt.
            completions: The images, under the name that TRL gives to what a policy has made.
            **columns: Columns of a data set as TRL passes them. `tag`, `include` and `exclude` together are taken for
                metadata; `log_metric`, if it is a function, is called with the mean of every credit; the rest is
                ignored.

        Returns:
            One reward per image, in order; None where it could not be scored.

        Raises:
            UsageError: If there are no images, no prompts, or not as many of one as of the other.
            ImageError, SpecError: If not one sample of the batch can be scored; the message has the first reason.
        """
        batch = self.score(images, prompts, metadata, completions, **columns)
        log_metric = columns.get("log_metric")
        if callable(log_metric):
            for name, mean in batch.mean_credits().items():
                log_metric(f"geneval/{name}", mean)
        return batch.rewards

    def score(
        self,
        images: Any = None,
        prompts: Sequence[Any] | None = None,
        metadata: Sequence[Any] | Mapping[str, Any] | None = None,
        completions: Any = None,
        **columns: Any,
    ) -> RewardBatch:
        """Return the rewards with their verdicts and errors; takes what `__call__` takes.

        An image that a scorer fails on alone, as a remote one may, gets None with the reason in `errors`.
        """
        images = completions if images is None else images
        if images is None:
            raise UsageError("images: expected a batch of images (or completions), got none")
        asked = prompts
        if asked is None or metadata is not None or columns:
            asked = prompts_per_image(prompts, metadata, columns)
        if len(asked) != len(images):
            raise UsageError(f"prompts: expected {len(images)}, one per image, got {len(asked)}")
        ready: dict[int, tuple[torch.Tensor, PromptSpec]] = {}
        failed: dict[int, Exception] = {}
        for index, (image, prompt) in enumerate(zip(try_images(images), asked, strict=True)):
            try:
                # The spec's error comes first: what asks for no picture need not have one.
                spec = prompt if isinstance(prompt, PromptSpec) else resolve(text_of(prompt), self._specs)
            except SpecError as error:
                failed[index] = error
                continue
            if isinstance(image, ImageError):
                failed[index] = image
            else:
                ready[index] = image, spec
        verdicts: list[Verdict | None] = [None] * len(images)
        if ready:
            found = self._judge(ready, failed)
            for index, verdict in zip(ready, found, strict=True):
                verdicts[index] = verdict
        errors = [_describe(index, failed[index]) if index in failed else None for index in range(len(images))]
        _refuse_hopeless(errors, failed)
        for text in filter(None, errors):
            _log.warning("reward: a sample cannot be scored and gets None: %s", text)
        rewards = [None if verdict is None else verdict.credit(self.credit) for verdict in verdicts]
        self._warn_if_zero(rewards)
        return RewardBatch(rewards, verdicts, errors)

    def submit(
        self, images: Any = None, prompts: Sequence[Any] | None = None, metadata: Any = None, **kwargs: Any
    ) -> Future[RewardBatch]:
        """Score in this reward's own thread while the caller goes on generating.

        Batches are scored in the order of submission. On CUDA the work goes to a stream of its own, which first waits
        for what the caller's stream has queued, so that images need not be finished yet.

        Args:
            images: What `GenEvalScorer.score` takes.
            prompts: Specs, records or prompt texts, one per image.
            metadata: Records, or their columns, as `__call__` takes them.
            **kwargs: Other arguments of `__call__`.

        Returns:
            A future of a `RewardBatch`; its `result()` raises what scoring raised.
        """
        return self._worker.submit(self.score, images, prompts, metadata, **kwargs)

    def close(self) -> None:
        """End the thread of `submit` after what it has begun; it starts again when it is needed."""
        self._worker.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"credit": self.credit, "lazy_scorer": self.lazy_scorer, "_specs": self._specs}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.lazy_scorer!r}, credit={self.credit!r})"

    def _judge(
        self, ready: Mapping[int, tuple[torch.Tensor, PromptSpec]], failed: dict[int, Exception]
    ) -> Sequence[Verdict | None]:
        """Verdicts of the samples that are ready; adds to `failed` what the scorer could not judge."""
        images = [image for image, _ in ready.values()]
        specs: list[Prompt] = [spec for _, spec in ready.values()]
        try:
            return self.scorer.score(images, specs)
        except ScoringError as partial:
            failed |= {index: error for index, error in zip(ready, partial.errors, strict=True) if error is not None}
            return partial.verdicts
        except SpecError:
            # Records with words that the scorer does not know get None, and the others their rewards.
            refused = {index: refusal(self.scorer, spec) for index, (_, spec) in ready.items()}
            unknown = {index: error for index, error in refused.items() if error is not None}
            if not unknown:
                raise
            failed |= unknown
            others = {index: sample for index, sample in ready.items() if index not in unknown}
            found = iter(self._judge(others, failed) if others else ())
            return [None if index in unknown else next(found) for index in ready]

    def _warn_if_zero(self, rewards: list[float | None]) -> None:
        known = [reward for reward in rewards if reward is not None]
        with self._lock:
            if self._warned_zero or len(known) < 2 or any(known):
                return
            self._warned_zero = True
        warnings.warn(
            f"all {len(known)} rewards of a batch are 0; if the pictures look right, run `geneval-reward doctor`: broken "
            "kernels or weights give low confidences and no error",
            stacklevel=4,
        )


def _describe(index: int, error: Exception) -> str:
    """An error as text with the place of its sample in the batch, whatever place it had in what was sent on."""
    text = re.sub(r"^(image|images\[\d+\]|specs\[\d+\]|prompts\[\d+\]): ", "", str(error))
    return f"{'prompts' if isinstance(error, SpecError) else 'images'}[{index}]: {text}"


def _refuse_hopeless(errors: Sequence[str | None], failed: Mapping[int, Exception]) -> None:
    """Raise if not one sample of a batch can be scored, with the kind of error that says most.

    Where all prompts are known, the images are at fault; a batch of another task has no prompt that is known.
    """
    if not errors or len(failed) < len(errors):
        return
    index = next((index for index, error in failed.items() if not isinstance(error, SpecError)), 0)
    first = failed[index]
    kind = type(first) if isinstance(first, GenEvalError) and not isinstance(first, ScoringError) else RuntimeError
    raise kind(
        f"batch: expected at least one sample that can be scored, got {len(errors)} that cannot; the first: {errors[index]}"
    ) from first
