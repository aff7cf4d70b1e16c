"""Speed of the pure judge and of the import, on one core.

    python benchmarks/judge_speed.py [--seconds 2]

Judges the 1,200 golden cases over and over: official verdicts (what scoring computes), all five credits, and the way from
raw arrays (`Detections` built anew each time). Rates are per second of processor time, the best of several rounds, so
that other work on the machine hardly shows.
"""

import argparse
import json
import lzma
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from geneval_reward.judge import Detections, Verdict, judge
from geneval_reward.testing import replay

CASES = Path(__file__).parents[1] / "tests" / "data" / "verdicts.jsonl.xz"
TARGET_VERDICTS, TARGET_IMPORT = 20_000, 2.0


def rate(work: Callable[[], int], seconds: float) -> float:
    """The most things a second that `work` did in any of its rounds."""
    best, until = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.process_time()
        done = work()
        best = max(best, done / (time.process_time() - start))
    return best


def again(found: Detections) -> Detections:
    return Detections(found.xyxy, found.confidence, found.class_id, found.image_size, color=found.color)


def import_seconds(module: str, rounds: int = 5) -> float:
    """Processor time of an import in a fresh interpreter, the best of several."""
    code = f"import time; start = time.process_time(); import {module}; print(time.process_time() - start)"
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(rounds)
    ]
    return min(float(run.stdout) for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each row")
    seconds = parser.parse_args().seconds
    with lzma.open(CASES, "rt", encoding="utf-8") as lines:
        verdicts = [replay(json.loads(line)) for line in lines]

    def run(each: Callable[[Verdict], object]) -> float:
        def once() -> int:
            for verdict in verdicts:
                each(verdict)
            return len(verdicts)

        return rate(once, seconds)

    speeds = {
        "official verdict": run(lambda v: judge(v.spec, v.detections, v.rules).correct),
        "official verdict, arrays checked": run(lambda v: judge(v.spec, again(v.detections), v.rules).correct),
        "all five credits": run(lambda v: judge(v.spec, v.detections, v.rules).credits()),
    }
    print(f"{'judge, one core':<36}{'per second':>12}{'x target':>10}")
    for name, speed in speeds.items():
        print(f"{name:<36}{speed:>12,.0f}{speed / TARGET_VERDICTS:>10.2f}")
    print(f"\n{'import':<36}{'CPU seconds':>12}{'x limit':>10}")
    for module in ("geneval_reward", "geneval_reward.judge", "geneval_reward.scorer"):
        took = import_seconds(module)
        print(f"{module:<36}{took:>12.3f}{took / TARGET_IMPORT:>10.2f}")


if __name__ == "__main__":
    main()
