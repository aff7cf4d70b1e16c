"""What a million or a billion images, or an RL run of 1,000 epochs, would cost: stage costs measured here, the rest simulated.

    python benchmarks/scale.py                       # lite on this machine; a few minutes
    python benchmarks/scale.py --paper-ms 25         # with the milliseconds per image that benchmarks/gpu.py measured

1. Stage costs of `lite` on one thread (CPU seconds per image), bytes per image and per row, and what reading and merging cost.
2. A check: the simulator predicts a run of shards with these costs, and the same run is made with real shards and a kill.
3. The simulator at scale: shards are dealt to workers as they become free, workers die at random times and start again, and a
   shard goes on where its file ends, as `geneval_reward.ray` does.
4. FLOPs of an RL epoch, counted by PyTorch on models of the published sizes without memory (`meta` device).

Nothing here was measured on a GPU: where a rate of a GPU is needed, it is an argument and is printed with the result.
"""

from __future__ import annotations

import argparse
import heapq
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
import warnings
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from geneval_reward import GenEvalScorer, official_suite
from geneval_reward.ray.work import score_shard
from geneval_reward.results import read_results
from geneval_reward.results.layout import write_prompt_folder
from geneval_reward.results.merge import merge_shards
from geneval_reward.results.shards import open_source
from geneval_reward.vision.images import load_image
from geneval_reward.vision.photos import PHOTOS, photo

MASK2FORMER_TFLOP = 0.449  # a forward at 800 x 800, docs/paper_backend.md
SHARD = 256


@dataclass(frozen=True)
class Cluster:
    """What a run is simulated with.

    Attributes:
        workers: Scoring processes.
        seconds: Seconds per image and worker.
        spread: Standard deviation of the logarithm of a shard's time (images differ, and nodes do).
        start: Seconds until a worker has loaded its scorer.
        lifetime: Mean hours until a worker dies; infinite for none.
        batch: Images that are lost when a worker dies: those without a row yet.
    """

    workers: int
    seconds: float
    spread: float = 0.1
    start: float = 30.0
    lifetime: float = float("inf")
    batch: int = 32


@dataclass(frozen=True)
class Outcome:
    """How a simulated run went; hours."""

    wall: float
    busy: float
    lost: float
    deaths: int


def simulate(images: int, shard: int, cluster: Cluster, seed: int = 0) -> Outcome:
    """Deal shards to workers as they become free; a worker that dies starts again and goes on with its shard."""
    rng = np.random.default_rng(seed)
    sizes = [shard] * (images // shard) + ([images % shard] if images % shard else [])
    free = [(cluster.start, worker) for worker in range(cluster.workers)]
    heapq.heapify(free)
    scale = cluster.lifetime * 3600
    death = rng.exponential(scale, cluster.workers) if np.isfinite(scale) else np.full(cluster.workers, np.inf)
    busy = lost = wall = 0.0
    deaths = 0
    noise = np.exp(rng.normal(-(cluster.spread**2) / 2, cluster.spread, len(sizes)))
    for size, factor in zip(sizes, noise, strict=True):
        now, worker = heapq.heappop(free)
        per_image = cluster.seconds * factor
        left = size
        while True:
            end = now + left * per_image
            if end <= death[worker]:
                break
            alive = max(0.0, death[worker] - now)
            made = int(alive / per_image)
            kept = made - made % cluster.batch
            lost += alive - kept * per_image + cluster.start
            busy += alive + cluster.start
            left -= kept
            deaths += 1
            now = max(now, death[worker]) + cluster.start
            death[worker] = now + rng.exponential(scale)
        busy += end - now
        wall = max(wall, end)
        heapq.heappush(free, (end, worker))
    return Outcome(wall / 3600, busy / 3600, lost / 3600, deaths)


def cpu(call, repeats: int = 3) -> float:
    """Median CPU seconds of a call, of all threads of this process."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return float(np.median(times))


def make_images(root: Path, count: int, size: int = 512) -> None:
    photos = [photo(name).convert("RGB").resize((size, size)) for name in PHOTOS]
    for number, spec in enumerate(official_suite()[: -(-count // 4)]):
        samples = write_prompt_folder(root, number, spec)
        for index in range(min(4, count - 4 * number)):
            photos[(number + index) % len(photos)].save(samples / f"{index:04d}.png")


def measure(folder: Path, images: int) -> dict[str, float]:
    """Costs per image of each stage of `lite`, one thread."""
    make_images(folder / "images", images)
    files = sorted((folder / "images").rglob("*.png"))
    scorer = GenEvalScorer.from_pretrained("lite", device="cpu")
    shards = list(open_source(folder / "images", shard_size=images).shards)
    specs = [sample.spec for sample in shards[0].samples()][: len(files)]
    pixels = [load_image(file) for file in files]
    scorer.score(pixels[:4], specs[:4])
    out = folder / "one.jsonl"

    def whole() -> None:
        for old in folder.glob("one.*"):
            old.unlink()
        score_shard(scorer, shards[0], out)

    decode = cpu(lambda: [load_image(file) for file in files]) / images
    score = cpu(lambda: scorer.score(pixels, specs)) / images
    total = cpu(whole) / images
    lines = out.read_bytes().splitlines(keepends=True)
    big = folder / "big.jsonl"
    number = 20_000
    big.write_bytes(b"".join(lines[n % len(lines)].replace(b"/samples/", b"/samples/%d-" % n) for n in range(number)))
    read = cpu(lambda: read_results(big)) / number
    tracemalloc.start()
    held = read_results(big)
    grown = tracemalloc.get_traced_memory()[0] / len(held)
    tracemalloc.stop()
    parts = []
    for part in range(8):
        path = folder / f"part{part}.jsonl"
        piece = lines[part % len(lines)]
        path.write_bytes(b"".join(piece.replace(b"/samples/", b"/samples/%d-%d-" % (part, n)) for n in range(1000)))
        parts.append(path)
    merge = cpu(lambda: merge_shards(parts, folder / "merged.jsonl"), 1) / 8000
    return {
        "decode": decode,
        "score": score,
        "rest": max(0.0, total - decode - score),
        "total": total,
        "png": float(np.mean([file.stat().st_size for file in files])),
        "row": len(b"".join(lines)) / len(lines),
        "read": read,
        "memory": grown,
        "merge": merge,
    }


WORKER = """
import sys, time
from pathlib import Path
from geneval_reward import GenEvalScorer
from geneval_reward.results.shards import open_source
from geneval_reward.ray.work import score_shard
begin = time.process_time()
scorer = GenEvalScorer.from_pretrained("lite", device="cpu")
source, out, stop = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
for number, shard in enumerate(open_source(source, shard_size=int(sys.argv[4])).shards):
    path = out / f"{number:03d}.jsonl"
    if path.with_suffix(".jsonl.done").exists():
        continue
    score_shard(scorer, shard, path)
    print(time.process_time(), flush=True)
    if stop and number == 2:
        import os; os._exit(9)
"""


def check(folder: Path, costs: dict[str, float], images: int, shard: int) -> tuple[float, float]:
    """CPU seconds of a real run of shards that is killed once and goes on, and what the simulator says."""
    out = folder / "shards"
    out.mkdir()
    command = [sys.executable, "-c", WORKER, str(folder / "images"), str(out)]
    real, starts = 0.0, []
    for stop in ("1", "0"):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([*command, stop, str(shard)], capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        times = [float(line) for line in done.stdout.split()]
        if not times or done.returncode not in (0, 9):
            raise RuntimeError(f"a worker failed: {done.stderr[-400:]}")
        # The first shard's end, less the shard itself, is the start.
        starts.append(times[0] - shard * costs["total"])
        real += spent
    start = float(np.mean(starts))
    cluster = Cluster(1, costs["total"], 0.0, start)
    # One death after three whole shards loses no image, only a start.
    predicted = simulate(images, shard, cluster).busy * 3600 + 2 * start
    return real, predicted


def flops() -> dict[str, float]:
    """TFLOP of one forward pass of each model at its published size, counted on the `meta` device."""
    from diffusers import SD3Transformer2DModel
    from transformers import CLIPVisionConfig, CLIPVisionModel

    found = {}
    with torch.device("meta"), torch.no_grad():
        sd35 = SD3Transformer2DModel(
            sample_size=128, patch_size=2, in_channels=16, num_layers=24, attention_head_dim=64, num_attention_heads=24,
            joint_attention_dim=4096, caption_projection_dim=1536, pooled_projection_dim=2048, out_channels=16,
            pos_embed_max_size=384, dual_attention_layers=tuple(range(13)), qk_norm="rms_norm",
        )  # fmt: skip
        inputs = {
            "hidden_states": torch.empty(1, 16, 64, 64),
            "encoder_hidden_states": torch.empty(1, 333, 4096),
            "pooled_projections": torch.empty(1, 2048),
            "timestep": torch.empty(1),
        }
        with FlopCounterMode(display=False) as counter:
            sd35(**inputs)
        found["SD3.5-M, one pass at 512 px"] = counter.get_total_flops() / 1e12
        clip = CLIPVisionModel(
            CLIPVisionConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
                             patch_size=14, image_size=224)
        )  # fmt: skip
        with FlopCounterMode(display=False) as counter:
            clip(torch.empty(1, 3, 224, 224))
        found["CLIP ViT-L/14, one crop"] = counter.get_total_flops() / 1e12
    found["Mask2Former Swin-S, one image"] = MASK2FORMER_TFLOP
    return found


def print_table(head: list[str], rows: list[list[str]]) -> None:
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=96, help="images that are really scored")
    parser.add_argument(
        "--paper-ms", type=float, default=None, help="measured milliseconds per image of paper on a GPU"
    )
    parser.add_argument(
        "--gpu-tflops", type=float, default=400.0, help="assumed sustained TFLOP/s of a GPU, bf16 (an H100 at 40 %%)"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="all .* images of a call are wrong")  # photographs for other prompts
    print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, torch {torch.__version__}, one thread, no GPU\n")
    with tempfile.TemporaryDirectory() as name:
        costs = measure(Path(name), arguments.images)
        real, predicted = check(Path(name), costs, arguments.images, 16)
    print_table(
        ["`lite`, measured", "per image"],
        [
            *([stage, f"{1000 * costs[stage]:.1f} CPU ms"] for stage in ("decode", "score", "rest", "total")),
            ["picture, PNG of 512 px", f"{costs['png'] / 1e6:.2f} MB"],
            ["row", f"{costs['row']:.0f} bytes"],
            ["reading a row again", f"{1e6 * costs['read']:.0f} CPU µs"],
            ["memory of a row that was read", f"{costs['memory']:.0f} bytes"],
            ["merging a row", f"{1e6 * costs['merge']:.0f} CPU µs"],
        ],
    )
    print(
        f"Check: {arguments.images} images in shards of 16, killed once: {real:.1f} CPU s, simulated {predicted:.1f}.\n"
    )
    found = flops()
    print_table(["FLOPs, counted", "TFLOP"], [[key, f"{value:.3f}"] for key, value in found.items()])
    per_image = found["Mask2Former Swin-S, one image"] + 2 * found["CLIP ViT-L/14, one crop"]
    paper = arguments.paper_ms / 1000 if arguments.paper_ms else per_image / (arguments.gpu_tflops / 4)
    source = (
        "measured"
        if arguments.paper_ms
        else f"assumed: {per_image:.2f} TFLOP at a quarter of {arguments.gpu_tflops:.0f}"
    )
    print(f"`paper` on a GPU: {1000 * paper:.1f} ms per image ({source}).\n")
    rows = []
    for images in (10**6, 10**9):
        for kind, cluster in (
            ("lite, CPU cores", Cluster(1000 if images > 10**6 else 64, costs["total"], start=10.0)),
            ("paper, GPUs", Cluster(256 if images > 10**6 else 8, paper, start=60.0)),
        ):
            for lifetime in (float("inf"), 100.0, 10.0):
                size = SHARD if images <= 10**6 else 8192
                run = simulate(images, size, replace(cluster, lifetime=lifetime))
                ideal = images * cluster.seconds / 3600
                rows.append(
                    [
                        f"{images:,}", kind, str(cluster.workers), "never" if lifetime == float("inf") else f"{lifetime:g} h",
                        f"{run.busy:,.1f}", f"{run.wall:,.2f}", f"{run.deaths:,}", f"{run.lost / ideal:.2%}",
                        f"{1 - ideal / (run.wall * cluster.workers):.1%}",
                    ]
                )  # fmt: skip
    head = [
        "images",
        "judge",
        "workers",
        "a worker dies after",
        "worker hours",
        "wall hours",
        "deaths",
        "lost",
        "idle, starting or lost",
    ]
    print_table(head, rows)
    print_table(
        ["images", "shards", "pictures", "rows", "reading all rows, one process", "memory for that", "merging"],
        [
            [
                f"{n:,}", f"{-(-n // s):,} of {s}", f"{n * costs['png'] / 1e12:,.2f} TB", f"{n * costs['row'] / 1e9:,.1f} GB",
                f"{n * costs['read'] / 3600:,.2f} h", f"{n * costs['memory'] / 1e9:,.1f} GB",
                f"{n * costs['merge'] / 3600:,.2f} h",
            ]
            for n, s in ((10**6, SHARD), (10**9, 8192))
        ],
    )  # fmt: skip
    one = found["SD3.5-M, one pass at 512 px"]
    rows = []
    for method, images, sampling, training in (
        (
            "DiffusionNFT, one GPU",
            192,
            10,
            9 * 5,
        ),  # per timestep: old and reference forward, trained forward and backward
        (
            "Flow-GRPO, one GPU",
            192,
            2 * 10,
            2 * 9 * 4,
        ),  # guidance doubles passes; reference forward, trained and backward
        ("DiffusionNFT, as released, 8 GPUs", 1152, 10, 9 * 5),
    ):
        gpus = 8 if "8 GPUs" in method else 1
        shares = [images * sampling * one, images * training * one, images * per_image, 120 * 40 * one / 20]
        seconds = [share / arguments.gpu_tflops / gpus for share in shares]
        seconds[2] = images * paper / gpus
        hidden = max(0.0, seconds[2] - seconds[0])
        epoch = seconds[0] + seconds[1] + seconds[3] + hidden
        rows.append(
            [
                method, str(images), *(f"{share / 1000:.1f}" for share in shares), f"{epoch:.0f} s",
                f"{1000 * epoch * gpus / 3600:,.0f}", f"{seconds[2] / epoch:.1%}",
            ]
        )  # fmt: skip
    print_table(
        ["run of 1,000 epochs", "images per epoch", "sampling PFLOP", "training PFLOP", "reward PFLOP", "evaluation PFLOP",
         "epoch", "GPU hours", "reward, if it were not hidden"],
        rows,
    )  # fmt: skip


if __name__ == "__main__":
    main()
