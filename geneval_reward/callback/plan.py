"""Which images a round is made of: prompts, their order, waves and ranks' shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from geneval_reward.errors import SpecError
from geneval_reward.generate.seeds import seed_for
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.vocabulary import sort_tags
from geneval_reward.scorer import Scorer, refusal


@dataclass(frozen=True, slots=True)
class Job:
    """One image to make and judge.

    Attributes:
        number: Its place in the whole plan.
        spec: What is asked.
        index: Which image of the prompt.
        seed: For the generator.
        shown: Whether its picture is kept for the loggers.
        idle: Whether it is made only to keep in step with ranks that have more to do, and is not judged.
    """

    number: int
    spec: PromptSpec
    index: int
    seed: int
    shown: bool
    idle: bool = False


def balanced(specs: Sequence[PromptSpec], seed: int) -> tuple[PromptSpec, ...]:
    """Put specs in the order in which a budget takes them: the tags in turn, shuffled by the seed within a tag.

    Equal seeds give equal orders everywhere. Any first part of the order is spread over the tags as evenly as can be.
    """
    # The words in front keep the order apart from the seeds of images.
    queues = [
        sorted(
            (s for s in specs if s.tag == tag), key=lambda spec: seed_for(seed, f"order of {spec.core.to_json()}", 0)
        )
        for tag in sort_tags(spec.tag for spec in specs)
    ]
    longest = max(map(len, queues))
    return tuple(queue[row] for row in range(longest) for queue in queues if row < len(queue))


def count_by_task(specs: Iterable[PromptSpec]) -> str:
    """Say how many prompts of each task there are, such as `colors 2, counting 3`."""
    counts = Counter(spec.tag for spec in specs)
    return ", ".join(f"{tag} {counts[tag]}" for tag in sort_tags(counts))


def refuse_unknown_words(scorer: Scorer | None, specs: Sequence[PromptSpec]) -> None:
    """Raise now, and not in the first round, if the scorer is there and does not know a class or colour.

    Raises:
        SpecError: The message has the prompt and the word.
    """
    if scorer is None:
        return
    for spec in specs:
        problem = refusal(scorer, spec)
        if problem is not None:
            raise SpecError(f"prompts: {spec.prompt!r}: {problem}")


def plan_jobs(specs: Sequence[PromptSpec], images_per_prompt: int, seed: int, shown: int) -> list[Job]:
    """All images of a round, prompt by prompt; the first picture of each of the first `shown` prompts is kept."""
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


def padded_share(jobs: Sequence[Job], rank: int, world_size: int) -> list[Job]:
    """The jobs of one rank, filled up with idle ones so that all shares are equally long."""
    mine = share(jobs, rank, world_size)
    missing = -(-len(jobs) // world_size) - len(mine)
    return mine + [replace(jobs[0], shown=False, idle=True)] * missing


def chunks(jobs: Sequence[Job], size: int) -> Iterator[list[Job]]:
    """Jobs in batches of at most `size`."""
    for start in range(0, len(jobs), size):
        yield list(jobs[start : start + size])
