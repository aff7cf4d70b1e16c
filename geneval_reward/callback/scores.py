"""From verdicts to the numbers that are logged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from geneval_reward.judge.verdict import Verdict
from geneval_reward.stats import clustered_bootstrap
from geneval_reward.stats.sums import sum_by_prompt

# The interval's own noise is a few per cent of its width with so many draws, and a round is not held up.
_DRAWS: Final = 2000


def scores(name: str, verdicts: Sequence[Verdict], seconds: float) -> dict[str, float]:
    """The logged metrics of a round; see `geneval_reward.callback.GenEvalCallback` for what they mean.

    Args:
        name: Prefix of the keys.
        verdicts: At least one.
        seconds: What the round took.
    """
    official, partial = ([verdict.credit(credit) for verdict in verdicts] for credit in ("official", "partial"))
    # Images with equal records belong to one prompt, as in the benchmark.
    prompts, tags = [verdict.spec for verdict in verdicts], [verdict.spec.tag for verdict in verdicts]
    found = clustered_bootstrap(official, prompts, tags, draws=_DRAWS)
    assert found.pass_any is not None  # official credits are 0 or 1
    values = {
        "overall": found.overall.value,
        **{tag: estimate.value for tag, estimate in found.tags.items()},
        "partial": float(sum_by_prompt(partial, prompts, tags).tag_means.mean()),
        "pass_at_k": found.pass_any.value,
        "half_width": found.overall.interval.half_width,
        "n": float(found.overall.images),
        "prompts": float(found.overall.prompts),
        "seconds": seconds,
    }
    return {f"{name}/{key}": value for key, value in values.items()}
