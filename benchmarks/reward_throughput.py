"""Images per second of the `paper` backend, beside the reference procedure with the same weights, in one run.

    python benchmarks/reward_throughput.py --device cuda --images 64
    python benchmarks/reward_throughput.py --images 2 --batch 1 2 --colors 0 2

The reference procedure is the benchmark script's: one image at a time in float32, all 100 masks at full size with a box
loop, all 80 classes, and a data loader per object for CLIP. Without a checkpoint, weights of the published size are random and
made confident, and each picture's record asks for classes that are found in it. JSON lines go to --out.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader

from geneval_reward.judge import Detections, judge
from geneval_reward.prompts import CLASS_NAMES, COLORS, PromptSpec
from geneval_reward.support.inference import precision_scope
from geneval_reward.vision.colors.clip import ClipVerifier
from geneval_reward.vision.detectors.mask2former import Mask2FormerDetector
from geneval_reward.vision.detectors.mask2former_architecture import SWIN_S, Architecture, random_model
from geneval_reward.vision.preprocess import normalise, resize_and_pad
from geneval_reward.vision.protocols import ColorQuery, Wanted

STAGES = ("preprocess", "forward", "postprocess", "colour", "judge")


class Clock:
    """Seconds by stage, the device's queue emptied at both ends."""

    # time.process_time counts this process only: for a machine that is shared with other work.
    now = staticmethod(time.perf_counter)

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.wait()
        start = Clock.now()
        yield
        self.wait()
        self.seconds[name] += Clock.now() - start


def make_detector(args: argparse.Namespace) -> Mask2FormerDetector:
    options = {"device": args.device, "precision": args.precision, "compiled": args.compiled}
    options["forward_images"] = args.forward_images
    if args.checkpoint:
        return Mask2FormerDetector.from_pretrained(args.checkpoint, **options)
    model = confident_model(SWIN_S, args.image_size, args.device)
    return Mask2FormerDetector(model, weights_sha256="random", weights_status="random weights", **options)


def confident_model(sizes: Architecture, side: int | tuple[int, int], device: str) -> Any:
    """A detector network of random weights that is sure of about a dozen objects in a picture."""
    torch.manual_seed(0)
    model = random_model(sizes).eval().requires_grad_(False)
    detector = Mask2FormerDetector(
        model, weights_sha256="random", weights_status="random weights", device=device, precision="fp32"
    )
    (batch,) = detector.prepare(make_images(1, side))
    logits = detector.forward(batch)[0][0].float().cpu()
    # Random queries all name one class; centred on their mean they differ, and scaled up a dozen of them are confident.
    mean = logits.mean(0)
    enough = min(12, len(logits) // 2)
    scale = next(k for k in np.geomspace(1, 1e4, 200) if confident(k * (logits - mean)) >= enough)
    head = model.class_predictor
    head.bias.copy_(scale * (head.bias - mean.to(head.bias)))
    head.weight.mul_(scale)
    # A new one, since the detector has changed this one's attention.
    fresh = random_model(sizes).eval().requires_grad_(False)
    fresh.load_state_dict(model.state_dict())
    return fresh


def confident(logits: torch.Tensor) -> int:
    return int((logits.softmax(-1)[:, :-1] > 0.3).sum())


def make_verifier(args: argparse.Namespace) -> ClipVerifier:
    if args.clip_weights:
        return ClipVerifier.from_pretrained(args.clip, args.clip_weights, device=args.device, precision=args.precision)
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    torch.manual_seed(0)
    model = open_clip.create_model(args.clip, pretrained=None)
    preprocess = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    tokenizer = open_clip.get_tokenizer(args.clip)
    options = {"device": args.device, "precision": args.precision}
    return ClipVerifier(model, tokenizer, preprocess, identity=f"{args.clip}, random weights", **options)


def make_images(count: int, size: int | tuple[int, int]) -> list[torch.Tensor]:
    size = size if isinstance(size, tuple) else (size, size)
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.integers(0, 256, (count, 3, 12, 12)).astype(np.float32))
    smooth = functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False)
    return list(smooth.clamp(0, 255).to(torch.uint8))


def make_specs(detector: Mask2FormerDetector, images: list[torch.Tensor], colors: int) -> list[PromptSpec]:
    """A record for each image whose two classes are found there, as many of them coloured as asked."""
    specs = []
    for index, image in enumerate(images):
        (found,) = detector.detect([image], [Wanted(None, frozenset(), 0.3)])
        classes = list(dict.fromkeys(found.class_id.tolist()))[:2]
        classes += [c for c in range(80) if c not in classes][: 2 - len(classes)]
        include: list[dict[str, Any]] = [{"class": CLASS_NAMES[c], "count": 1} for c in classes]
        for item in include[:colors]:
            item["color"] = COLORS[index % len(COLORS)]
        specs.append(PromptSpec.parse({"tag": "color_attr" if colors else "two_object", "include": include}))
    return specs


def top_rows(spec: PromptSpec, found: Detections) -> list[int]:
    rows = []
    for item in spec.include:
        if item.color is not None:
            own = np.flatnonzero((found.class_id == CLASS_NAMES.index(item.class_name)) & (found.confidence > 0.3))
            rows += own[np.argsort(-found.confidence[own])][: item.count].tolist()
    return rows


def judge_all(specs: list[PromptSpec], found: list[Detections], answers: list[tuple[int, int, Any]]) -> list[bool]:
    verdicts = []
    for index, (spec, detections) in enumerate(zip(specs, found, strict=True)):
        table = np.full((len(detections), len(COLORS)), np.nan, np.float32)
        for image, row, probabilities in answers:
            if image == index:
                table[row] = probabilities
        # A class whose object was not above the threshold is never asked for its colour.
        verdicts.append(judge(spec, detections.with_color(np.nan_to_num(table))).correct)
    return verdicts


def run_ours(
    detector: Mask2FormerDetector, verifier: ClipVerifier, images: list[Any], specs: list[Any], clock: Clock
) -> list[bool]:
    wanted = [
        Wanted(
            frozenset(CLASS_NAMES.index(name) for name in spec.class_names),
            frozenset(CLASS_NAMES.index(name) for name in spec.colored_class_names),
            0.3,
        )
        for spec in specs
    ]
    with clock.stage("preprocess"):
        batches = detector.prepare(images)
    found: dict[int, Detections] = {}
    for batch in batches:
        with clock.stage("forward"):
            logits = detector.forward(batch)
        with clock.stage("postprocess"):
            found.update(zip(batch.places, detector.postprocess(*logits, batch, wanted), strict=True))
    detections = [found[index] for index in range(len(images))]
    with clock.stage("colour"):
        asked = [(i, row) for i, spec in enumerate(specs) for row in top_rows(spec, detections[i])]
        queries = [
            ColorQuery(
                images[i],
                detections[i].xyxy[row],
                detections[i].class_names[row],
                None if detections[i].mask is None else detections[i].mask[row],
            )
            for i, row in asked
        ]
        colors = verifier.colors(queries)
    with clock.stage("judge"):
        return judge_all(specs, detections, [(*pair, row) for pair, row in zip(asked, colors, strict=True)])


def reference_postprocess(
    class_logits: torch.Tensor, mask_logits: torch.Tensor, sizes: Any
) -> tuple[list[Any], list[Any]]:
    """mmdet's procedure for one image: 100 masks at full size, a loop over boxes, arrays by class on the host."""
    scores = class_logits.float().softmax(-1)[:, :-1].flatten()
    best, index = scores.topk(100, sorted=False)
    labels, queries = index % 80, index // 80
    masks = functional.interpolate(mask_logits[None].float(), size=sizes.padded, mode="bilinear", align_corners=False)
    masks = masks[..., : sizes.resized[0], : sizes.resized[1]]
    masks = functional.interpolate(masks, size=sizes.original, mode="bilinear", align_corners=False)[0][queries]
    binary = (masks > 0).float()
    best = best * ((masks.sigmoid() * binary).flatten(1).sum(1) / (binary.flatten(1).sum(1) + 1e-6))
    boxes = torch.zeros(100, 5, device=masks.device)
    columns, rows = binary.any(1), binary.any(2)
    for i in range(100):
        x, y = torch.where(columns[i])[0], torch.where(rows[i])[0]
        if len(x) and len(y):
            boxes[i, :4] = boxes.new_tensor([x[0], y[0], x[-1] + 1, y[-1] + 1])
    boxes[:, 4] = best
    table, flags, labels = boxes.cpu().numpy(), binary.bool().cpu().numpy(), labels.cpu().numpy()
    return [table[labels == c] for c in range(80)], [flags[labels == c] for c in range(80)]


def run_reference(
    detector: Mask2FormerDetector,
    verifier: ClipVerifier,
    images: list[Any],
    specs: list[Any],
    clock: Clock,
    workers: int,
) -> list[bool]:
    verdicts: list[bool] = []
    for image, spec in zip(images, specs, strict=True):
        with clock.stage("preprocess"):
            pixels, sizes = resize_and_pad(image)
            pixels = normalise(pixels[None].to(detector.device))
        # In float32 under PyTorch's own flags, as the benchmark runs it, whatever the precision of ours.
        with clock.stage("forward"), torch.no_grad():
            output = detector._model(pixel_values=pixels)
        with clock.stage("postprocess"), torch.no_grad():
            boxes, masks = reference_postprocess(output.class_queries_logits[0], output.masks_queries_logits[0], sizes)
            rows = np.concatenate(boxes)
            labels = np.repeat(np.arange(80), [len(part) for part in boxes])
            found = Detections(rows[:, :4], rows[:, 4], labels, (image.shape[2], image.shape[1]), np.concatenate(masks))
        with clock.stage("colour"):
            answers = []
            for row in top_rows(spec, found):
                query = ColorQuery(image, found.xyxy[row], found.class_names[row], found.mask[row])
                loader = DataLoader([verifier.prepare([query])[0]], batch_size=16, num_workers=workers)
                features = [verifier.image_features(list(crops)) for crops in loader]
                weights = verifier.classifiers([query.class_name])[0]
                logits = 100 * torch.cat(features) @ weights.T
                answers.append((0, row, logits.softmax(-1)[0].cpu().numpy()))
        with clock.stage("judge"):
            verdicts += judge_all([spec], [found], answers)
    return verdicts


def measure(run: Callable[[Clock], list[bool]], device: torch.device, images: int) -> dict[str, Any]:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    clock = Clock(device)
    start = Clock.now()
    verdicts = run(clock)
    clock.wait()
    seconds = Clock.now() - start
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return {
        "images_per_second": images / seconds,
        "seconds_per_image": seconds / images,
        **{stage: clock.seconds[stage] / images for stage in STAGES},
        "other_than_forward": 1 - (clock.seconds["forward"] + clock.seconds["colour"]) / seconds,
        "peak_gib": (peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) / 2**30,
        "verdicts": verdicts,
    }


def floor(detector: Mask2FormerDetector, image: torch.Tensor) -> dict[str, float]:
    """Operations of a forward over the measured matrix rate, and the share of matrix kernels in its time."""
    from torch.profiler import ProfilerActivity, profile
    from torch.utils.flop_counter import FlopCounterMode

    cuda = detector.device.type == "cuda"
    (batch,) = detector.prepare([image])
    with FlopCounterMode(display=False) as counter:
        detector.forward(batch)
    side = 8192 if cuda else 1024
    with precision_scope(detector.precision, detector.device):
        a = torch.randn(side, side, device=detector.device)
        clock = Clock(detector.device)
        if detector.precision in ("fp16", "bf16"):
            a = a.to(torch.float16 if detector.precision == "fp16" else torch.bfloat16)
        for _ in range(3):
            a @ a
        with clock.stage("matmul"):
            for _ in range(10):
                a @ a
    rate = 10 * 2 * side**3 / clock.seconds["matmul"]
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if cuda else [])
    with profile(activities=activities) as trace:
        detector.forward(batch)
    matrix = ("addmm", "aten::mm", "aten::bmm", "baddbmm", "convolution", "attention", "aten::linear")
    events = trace.key_averages()
    spent = [(e.key, e.self_device_time_total if cuda else e.self_cpu_time_total) for e in events]
    total = sum(micros for _, micros in spent)
    share = sum(micros for key, micros in spent if any(name in key for name in matrix)) / total
    flops = counter.get_total_flops()
    return {"gflop": flops / 1e9, "matmul_tflops": rate / 1e12, "floor_seconds": flops / rate, "matrix_share": share}


def hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--checkpoint", help="mmdet checkpoint; none: random weights of the published size")
    parser.add_argument("--clip", default="ViT-L-14-quickgelu")
    parser.add_argument("--clip-weights", help="open_clip tag or file; none: random weights")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=512)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--colors", type=int, nargs="+", default=[0, 1, 2], choices=(0, 1, 2))
    parser.add_argument("--forward-images", type=int)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--loader-workers", type=int, default=4, help="of the reference procedure's data loaders")
    parser.add_argument("--no-reference", action="store_true")
    parser.add_argument("--no-floor", action="store_true", help="skip counting operations and profiling")
    parser.add_argument(
        "--cpu-time", action="store_true", help="count processor seconds of this process, not wall time"
    )
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.cpu_time:
        Clock.now = staticmethod(time.process_time)
        args.loader_workers = 0
    detector, verifier = make_detector(args), make_verifier(args)
    device = detector.device
    images = make_images(args.images, args.image_size)
    rows: list[dict[str, Any]] = []
    head = {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(device),
        "clock": "processor seconds" if args.cpu_time else "wall",
        "torch": torch.__version__,
        "precision": detector.precision,
        "weights": detector.fingerprint()["weights"],
        "image_size": args.image_size,
        "images": args.images,
    }
    for colors in args.colors:
        specs = make_specs(detector, images, colors)
        # Text embeddings are made once a class, by both; a run is timed without them.
        verifier.classifiers(sorted({name for spec in specs for name in spec.class_names}))
        verdicts = None
        if not args.no_reference:
            row = measure(
                lambda clock, specs=specs: run_reference(detector, verifier, images, specs, clock, args.loader_workers),
                device,
                len(images),
            )
            verdicts = row.pop("verdicts")
            rows.append({"procedure": "reference", "colors": colors, "batch": 1, **row})
            print(json.dumps(rows[-1]), flush=True)
        for batch in args.batch:

            def run(clock: Clock, specs: list[Any] = specs, batch: int = batch) -> list[bool]:
                return [
                    verdict
                    for start in range(0, len(images), batch)
                    for verdict in run_ours(
                        detector, verifier, images[start : start + batch], specs[start : start + batch], clock
                    )
                ]

            if device.type == "cuda":
                run(Clock(device))
            row = measure(run, device, len(images))
            agree = row.pop("verdicts") == verdicts
            rows.append({"procedure": "ours", "colors": colors, "batch": batch, **row})
            if verdicts is not None:
                rows[-1]["same_verdicts"] = agree
            print(json.dumps(rows[-1]), flush=True)
    if not args.no_floor:
        head["floor"] = floor(detector, images[0])
    print(json.dumps(head), flush=True)
    if args.out:
        args.out.write_text("".join(json.dumps(row) + "\n" for row in [head, *rows]))
    print("\n| procedure | colours | batch | images/s | " + " | ".join(STAGES) + " | other | peak GiB |")
    print("|---" * (6 + len(STAGES)) + "|")
    for row in rows:
        stages = " | ".join(f"{1000 * row[stage]:.1f}" for stage in STAGES)
        print(
            f"| {row['procedure']} | {row['colors']} | {row['batch']} | {row['images_per_second']:.3g} | {stages} | "
            f"{row['other_than_forward']:.1%} | {row['peak_gib']:.1f} |"
        )


if __name__ == "__main__":
    main()
