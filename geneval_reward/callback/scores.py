"""From verdicts to the numbers that are logged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from geneval_reward.judge.verdict import Verdict
from geneval_reward.stats import clustered_bootstrap
from geneval_reward.stats.completeness import Tally

# The interval's own noise is a few per cent of its width with so many draws, and a round is not held up.
_DRAWS: Final = 2000


def scores(name: str, verdicts: Sequence[Verdict], seconds: float) -> dict[str, float]:
    """The logged metrics of a round; see `geneval_reward.callback.GenEvalCallback` for what they mean.

    Args:
        name: Prefix of the keys.
        verdicts: At least one.
        seconds: What the round took.
    """
    tally = Tally.of(verdicts)
    found = clustered_bootstrap(tally.values, tally.prompts, tally.tags, draws=_DRAWS)
    values = {
        "overall": tally.overall,
        **tally.per_tag(),
        "partial": Tally.of(verdicts, "partial").overall,
        "pass_at_k": tally.prompts_solved(),
        "half_width": found.overall.interval.half_width,
        "n": float(len(tally)),
        "prompts": float(len(set(tally.prompts))),
        "seconds": seconds,
    }
    return {f"{name}/{key}": value for key, value in values.items()}
