"""Scoring by Ray workers against one process, on this machine.

    python benchmarks/ray_scoring.py [--images 64] [--size 512] [--workers 2] [--rounds 5] [--skip-dataset] [--no-cluster]

(a) A batch of images in memory, scored with the `lite` backend on the CPU by a scorer in this process with one thread and with as
many as there are workers, by `RayScorer` with one worker and with several, and by as many processes without Ray, each of which
has its share of the images already: that is what the cores can give. Sides take turns; figures are medians of the rounds.
(b) The hand-over alone: workers that sleep 20 ms per image, so that all but Ray is free.
(c) Files: `score_shard` in one process on one core, and as it runs with a core more for its reading thread; `score_dataset` with
one worker and with several.
(d) Without a cluster, which a busy machine may not start in time (`--no-cluster` does only this): CPU time of a batch in this
process and in the method that an actor runs, and of copying what is sent.

Every process has one thread but where it says otherwise. The cluster is started before the clock, and scorers are loaded. CPU
milliseconds are those of this process and all its children, among them Ray's own. Needs psutil, which accelerate brings along.
"""

import argparse
import json
import os
import pickle
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

import psutil
import ray
import torch

from geneval_reward import GenEvalScorer, official_suite
from geneval_reward.ray import RayScorer, score_dataset
from geneval_reward.ray.pool import ScoringActor
from geneval_reward.ray.runtime import Recipe
from geneval_reward.ray.work import score_shard
from geneval_reward.results import read_results
from geneval_reward.results.layout import write_prompt_folder
from geneval_reward.results.shards import open_source
from geneval_reward.vision.images import load_image
from geneval_reward.vision.photos import PHOTOS, photo

READY: dict[str, Any] = {}
"""What a plain process holds."""


def make_images(root: Path, count: int, size: int) -> None:
    photos = [photo(name).convert("RGB").resize((size, size)) for name in PHOTOS]
    for number, spec in enumerate(official_suite()[: -(-count // 4)]):
        samples = write_prompt_folder(root, number, spec)
        for index in range(min(4, count - 4 * number)):
            photos[(number + index) % len(photos)].save(samples / f"{index:04d}.png", compress_level=1)


def cpu_seconds() -> float:
    """CPU seconds of this process and of all its children that live."""
    me, total = psutil.Process(), 0.0
    for process in (me, *me.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def load_batch(root: Path) -> tuple[list[torch.Tensor], list[Any]]:
    paths = sorted(root.rglob("*.png"))
    return [load_image(path) for path in paths], [official_suite()[number // 4] for number in range(len(paths))]


def start_process(root: Path, step: int) -> None:
    """Make a plain process ready: its scorer is loaded and warm, and the images are in memory."""
    torch.set_num_threads(1)
    images, specs = load_batch(root)
    scorer = GenEvalScorer.from_pretrained("lite", device="cpu")
    scorer.score(images[:4], specs[:4])
    READY.update(scorer=scorer, images=images, specs=specs, step=step)


def score_share(start: int) -> int:
    rows = slice(start, None, READY["step"])
    return len(READY["scorer"].score(READY["images"][rows], READY["specs"][rows]))


def actor_alone(root: Path, rounds: int) -> dict[str, float]:
    """CPU milliseconds per image of what an actor does, and of sending images and verdicts; medians of the rounds."""
    images, specs = (part[:16] for part in load_batch(root))
    actor = ScoringActor(Recipe("lite", {"device": "cpu"}))
    pixels = [image.numpy() for image in images]
    for array in pixels:
        array.flags.writeable = False  # as Ray gives them

    def send() -> None:
        buffers: list[pickle.PickleBuffer] = []
        pickle.dumps((pixels, specs), protocol=5, buffer_callback=buffers.append)
        for buffer in buffers:
            bytes(buffer.raw())

    verdicts = actor.score(pixels, specs)
    steps: dict[str, Callable[[], Any]] = {
        "scorer in this process": lambda: actor.scorer.score(images, specs),
        "method of the actor": lambda: actor.score(pixels, specs),
        "images copied": send,
        "verdicts there and back": lambda: pickle.loads(pickle.dumps(verdicts, protocol=5)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(-1, rounds):
        for name, call in steps.items():
            start = time.process_time()
            call()
            if number >= 0:
                seconds[name].append(time.process_time() - start)
    return {name: round(1000 * statistics.median(found) / len(images), 3) for name, found in seconds.items()}


def sleeping() -> Any:
    """Make a scorer that computes nothing and takes 20 ms per image."""
    from geneval_reward.testing import FakeDetector, scorer_for

    return scorer_for(FakeDetector(lambda image: time.sleep(0.02) or {}), batch_size=16)


def in_turns(sides: dict[str, Callable[[], Any]], images: int, rounds: int) -> dict[str, dict[str, float]]:
    """Medians of the sides; each ratio is the median of those within a round, against the first side."""
    walls: dict[str, list[float]] = {name: [] for name in sides}
    cpus: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(-1, rounds):  # the first round warms up
        for name, call in sides.items():
            cpu, start = cpu_seconds(), time.perf_counter()
            call()
            if number >= 0:
                walls[name].append((time.perf_counter() - start) / images * 1000)
                cpus[name].append((cpu_seconds() - cpu) / images * 1000)
        print(
            f"round {number + 1} of {rounds}",
            {name: round(wall[-1], 1) for name, wall in walls.items() if wall},
            flush=True,
        )
    base = walls[next(iter(sides))]
    return {
        name: {
            "ms_per_image": round(statistics.median(walls[name]), 2),
            "cpu_ms_per_image": round(statistics.median(cpus[name]), 2),
            "times_as_fast": round(statistics.median(a / b for a, b in zip(base, walls[name], strict=True)), 2),
        }
        for name in sides
    }


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def batches(root: Path, workers: int, rounds: int) -> dict[str, Any]:
    images, specs = load_batch(root)
    scorer = GenEvalScorer.from_pretrained("lite", device="cpu")

    def with_threads(count: int) -> Any:
        with threads(count):
            return scorer.score(images, specs)

    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=start_process, initargs=(root, workers)) as processes:
        pools = {count: RayScorer("lite", workers=count, device="cpu") for count in sorted({1, workers})}
        sides = {
            "this process, 1 thread": lambda: with_threads(1),
            f"this process, {workers} threads": lambda: with_threads(workers),
            f"{workers} processes without Ray": lambda: list(processes.map(score_share, range(workers))),
            **{f"RayScorer, {n} workers": lambda p=p: p.score(images, specs) for n, p in pools.items()},
        }
        found = in_turns(sides, len(images), rounds)
        assert [v.credits() for v in pools[workers].score(images, specs)] == [v.credits() for v in with_threads(1)]
        for pool in pools.values():
            pool.close()
    local, pool = sleeping(), RayScorer(sleeping, workers=workers)
    slept = {
        "this process": lambda: local.score(images, specs),
        f"RayScorer, {workers} workers": lambda: pool.score(images, specs),
    }
    handed = in_turns(slept, len(images), rounds)
    pool.close()
    return {"batch": found, "hand-over": handed}


def timed_dataset(root: Path, out: Path, workers: int, shard_size: int) -> dict[str, float]:
    """Seconds of all, and milliseconds per image after the first shard of each worker, which includes loading."""
    ends: list[tuple[float, int]] = []
    start = time.perf_counter()
    score_dataset(
        open_source(root, shard_size=shard_size), out, "lite", workers=workers, device="cpu",
        progress=lambda report: ends.append((time.perf_counter(), report.scored)),
    )  # fmt: skip
    seconds = time.perf_counter() - start
    steady = (ends[-1][0] - ends[workers - 1][0]) / sum(images for _, images in ends[workers:])
    return {"ms_per_image": round(1000 * steady, 2), "seconds_with_loading": round(seconds, 1)}


def files(root: Path, folder: Path, workers: int) -> dict[str, Any]:
    scorer = GenEvalScorer.from_pretrained("lite", device="cpu")
    (shard,) = open_source(root, shard_size=1_000_000).shards
    count = len(list(root.rglob("*.png")))
    found: dict[str, Any] = {}
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    for name, use in (("on one core", 1), ("reading on another core", None)):
        if cores is not None:
            os.sched_setaffinity(0, sorted(cores)[:use])
        cpu, start = cpu_seconds(), time.perf_counter()
        score_shard(scorer, shard, folder / f"one-{use}.jsonl")
        found[f"one process, {name}"] = {
            "ms_per_image": round((time.perf_counter() - start) / count * 1000, 2),
            "cpu_ms_per_image": round((cpu_seconds() - cpu) / count * 1000, 2),
        }
    expected = read_results(folder / "one-1.jsonl").correct.tolist()
    for number in sorted({1, workers}):
        out = folder / f"ray{number}.jsonl"
        found[f"score_dataset, {number} workers"] = timed_dataset(root, out, number, shard_size=max(1, count // 16))
        assert read_results(out).correct.tolist() == expected
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--skip-dataset", action="store_true")
    parser.add_argument("--no-cluster", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "images": options.images, "size": options.size, "rounds": options.rounds, "cores": os.cpu_count(),
        "machine": platform.machine(), "torch": torch.__version__, "ray": ray.__version__,
        "load at the start": os.getloadavg()[0],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "images"
        make_images(root, options.images, options.size)
        report["without a cluster, CPU ms per image"] = actor_alone(root, options.rounds)
        if options.no_cluster:
            print(json.dumps(report, indent=1))
            return
        # One CPU more than workers are busy at once, because the pool of one worker waits beside the other.
        ray.init(
            num_cpus=options.workers + 1, object_store_memory=200 * 2**20, include_dashboard=False, log_to_driver=False
        )
        report |= batches(root, options.workers, options.rounds)
        print(json.dumps(report, indent=1), flush=True)
        if not options.skip_dataset:
            report["files"] = files(root, Path(name), options.workers)
            print(json.dumps(report["files"], indent=1))
        ray.shutdown()


if __name__ == "__main__":
    main()
