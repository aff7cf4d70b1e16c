"""Measures one pipeline in the process that it is started in; `sizes.measure_run` starts it and reads what it prints."""

from __future__ import annotations

import contextlib
import gc
import json
import sys
import time
from pathlib import Path
from typing import Any, Final

import torch

from geneval_reward.generate import load_generator
from geneval_reward.surgery import Plan

_STATUS: Final = Path("/proc/self/status")
_CLEAR: Final = Path("/proc/self/clear_refs")


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Load, apply plans, sample, and say what it took; see `geneval_reward.surgery.sizes.Run`."""
    idle = _resident("VmRSS")
    generator: Any = load_generator(
        task["model"],
        device=task["device"],
        precision=task["precision"],
        batch_size=task["images"],
        **task["arguments"],
    )
    pipeline = generator.pipe
    device = pipeline.device
    for text in task["plans"]:
        # What `apply` returns keeps the removed parts for undo, and is dropped at once.
        Plan.from_json(text).apply(pipeline)
    gc.collect()
    loading = _peak(device)
    prompts, seeds = ["a photo of a red clock"] * task["images"], list(range(task["images"]))
    seconds = []
    for _ in range(task["calls"] + 1):
        start = time.perf_counter()
        generator.generate(prompts, seeds)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append((time.perf_counter() - start) / task["images"])
    return {
        "device": str(device),
        "peak_bytes": _peak(device),
        "loading_bytes": loading,
        "idle_bytes": 0 if device.type == "cuda" else idle,
        "seconds": seconds[1:],
    }


def _peak(device: torch.device) -> int | None:
    """The peak since the last call, which begins anew."""
    if device.type == "cuda":
        found = torch.cuda.max_memory_allocated(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return found
    peak = _resident("VmHWM")
    try:
        _CLEAR.write_text("5")
    except OSError:
        return None
    return peak


def _resident(field: str) -> int | None:
    """A number of bytes from Linux's record of this process; None on other systems."""
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return 1024 * int(line.split()[1])
    return None


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(json.loads(sys.stdin.read()))) + "\n")
