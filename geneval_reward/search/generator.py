"""A search as a generator: one prompt and one seed in, the image that the plan found out; and folders of such images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from geneval_reward.errors import SpecError
from geneval_reward.generate import ImageJob
from geneval_reward.generate.batches import check_request
from geneval_reward.generate.write import save_image, update_generation
from geneval_reward.prompts import PromptSpec
from geneval_reward.prompts.suite import resolve
from geneval_reward.reward import Reward
from geneval_reward.search.load import CREDIT, load_features, load_reward, load_steps
from geneval_reward.search.plan import Plan, named_plan
from geneval_reward.search.run import Features, Found, search
from geneval_reward.search.steps import Steps


class SearchGenerator:
    """A `geneval_reward.generate.Generator` whose every image is the result of a search.

    Args:
        steps: The generator that is searched.
        plan: Numbers of candidates and selections.
        reward: Scores candidates; None for plans that need none.
        features: What candidates are clustered by; None for the model's own.
        prompts: Specs whose texts `generate` knows besides the official suite. The reward gets the text of other prompts.
        selected_by: Name of the reward in results.

    Attributes:
        found: What the last call of `generate` found, image by image.

    Examples:
        >>> generator = load_search("pocket", method="best-of-n", n=2, steps=2)
        >>> generator.generate(["a photo of a bench"], [0])[0].size
        (256, 256)
        >>> len(generator.found[0].rewards)
        2
    """

    batch_size = 1  # a search is a batch

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
        self._specs: Mapping[str, PromptSpec] = {spec.prompt: spec for spec in prompts}

    def search(self, prompt: str, seed: int, spec: PromptSpec | None = None) -> Found:
        """Search for the image of a prompt.

        Args:
            prompt: What the generator gets.
            seed: Seed of the search.
            spec: What the reward gets; None for the spec of the prompt if it is known, else the prompt.
        """
        if spec is None:
            try:
                spec = resolve(prompt, self._specs)
            except SpecError:
                spec = None
        return search(self.steps, self.plan, self.reward, self.features, prompt=prompt, spec=spec, seed=seed)

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """Make one image per prompt, each from a search of its own; see `geneval_reward.generate.Generator`."""
        texts, numbers = check_request(prompts, seeds)
        self.found = []
        for prompt, seed in zip(texts, numbers, strict=True):
            self.found.append(self.search(prompt, seed))
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

    `geneval_reward.search:load_search` is also a model for `geneval-reward sweep`, whose axes can then be `n` or `method`.

    Args:
        model: What `load_steps` takes.
        method: One of `geneval_reward.search.METHODS`.
        n: Finalists, particles or candidates.
        reward: What `load_reward` takes.
        credit: As in `load_reward`.
        features: What `load_features` takes.
        lam: Sharpness; None for 10.
        prompts: Specs known by their text; None for the pocket suite where the model is pocket's.
        device: A torch device or `auto`.
        **options: Passed to `load_steps`.

    Raises:
        UsageError: If a name is unknown or the plan does not fit the model.
    """
    steps = load_steps(model, device=device, **options)
    if prompts is None and isinstance(model, str) and model.startswith("pocket"):
        from geneval_reward.pocket import pocket_suite

        prompts = pocket_suite()
    name = reward if isinstance(reward, str) else getattr(reward, "__name__", type(reward).__name__)
    return SearchGenerator(
        steps,
        named_plan(method, n, steps.n_steps, lam=lam),
        load_reward(reward, credit=credit, device=device),
        load_features(features, device=device),
        prompts=prompts or (),
        selected_by=name,
    )


def write_found(generator: SearchGenerator, jobs: Sequence[ImageJob]) -> Iterator[tuple[ImageJob, Found]]:
    """Search for the images that are not there, one by one.

    The lineage and cost of an image go into its prompt's `generation.json` under `search` before the image is written, so no
    image is without its mark.

    Args:
        generator: Searches.
        jobs: All images; those that are there are passed over.

    Yields:
        Each image when it is on disk.

    Raises:
        SearchError: If the reward failed for all candidates of an image. The images before it are on disk.
    """
    for job in jobs:
        if job.path.exists():
            continue
        found = generator.search(job.text, job.seed, job.spec)
        record = {"n": generator.plan.n, "selected_by": generator.selected_by, **found.to_record()}
        update_generation(job.path, search=record)
        save_image(found.image, job.path)
        yield job, found
