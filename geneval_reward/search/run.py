"""`search`: find the best image for a prompt with a plan, a generator and a reward."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from geneval_reward.errors import SearchError
from geneval_reward.generate import seed_for
from geneval_reward.generate.callable import as_pil
from geneval_reward.prompts import PromptSpec
from geneval_reward.reward import Reward
from geneval_reward.search.plan import Plan
from geneval_reward.search.select import Floats, Group, Select, Top
from geneval_reward.search.steps import Steps

Features = Callable[[Any], Any]
"""Function of images that returns `(n, d)`, or `(n, p, d)` for p patches, as an array or tensor."""


@dataclass(frozen=True)
class Check:
    """The record of one selection.

    Attributes:
        step: The step that it followed, from 0; the number of steps for the choice among the finalists.
        method: Name of the selection.
        rewards: Rewards of the candidates before it, None for one without; None if it used no rewards.
        rows: Which candidates were kept, by their index before it.
    """

    step: int
    method: str
    rewards: tuple[float | None, ...] | None
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Cost:
    """The work that a search did.

    Attributes:
        passes: Steps of all candidates, as executed, in units of one plain image. Both include guidance.
        decodes: Images decoded, previews included; a plain image takes one.
        rewards: Images that the reward scored.
        features: Images whose features were computed, unless the model provided them.
    """

    passes: float
    decodes: int
    rewards: int
    features: int

    def in_images(self, *, decode: float, reward: float, features: float = 0.0) -> float:
        """Compute the whole cost in units of one plain image, given the relative cost of a decode, a reward and features.

        Args:
            decode: Share of a plain image's time that its decoding takes, in [0, 1]; its steps take the rest.
            reward: Time of a reward over that of a plain image.
            features: Time of the features of an image over that of a plain image.

        Examples:
            >>> Cost(1.0, 1, 0, 0).in_images(decode=0.2, reward=0.5)
            1.0
        """
        return self.passes * (1 - decode) + self.decodes * decode + self.rewards * reward + self.features * features


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        images: The finalists; the first is the result.
        rewards: Their rewards; None where there is none.
        lineage: Every selection in order; the last is the choice among the finalists.
        cost: The work that it did.
        errors: Errors that the reward raised for single candidates, one sentence each.
    """

    images: list[Image.Image]
    rewards: list[float | None]
    lineage: tuple[Check, ...]
    cost: Cost
    errors: tuple[str, ...] = ()

    @property
    def image(self) -> Image.Image:
        """The chosen image."""
        return self.images[0]

    def ancestors(self) -> list[int]:
        """Initial indices of the candidates that the finalists descend from, in the order of `images`."""
        rows = list(range(len(self.images)))
        for check in reversed(self.lineage):
            rows = [check.rows[row] for row in rows]
        return rows

    def to_record(self) -> dict[str, Any]:
        """Convert lineage, cost and rewards to plain values."""
        return {
            "rewards": self.rewards,
            "ancestors": self.ancestors(),
            "cost": asdict(self.cost),
            "lineage": [asdict(check) for check in self.lineage],
            **({"errors": list(self.errors)} if self.errors else {}),
        }


def search(
    steps: Steps,
    plan: Plan,
    reward: Reward | None = None,
    features: Features | None = None,
    *,
    prompt: str,
    spec: PromptSpec | None = None,
    seed: int = 0,
) -> Found:
    """Search for the best image of a prompt.

    The first candidate is the image that the same sampler makes from `seed` without a search, and a plan with fewer candidates
    starts with the first ones of a larger plan, so results of different plans are paired. The first copy of a kept candidate
    keeps its noise; further copies get new noise.

    Args:
        steps: The generator.
        plan: Numbers of candidates and selections; see `named_plan`.
        reward: Scores previews and images. A candidate without a finite reward is never preferred to one that has one; if
            none has one, candidates are drawn with equal chances.
        features: Features to cluster candidates by; None for the model's own.
        prompt: What the generator gets.
        spec: What the reward gets; None for the prompt.
        seed: Seed of the whole search.

    Raises:
        UsageError: If the plan does not fit the generator.
        SearchError: If the reward raised for every candidate of a check; it carries the results so far.

    Examples:
        >>> from geneval_reward.reward import GenEvalReward
        >>> from geneval_reward.search import best_of_n, load_steps
        >>> found = search(load_steps("pocket", steps=2), best_of_n(2), GenEvalReward("lite"), prompt="a photo of a bench")
        >>> len(found.images), found.cost.passes
        (2, 2.0)
    """
    plan.check(steps, reward=reward is not None, features=features is not None)
    run = _Run(steps, reward, features, prompt if spec is None else spec, plan.n)
    rng = np.random.default_rng(seed_for(seed, prompt, 0))
    seeds = [seed if i == 0 else seed_for(seed, f"candidate of {prompt}", i) for i in range(plan.n)]
    last = steps.n_steps - 1
    state = steps.start(prompt, seeds)
    for step in range(steps.n_steps):
        run.passes += steps.cost(step, len(seeds))
        state = steps.advance(state, step)
        if step in plan.selections and step < last:
            rows = run.select(step, state, *plan.selections[step], rng)
            seeds = _child_seeds(seeds, rows, step)
            state = steps.take(state, rows, seeds)
    run.finish(state, plan, rng)
    return run.found()


class _Run:
    """The state of a running search."""

    def __init__(
        self, steps: Steps, reward: Reward | None, features: Features | None, spec: PromptSpec | str, n: int
    ) -> None:
        self.steps, self.reward, self.features, self.spec = steps, reward, features, spec
        self.history: Floats = np.zeros((0, n))
        self.log_weights: Floats = np.zeros(n)
        self.lineage: list[Check] = []
        self.errors: list[str] = []
        self.passes = 0.0
        self.decodes = self.scored = self.featured = 0
        self.images: list[Image.Image] = []
        self.rewards: Floats | None = None

    def select(self, step: int, state: Any, keep: int, select: Select, rng: np.random.Generator) -> list[int]:
        """Compute what the selection needs of the unfinished candidates, and choose."""
        count = len(self.log_weights)
        rewards = features = None
        if count > 1:
            own = select.needs == "features" and self.features is None
            images = None
            if select.needs and not own:
                images = self._decoded(self.steps.preview(state), count)  # type: ignore[attr-defined]
            if select.needs == "rewards":
                rewards = self._score(images)
            elif select.needs == "features":
                features = self._features(state, images)
        return self._choose(step, select, Group(rewards, self.history, self.log_weights, features), keep, rng)

    def finish(self, state: Any, plan: Plan, rng: np.random.Generator) -> None:
        """Decode the finalists, apply the selection at the last step if there is one, and put the result first."""
        last = self.steps.n_steps - 1
        images = self.images = as_pil(
            self._decoded(self.steps.images(state), len(self.log_weights)), len(self.log_weights)
        )
        final = plan.selections.get(last)
        if len(images) > 1 and any(one.needs == "rewards" for one in [plan.finish, *(final[1:] if final else ())]):
            self.rewards = self._score(images)
        if final is not None:
            keep, select = final
            features = self._features(state, images) if select.needs == "features" and len(images) > 1 else None
            group = Group(self.rewards, self.history, self.log_weights, features, last=True)
            rows = self._choose(last, select, group, keep, rng)
            self._order(rows)
        group = Group(self.rewards, self.history, self.log_weights, last=True)
        if len(self.images) == 1:
            order = [0]
        else:
            first = int(plan.finish(group, 1, rng)[0][0])
            best = range(len(self.images)) if self.rewards is None else Top()(group, len(self.images), rng)[0].tolist()
            order = [first, *(row for row in best if row != first)]
        self.lineage.append(Check(self.steps.n_steps, plan.finish.name, self._plain(self.rewards), tuple(order)))
        self._order(order)

    def found(self) -> Found:
        """Return the results so far."""
        rewards = list(self._plain(self.rewards) or [None] * len(self.images))
        cost = Cost(self.passes, self.decodes, self.scored, self.featured)
        return Found(self.images, rewards, tuple(self.lineage), cost, tuple(self.errors))

    def _choose(self, step: int, select: Select, group: Group, keep: int, rng: np.random.Generator) -> list[int]:
        rows, weights = (np.arange(1), self.log_weights) if group.count == 1 else select(group, keep, rng)
        self.lineage.append(Check(step, select.name, self._plain(group.rewards), tuple(rows.tolist())))
        seen = self.history if group.rewards is None or group.last else np.vstack([self.history, group.rewards])
        self.history, self.log_weights = seen[:, rows], weights
        return [int(row) for row in rows]

    def _order(self, rows: Sequence[int]) -> None:
        self.images = [self.images[row] for row in rows]
        self.rewards = None if self.rewards is None else self.rewards[list(rows)]

    def _decoded(self, images: Any, count: int) -> Any:
        self.decodes += count
        return list(images)

    def _features(self, state: Any, images: Any) -> Floats:
        if self.features is None:
            values = self.steps.features(state)  # type: ignore[attr-defined]
        else:
            values = self.features(images)
            self.featured += len(images)
        return np.asarray(values.detach().cpu().double() if hasattr(values, "detach") else values, np.float64)

    def _score(self, images: Any) -> Floats:
        """Compute rewards `(n,)`, NaN where there is none; score one by one if the batch fails."""
        self.scored += len(images)
        try:
            return self._submit(images)
        except Exception as error:  # noqa: BLE001 - a reward may raise anything for one image
            first = error
        values = np.full(len(images), math.nan)
        failed = 0
        for index, image in enumerate(images):
            try:
                values[index] = self._submit([image])[0]
            except Exception as error:  # noqa: BLE001
                failed += 1
                self.errors.append(f"candidate {index}: {type(error).__name__}: {error}")
        if failed == len(images):
            raise SearchError(
                f"reward: expected a reward for at least one of {failed} candidates of {_text(self.spec)!r}, got "
                f"{type(first).__name__}: {first}",
                self.found(),
            ) from first
        return values

    def _submit(self, images: Any) -> Floats:
        assert self.reward is not None
        with warnings.catch_warnings():
            # All candidates of a hard prompt are often wrong, which is no sign of broken weights here.
            warnings.filterwarnings("ignore", message=r"all \d+ (rewards|images) of")
            batch = self.reward.submit(list(images), [self.spec] * len(images)).result()
        if len(batch.rewards) != len(images):
            raise ValueError(f"expected {len(images)} rewards, got {len(batch.rewards)}")
        values = np.array([math.nan if value is None else float(value) for value in batch.rewards])
        return np.where(np.isfinite(values), values, math.nan)

    @staticmethod
    def _plain(rewards: Floats | None) -> tuple[float | None, ...] | None:
        return None if rewards is None else tuple(None if math.isnan(r) else r for r in rewards.tolist())


def _child_seeds(seeds: Sequence[int], rows: Sequence[int], step: int) -> list[int]:
    """Choose seeds for the kept candidates: the first copy keeps its parent's, the others get new ones."""
    copies: dict[int, int] = {}
    found = []
    for row in rows:
        copy = copies[row] = copies.get(row, -1) + 1
        found.append(seed_for(seeds[row], f"copy after step {step}", copy) if copy else seeds[row])
    return found


def _text(spec: PromptSpec | str) -> str:
    return spec if isinstance(spec, str) else spec.prompt
