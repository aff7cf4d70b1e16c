"""Which published scores stand beside a run."""

from __future__ import annotations

from collections.abc import Mapping

from geneval_reward.errors import UsageError
from geneval_reward.study.published import PublishedScore, published


def beside(
    tags: Mapping[str, float], *, rewritten: bool, count: int = 5, models: tuple[str, ...] = ()
) -> list[PublishedScore]:
    """The published rows to show beside a run.

    Nearest by the mean over the run's own tags, so that a run without all tags is compared on what it has. Rows on prompts of the
    same kind (rewritten or not) fill all but two places; the nearest of the other kind fill those, flagged.

    Args:
        tags: Task scores of the run, in [0, 1].
        rewritten: Whether its prompts were rewritten.
        count: How many rows at most, >= 0; a model and kind is listed once.
        models: Only models whose names contain one of these texts, whatever its case.

    Returns:
        Rows by falling overall score. Only rows that print every tag of `tags`.

    Raises:
        ValueError: If `models` names none.

    Example:
        >>> sd = {"single_object": 0.97, "two_object": 0.38, "counting": 0.35, "colors": 0.76, "position": 0.04,
        ...     "color_attr": 0.06}
        >>> beside(sd, rewritten=False, count=1)[0].model
        'Stable Diffusion v1.5'
    """
    rows = [row for row in published() if set(tags) <= row.tags.keys()]
    if models:
        rows = [row for row in rows if any(name.lower() in row.model.lower() for name in models)]
        if not rows:
            raise UsageError(
                f"models: expected part of the name of a published model, got {', '.join(models)}; "
                "see geneval_reward.study.published.published()"
            )
    if not tags or count == 0:
        return []
    mean = sum(tags.values()) / len(tags)

    def distance(row: PublishedScore) -> float:
        return abs(sum(row.tags[tag] for tag in tags) / len(tags) - mean)

    once: dict[tuple[str, bool], PublishedScore] = {}
    for row in sorted(rows, key=distance):
        once.setdefault((row.model, row.rewritten), row)
    nearest = list(once.values())
    same = [row for row in nearest if row.rewritten == rewritten]
    other = [row for row in nearest if row.rewritten != rewritten][: 2 if count > 2 else 0]
    chosen = same[: max(count - len(other), 0)] + other
    return sorted(chosen, key=lambda row: -sum(row.tags[tag] for tag in tags))
