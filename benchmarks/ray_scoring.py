"""Scoring a data set by Ray workers against one process, on this machine.

    python benchmarks/ray_scoring.py [--images 200] [--size 512] [--workers 2]

Writes images in the benchmark's layout to a temporary folder and scores them with the `lite` backend on the CPU by
(a) one process that does what `geneval-reward score` does, (b) `score_dataset` with one worker, (c) with several; and a batch by
a scorer in this process and a `RayScorer`. Every process gets one thread, so that the figures compare one core with several. The
cluster is started before the clock; loading a scorer is shown apart, since a large data set pays for it once.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

import numpy as np
import ray
import torch
from PIL import Image

from geneval_reward import GenEvalScorer, official_suite
from geneval_reward.ray import RayScorer, score_dataset
from geneval_reward.ray.work import score_shard
from geneval_reward.results import read_results
from geneval_reward.results.layout import write_prompt_folder
from geneval_reward.results.shards import open_source
from geneval_reward.vision.photos import PHOTOS, photo


def make_images(root: Path, count: int, size: int) -> None:
    photos = [photo(name).convert("RGB").resize((size, size)) for name in PHOTOS]
    for number, spec in enumerate(official_suite()[: -(-count // 4)]):
        samples = write_prompt_folder(root, number, spec)
        for index in range(min(4, count - 4 * number)):
            photos[(number + index) % len(photos)].save(samples / f"{index:04d}.png", compress_level=1)


def timed_dataset(root: Path, out: Path, workers: int) -> dict[str, float]:
    """Seconds of all, and images a second after the first shard of each worker, which includes loading."""
    ends: list[tuple[float, int]] = []
    start = time.perf_counter()
    score_dataset(
        open_source(root, shard_size=10), out, "lite", workers=workers, overwrite=True, device="cpu",
        progress=lambda report: ends.append((time.perf_counter(), report.scored)),
    )  # fmt: skip
    seconds = time.perf_counter() - start
    steady = sum(images for _, images in ends[workers:]) / (ends[-1][0] - ends[workers - 1][0])
    return {"seconds_with_loading": round(seconds, 1), "images_per_second": round(steady, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, object] = {
        "images": options.images,
        "size": options.size,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
    }
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "images"
        make_images(root, options.images, options.size)
        start = time.perf_counter()
        scorer = GenEvalScorer.from_pretrained("lite", device="cpu")
        loading = time.perf_counter() - start
        (shard,) = open_source(root, shard_size=options.images).shards
        start = time.perf_counter()
        score_shard(scorer, shard, Path(name) / "one.jsonl")
        seconds = time.perf_counter() - start
        report["one process"] = {"loading": round(loading, 1), "images_per_second": round(options.images / seconds, 2)}
        ray.init(
            num_cpus=options.workers, object_store_memory=200 * 2**20, include_dashboard=False, log_to_driver=False
        )
        for workers in sorted({1, options.workers}):
            out = Path(name) / f"ray{workers}.jsonl"
            report[f"score_dataset, {workers} workers"] = timed_dataset(root, out, workers)
            assert read_results(out).correct.tolist() == read_results(Path(name) / "one.jsonl").correct.tolist()
        batch = [
            torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) for path in sorted(root.rglob("*.png"))[:32]
        ]
        specs = [official_suite()[0]] * len(batch)
        pool = RayScorer("lite", workers=options.workers, piece=4, device="cpu")
        for title, judge in {"GenEvalScorer": scorer, f"RayScorer, {options.workers} workers": pool}.items():
            judge.score(batch[:4], specs[:4])
            start = time.perf_counter()
            for _ in range(3):
                judge.score(batch, specs)
            report[title] = {"images_per_second": round(3 * len(batch) / (time.perf_counter() - start), 2)}
        ray.shutdown()
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
