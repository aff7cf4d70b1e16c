"""Intervals, paired comparisons and planning, all clustered by prompt. Needs numpy and scipy, but no models or files."""

from geneval_reward.stats.bootstrap import ScoreIntervals, clustered_bootstrap
from geneval_reward.stats.intervals import Estimate, Interval, pass_at_k, wilson
from geneval_reward.stats.kappa import cohen_kappa
from geneval_reward.stats.paired import (
    Counts,
    Difference,
    PairedComparison,
    compare_by_prompt,
    compare_paired,
    compare_unpaired,
)
from geneval_reward.stats.power import (
    Plan,
    VarianceComponents,
    assumed_components,
    minimum_detectable_difference,
    required_images,
    variance_components,
)
from geneval_reward.stats.significance import holm, mcnemar

__all__ = [
    "Counts",
    "Difference",
    "Estimate",
    "Interval",
    "PairedComparison",
    "Plan",
    "ScoreIntervals",
    "VarianceComponents",
    "assumed_components",
    "clustered_bootstrap",
    "cohen_kappa",
    "compare_by_prompt",
    "compare_paired",
    "compare_unpaired",
    "holm",
    "mcnemar",
    "minimum_detectable_difference",
    "pass_at_k",
    "required_images",
    "variance_components",
    "wilson",
]
