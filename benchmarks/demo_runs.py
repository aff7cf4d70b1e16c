"""The demo's training over several seeds, timed in CPU seconds, so that other work on the machine takes nothing from it.

    OMP_NUM_THREADS=1 python benchmarks/demo_runs.py --seeds 0 1 2 --out runs/demo [--method flow-grpo] [--quick]

Each seed is a run of `geneval-reward demo` (its training part) whose clock is this process's CPU time: ten minutes of it, both
measurements included. Writes the records and pages of each run, and unpicked samples after training, and prints the table of
docs/rl_recipes.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from geneval_reward.demo.training import TrainingDemo, clock, run, train_pocket
from geneval_reward.demo.training.page import method_name, methods_table, training_page
from geneval_reward.demo.training.record import RunRecord
from geneval_reward.prompts import TAGS


def on_cpu_time() -> None:
    """Let the demo's clock count CPU seconds in place of wall time."""
    clock.time = run.time = SimpleNamespace(monotonic=time.process_time)  # type: ignore[assignment]


def sheet(result: TrainingDemo, path: Path, columns: int = 8, side: int = 160) -> None:
    """Evenly spaced held-out prompts: a row before, the row below it after, with the same noise; not picked."""
    picks = [result.pairs[int(n)] for n in np.linspace(0, len(result.pairs) - 1, 4 * columns)]
    page = Image.new("RGB", (columns * side, 8 * side), "white")
    for index, pair in enumerate(picks):
        for row, image in enumerate((pair.before, pair.after)):
            small = Image.fromarray(image).resize((side - 4, side - 4), Image.Resampling.LANCZOS)
            page.paste(small, (index % columns * side, (2 * (index // columns) + row) * side))
    page.save(path, quality=88)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--method", default="nft")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    args = parser.parse_args()
    on_cpu_time()
    torch.set_num_threads(1)
    for seed in args.seeds:
        folder = args.out / f"seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)

        def tell(point: run.Progress) -> None:
            if point.stage != "train" or point.held_out == point.held_out:
                print(
                    f"{point.stage} epoch {point.epoch} images {point.images} CPU seconds {point.seconds:.0f} held out "
                    f"{point.held_out:.3f} reward {point.reward:.3f} gap {point.audit_gap:+.3f}",
                    flush=True,
                )

        result = train_pocket(args.method, quick=args.quick, seed=seed, progress=tell)
        record = RunRecord.of(result)
        record.save(folder)
        (folder / f"training-{args.method}.html").write_text(training_page(result, [record]), encoding="utf-8")
        sheet(result, folder / f"samples-{args.method}.jpg")
        print(f"{method_name(args.method)}, seed {seed}")
        columns, rows = methods_table([record])
        for name, value in zip(columns, rows[0], strict=True):
            print(f"  {name}: {value}")
        print(
            "  by task: "
            + ", ".join(f"{t} {record.tags[t]['before'][0]:.2f} {record.tags[t]['after'][0]:.2f}" for t in TAGS)
        )
        for when, audit in (("before", record.audit_before), ("after", record.audit_after)):
            print(
                f"  audit {when}: " + ", ".join(f"{k.removeprefix('geneval/')} {v}" for k, v in audit.items()),
                flush=True,
            )


if __name__ == "__main__":
    main()
