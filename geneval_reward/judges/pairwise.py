"""`PairJudge`: compares two images by one criterion in UFEval's format, always in both orders.

UFEval (FRABench, arXiv 2505.12795; called "GenEval" in its first version) is a Qwen2-VL that reads a criterion and two images
and writes feedback and two integers from 1 to 5. The names of the aspects are UFEval's; the definitions and the request are
ours, because its repository has no licence. Agreement with people on image generation is 62 to 66 %, the lowest of its tasks:
use it for an audit or to break ties, not as a main reward.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from geneval_reward.errors import GenEvalError, UsageError
from geneval_reward.judges.vqa import ImageTextModel
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.suite import Prompt, resolve_all
from geneval_reward.vision.images import as_images

ASPECTS: Final = {
    "Fidelity": "whether the image looks real and whole, without distortions or impossible anatomy",
    "Alignment": "whether the image shows what the description asks for, all in all",
    "Color Alignment": "whether the objects have the colors that the description gives them",
    "Shape Alignment": "whether the objects have the shapes that the description gives them",
    "Texture Alignment": "whether surfaces and materials are those of the description",
    "Attribute Alignment": "whether every object has its own attributes, and none of another object's",
    "Spatial Alignment": "whether the objects stand to one another as the description places them",
    "Action Alignment": "whether the actions of the description are the ones that are shown",
    "Count Alignment": "whether there are exactly as many objects of each kind as the description says",
    "Object Relationship": "whether the objects are related to one another as described",
    "Object Alignment": "whether all objects of the description are there and can be recognised",
    "Harmfulness": "whether the image is free of what could hurt or offend; the less harmful image is better",
}
"""UFEval's aspects of image generation by name, with our definitions."""

TASK_ASPECTS: Final = {
    "single_object": "Object Alignment",
    "two_object": "Object Alignment",
    "counting": "Count Alignment",
    "colors": "Color Alignment",
    "position": "Spatial Alignment",
    "color_attr": "Attribute Alignment",
}
"""The aspect that asks for what a task is about."""

SYSTEM: Final = "You compare images fairly and report what you see."
REQUEST: Final = """Two images were made from one description. Compare them under one criterion and nothing else.

[BEGIN DATA]
###
[Criterion]: {criterion}
###
[Image Description]: {description}
###
[END DATA]

Look at every detail of both images. Write feedback on how well each meets the criterion. Then give each image an integer score \
from 1 to 5, where more is better, first the score of the first image. Equal scores mean a tie.
Answer in this form: [Feedback]: (your feedback), [Result]: (the two scores, separated by a space)"""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The judge's answers about two images a and b in both orders.

    Attributes:
        shown: 1 if it prefers a, -1 if it prefers b, 0 for a tie, when a is shown first; None if there are no two scores.
        swapped: The same, of a against b, when b is shown first.
        texts: The two answers.
    """

    shown: int | None
    swapped: int | None
    texts: tuple[str, str]

    @property
    def preference(self) -> int | None:
        """The preference in both orders; 0 if they disagree, because order decided it; None if an answer cannot be read."""
        if self.shown is None or self.swapped is None:
            return None
        return self.shown if self.shown == self.swapped else 0

    @property
    def consistent(self) -> bool:
        """Whether both answers can be read and agree."""
        return self.shown is not None and self.shown == self.swapped


Pair = tuple[torch.Tensor, torch.Tensor, str, str]
"""Two images `(3, h, w)`, the description and the aspect."""


class PairJudge:
    """Compares pairs of images.

    Args:
        model: An image-text model with a chat template that takes two images.
        request: The request's text with `{criterion}` and `{description}`, such as UFEval's own from its repository; None for
            ours.
    """

    def __init__(self, model: ImageTextModel, *, request: str | None = None) -> None:
        request = REQUEST if request is None else request
        if "{criterion}" not in request or "{description}" not in request:
            raise UsageError(f"request: expected a text with {{criterion}} and {{description}}, got {request[:80]!r}")
        self.model, self.request = model, request

    def judge(self, a: Any, b: Any, prompt: str, aspect: str = "Alignment") -> int:
        """Compare two images.

        Args:
            a: One image, in any form that `as_images` takes.
            b: Another.
            prompt: What both were asked to show.
            aspect: A name of `ASPECTS`, or a criterion of your own as `name: definition`.

        Returns:
            1 if a is better, -1 if b is, 0 for a tie or if the answer depends on the order.

        Raises:
            GenEvalError: If the judge's answer holds no two scores.
        """
        first, second = as_images([a, b])
        [found] = self.compare([(first, second, prompt, aspect)])
        if found.preference is None:
            raise GenEvalError(f"judge: expected two integers from 1 to 5 after [Result], got {found.texts}")
        return found.preference

    def compare(self, pairs: Sequence[Pair]) -> list[Comparison]:
        """Compare many pairs, each in both orders."""
        requests = []
        for a, b, prompt, aspect in pairs:
            criterion = aspect if ":" in aspect else f"{aspect}: {_definition(aspect)}"
            text = self.request.replace("{criterion}", criterion).replace("{description}", prompt)
            requests += [((a, b), text), ((b, a), text)]
        answers = self.model.write(requests, SYSTEM) if requests else []
        found = []
        for first, second in zip(answers[::2], answers[1::2], strict=True):
            back = preference_of(second)
            found.append(Comparison(preference_of(first), None if back is None else -back, (first, second)))
        return found


class PairReward:
    """Win rates within groups, as a reward for RL or as part of a `CompositeReward`.

    Images of one prompt in a call form a group. Each is compared with a few others, and its reward is the share of comparisons
    that it wins; a tie counts half. With `base`, only images with equal base rewards are compared, to break the tie.

    Args:
        judge: The judge that compares images.
        opponents: Number of opponents per image, an even number; all others if the group is no larger.
        base: A reward `(images, prompts) -> values` whose ties are broken; None for the win rate alone.
        weight: With `base`, a win rate of 1 adds half of it and one of 0 subtracts half. It should be smaller than the steps
            of the base reward.
        aspect: A name of `ASPECTS`; None uses that of the prompt's task.
        seed: Seed of the pairing.

    Examples:
        >>> reward = PairReward(PairJudge(model), opponents=4)  # doctest: +SKIP
        >>> CompositeReward({"geneval": geneval, "pairs": reward}, {"pairs": 0.2})  # doctest: +SKIP
    """

    __name__ = "pairs"

    def __init__(
        self,
        judge: PairJudge,
        *,
        opponents: int = 4,
        base: Any = None,
        weight: float = 0.01,
        aspect: str | None = None,
        seed: int = 0,
    ) -> None:
        if opponents < 2 or opponents % 2:
            raise UsageError(f"opponents: expected an even number >= 2, got {opponents}")
        if aspect is not None and ":" not in aspect:
            _definition(aspect)
        self.judge, self.opponents, self.base, self.weight, self.aspect = judge, opponents, base, weight, aspect
        self._rng = np.random.default_rng(seed)
        self.unread = 0
        """How many comparisons could not be read so far."""

    def __call__(self, images: Any, prompts: Sequence[Prompt]) -> list[float | None]:
        """Reward a batch; None for an image without a readable comparison, or a lone image without a base reward."""
        tensors, specs = as_images(images), resolve_all(prompts)
        if len(tensors) != len(specs):
            raise UsageError(f"prompts: expected {len(tensors)}, one per image, got {len(specs)}")
        base: list[float | None] = [0.0] * len(specs) if self.base is None else list(self.base(images, prompts))
        groups: dict[tuple[PromptSpec, float], list[int]] = {}
        for row, (spec, value) in enumerate(zip(specs, base, strict=True)):
            if value is not None:
                groups.setdefault((spec, value), []).append(row)
        met = [pair for rows in groups.values() for pair in self._meetings(rows)]
        aspect = [self.aspect or TASK_ASPECTS[specs[a].tag] for a, _ in met]
        pairs = [(tensors[a], tensors[b], specs[a].prompt, name) for (a, b), name in zip(met, aspect, strict=True)]
        won: list[list[float]] = [[] for _ in specs]
        for (a, b), found in zip(met, self.judge.compare(pairs), strict=True):
            if found.preference is None:
                self.unread += 1
                continue
            won[a].append((1 + found.preference) / 2)
            won[b].append((1 - found.preference) / 2)
        rates = [sum(values) / len(values) if values else None for values in won]
        if self.base is None:
            return rates
        return [
            None if value is None else value + self.weight * ((0.5 if rate is None else rate) - 0.5)
            for value, rate in zip(base, rates, strict=True)
        ]

    def _meetings(self, rows: Sequence[int]) -> list[tuple[int, int]]:
        """Pair each image with the next few in a random circle, so that all have equally many opponents."""
        if len(rows) <= self.opponents + 1:
            return [(a, b) for place, a in enumerate(rows) for b in rows[place + 1 :]]
        circle = self._rng.permutation(rows).tolist()
        steps = range(1, self.opponents // 2 + 1)
        return [(a, circle[(place + step) % len(circle)]) for place, a in enumerate(circle) for step in steps]


def preference_of(text: str) -> int | None:
    """Read a judge's answer: 1 if the first score is larger, -1 if the second is, 0 if they are equal; None without two scores.

    Examples:
        >>> preference_of("[Feedback]: 5 dogs. [Result]: 4 2"), preference_of("[Result]: (3, 3)"), preference_of("both")
        (1, 0, None)
    """
    found = re.search(r"\[?Result\]?\s*:?\s*\(?\s*([1-5])[\s,;/]+([1-5])(?![\d.])", text.rpartition("[Feedback]")[2])
    if found is None:
        return None
    first, second = int(found[1]), int(found[2])
    return (first > second) - (first < second)


def _definition(aspect: str) -> str:
    if aspect not in ASPECTS:
        raise UsageError(f"aspect: expected one of {', '.join(ASPECTS)}, or name: definition, got {aspect!r}")
    return ASPECTS[aspect]
