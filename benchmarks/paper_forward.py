"""One forward of `paper` (Mask2Former Swin-S, random weights) at 800 x 800: every route beside the matrix product's rate.

    python benchmarks/paper_forward.py [--routes transformers,torch,openvino] [--rounds 5] [--threads 1] [--verdicts]

All routes run in one process and take turns; a product of two matrices is timed in every turn. A route's share is the time that
the published network's FLOP would take at that rate, over its own CPU time, by the median of turns. `--verdicts` also counts
what changes against `torch` on the packaged photographs (see `precision_flips.py`). Routes:

    transformers   the unchanged model of `transformers`
    torch          `paper` as it is by default
    torch-bf16     under autocast
    compiled       `torch.compile` with frozen weights (minutes, and a C++ compiler)
    openvino       `runtime="openvino"`
    openvino-bf16  likewise in bf16
"""

from __future__ import annotations

import argparse
import copy
import datetime
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from typing import Any

import torch
from lite_speed import cpu_name
from precision_flips import compare_detectors
from torch.utils.flop_counter import FlopCounterMode

from geneval_reward.results.tables import markdown_table
from geneval_reward.vision.detectors.mask2former import Mask2FormerDetector
from geneval_reward.vision.detectors.mask2former_architecture import SWIN_S, random_model
from geneval_reward.vision.images import as_image
from geneval_reward.vision.photos import PHOTOS, photo
from geneval_reward.vision.preprocess import normalise

MATRIX = 1536
ROUTES = ("transformers", "torch", "torch-bf16", "compiled", "openvino", "openvino-bf16")


def make_route(name: str, model: Any) -> Any:
    """A detector, or for the two routes without one a model."""
    if name == "transformers":
        return model
    runtime, _, precision = name.partition("-")
    detector = Mask2FormerDetector(
        copy.deepcopy(model),
        weights_sha256="random",
        weights_status="random",
        precision=precision or "fp32",
        runtime="openvino" if runtime == "openvino" else "torch",
    )
    if name == "compiled":
        import torch._inductor.config

        torch._inductor.config.freezing = True
        return torch.compile(detector._model, dynamic=False)
    return detector


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--routes", default="transformers,torch,openvino", help=f"Some of {','.join(ROUTES)}.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--verdicts", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    model = random_model(SWIN_S).eval().requires_grad_(False)
    images = [as_image(photo(name).resize((512, 512))) for name in PHOTOS]
    names = args.routes.split(",")
    routes: dict[str, Callable[[], object]] = {}
    detectors: dict[str, Mask2FormerDetector] = {}
    gflop = {}
    for name in names:
        made = make_route(name, model)
        if isinstance(made, Mask2FormerDetector):
            detectors[name] = made
            (batch,) = made.prepare(images[:1])
            routes[name] = lambda made=made, batch=batch: made.forward(batch)
        else:
            (batch,) = make_route("torch", model).prepare(images[:1])
            pixels = normalise(torch.stack(batch.pixels))
            routes[name] = lambda made=made, pixels=pixels: made(pixel_values=pixels)
        counter = FlopCounterMode(display=False)
        # The counter would get into the tracing of the others.
        with torch.no_grad(), counter if name in ("transformers", "torch") else nullcontext():
            first = cpu_seconds(routes[name])
        gflop[name] = counter.get_total_flops() / 1e9
        print(f"{name}: first forward {first:.1f} CPU seconds, {gflop[name]:.0f} GFLOP counted", flush=True)
    a, b = torch.randn(2, MATRIX, MATRIX)
    a @ b
    rates: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in routes}
    for turn in range(args.rounds):
        rates.append(2 * MATRIX**3 / min(cpu_seconds(lambda: a @ b) for _ in range(3)) / 1e9)
        for name, work in routes.items():
            with torch.no_grad():
                times[name].append(cpu_seconds(work))
        print(f"turn {turn}: {rates[-1]:.1f} GFLOP/s, {[(n, round(v[-1], 2)) for n, v in times.items()]}", flush=True)
    print(
        f"\n{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {cpu_name()}, {os.cpu_count()} logical cores, load "
        f"{os.getloadavg()[0]:.1f}; python {platform.python_version()}, torch {torch.__version__}, transformers "
        f"{version('transformers')}, openvino {version('openvino') if any('openvino' in n for n in names) else 'not used'}; "
        f"{args.threads} threads, {args.rounds} turns; product of float32 matrices of side {MATRIX}: "
        f"{statistics.median(rates):.1f} GFLOP/s\n"
    )
    published = gflop.get("transformers", 448.6)
    rows = []
    for name, values in times.items():
        shares = [published / rate / seconds for rate, seconds in zip(rates, values, strict=True)]
        rows.append(
            [name, f"{statistics.median(values):.2f}", f"{statistics.median(shares):.0%}", f"{max(shares):.0%}"]
        )
    print(markdown_table(["route", "CPU seconds", "share of the matrix rate, median", "best turn"], rows))
    if args.verdicts and "torch" in detectors:
        truth = detectors.pop("torch")
        for row in compare_detectors(truth, detectors, images):
            print(row, flush=True)


if __name__ == "__main__":
    main()
