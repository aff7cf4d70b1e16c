"""A quick look at a folder: some of its images, of every task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.results.layout import ImageItem


def spread(items: Sequence[ImageItem], limit: int | None) -> list[ImageItem]:
    """Choose some images, evenly many of each task, and as many prompts of a task as can be.

    Args:
        items: The images of a folder.
        limit: The most images to choose; None for all. A smaller choice is part of a larger one.

    Returns:
        The chosen images in their order.
    """
    if limit is None or limit >= len(items):
        return list(items)
    of_prompt: Counter[PromptSpec] = Counter()
    of_task: Counter[tuple[str, int]] = Counter()
    turns = []
    for number, item in enumerate(items):
        # Each prompt's first image comes before any second one, and the tasks take turns.
        rank = of_prompt[item.spec]
        of_prompt[item.spec] += 1
        turns.append((rank, of_task[item.spec.tag, rank], number))
        of_task[item.spec.tag, rank] += 1
    return [items[number] for number in sorted(number for *_, number in sorted(turns)[:limit])]
