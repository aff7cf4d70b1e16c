"""A search as a generator: from one prompt and one seed to the best image that the plan finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from geneval_reward.errors import SpecError
from geneval_reward.generate.batches import check_request
from geneval_reward.prompts import PromptSpec
from geneval_reward.prompts.suite import resolve
from geneval_reward.reward import Reward
from geneval_reward.search.load import CREDIT, load_features, load_reward, load_steps
from geneval_reward.search.plan import Plan, check_method, named_plan
from geneval_reward.search.run import Features, Found, search
from geneval_reward.search.steps import Steps


class SearchGenerator:
    """A `geneval_reward.generate.Generator` whose every image is the result of a search.

    Args:
        steps: The generator that is searched.
        plan: Numbers of candidates and selections.
        reward: Scores candidates; None for plans that need none.
        features: Features to cluster candidates by; None for the model's own.
        prompts: Specs whose texts `generate` knows, as well as the official suite. For other prompts the reward gets the text.
        selected_by: Name of the reward in results.

    Attributes:
        found: The searches of the last call of `generate`, one per image.

    Examples:
        >>> generator = load_search("pocket", method="best-of-n", n=2, steps=2)
        >>> generator.generate(["a photo of a bench"], [0])[0].size
        (256, 256)
        >>> len(generator.found[0].rewards)
        2
    """

    batch_size = 1  # a search is itself a batch

    def __init__(
        self,
        steps: Steps,
        plan: Plan,
        reward: Reward | None = None,
        features: Features | None = None,
        *,
        prompts: Sequence[PromptSpec] = (),
        selected_by: str = "reward",
    ) -> None:
        plan.check(steps, reward=reward is not None, features=features is not None)
        self.steps, self.plan, self.reward, self.features = steps, plan, reward, features
        self.selected_by = selected_by if plan.uses_reward else None
        self.found: list[Found] = []
        self._specs: dict[str, PromptSpec] = {spec.prompt: spec for spec in prompts}

    @property
    def records(self) -> list[dict[str, Any]]:
        """Lineage, cost and mark of the last call's images, which `write_images` stores in `generation.json`."""
        mark = {"n": self.plan.n, "selected_by": self.selected_by}
        return [{"search": mark | found.to_record()} for found in self.found]

    def add_prompts(self, specs: Mapping[str, PromptSpec]) -> None:
        """Register the specs of additional texts; a rewritten text stands for its record."""
        self._specs |= specs

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """Make one image per prompt, each from its own search; see `geneval_reward.generate.Generator`.

        Raises:
            SearchError: If the reward failed for all candidates of an image.
        """
        texts, numbers = check_request(prompts, seeds)
        self.found = []
        for prompt, seed in zip(texts, numbers, strict=True):
            try:
                spec = resolve(prompt, self._specs)
            except SpecError:
                spec = None
            self.found.append(
                search(self.steps, self.plan, self.reward, self.features, prompt=prompt, spec=spec, seed=seed)
            )
        return [found.image for found in self.found]


def load_search(
    model: Any = "pocket",
    *,
    method: str = "tts-var",
    n: int = 2,
    reward: Any = "lite",
    credit: str = CREDIT,
    features: Any = None,
    lam: float | None = None,
    prompts: Sequence[PromptSpec] | None = None,
    device: str = "auto",
    **options: Any,
) -> SearchGenerator:
    """Load a generator, a reward and a plan by name.

    `geneval_reward.search:load_search` also works as a model for `geneval-reward sweep`, with axes such as `n` or `method`.

    Args:
        model: What `load_steps` takes.
        method: One of `geneval_reward.search.METHODS`.
        n: Finalists, particles or candidates.
        reward: What `load_reward` takes.
        credit: What `load_reward` takes.
        features: What `load_features` takes.
        lam: Sharpness; None for 10.
        prompts: Specs known by their text; None for the pocket suite where the model is pocket's.
        device: A torch device or `auto`.
        **options: Passed to `load_steps`.

    Raises:
        UsageError: If a name is unknown or the plan does not fit the model.
    """
    check_method(method, lam)
    name = reward if isinstance(reward, str) else getattr(reward, "__name__", type(reward).__name__)
    reward = load_reward(
        reward, credit=credit, device=device
    )  # before loading the model, so that a misspelled name fails fast
    steps = load_steps(model, device=device, **options)
    if prompts is None and isinstance(model, str) and model.startswith("pocket"):
        from geneval_reward.pocket import pocket_suite

        prompts = pocket_suite()
    return SearchGenerator(
        steps,
        named_plan(method, n, steps.n_steps, lam=lam),
        reward,
        load_features(features, device=device),
        prompts=prompts or (),
        selected_by=name,
    )
