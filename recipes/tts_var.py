"""TTS-VAR (arXiv 2507.18537): better images from a fixed model, by clustering and resampling while they are made.

    python recipes/tts_var.py --model pocket-tokens --n 2 --out runs/tts_var
    python recipes/tts_var.py --model pocket --n 2 --out runs/tts_var_flow     # the same code on a flow model
    geneval-reward score runs/tts_var --backend nanodet --out runs/tts_var.jsonl

This file is the whole method, in the order of the algorithm. What is not the method is called by name:
`geneval_reward.search` (models step by step, selections as functions), rewards, folders of images. A prompt is searched as

    8 N candidates        levels 0 .. 2      `sizes`; all start from noise of their own
    -> 6 N, 4 N           after 2 and 5      `cluster`: k-means++ on features of the partial image, one candidate per cluster
    -> 2 N, N             after 6 and 9      `resample`: with replacement, p ~ exp(lambda r), r the reward of the partial image
    -> 1                  at the end         the finalist with the highest reward

| | paper | released code (ali-vilab/TTS-VAR, b0332bb) | here, and why |
|---|---|---|---|
| model | Infinity 2B and 8B, 13 scales | Infinity | `pocket-tokens`, 6 levels; `pocket`, 8 steps; any `Steps` |
| batch plan | 8,8,6,6,6,4,2,2,2,1,.. N | selects after a scale is made: 8,8,8,6,6,6,4,2,2,2,1,.. N | as executed |
| where | scales 2, 5; 6, 9 | the same | the nearest steps of a model with another number of them |
| features | DINOv2-L, PCA | patches on their first component, sign arbitrary | the model's own, or DINOv2 with a fixed sign |
| k-means++ | yes | scikit-learn, random_state 0 | ten rounds, seeded per image; an empty cluster still gives a candidate |
| score | value, difference, max, sum | asserts against all but value | value; the others are `Resample(potential=...)` |
| lambda 10 | times ImageReward | the same | times the reward in units of the group's spread: GenEval's 0/1 has another scale |
| reward | ImageReward | ImageReward | `--reward`: `lite` here. Report with another judge than the one that selects |
| equal rewards | - | NaN, inf or zero weights: uniform | all equal or none known: uniform |
| copies | next tokens are sampled | the sampler's global generator | a seed of its own for every copy |
| decoding | - | decodes every scale of every candidate | decodes only where a selection looks |
| caches | - | gathers both halves of every layer's cache | pocket's models have none; `take` gathers what there is |

Needs the extra `diffusers`, and for a flow model `lightning`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geneval_reward.generate import plan_images, seed_for, write_images
from geneval_reward.generate.callable import as_pil
from geneval_reward.prompts import PromptSpec
from geneval_reward.search import Steps, load_features, load_reward, load_steps
from geneval_reward.search.select import chances, first_component, spread_points

SIZES = (8, 6, 4, 2, 1)
"""Candidates per finalist before and after each selection."""


class TTSVAR:
    """The method as a generator of images; the defaults are the published schedule.

    Args:
        steps: The model, step by step.
        reward: Scores partial and finished images.
        specs: The prompts that `generate` will get.
        n: Finalists N.
        lam: Sharpness of the resampling, in units of the group's spread.
        features: What is clustered; None for the model's own partial latents.
        selected_by: Name of the reward in results.

    Attributes:
        records: What `write_images` keeps beside each image: the mark, and the cost in plain images.
    """

    batch_size = 1

    def __init__(
        self,
        steps: Steps,
        reward: Any,
        specs: Sequence[PromptSpec],
        *,
        n: int = 2,
        lam: float = 10.0,
        features: Any = None,
        selected_by: str = "reward",
    ) -> None:
        self.steps, self.reward, self.n, self.lam, self.features = steps, reward, n, lam, features
        self.specs = {spec.prompt: spec for spec in specs}
        self.selected_by = selected_by
        self.records: list[dict[str, Any]] = []

    def schedule(self) -> dict[int, tuple[str, int]]:
        """After which step which selection keeps how many: 2, 5, 6 and 9 of 13, or the nearest steps."""
        places: list[int] = []
        for scale in (2, 5, 6, 9):
            nearest = round((scale + 1) / 13 * self.steps.n_steps) - 1
            places.append(max(nearest, places[-1] + 1 if places else 0))
        names = ("cluster", "cluster", "resample", "resample")
        return {place: (name, size * self.n) for place, name, size in zip(places, names, SIZES[1:], strict=True)}

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Any]:
        """Search for one image per prompt."""
        self.records = []
        return [self.search(self.specs[prompt], seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    def search(self, spec: PromptSpec, seed: int) -> Any:
        """Search for one image of a prompt."""
        rng = np.random.default_rng(seed)
        schedule, cost = self.schedule(), 0.0
        seeds = [seed_for(seed, "candidate", index) for index in range(SIZES[0] * self.n)]
        state = self.steps.start(spec.prompt, seeds)
        for step in range(self.steps.n_steps):
            state = self.steps.advance(state, step)
            cost += self.steps.cost(step, len(seeds))
            if step in schedule:
                name, keep = schedule[step]
                rows = self.cluster(state, keep, rng) if name == "cluster" else self.resample(state, spec, keep, rng)
                # Every copy needs noise of its own, or copies would stay equal.
                seeds = [seed_for(seeds[row], f"step {step}", place) for place, row in enumerate(rows)]
                state = self.steps.take(state, rows, seeds)
        images = as_pil(self.steps.images(state), self.n)
        best = int(np.argmax(self.score(images, spec))) if self.n > 1 else 0
        self.records.append({"search": {"n": SIZES[0] * self.n, "selected_by": self.selected_by, "passes": cost}})
        return images[best]

    def cluster(self, state: Any, keep: int, rng: np.random.Generator) -> Sequence[int]:
        """Keep the candidate nearest to the centre of each of `keep` clusters: variety before quality can be seen."""
        steps: Any = self.steps
        found = steps.features(state) if self.features is None else self.features(steps.preview(state))
        points = np.asarray(found.detach().cpu() if hasattr(found, "detach") else found, np.float64)
        points = first_component(points) if points.ndim == 3 else points
        centres = spread_points(points, keep, rng)
        for _ in range(10):
            nearest = ((points[:, None] - centres) ** 2).sum(2).argmin(1)
            centres = np.stack(
                [points[nearest == k].mean(0) if (nearest == k).any() else centres[k] for k in range(keep)]
            )
        rows: list[int] = []
        for centre in centres:
            distances = ((points - centre) ** 2).sum(1)
            distances[rows] = np.inf
            rows.append(int(distances.argmin()))
        return rows

    def resample(self, state: Any, spec: PromptSpec, keep: int, rng: np.random.Generator) -> Sequence[int]:
        """Draw candidates with replacement by the reward of their partial images."""
        steps: Any = self.steps
        rewards = self.score(steps.preview(state), spec)
        known = rewards[np.isfinite(rewards)]
        spread = float(known.std()) if len(known) else 0.0
        scores = rewards / spread if spread > 1e-9 else np.where(np.isfinite(rewards), 0.0, -np.inf)
        drawn: list[int] = rng.choice(len(rewards), keep, p=chances(self.lam * scores)).tolist()
        return drawn

    def score(self, images: Any, spec: PromptSpec) -> Any:
        """Rewards of images; -inf where there is none."""
        answers = self.reward.submit(list(images), [spec] * len(images)).result().rewards
        return np.array([-np.inf if value is None else value for value in answers])


def main() -> None:
    """Make a folder of images in the benchmark's layout, with the mark of what selected them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="pocket-tokens", help="what `geneval-reward search` takes")
    parser.add_argument("--n", type=int, default=2, help="finalists; the search begins with eight times as many")
    parser.add_argument("--reward", default="lite", help="what selects")
    parser.add_argument("--features", help="a DINOv2 folder or hub name; the model's own partial latents if left out")
    parser.add_argument(
        "--prompts", type=int, default=12, help="number of prompts of the pocket suite, spread over tasks"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()

    from geneval_reward.generate import stratified_subset
    from geneval_reward.pocket import pocket_suite

    specs = stratified_subset(pocket_suite(), given.prompts).specs
    method = TTSVAR(
        load_steps(given.model),
        load_reward(given.reward),
        specs,
        n=given.n,
        features=load_features(given.features),
        selected_by=given.reward,
    )
    jobs = plan_images(given.out, specs, 1, given.seed)
    for batch in write_images(method, jobs):
        passes = method.records[0]["search"]["passes"]
        print(f"{batch.jobs[0].path}: {batch.jobs[0].text}; the steps of {passes:.2f} plain images")


if __name__ == "__main__":
    main()
