"""Which images a round is made of: prompts, their order, waves and ranks' shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geneval_reward.errors import SpecError
from geneval_reward.generate.seeds import seed_for
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.suite import official_suite, resolve
from geneval_reward.prompts.vocabulary import TAGS

Prompts = int | str | Sequence[PromptSpec | Mapping[str, Any] | str]
"""`"suite"`, a number per tag, a file, or specs, records and texts of the official suite."""


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


def read_prompts(prompts: Prompts, seed: int) -> tuple[PromptSpec, ...]:
    """Specs in the order in which a budget takes them: tags in turn, within a tag shuffled by the seed.

    Args:
        prompts: `"suite"`; a number of prompts per tag of the suite; a file with one record, or prompt text of the suite, a
            line; or a sequence of those.
        seed: Of the order; equal seeds give equal orders everywhere.

    Raises:
        SpecError: If something does not parse, is there twice, or is empty; the message names the line or index.
    """
    if isinstance(prompts, str) and prompts.isdecimal():
        prompts = int(prompts)
    if isinstance(prompts, bool) or not isinstance(prompts, int | str | Sequence):
        raise SpecError(f"prompts: expected 'suite', a number, a file or a list, got {type(prompts).__name__}")
    if isinstance(prompts, int):
        largest = max(sum(spec.tag == tag for spec in official_suite()) for tag in TAGS)
        if not 1 <= prompts <= largest:
            raise SpecError(f"prompts: expected a number per tag in 1..{largest}, got {prompts}")
        queues = _by_tag(official_suite(), seed)
        return _interleave({tag: queue[:prompts] for tag, queue in queues.items()})
    if isinstance(prompts, str):
        specs = official_suite() if prompts == "suite" else _read_file(prompts)
    else:
        specs = tuple(_parse(item, f"prompts[{index}]") for index, item in enumerate(prompts))
    if not specs:
        raise SpecError("prompts: expected at least one, got none")
    seen: set[PromptSpec] = set()
    for index, spec in enumerate(specs):
        if spec in seen:
            raise SpecError(f"prompts[{index}]: expected each once, got {spec.prompt!r} twice; use images_per_prompt")
        seen.add(spec)
    return _interleave(_by_tag(specs, seed))


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


def _read_file(name: str) -> tuple[PromptSpec, ...]:
    try:
        lines = Path(name).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"prompts: expected 'suite', a number or a readable file, got {name!r} ({error})") from error
    return tuple(_parse(line, f"{name} line {number}") for number, line in enumerate(lines, 1) if line.strip())


def _parse(item: PromptSpec | Mapping[str, Any] | str, where: str) -> PromptSpec:
    try:
        return resolve(item.strip() if isinstance(item, str) else item)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from error
