"""`CompositeReward`: several rewards combined into one."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Literal

from geneval_reward.errors import GenEvalError, ImageError, SpecError, UsageError
from geneval_reward.judge.credits import CREDITS
from geneval_reward.judge.verdict import Verdict
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.suite import resolve
from geneval_reward.reward.batch import RewardBatch
from geneval_reward.reward.inputs import prompt_texts, text_of
from geneval_reward.reward.parts import Column, CompositeBatch, accepted_arguments, as_column, with_part_name
from geneval_reward.reward.reward import GenEvalReward
from geneval_reward.reward.worker import Worker
from geneval_reward.rl import GroupAdvantages, gdpo_advantages

_log = logging.getLogger(__name__)


class CompositeReward:
    """A weighted sum of rewards, or a sum of rewards that are normalised within their groups first.

    It can be pickled if its parts can, and may be called from several threads: a part that is not a `GenEvalReward` is called by
    one thread at a time.

    Args:
        parts: Callables by name; the names also name curves. A part takes `images` and, if it wants them, `prompts` and
            `metadata`. It returns one value per sample as a list, array or tensor (None or NaN for no value), or a tuple
            that begins with these. A `GenEvalReward` or another `CompositeReward` can be a part too.
        weights: Factor of each part; 1 for a part that is not named.
        normalize: None adds the weighted values. `"gdpo"` first normalises each part within its group and then the weighted
            sum over the batch (`geneval_reward.rl.gdpo_advantages`, arXiv 2601.05242). A group is the samples with equal
            prompts or with equal `groups` of the call, and **must be complete within one call**. A trainer that spreads a
            group over calls or ranks should pass None, gather `CompositeBatch.credits` and call `advantages`.
        group_size: Number of samples that a group must have with `"gdpo"`; None for at least 2.
        missing: What happens to a sample that a part cannot score. `"none"`: it has no reward. `"rescale"`: its reward is the
            sum of the other parts, scaled up to all weights; not with `"gdpo"`. A number: it takes the place of the value.
        name: Name of its curve in trainers.

    Raises:
        UsageError: If there are no parts, a weight names no part, or an option does not exist.
        TypeError: If a part cannot be called with images.

    Examples:
        >>> from geneval_reward.reward import GenEvalReward
        >>> from geneval_reward.testing import FakeDetector, scorer_for
        >>> import numpy as np
        >>> geneval = GenEvalReward(scorer_for(FakeDetector({"bench": [[1, 1, 9, 9, 0.8]]})))
        >>> def brightness(images):
        ...     return [float(image.mean()) / 255 for image in images]
        >>> reward = CompositeReward({"geneval": geneval, "bright": brightness}, {"bright": 0.5})
        >>> image = np.full((16, 16, 3), 255, np.uint8)
        >>> reward(images=[image, image], prompts=["a photo of a bench", "a photo of a cow"])
        [1.5, 0.5]
    """

    def __init__(
        self,
        parts: dict[str, Callable[..., Any]],
        weights: dict[str, float] | None = None,
        *,
        normalize: Literal["gdpo"] | None = None,
        group_size: int | None = None,
        missing: Literal["none", "rescale"] | float = "none",
        name: str = "composite",
    ) -> None:
        if not parts:
            raise UsageError("parts: expected at least one reward by name, got none")
        if unknown := sorted(set(weights or {}) - set(parts)):
            raise UsageError(f"weights: expected names among {', '.join(parts)}, got {', '.join(unknown)}")
        self.weights = {part: float((weights or {}).get(part, 1.0)) for part in parts}
        if not all(math.isfinite(weight) for weight in self.weights.values()) or not any(self.weights.values()):
            raise UsageError(f"weights: expected finite numbers, not all 0, got {self.weights}")
        if normalize not in (None, "gdpo"):
            raise UsageError(f"normalize: expected None or 'gdpo', got {normalize!r}")
        number = isinstance(missing, int | float) and not isinstance(missing, bool) and math.isfinite(missing)
        if not number and missing not in ("none", "rescale"):
            raise UsageError(f"missing: expected 'none', 'rescale' or a finite number, got {missing!r}")
        if missing == "rescale" and (normalize or min(self.weights.values()) < 0):
            raise UsageError(
                "missing: expected 'none' or a number with normalize='gdpo' or weights below 0, got 'rescale'"
            )
        if group_size is not None and (normalize is None or group_size < 2):
            raise UsageError(f"group_size: expected >= 2 and normalize='gdpo', got {group_size} with {normalize!r}")
        self.parts = dict(parts)
        self.normalize, self.group_size, self.missing = normalize, group_size, missing
        self._takes = {part: accepted_arguments(part, function) for part, function in self.parts.items()}
        self.__name__ = name
        self._start()

    def _start(self) -> None:
        self._locks = {part: threading.Lock() for part in self.parts}
        self._workers = {part: Worker(f"reward-{part}") for part in self.parts if not _scores_itself(self.parts[part])}

    @property
    def columns(self) -> tuple[str, ...]:
        """Names that `CompositeBatch.credits` has."""
        names = list(self.parts)
        for part, function in self.parts.items():
            more = CREDITS if isinstance(function, GenEvalReward) else getattr(function, "columns", ())
            names += [f"{part}/{credit}" for credit in more]
        return tuple(names)

    def __call__(
        self, images: Any = None, prompts: Any = None, metadata: Any = None, completions: Any = None, **columns: Any
    ) -> list[float | None]:
        """Return the rewards of a batch.

        Args:
            images: What `GenEvalScorer.score` takes.
            prompts: Texts, records or specs, one per image.
            metadata: Records, one per image.
            completions: The images, under the name that TRL has for them.
            **columns: `groups` is passed to `score`; `log_metric`, if it is a function, is called with the mean of every
                part; the rest is not read.

        Returns:
            One reward per image, in order; None where there is none.

        Raises:
            GenEvalError: If no sample of the batch has a reward; or an error of this kind that a part raised, with its name.
            RuntimeError: If a part raised another error; the message has the name of the part.
        """
        batch = self.score(images if images is not None else completions, prompts, metadata, columns.get("groups"))
        log_metric = columns.get("log_metric")
        if callable(log_metric):
            for name, mean in batch.mean_credits().items():
                log_metric(f"{self.__name__}/{name}", mean)
        return batch.rewards

    def score(
        self, images: Any = None, prompts: Any = None, metadata: Any = None, groups: Sequence[Hashable] | None = None
    ) -> CompositeBatch:
        """Return the rewards with their parts; the parts are called one after the other.

        Args:
            images: A batch of `n` images, as `as_images` takes it.
            prompts: Prompt texts, records or specs, one per image.
            metadata: Records, one per image; they take precedence over the prompts.
            groups: A key per sample, with `"gdpo"`; by default its prompt.
        """
        self._check(images)
        given = {"images": images, "prompts": prompts, "metadata": metadata}
        answers: dict[str, Any] = {}
        for part in self.parts:
            try:
                answers[part] = self._run(part, given)
            except Exception as error:  # noqa: BLE001 - raised again with the name of the part, or noted for each sample
                answers[part] = error
        return self._combine(answers, given, groups)

    def submit(
        self, images: Any = None, prompts: Any = None, metadata: Any = None, groups: Sequence[Hashable] | None = None
    ) -> Future[CompositeBatch]:
        """Score all parts at the same time, each in its own thread, while the caller goes on.

        A part scores its batches in the order of submission. On CUDA, each part has its own stream, which first waits for what
        the caller's stream has queued.

        Args:
            images: A batch of `n` images, as `as_images` takes it.
            prompts: Prompt texts, records or specs, one per image.
            metadata: Records, one per image; they take precedence over the prompts.
            groups: A key per sample, with `"gdpo"`; by default its prompt.

        Returns:
            A future of a `CompositeBatch`; its `result()` raises what `score` would.
        """
        self._check(images)
        given = {"images": images, "prompts": prompts, "metadata": metadata}
        whole: Future[CompositeBatch] = Future()
        whole.set_running_or_notify_cancel()
        futures: dict[str, Future[Any]] = {}
        for part, function in self.parts.items():
            worker = self._workers.get(part)
            futures[part] = function.submit(**given) if worker is None else worker.submit(self._run, part, given)  # type: ignore[attr-defined]
        left, lock = [len(futures)], threading.Lock()

        def finish(_: Future[Any]) -> None:
            with lock:
                left[0] -= 1
                if left[0]:
                    return
            try:
                answers = {part: future.exception() or future.result() for part, future in futures.items()}
                whole.set_result(self._combine(answers, given, groups))
            except BaseException as error:  # noqa: BLE001 - a callback has nowhere else to raise
                whole.set_exception(error)

        for future in futures.values():
            future.add_done_callback(finish)
        return whole

    def advantages(
        self,
        columns: Mapping[str, Sequence[float | None]],
        groups: Sequence[Hashable],
        *,
        clip: float | None = 5.0,
    ) -> tuple[GroupAdvantages, dict[str, GroupAdvantages]]:
        """Compute GDPO advantages from gathered parts, for a trainer whose groups span calls or ranks.

        Args:
            columns: Values (N,) of the whole epoch by name of the part, from `CompositeBatch.credits`; others are not read.
            groups: Keys (N,).
            clip: Bound of the absolute advantage.

        Returns:
            What `geneval_reward.rl.gdpo_advantages` returns for the weights of this reward.

        Raises:
            UsageError: If a part has no column, or `gdpo_advantages` refuses the values.
        """
        if lacking := [part for part in self.parts if part not in columns]:
            raise UsageError(f"columns: expected one for every part, got none for {', '.join(lacking)}")
        filled = {part: [self._filled(value) for value in columns[part]] for part in self.parts}
        return gdpo_advantages(filled, groups, weights=self.weights, clip=clip)

    def close(self) -> None:
        """End the threads after what they have begun; they start again when they are needed."""
        for worker in self._workers.values():
            worker.close()
        for function in self.parts.values():
            if hasattr(function, "close"):
                function.close()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_locks", "_workers")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def __repr__(self) -> str:
        terms = " + ".join(f"{weight:g} {part}" for part, weight in self.weights.items())
        return f"CompositeReward({terms}, normalize={self.normalize!r})"

    def _check(self, images: Any) -> None:
        if images is None:
            raise UsageError("images: expected a batch of images (or completions), got none")

    def _run(self, part: str, given: Mapping[str, Any]) -> Any:
        function: Any = self.parts[part]
        if _scores_itself(function):
            return function.score(**given)
        given = dict(given)
        prompts = given["prompts"]
        if prompts is not None and any(isinstance(prompt, PromptSpec) for prompt in prompts):
            # Rewards from elsewhere take texts and records.
            specs = [resolve(text_of(prompt)) for prompt in prompts]
            given["prompts"] = [spec.prompt for spec in specs]
            if given["metadata"] is None and "metadata" in self._takes[part]:
                given["metadata"] = [spec.to_record() for spec in specs]
        with self._locks[part]:
            return function(**{name: given[name] for name in self._takes[part]})

    def _combine(
        self, answers: Mapping[str, Any], given: Mapping[str, Any], groups: Sequence[Hashable] | None
    ) -> CompositeBatch:
        count = len(given["images"])
        parts: dict[str, Column] = {}
        errors: list[str | None] = [None] * count
        batches: dict[str, RewardBatch] = {}
        for part, answer in answers.items():
            reasons: Sequence[str | None] = [None] * count
            if isinstance(answer, BaseException):
                # This part can score nothing in the batch; the other parts may do if `missing` allows it.
                if self.missing == "none" or not isinstance(answer, ImageError | SpecError):
                    raise with_part_name(part, answer) from answer
                parts[part], reasons = [None] * count, [str(answer)] * count
            else:
                parts[part] = as_column(part, getattr(answer, "rewards", answer), count)
                if hasattr(answer, "rewards"):
                    batches[part], reasons = answer, answer.errors
            for index, value in enumerate(parts[part]):
                if value is None and errors[index] is None:
                    errors[index] = f"part {part!r}: {reasons[index] or 'no value'}"
        filled = {part: [self._filled(value) for value in column] for part, column in parts.items()}
        rewards = self._normalized(filled, given, groups) if self.normalize and count else self._summed(filled, count)
        if count and all(reward is None for reward in rewards):
            reason = next(error for error in errors if error)
            raise GenEvalError(
                f"batch: expected at least one sample with a reward, got {count} without; the first: {reason}"
            )
        for index, reward in enumerate(rewards):
            if reward is not None:
                errors[index] = None
            else:
                _log.warning("reward: images[%d] gets None: %s", index, errors[index])
        none: list[Verdict | None] = [None] * count
        verdicts = next((batch.verdicts for batch in batches.values() if any(batch.verdicts)), none)
        return CompositeBatch(rewards, verdicts, errors, parts, batches)

    def _filled(self, value: float | None) -> float | None:
        """Replace a missing value as `missing` says."""
        absent = value is None or not math.isfinite(value)
        return (None if isinstance(self.missing, str) else float(self.missing)) if absent else value

    def _summed(self, filled: Mapping[str, Column], count: int) -> Column:
        total = sum(self.weights.values())
        rewards: Column = []
        for index in range(count):
            known = {part: value for part, column in filled.items() if (value := column[index]) is not None}
            there = sum(self.weights[part] for part in known)
            if len(known) < len(filled) and (self.missing != "rescale" or there == 0):
                rewards.append(None)
                continue
            scale = 1.0 if len(known) == len(filled) else total / there
            rewards.append(scale * sum(self.weights[part] * value for part, value in known.items()))
        return rewards

    def _normalized(
        self, filled: Mapping[str, Column], given: Mapping[str, Any], groups: Sequence[Hashable] | None
    ) -> Column:
        keys = list(groups) if groups is not None else prompt_texts(given["prompts"], given["metadata"])
        sizes: dict[Hashable, int] = {}
        for key in keys:
            sizes[key] = sizes.get(key, 0) + 1
        wrong = {key: n for key, n in sizes.items() if n != self.group_size and (self.group_size is not None or n < 2)}
        if wrong:
            key, size = next(iter(wrong.items()))
            raise UsageError(
                f"groups: expected whole groups of {self.group_size or 'at least 2'} in one call for normalize='gdpo', got "
                f"{size} of {key!r} ({len(wrong)} of {len(sizes)} groups like this); score whole groups together, or "
                "take normalize=None and call advantages() with the gathered parts"
            )
        if not any(all(column[index] is not None for column in filled.values()) for index in range(len(keys))):
            return [None] * len(keys)
        # Trainers clip advantages themselves, so they are not clipped here.
        whole, _ = gdpo_advantages(filled, keys, weights=self.weights, clip=None)
        weights = whole.weight.tolist()
        return [value if weight else None for value, weight in zip(whole.advantages.tolist(), weights, strict=True)]


def _scores_itself(function: Any) -> bool:
    """Whether a part is a reward of this package, which has a lock and a thread of its own."""
    return hasattr(function, "score") and hasattr(function, "submit")
