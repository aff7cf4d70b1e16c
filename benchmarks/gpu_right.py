"""Part `right` of `gpu.py`: what a GPU answers beside what the CPU answers in float32."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import gpu_models
import numpy as np
import torch
from gpu import Report
from precision_flips import compare_detectors
from reward_throughput import make_images

from geneval_reward import GenEvalScorer
from geneval_reward.judge import Detections
from geneval_reward.prompts import CLASS_NAMES
from geneval_reward.vision.detectors.deformable import sample_levels
from geneval_reward.vision.detectors.mask2former import Mask2FormerDetector
from geneval_reward.vision.images import as_image
from geneval_reward.vision.parity import compare
from geneval_reward.vision.photos import PHOTOS, photo
from geneval_reward.vision.preprocess import read_image
from geneval_reward.vision.protocols import ColorQuery, Wanted

ROOT = Path(__file__).parents[1]
ALL = Wanted(None)


def run(report: Report) -> None:
    # Asked for by cuBLAS where an order of sums must be fixed, and read when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    report.step("golden Mask2Former", 40, partial(golden, report))
    report.step("Mask2Former at full size", 60, partial(full_size, report))
    report.step("deformable attention", 10, partial(deformable, report))
    report.step("CLIP", 30, partial(clip, report))
    report.step("lite and nanodet", 30, partial(small, report))
    report.step("same answers, same state", 30, partial(steady, report))
    if not report.tiny:
        report.step("tests", 60, partial(tests, report))


def precisions(report: Report) -> list[str]:
    return ["fp32"] if report.tiny else ["fp32", "tf32", "fp16", "bf16"]


def golden(report: Report) -> None:
    """The small checkpoint of the tests, whose answers by mmdet 2.28.2 are recorded."""
    files = sorted(gpu_models.GOLDEN.glob("*.png"))[3 if report.tiny else 0 :][: 1 if report.tiny else 9]
    images = [read_image(file) for file in files]
    load = partial(Mask2FormerDetector.from_pretrained, str(gpu_models.GOLDEN / "checkpoint_2x.pth"))
    truth = load(device="cpu", precision="fp32")
    others = {name: load(device=report.device, precision=name) for name in precisions(report)}
    for row in compare_detectors(truth, others, images):
        report.add(f"golden Mask2Former against CPU fp32, {len(images)} images", **row)
    for name, detector in (others if report.tiny else {"fp32 on the CPU": truth, **others}).items():
        rows = []
        for file, image in zip(files, images, strict=True):
            recorded = np.load(file.with_suffix(".npz"))
            size = (image.shape[2], image.shape[1])
            by_mmdet = Detections(recorded["boxes"][:, :4], recorded["boxes"][:, 4], recorded["labels"], size)
            rows.append(compare(by_mmdet, detector.detect([image], [ALL])[0]))
        report.add(
            "golden Mask2Former against the recorded answers of mmdet",
            precision=name,
            objects=sum(row.objects[0] for row in rows),
            matched=sum(row.matched for row in rows),
            **{"largest confidence difference": max(row.confidence for row in rows)},
            **{"largest box difference, pixels": max(row.box for row in rows)},
        )


def full_size(report: Report) -> None:
    truth = gpu_models.detector("cpu", "fp32", tiny=report.tiny)
    others = {name: gpu_models.detector(report.device, name, tiny=report.tiny) for name in precisions(report)}
    images = make_images(1 if report.tiny else 6, gpu_models.side(report.tiny))
    for row in compare_detectors(truth, others, images):
        report.add(f"Mask2Former Swin-S, random weights, against CPU fp32, {len(images)} images", **row)


def deformable(report: Report) -> None:
    from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

    shapes = [(3, 3), (6, 6), (12, 12)] if report.tiny else [(25, 25), (50, 50), (100, 100)]
    count = sum(height * width for height, width in shapes)
    torch.manual_seed(0)
    value = torch.randn(2, count, 8, 32, device=report.device)
    where = torch.rand(2, count, 8, 3, 4, 2, device=report.device)
    weights = torch.rand(2, count, 8, 12, device=report.device).softmax(-1).view(2, count, 8, 3, 4)
    with torch.inference_mode():
        ours = sample_levels(value, shapes, where, weights)
        theirs = multi_scale_deformable_attention(value, shapes, where, weights)
        value, where, weights = (tensor.double().cpu() for tensor in (value, where, weights))
        exact = sample_levels(value, shapes, where, weights)
    for name, got in (("ours", ours), ("transformers", theirs)):
        error = (got.double().cpu() - exact).abs().max().item()
        report.add("deformable attention in fp32, against float64 on the CPU", form=name, largest_difference=error)


def clip(report: Report) -> None:
    images = make_images(2 if report.tiny else 16, 64 if report.tiny else 512)
    side = images[0].shape[1]
    rng = np.random.default_rng(0)
    queries = []
    for image in images:
        for _ in range(2):
            x, y = rng.uniform(0, side / 2, 2)
            box = np.array([x, y, x + side / 3, y + side / 3], np.float32)
            queries.append(ColorQuery(image, box, CLASS_NAMES[int(rng.integers(4))]))
    truth = gpu_models.verifier("cpu", "fp32", tiny=report.tiny).colors(queries)
    for name in precisions(report):
        got = gpu_models.verifier(report.device, name, tiny=report.tiny).colors(queries)
        report.add(
            f"CLIP ViT-L/14, random weights, against CPU fp32, {len(queries)} objects",
            precision=name,
            **{"largest probability difference": float(np.abs(got - truth).max())},
            **{"other colours": int((got.argmax(1) != truth.argmax(1)).sum())},
        )


def small(report: Report) -> None:
    """The packaged detectors, with their real weights on real photographs."""
    images = [as_image(photo(name)) for name in PHOTOS]
    specs = [shot.record for shot in PHOTOS.values()] + [shot.false_record for shot in PHOTOS.values()]
    for backend in ("lite",) if report.tiny else ("lite", "nanodet"):
        truth = GenEvalScorer.from_pretrained(backend, device="cpu", precision="fp32")
        right = truth.score(images * 2, specs)
        found = truth.detector.detect(images, [ALL] * len(images))
        for name in precisions(report):
            scorer = GenEvalScorer.from_pretrained(backend, device=report.device, precision=name)
            there = [image.to(report.device) for image in images]
            got = scorer.score(there * 2, specs)
            differences = [
                compare(a, b) for a, b in zip(found, scorer.detector.detect(there, [ALL] * len(images)), strict=True)
            ]
            scorer.detector.self_test()
            report.add(
                f"packaged detectors, real weights, against CPU fp32, {len(images)} photographs",
                backend=backend,
                precision=name,
                **{"largest confidence difference": max(one.confidence for one in differences)},
                **{"largest box difference, pixels": max(one.box for one in differences)},
                verdicts=f"{sum(a.correct != b.correct for a, b in zip(right, got, strict=True))} of {len(specs)}",
            )


def steady(report: Report) -> None:
    """Scoring gives the same answer again, in other batches, from other memory, and leaves the process as it was."""
    count = 2 if report.tiny else 8
    scorer = gpu_models.paper(report.device, tiny=report.tiny)
    images = make_images(count, gpu_models.side(report.tiny))
    there = [image.to(report.device) for image in images]
    state = _process_state(report.device)
    first = scorer.detector.detect(images, [ALL] * count)

    def add(check: str, ok: bool, difference: float = 0.0) -> None:
        report.add("state and repetition, random weights, fp16", check=check, ok=ok, difference=difference)

    def differ(got: list[Detections]) -> float:
        # Near ties at the last rank may swap; what is compared is what is above a threshold.
        return max(compare(a, b, 0.1).confidence for a, b in zip(first, got, strict=True))

    again = scorer.detector.detect(images, [ALL] * count)
    same = all(np.array_equal(a.confidence, b.confidence) for a, b in zip(first, again, strict=True))
    add("the same batch again gives the same bits", same, differ(again))
    add("one by one instead of in one batch", True, differ([scorer.detector.detect([i], [ALL])[0] for i in images]))
    from_device = scorer.detector.detect(there, [ALL] * count)
    same = all(np.array_equal(a.confidence, b.confidence) for a, b in zip(first, from_device, strict=True))
    add("images on the device give the bits of images on the host", same, differ(from_device))
    with torch.autocast(report.device, dtype=torch.bfloat16):
        under = scorer.detector.detect(images, [ALL] * count)
    same = all(np.array_equal(a.confidence, b.confidence) for a, b in zip(first, under, strict=True))
    add("an outer autocast changes nothing", same, differ(under))
    torch.use_deterministic_algorithms(True)
    try:
        differ(scorer.detector.detect(images, [ALL] * count))
        add("runs under deterministic algorithms", True)
    finally:
        torch.use_deterministic_algorithms(False)
    now = _process_state(report.device)
    random = all(torch.equal(a, b) for a, b in zip(state[0], now[0], strict=True))
    add("random states are as before", random)
    add("TF32 and cuDNN flags are as before", state[1] == now[1])
    if not report.tiny:
        held = torch.cuda.memory_allocated()
        scorer.to("cpu")
        torch.cuda.empty_cache()
        given = (held - torch.cuda.memory_allocated()) / 2**20
        report.add("memory", what="moved to the CPU, the scorer gives back MiB", value=given)
        report.add("memory", what="MiB still held by this process", value=torch.cuda.memory_allocated() / 2**20)


def _process_state(device: str) -> tuple[list[torch.Tensor], Any]:
    states = [torch.get_rng_state()] + ([torch.cuda.get_rng_state()] if device == "cuda" else [])
    cudnn = torch.backends.cudnn
    flags = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic
    return states, flags


def tests(report: Report) -> None:
    """The test group `gpu`, from the files that have such tests: others need packages that are not brought along."""
    files = [str(path) for path in sorted(ROOT.glob("tests/**/test_*.py")) if "mark.gpu" in path.read_text()]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-rfE", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    print(done.stdout[-6000:], done.stderr[-2000:], flush=True)
    report.add("tests", command="pytest -m gpu", exit=done.returncode, result=done.stdout.strip().splitlines()[-1:])
    if done.returncode:
        raise RuntimeError("a test failed; its output is above")
