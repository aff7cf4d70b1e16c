"""The published scores to show beside a run."""

from __future__ import annotations

from collections.abc import Mapping

from geneval_reward.errors import UsageError
from geneval_reward.study.published import PublishedScore, published


def nearest_published(
    tags: Mapping[str, float], *, rewritten: bool, count: int = 5, models: tuple[str, ...] = ()
) -> list[PublishedScore]:
    """Choose the published rows to show beside a run.

    Rows are chosen by how near they are in the mean over the run's own tags, so that a run that lacks tags is compared on what it
    has. Rows on prompts of the same kind (rewritten or not) fill all but two places; the nearest of the other kind fill those.

    Args:
        tags: Task scores of the run, in [0, 1].
        rewritten: Whether the prompts of the run were rewritten.
        count: Largest number of rows, >= 0; a model is listed once for each kind of prompts, and once more if others ran it.
        models: Texts, one of which must be part of a model's name, whatever its case; empty for any model.

    Returns:
        Rows that print every tag of `tags`, the highest score first.

    Raises:
        UsageError: If `models` matches no model.

    Examples:
        >>> sd = {"single_object": 0.97, "two_object": 0.38, "counting": 0.35, "colors": 0.76, "position": 0.04,
        ...     "color_attr": 0.06}
        >>> nearest_published(sd, rewritten=False, count=1)[0].model
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
        once.setdefault((row.label, row.rewritten), row)
    nearest = list(once.values())
    same = [row for row in nearest if row.rewritten == rewritten]
    other = [row for row in nearest if row.rewritten != rewritten][: 2 if count > 2 else 0]
    chosen = same[: max(count - len(other), 0)] + other
    return sorted(chosen, key=lambda row: -sum(row.tags[tag] for tag in tags))
