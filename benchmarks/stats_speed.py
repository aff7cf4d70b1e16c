"""How long the statistics take, in seconds and beside the plainest numpy that gives the same draws.

    python benchmarks/stats_speed.py

Everything is made up on the spot (beta-binomial runs), nothing is loaded. `cpu` is processor time of one process, the
figure to compare on a busy machine.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from made_up_results import write_synthetic
from simulated_runs import simulate_runs

from geneval_reward.generate.subset import TYPICAL_ACCURACY
from geneval_reward.results import read_results
from geneval_reward.stats import clustered_bootstrap, compare_paired
from geneval_reward.study.compare import compare_files

DRAWS = 10_000


def timed(call: Callable[[], object], repeats: int = 3) -> tuple[float, float]:
    """Best wall and processor seconds."""
    wall, cpu = [], []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
    return min(wall), min(cpu)


def plain_bootstrap(correct: np.ndarray, prompt: np.ndarray, tag: np.ndarray) -> np.ndarray:
    """Overall only, one draw after another."""
    rng = np.random.default_rng(0)
    means = correct.reshape(-1, 4).mean(axis=1)
    tags = tag[::4]
    strata = [means[tags == name] for name in np.unique(tags)]
    return np.array(
        [np.mean([part[rng.integers(len(part), size=len(part))].mean() for part in strata]) for _ in range(DRAWS)]
    )


def main() -> None:
    runs = simulate_runs([TYPICAL_ACCURACY] * 2, seed=1)
    graded = np.random.default_rng(0).random(runs.correct.shape)
    rows: list[tuple[str, tuple[float, float]]] = []
    rows.append(
        ("plain bootstrap, overall only", timed(lambda: plain_bootstrap(runs.correct[0], runs.prompt, runs.tag), 1))
    )
    rows.append(
        ("clustered_bootstrap, all scores", timed(lambda: clustered_bootstrap(runs.correct[0], runs.prompt, runs.tag)))
    )
    rows.append(("  the same, graded credit", timed(lambda: clustered_bootstrap(graded[0], runs.prompt, runs.tag))))
    rows.append(("compare_paired, all tests", timed(lambda: compare_paired(*runs.correct, runs.prompt, runs.tag))))
    rows.append(("  the same, graded credit", timed(lambda: compare_paired(*graded, runs.prompt, runs.tag))))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [write_synthetic(folder / f"{i}.jsonl", runs, i) for i in (0, 1)]
        rows.append(("compare_files, two runs", timed(lambda: compare_files(files))))
        # The lines of one run again and again under other names: only the reader sees them.
        lines = files[0].read_text().splitlines()
        large = folder / "large.jsonl"
        with large.open("w") as file:
            for number in range(100_000):
                file.write(
                    lines[number % len(lines)].replace("/samples/", f"/samples/{number // len(lines):02d}") + "\n"
                )
        rows.append(("read_results, 100,000 lines", timed(lambda: read_results(large))))
        results = read_results(large)
        rows.append(
            ("  their intervals", timed(lambda: clustered_bootstrap(results.correct, results.prompt_ids, results.tags)))
        )
        script = "from geneval_reward.study.compare import compare_files; import sys; compare_files(sys.argv[1:])"
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", script, *map(str, files)], check=True)
        whole = time.perf_counter() - start
    reference = rows[0][1][1]
    print(f"{'2,212 images, 10,000 draws':34} {'wall s':>8} {'cpu s':>8} {'of plain':>9}")
    for name, (wall, cpu) in rows:
        print(f"{name:34} {wall:8.3f} {cpu:8.3f} {cpu / reference:9.2f}")
    print(f"{'compare in a fresh process':34} {whole:8.3f}")


if __name__ == "__main__":
    main()
