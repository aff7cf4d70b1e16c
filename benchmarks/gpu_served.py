"""Part `served` of `gpu.py`: images per second of a server with its worker on the GPU, beside the scorer in this process."""

from __future__ import annotations

import contextlib
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gpu_models
import serve_load
import torch
from gpu import Report, release
from reward_throughput import make_images, make_specs
from serve_load import running_server

from geneval_reward import GenEvalScorer
from geneval_reward.service import RemoteScorer
from geneval_reward.vision.images import as_images

COUNT = 64


def run(report: Report) -> None:
    # One server in the dry run, since each takes ten seconds of the processor to start.
    for backend in ("paper",) if report.tiny else ("lite", "paper"):
        report.step(backend, 70, partial(one_backend, report, backend))


def one_backend(report: Report, backend: str) -> None:
    tiny, count = report.tiny, 4 if report.tiny else COUNT
    if backend == "lite":
        scorer = GenEvalScorer.from_pretrained("lite", device=report.device)
        pictures, specs = serve_load.make_images(count, 512)
        images: list[Any] = as_images(pictures)
    else:
        scorer = gpu_models.paper(report.device, tiny=tiny, batch_size=4 if tiny else 32)
        images = make_images(count, gpu_models.side(tiny))
        specs = make_specs(scorer.detector, images, 1)  # type: ignore[arg-type]
    verdicts = [verdict.correct for verdict in scorer.score(images, specs)]
    here = rate(lambda: scorer.score(images, specs), 1, count, tiny)
    weights = "real weights" if backend == "lite" else "random weights of the published sizes"
    table = "images per second of a server, 512 x 512, sent as raw bytes"
    report.add(table, backend=backend, weights=weights, where="in this process", clients=1, **here)
    scorer.to("cpu")
    release()
    source, size = ("lite", 32) if backend == "lite" else (f"gpu_models:{'served_tiny' if tiny else 'served'}", None)
    settings = Namespace(backend=source, device=report.device, workers=1, threads=1 if tiny else 8, batch_size=size)
    # The worker finds `gpu_models` in its working folder.
    with contextlib.chdir(Path(__file__).parent), running_server(settings) as (url, _, _):
        remote = RemoteScorer(url)
        same = [verdict.correct for verdict in remote.score(images, specs)] == verdicts
        for clients in (1,) if tiny else (1, 4, 16):
            there = rate(lambda: remote.score(images, specs), clients, count, tiny)
            ratio = there["images/s"] / here["images/s"]
            row = {"ratio": ratio, "same_verdicts": same}
            report.add(table, backend=backend, weights=weights, where="served", clients=clients, **there, **row)
        remote.close()
    if not same:
        raise RuntimeError("expected the server's verdicts to be those of this process, got others")


def rate(call: Callable[[], Any], clients: int, count: int, tiny: bool) -> dict[str, float]:
    """Images per second of so many callers at once, for some seconds."""
    call()
    end = time.perf_counter() + (0 if tiny else 6)
    done: list[int] = []

    def ask() -> None:
        while True:
            call()
            done.append(count)
            if time.perf_counter() >= end:
                return

    begun = time.perf_counter()
    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return {"images/s": sum(done) / (time.perf_counter() - begun)}
