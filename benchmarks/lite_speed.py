"""The lite detector against onnxruntime on the same graph, and what it costs to load.

    python benchmarks/lite_speed.py [--batch 8] [--threads 2] [--rounds 15] [--verdicts]

The network is exported to ONNX in a temporary folder; the runtimes then take turns on the same input, so that other
work on the machine hits all. `lite` under OpenVINO takes part if the extra `openvino` is installed. The ratio is the median
over turns of ours / onnxruntime, in wall-clock and in processor time, and that of the fastest turns. On a machine whose
cores are all busy, more than one thread says little: each waits for the other after every layer. Loading is measured in
a fresh process. `--verdicts` counts verdicts that differ from those of `lite` in PyTorch on the scenes of `lite_thresholds.py`.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from lite_thresholds import detect, drawing_scenes, photo_scenes, seen_classes

from geneval_reward.judge import Rules, judge
from geneval_reward.prompts import PromptSpec
from geneval_reward.vision.detectors.lite import SIDE, LiteDetector
from geneval_reward.vision.detectors.packaged import run_parts
from geneval_reward.vision.photos import PHOTOS, photo
from geneval_reward.vision.protocols import Wanted

LOADING = """
import time, torch, torchvision.ops, PIL.Image, numpy, safetensors.numpy

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

torch.set_num_threads({threads})
torch.nn.functional.conv2d(torch.zeros(1, 3, 8, 8), torch.zeros(4, 3, 3, 3))
before, start, cpu = resident(), time.perf_counter(), time.process_time()
from geneval_reward.vision.detectors.lite import LiteDetector
imported = time.perf_counter()
detector = LiteDetector.from_pretrained()
loaded, cpu, memory = time.perf_counter(), time.process_time() - cpu, resident() - before
detector.self_test()
first = time.perf_counter()
print(imported - start, loaded - imported, cpu, first - loaded, memory, resident() - before)
"""


def export(net: torch.nn.Module, path: Path, batch: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = torch.zeros(batch, 3, SIDE, SIDE)
        torch.onnx.export(net, (example,), str(path), dynamo=False, input_names=["x"], output_names=["codes", "logits"])


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--verdicts", action="store_true")
    args = parser.parse_args()
    import onnxruntime

    torch.set_num_threads(args.threads)
    detector = LiteDetector.from_pretrained()
    images = [torch.from_numpy(np.array(photo(name).resize((512, 512)))).permute(2, 0, 1) for name in PHOTOS]
    images = [images[index % len(images)] for index in range(args.batch)]
    wanted = [Wanted(None, min_confidence=0.3)] * args.batch
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(args.batch, 3, SIDE, SIDE, generator=generator) * 2 - 1).contiguous(
        memory_format=torch.channels_last
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ssdlite.onnx"
        export(detector.master, path, args.batch)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    found = {"lite": detector}
    if find_spec("openvino") is not None:
        found["lite, openvino"] = LiteDetector.from_pretrained(runtime="openvino")
        found["lite, openvino bf16"] = LiteDetector.from_pretrained(runtime="openvino", precision="bf16")

    def network(one: LiteDetector) -> Callable[[], object]:
        """Each runtime gets its input in the layout that it reads."""
        given = x if isinstance(one.net, torch.nn.Module) else x.contiguous()
        run = torch.inference_mode()(lambda part: one.net(part))
        return lambda: run_parts(run, given.chunk(args.threads))

    feed = {"x": x.contiguous().numpy()}

    with torch.inference_mode():
        expected = session.run(None, feed)
        gaps = {
            name: max(float(np.abs(a.numpy() - b).max()) for a, b in zip(one.net(x), expected, strict=True))
            for name, one in found.items()
        }
        contenders: dict[str, Callable[[], object]] = {"onnxruntime": lambda: session.run(None, feed)}
        for name, one in found.items():
            contenders[f"{name}: network alone"] = network(one)
            contenders[f"{name}: 512x512 uint8 to objects"] = lambda one=one: one.detect(images, wanted)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for work in contenders.values():
            work()
        for _ in range(args.rounds):
            for name, work in contenders.items():
                times[name].append(seconds(work))

    print(
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {cpu_name()}, {os.cpu_count()} logical cores, load before "
        f"{os.getloadavg()[0]:.1f}; python {platform.python_version()}, torch {torch.__version__}, "
        f"onnxruntime {onnxruntime.__version__}, openvino {version('openvino') if len(found) > 1 else 'not installed'}"
    )
    print(f"batch {args.batch}, {args.threads} threads, {args.rounds} turns; largest differences of the outputs from")
    print(f"onnxruntime's: {', '.join(f'{name} {gap:.1e}' for name, gap in gaps.items())}\n")
    print("| runtime | ms / batch, median | fastest | ratio, median | ratio, processor time | ratio of fastest |")
    print("|---|---:|---:|---:|---:|---:|")
    base = times["onnxruntime"]
    for name, values in times.items():
        walls = [wall for wall, _ in values]
        ratios = [statistics.median(v[i] / b[i] for v, b in zip(values, base, strict=True)) for i in (0, 1)]
        fastest = min(walls) / min(wall for wall, _ in base)
        print(
            f"| {name} | {statistics.median(walls) * 1e3:.0f} | {min(walls) * 1e3:.0f} "
            f"| {ratios[0]:.2f} | {ratios[1]:.2f} | {fastest:.2f} |"
        )
    if args.verdicts:
        print_verdicts(found)
    runs = [
        subprocess.run(
            [sys.executable, "-c", LOADING.format(threads=args.threads)], capture_output=True, text=True, check=True
        )
        for _ in range(3)
    ]
    values = np.median([[float(word) for word in run.stdout.split()] for run in runs], axis=0)
    print("\n| loading, above torch, torchvision, Pillow | |\n|---|---:|")
    labels = ("import", "from_pretrained", "both, processor time", "self-test, first forward")
    for label, value in zip(labels, values, strict=False):
        print(f"| {label} | {value:.2f} s |")
    print(
        f"| resident memory, loaded | {values[4]:.0f} MiB |\n| resident memory, after a forward | {values[5]:.0f} MiB |"
    )


def print_verdicts(detectors: dict[str, LiteDetector]) -> None:
    rng = random.Random(0)
    truth = detectors["lite"]
    scenes = photo_scenes(rng) + drawing_scenes(seen_classes(truth, rng), rng)
    rules = Rules.parse("lite")
    judged = {}
    for name, detector in detectors.items():
        found = detect(detector, [scene.image for scene in scenes])
        judged[name] = [
            judge(PromptSpec.parse(claim), seen, rules).correct
            for scene, seen in zip(scenes, found, strict=True)
            for claim in (scene.true, *scene.false)
        ]
    print(f"\nverdicts about {len(scenes)} scenes that differ from those of lite in PyTorch:")
    for name, verdicts in judged.items():
        differ = sum(a != b for a, b in zip(verdicts, judged["lite"], strict=True))
        print(f"{name}: {differ} of {len(verdicts)}, {sum(verdicts)} are right", flush=True)


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"


if __name__ == "__main__":
    main()
