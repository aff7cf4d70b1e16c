"""Is the held-out score of the best of many settings right, where its own score is not? By simulation.

    python benchmarks/selection.py 200

Settings on the same 60 prompts, two images each, correlation .3 between images of a prompt; prompts are equally hard for all.
"""

from __future__ import annotations

import sys

import numpy as np
from simulated_runs import simulate_runs

from geneval_reward.prompts import TAGS
from geneval_reward.stats import clustered_bootstrap
from geneval_reward.study.sweep.selection import select_best

SIZES = dict.fromkeys(TAGS, 10)


def main(repeats: int) -> None:
    worlds = {
        "12 alike at 0.50": [0.5] * 12,
        "40 alike at 0.50": [0.5] * 40,
        "12 from 0.45 to 0.55": np.linspace(0.45, 0.55, 12).tolist(),
        "11 at 0.50, one at 0.65": [0.5] * 11 + [0.65],
    }
    print(
        "| settings | best's own score | of the chosen, in truth | held out | 95 % intervals that hold it: own | held out |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for name, accuracies in worlds.items():
        rows = []
        for seed in range(repeats):
            data = simulate_runs(
                [dict.fromkeys(TAGS, one) for one in accuracies], prompts=SIZES, images_per_prompt=2, icc=0.3, seed=seed
            )
            found = select_best(data.correct, data.prompt, data.tag, repeats=10, draws=400, seed=seed)
            truth = accuracies[found.best]
            own = clustered_bootstrap(data.correct[found.best], data.prompt, data.tag, draws=400).overall.interval
            held = found.held_out
            rows.append((found.apparent, truth, held.value, truth in own, truth in held.interval))
        own, truth, held, covered_own, covered_held = np.mean(np.array(rows, float), axis=0)
        print(f"| {name} | {own:.3f} | {truth:.3f} | {held:.3f} | {covered_own:.2f} | {covered_held:.2f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
