"""Part `fast` of `gpu.py`: images per second of the judge, by stage, beside the reference procedure and the matrix floor."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import gpu_models
import reward_throughput
import torch
from gpu import Report, release, seconds_of, wait
from reward_throughput import STAGES, Clock, make_images, make_specs, measure, run_ours, run_reference

from geneval_reward import GenEvalScorer
from geneval_reward.vision.colors.clip import ClipVerifier
from geneval_reward.vision.detectors.mask2former import Mask2FormerDetector
from geneval_reward.vision.images import as_images
from geneval_reward.vision.photos import PHOTOS, photo
from geneval_reward.vision.preprocess import normalise

WEIGHTS = "random weights of the published sizes"
SYNCS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def run(report: Report) -> None:
    tiny = report.tiny
    images = make_images(2 if tiny else 64, gpu_models.side(tiny))
    detector, verifier = gpu_models.detector(report.device, tiny=tiny), gpu_models.verifier(report.device, tiny=tiny)
    specs = make_specs(detector, images, 1)
    verifier.classifiers(sorted({name for spec in specs for name in spec.class_names}))
    report.step("stages", 90, partial(stages, report, detector, verifier, images, specs))
    report.step("whole scorer", 20, partial(whole, report, detector, verifier, images, specs))
    if not tiny:
        report.step("host waits", 20, partial(host_waits, report, detector, verifier, images, specs))
    report.step("lite", 20, partial(lite, report))
    floor: dict[str, float] = {}
    report.step("matrix floor", 10, lambda: floor.update(reward_throughput.floor(detector, images[0])))
    report.add(f"matrix floor of one forward, {WEIGHTS}", **floor)
    forms: dict[str, tuple[int, ...]] = {"eager": (1,), "channels last": (1,)}
    if not tiny:  # compilers take a minute for each batch size, and graphs need a GPU
        forms = {"eager": (1, 8), "channels last": (1, 8), "compiled sampling": (8,), "compiled network": (8,)}
        forms |= {"compiled network, CUDA graphs": (1,), "CUDA graph": (1, 8)}
    for name, batches in forms.items():
        needs = 90 if name.startswith("compiled") else 10
        report.step(f"forward: {name}", needs, partial(forward, report, name, batches, images, floor["floor_seconds"]))


def stages(report: Report, detector: Any, verifier: Any, images: list[Any], specs: list[Any]) -> None:
    device = torch.device(report.device)
    table = f"`paper`, one colour per image, ms per image by stage, {WEIGHTS}"
    some = 1 if report.tiny else 8  # of the pictures: the reference takes a second for each, or nearly
    found = measure_reference(report, images[:some], specs[:some])
    release()
    verdicts, base = found.pop("verdicts"), found["images_per_second"]
    report.add(table, procedure="reference, fp32", batch=1, **_row(found, base))
    for batch in (1, 2) if report.tiny else (1, 8, 32, 64):

        def ours(clock: Clock, batch: int = batch) -> list[bool]:
            parts = [slice(start, start + batch) for start in range(0, len(images), batch)]
            return [ok for part in parts for ok in run_ours(detector, verifier, images[part], specs[part], clock)]

        ours(Clock(device))
        found = measure(ours, device, len(images))
        same = found.pop("verdicts")[:some] == verdicts
        report.add(table, procedure=f"ours, {detector.precision}", batch=batch, **_row(found, base), same_verdicts=same)


def measure_reference(report: Report, images: list[Any], specs: list[Any]) -> dict[str, Any]:
    """The reference procedure, after one picture that is not counted."""
    detector = gpu_models.detector(report.device, "fp32", tiny=report.tiny)
    verifier = gpu_models.verifier(report.device, "fp32", tiny=report.tiny)
    device, workers = torch.device(report.device), 0 if report.tiny else 4  # of the data loaders, as released
    run_reference(detector, verifier, images[:1], specs[:1], Clock(device), workers)
    return measure(lambda clock: run_reference(detector, verifier, images, specs, clock, workers), device, len(images))


def _row(found: dict[str, Any], base: float) -> dict[str, Any]:
    rate = found["images_per_second"]
    named = {stage: 1000 * found[stage] for stage in STAGES}
    return {"images/s": rate, "times the reference": rate / base, **named, "peak GiB": found["peak_gib"]}


def whole(report: Report, detector: Any, verifier: Any, images: list[Any], specs: list[Any]) -> None:
    """`GenEvalScorer.score`, without a wait between stages."""
    for batch in (1, 2) if report.tiny else (8, 32, 64):
        scorer = GenEvalScorer(detector, verifier, batch_size=batch)
        for place, given in (("host", images), ("device", [image.to(report.device) for image in images])):
            seconds = seconds_of(lambda given=given, scorer=scorer: scorer.score(given, specs), 1 if report.tiny else 3)
            row = {"batch_size": batch, "images on": place, "images/s": len(images) / seconds}
            report.add(f"`GenEvalScorer.score`, {WEIGHTS}", **row)


def host_waits(
    report: Report, detector: Mask2FormerDetector, verifier: ClipVerifier, images: list[Any], specs: list[Any]
) -> None:
    """How often the host waits for the GPU, and where; in one forward of 1 and of 8 images, alike but for their number."""
    from torch.profiler import ProfilerActivity, profile

    scorer = GenEvalScorer(detector, verifier, batch_size=8)
    there = [images[0].cuda()] * 8
    counts = []
    for count in (1, 8):
        scorer.score(there[:count], specs[:1] * count)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
            scorer.score(there[:count], specs[:1] * count)
        counts.append(sum(event.count for event in trace.key_averages() if event.key in SYNCS))
        report.add("waits of the host for the GPU", images=count, waits=counts[-1])
    report.add("waits of the host for the GPU", images="each further one", waits=(counts[1] - counts[0]) / 7)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            scorer.score(there, specs[:1] * 8)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = [
        f"{'/'.join(one.filename.split('/')[-2:])}:{one.lineno}" for one in caught if "synchroniz" in str(one.message)
    ]
    for place in sorted(set(places)):
        report.add("lines that wait, in one batch of 8", line=place, times=places.count(place))


def lite(report: Report) -> None:
    """The packaged detector with its real weights, beside the CPU."""
    count = 4 if report.tiny else 256
    shots = [(photo(name).resize((512, 512)), shot.record) for name, shot in PHOTOS.items()]
    chosen = [shots[index % len(shots)] for index in range(count)]
    images, specs = [image for image, _ in chosen], [spec for _, spec in chosen]
    tensors = as_images(images)
    for device in dict.fromkeys(("cpu", report.device)):
        for batch in (1, 4) if report.tiny else (1, 16, 64):
            scorer = GenEvalScorer.from_pretrained("lite", device=device, batch_size=batch)
            given = [tensor.to(device) for tensor in tensors][: count if device == "cuda" else min(count, 64)]
            seconds = seconds_of(lambda scorer=scorer, given=given: scorer.score(given, specs[: len(given)]), 1)
            report.add(
                "`lite`, real weights, 512 x 512", device=device, batch=batch, **{"images/s": len(given) / seconds}
            )


@contextmanager
def constants_kept() -> Iterator[dict[str, torch.Tensor]]:
    """Keep the small constants that transformers copies to the GPU in each forward, which a graph cannot hold."""
    kept: dict[str, torch.Tensor] = {}
    make = torch.as_tensor

    def as_tensor(data: Any, **options: Any) -> torch.Tensor:
        if isinstance(data, torch.Tensor):
            return make(data, **options)
        key = str((data, options))
        if key not in kept:
            kept[key] = make(data, **options)
        return kept[key]

    with mock.patch.object(torch, "as_tensor", as_tensor):
        yield kept


def forward(report: Report, name: str, batches: tuple[int, ...], images: list[Any], floor: float) -> None:
    """Seconds of a forward in one form, and how many mask signs it changes."""
    network = model = gpu_models.network(report.tiny)
    plain = gpu_models.detector(report.device, tiny=report.tiny)
    if name.startswith("compiled network"):
        mode = "reduce-overhead" if "graphs" in name else "default"
        model = torch.compile(network, dynamic=False, mode=mode)
    detector = gpu_models.detector(report.device, model=model, compiled=name == "compiled sampling")
    if name == "channels last":
        network.to(memory_format=torch.channels_last)
    for batch in batches:
        (prepared,) = detector.prepare(images[:batch])
        call: Callable[[], Any] = partial(detector.forward, prepared)
        truth = plain.forward(prepared)[1] > 0
        if name == "CUDA graph":
            call = _captured(network, prepared)
        seconds = seconds_of(call, 1 if report.tiny else 10) / batch
        changed = (truth != (call()[1] > 0)).float().mean().item()
        wait()
        report.add(
            f"forward of `paper`, {detector.precision}, {WEIGHTS}",
            form=name,
            batch=batch,
            **{
                "ms per image": 1000 * seconds,
                "share of the matrix floor": floor / seconds,
                "mask signs": f"{changed:.3%}",
            },
        )


def _captured(network: Any, prepared: Any) -> Callable[[], Any]:
    """A forward as one CUDA graph; it reads the same pixels at each call."""
    pixels = torch.stack(prepared.pixels).cuda()

    def once() -> Any:
        with torch.no_grad(), torch.autocast("cuda", dtype=torch.float16, cache_enabled=False):
            output = network(pixel_values=normalise(pixels))
        return output.class_queries_logits, output.masks_queries_logits

    with constants_kept() as constants:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                once()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = once()

    # The graph reads this memory without owning it.
    def replay(alive: Any = (pixels, constants)) -> Any:
        graph.replay()
        return result

    return replay
