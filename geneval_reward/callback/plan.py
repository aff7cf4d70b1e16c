"""Which images a round is made of: prompts, their order, waves and ranks' shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from geneval_reward.generate.seeds import seed_for
from geneval_reward.prompts import Prompts, PromptSpec, read_prompts
from geneval_reward.prompts.vocabulary import TAGS


@dataclass(frozen=True, slots=True)
class Job:
    """One image to make and judge.

    Attributes:
        number: Its place in the whole plan.
        spec: What is asked.
        index: Which image of the prompt.
        seed: For the generator.
        shown: Whether its picture is kept for the loggers.
    """

    number: int
    spec: PromptSpec
    index: int
    seed: int
    shown: bool


def ordered_prompts(prompts: Prompts, seed: int) -> tuple[PromptSpec, ...]:
    """Read prompts and put them in the order in which a budget takes them: the tasks in turn, shuffled within each task.

    Args:
        prompts: What `geneval_reward.prompts.read_prompts` takes; numbers choose from the official suite.
        seed: Seed of the choice and of the order; equal seeds give equal orders everywhere.

    Raises:
        SpecError: If a record is not valid, comes twice, or there is none; the message names the line or index.
        UsageError: If `prompts` has none of the forms.
    """
    return _interleave(_by_tag(read_prompts(prompts, seed=seed, unique=True), seed))


def plan_jobs(specs: Sequence[PromptSpec], images_per_prompt: int, seed: int, shown: int) -> list[Job]:
    """All images of a round, prompt by prompt; of the first `shown` prompts the first picture is kept."""
    return [
        Job(row * images_per_prompt + index, spec, index, seed_for(seed, spec.prompt, index), row < shown and not index)
        for row, spec in enumerate(specs)
        for index in range(images_per_prompt)
    ]


def waves(jobs: Sequence[Job], images_per_prompt: int, prompts_per_tag: int) -> list[list[Job]]:
    """Split jobs into waves that each have `prompts_per_tag` prompts of every tag that still has any."""
    waves: list[list[Job]] = []
    taken: dict[str, int] = {}
    for start in range(0, len(jobs), images_per_prompt):
        tag = jobs[start].spec.tag
        number, taken[tag] = taken.get(tag, 0) // prompts_per_tag, taken.get(tag, 0) + 1
        while len(waves) <= number:
            waves.append([])
        waves[number] += jobs[start : start + images_per_prompt]
    return waves


def share(jobs: Sequence[Job], rank: int, world_size: int) -> list[Job]:
    """The jobs of one rank; shares differ by one at most, and may be empty."""
    return list(jobs[rank::world_size])


def chunks(jobs: Sequence[Job], size: int) -> Iterator[list[Job]]:
    """Jobs in batches of at most `size`."""
    for start in range(0, len(jobs), size):
        yield list(jobs[start : start + size])


def _by_tag(specs: Sequence[PromptSpec], seed: int) -> dict[str, list[PromptSpec]]:
    # The words in front keep the order apart from the seeds of images.
    return {
        tag: sorted(
            (s for s in specs if s.tag == tag), key=lambda spec: seed_for(seed, f"order of {spec.to_json()}", 0)
        )
        for tag in TAGS
    }


def _interleave(queues: Mapping[str, Sequence[PromptSpec]]) -> tuple[PromptSpec, ...]:
    longest = max(len(queue) for queue in queues.values())
    return tuple(queue[row] for row in range(longest) for queue in queues.values() if row < len(queue))
