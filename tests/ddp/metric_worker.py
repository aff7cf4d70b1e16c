"""A 2-process gloo group of which each rank scores its share and writes down what it computed.

Run by `tests/test_metric.py` as `metric_worker.py FOLDER`. The shares are uneven, and in one round a rank has none.
"""

import json
import multiprocessing
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from geneval_reward import GenEvalScore, official_suite
from geneval_reward.testing import FakeDetector, scorer_for

SUITE = official_suite()
# Rows of the suite: a tag is on one rank only, one prompt is on both.
SHARES = {"uneven": ([0, 1, 2, 80, 180, 260, 354], [0, 454, 455]), "empty": ([0, 80, 180, 260, 354, 454], [])}


def number(image: torch.Tensor) -> int:
    return int(image[0, 0, 0]) * 256 + int(image[1, 0, 0])


def answers(image: torch.Tensor) -> dict[str, list[list[float]]]:
    """Row `r` shows the first object of its record: four times where r % 3 == 0, unsurely where r % 4 == 2."""
    row = number(image)
    confidence = 0.4 if row % 4 == 2 else 0.95
    boxes = [[7.0 * i, 2.0, 7.0 * i + 6, 12.0, confidence - 0.01 * i] for i in range(4 if row % 3 == 0 else 1)]
    return {SUITE[row].include[0].class_name: boxes}


def images_of(rows: list[int]) -> list[torch.Tensor]:
    numbers = torch.tensor([[row // 256, row % 256, 0] for row in rows], dtype=torch.uint8)
    return list(numbers[:, :, None, None].expand(-1, 3, 32, 32))


def feed(metric: GenEvalScore, rows: list[int], forward: bool = False) -> list[float]:
    """Two images a batch; the values of the batches if `forward`."""
    values = []
    for start in range(0, len(rows), 2):
        batch = rows[start : start + 2]
        prompts = [SUITE[row].prompt for row in batch]
        if forward:
            values.append(float(metric(images_of(batch), prompts)))
        else:
            metric.update(images_of(batch), prompts)
    return values


def make(credit: str, **options: Any) -> GenEvalScore:
    return GenEvalScore(scorer_for(FakeDetector(answers)), credit, **options)


def main(rank: int, folder: Path) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    warnings.simplefilter("error")
    # A rank without images has not called update; torchmetrics says so.
    warnings.filterwarnings("ignore", message=r"(?s).*was called before the ``update`` method")
    results: dict[str, Any] = {"modules": sorted({name.partition(".")[0] for name in sys.modules})}
    for name, shares in SHARES.items():
        for credit in ("official", "dense"):
            metric = make(credit)
            mine = shares[rank]
            feed(metric, mine)
            results[f"{name}/{credit}"] = {
                "compute": float(metric.compute()),
                "breakdown": metric.breakdown(),
                "local_images": int(metric.images.sum()),
            }
            # Synced states were given back: more of the same can be counted.
            feed(metric, mine)
            results[f"{name}/{credit}"]["doubled"] = metric.breakdown()
    metric = make("official")
    results["forward"] = {
        "batches": feed(metric, SHARES["uneven"][rank], forward=True),
        "compute": float(metric.compute()),
    }
    stepwise = make("official", dist_sync_on_step=True)
    rows = SHARES["uneven"][rank][:2]
    results["synced_step"] = float(stepwise(images_of(rows), [SUITE[row].prompt for row in rows]))
    (folder / f"rank{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    # Forked after the imports, which cost more than the test does; nothing has started a thread yet.
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=main, args=(rank, Path(sys.argv[1]))) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    sys.exit(max(abs(process.exitcode or 0) for process in ranks))
