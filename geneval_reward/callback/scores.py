"""From verdicts to the numbers that are logged, and to the line on the console."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from geneval_reward.judge.verdict import Verdict
from geneval_reward.results.notation import score_text
from geneval_reward.stats import Estimate, clustered_bootstrap
from geneval_reward.stats.sums import sum_by_prompt
from geneval_reward.support.counts import counted

# The interval's own noise is a few per cent of its width with so many draws, and a round is not held up.
_DRAWS: Final = 2000


def scores(name: str, verdicts: Sequence[Verdict], seconds: float) -> tuple[dict[str, float], Estimate]:
    """The logged metrics of a round, which `geneval_reward.callback.GenEvalCallback` explains, and the overall with its interval.

    Args:
        name: Prefix of the keys.
        verdicts: At least one.
        seconds: What the round took.
    """
    official, partial = ([verdict.credit(credit) for verdict in verdicts] for credit in ("official", "partial"))
    # Images with equal records belong to one prompt, as in the benchmark.
    prompts, tags = [verdict.spec for verdict in verdicts], [verdict.spec.tag for verdict in verdicts]
    found = clustered_bootstrap(official, prompts, tags, draws=_DRAWS)
    graded = sum_by_prompt(partial, prompts, tags)
    assert found.pass_any is not None  # official credits are 0 or 1
    values = {
        "overall": found.overall.value,
        **{tag: estimate.value for tag, estimate in found.tags.items()},
        "partial": float(graded.overall_weights @ graded.tag_means),
        "pass_at_k": found.pass_any.value,
        "half_width": found.overall.interval.half_width,
        "n": float(found.overall.images),
        "prompts": float(found.overall.prompts),
        "seconds": seconds,
    }
    return {f"{name}/{key}": value for key, value in values.items()}, found.overall


def round_line(name: str, overall: Estimate, seconds: float, step: int) -> str:
    """Write what a round found in one line: `geneval 0.375 [0.250, 0.500], 12 prompts, 2.6 s, step 20`."""
    images = "" if overall.images == overall.prompts else f" ({counted(overall.images, 'image')})"
    return f"{name} {score_text(overall)}, {counted(overall.prompts, 'prompt')}{images}, {seconds:.1f} s, step {step}"
