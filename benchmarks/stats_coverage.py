"""Do the intervals hold the truth as often as they say, and the tests their level? By simulation with known truth.

    python benchmarks/stats_coverage.py [REPEATS]

Beta-binomial runs on 553 prompts x 4 images. The tables of docs/measurement.md come from here.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from simulated_runs import SUITE_PROMPTS, simulate_runs

from geneval_reward.generate.subset import TYPICAL_ACCURACY
from geneval_reward.stats import clustered_bootstrap, compare_paired, compare_unpaired

STABLE_DIFFUSION = dict(zip(SUITE_PROMPTS, (0.97, 0.38, 0.35, 0.76, 0.04, 0.06), strict=True))
TUNED = dict(zip(SUITE_PROMPTS, (1.0, 0.99, 0.95, 0.92, 0.99, 0.86), strict=True))
PROFILES = {"SD 1.5": STABLE_DIFFUSION, "FLUX.1-dev": TYPICAL_ACCURACY, "tuned by RL": TUNED}
CORRELATIONS = (0.1, 0.3, 0.6)


def true_pass(accuracy: dict[str, float], icc: float, k: int = 4) -> float:
    """Chance that one of k images of a prompt of the suite is correct, from the beta distribution's moments."""
    weight, total = 1 / icc - 1, 0.0
    for tag, share in accuracy.items():
        missed = 1.0
        for i in range(k):
            missed *= ((1 - share) * weight + i) / (weight + i)
        total += (1 - missed) * SUITE_PROMPTS[tag]
    return total / sum(SUITE_PROMPTS.values())


def one_run(accuracy: dict[str, float], icc: float, repeats: int) -> list[float]:
    """Coverage of overall, the tags (mean and worst), pass@4, and of the overall with images taken for independent."""
    hits: dict[str, Any] = {"overall": 0, "pass": 0, "naive": 0, "tags": np.zeros(6), "plain": np.zeros(6)}
    solved = true_pass(accuracy, icc)
    for seed in range(repeats):
        runs = simulate_runs([accuracy], icc=icc, seed=seed)
        arguments = runs.correct[0], runs.prompt, runs.tag
        scores = clustered_bootstrap(*arguments, draws=1000, seed=seed)
        plain = clustered_bootstrap(*arguments, draws=1000, seed=seed, method="bootstrap")
        naive = clustered_bootstrap(runs.correct[0], np.arange(2212), runs.tag, draws=300, seed=seed)
        hits["overall"] += runs.truth[0] in scores.overall.interval
        hits["naive"] += runs.truth[0] in naive.overall.interval
        assert scores.pass_any is not None
        hits["pass"] += solved in scores.pass_any.interval
        hits["tags"] += [share in scores.tags[tag].interval for tag, share in accuracy.items()]
        hits["plain"] += [share in plain.tags[tag].interval for tag, share in accuracy.items()]
    counts = [
        hits["overall"],
        hits["tags"].mean(),
        hits["tags"].min(),
        hits["plain"].min(),
        hits["pass"],
        hits["naive"],
    ]
    return [float(count) / repeats for count in counts]


def two_runs(gain: float, icc: float, correlation: float, repeats: int) -> list[float]:
    """Coverage of the difference, and how often each test says "different"."""
    better = {tag: min(1.0, share + gain) for tag, share in TYPICAL_ACCURACY.items()}
    found = np.zeros(4)
    for seed in range(repeats):
        runs = simulate_runs([TYPICAL_ACCURACY, better], icc=icc, prompt_correlation=correlation, seed=seed)
        one = compare_paired(*runs.correct, runs.prompt, runs.tag, draws=1000, seed=seed)
        loose = compare_unpaired(runs.correct[0], runs.prompt, runs.tag, runs.correct[1], runs.prompt, runs.tag)
        assert one.overall.p_mcnemar is not None
        found += [
            runs.truth[1] - runs.truth[0] in one.overall.interval,
            one.overall.p_value <= 0.05,
            one.overall.p_mcnemar <= 0.05,
            loose.overall.p_value <= 0.05,
        ]
    return [float(share) for share in found / repeats]


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(f"coverage of nominal 95% intervals, {repeats} runs each")
    print(
        "| accuracies of | icc | overall | tags, mean | tags, worst | worst, bootstrap only | pass@4 | overall, naive |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, accuracy in PROFILES.items():
        for icc in CORRELATIONS:
            cells = " | ".join(f"{share:.3f}" for share in one_run(accuracy, icc, repeats))
            print(f"| {name} | {icc} | {cells} |", flush=True)
    print(f"\ntwo runs, level .05, {repeats} pairs each")
    print("| true gain, points | icc | prompts' correlation | coverage | paired | McNemar | unpaired |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for gain in (0.0, 0.02, 0.03):
        for icc in (0.2, 0.6):
            for correlation in (0.7, 0.95):
                cells = " | ".join(f"{share:.3f}" for share in two_runs(gain, icc, correlation, repeats))
                print(f"| {100 * gain:g} | {icc} | {correlation} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
