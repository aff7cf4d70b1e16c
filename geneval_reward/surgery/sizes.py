"""What a pipeline costs: parameters, stored bytes and operations of its parts, and memory and time in a process of its own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from geneval_reward.errors import GeneratorError
from geneval_reward.results.tables import Document, Table
from geneval_reward.surgery.plan import Plan, list_parts
from geneval_reward.surgery.stored import stored_bytes


@dataclass(frozen=True)
class PartSize:
    """One component of a pipeline.

    Attributes:
        name: Its name in the pipeline.
        model: Its class.
        parameters: Number of weights, however they are stored; shared ones count once.
        bytes: Stored bytes of parameters and buffers; see `stored_bytes`.
    """

    name: str
    model: str
    parameters: int
    bytes: int


@dataclass(frozen=True)
class Run:
    """What sampling took in a process of its own.

    Attributes:
        device: Where it ran.
        peak_bytes: On CUDA the most memory that tensors held while sampling. On the CPU the largest resident memory of the
            process while sampling, Python and libraries included; None where the system cannot tell.
        loading_bytes: The same while the pipeline was loaded and the plans applied, which needs the whole model.
        idle_bytes: Resident memory of the process before the pipeline was loaded; 0 on CUDA.
        seconds: Seconds per image of every timed call, the first call left out, all images of a call made at once.
    """

    device: str
    peak_bytes: int | None
    loading_bytes: int | None
    idle_bytes: int | None
    seconds: tuple[float, ...]


def part_sizes(pipeline: Any) -> list[PartSize]:
    """Measure the components of a pipeline that have weights.

    Examples:
        >>> from geneval_reward.pocket import load_pipeline
        >>> [(part.name, part.parameters) for part in part_sizes(load_pipeline())][1]
        ('text_encoder', 249408)
    """
    return [
        PartSize(name, type(part).__name__, count_parameters(part), stored_bytes(part))
        for name, part in list_parts(pipeline).items()
    ]


def count_parameters(model: nn.Module) -> int:
    """Count the weights of a model; a packed weight counts as the matrix that it stands for."""
    return sum(
        getattr(getattr(parameter, "quant_state", None), "shape", parameter.shape).numel()
        for parameter in model.parameters()
    )


def count_operations(pipeline: Any, run: Callable[[], Any]) -> dict[str, int]:
    """Count the floating-point operations of one call, by part, with `torch.utils.flop_counter`.

    A multiplication and an addition are two operations. Only matrix products, convolutions and attention count. Count before
    weights are quantised: the kernels of packed weights are unknown to the counter, and the arithmetic stays the same.

    Args:
        pipeline: The pipeline.
        run: Makes the call, such as `lambda: pipeline("a photo of a red clock")`.

    Returns:
        Operations by part, and their sum with what is outside of all parts as `all`.
    """
    counter = FlopCounterMode(display=False)
    counts = dict.fromkeys(list_parts(pipeline), 0)
    hooks = []
    for name, part in list_parts(pipeline).items():

        def before(*_: Any, name: str = name) -> None:
            counts[name] -= counter.get_total_flops()

        def after(*_: Any, name: str = name) -> None:
            counts[name] += counter.get_total_flops()

        hooks += [part.register_forward_pre_hook(before), part.register_forward_hook(after)]
    try:
        with counter, torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return counts | {"all": counter.get_total_flops()}


def measure_run(
    model: str,
    plans: Sequence[Plan] = (),
    *,
    images: int = 4,
    calls: int = 5,
    device: str = "auto",
    precision: str = "auto",
    arguments: Mapping[str, Any] | None = None,
    timeout: float | None = None,
) -> Run:
    """Measure peak memory and latency in a fresh process, which nothing else has filled.

    Args:
        model: What `geneval-reward generate` takes.
        plans: Applied in order; what they remove is freed before sampling.
        images: Images per call.
        calls: Timed calls, after one that is not.
        device: A torch device, or `auto`.
        precision: What the pipeline computes in.
        arguments: Further keyword arguments of every pipeline call, such as `num_inference_steps`.
        timeout: Seconds to wait; None for ever.

    Raises:
        GeneratorError: If the process fails; the message ends with its last line.
    """
    task = {
        "model": model,
        "plans": [plan.to_json() for plan in plans],
        "images": images,
        "calls": calls,
        "device": device,
        "precision": precision,
        "arguments": dict(arguments or {}),
    }
    command = [sys.executable, "-m", "geneval_reward.surgery.measure"]
    try:
        done = subprocess.run(
            command, input=json.dumps(task), capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise GeneratorError(f"measure: expected an answer within {timeout:g} seconds, got none") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise GeneratorError(
            f"measure: expected the process to measure {model!r}, got exit code {done.returncode}: {last}"
        )
    found = json.loads(done.stdout.splitlines()[-1])
    return Run(**found | {"seconds": tuple(found["seconds"])})


def sizes_document(
    parts: Sequence[PartSize], dense: Sequence[PartSize], operations: Mapping[str, int], run: Run | None, steps: str
) -> Document:
    """Tables of sizes: parts, and the run.

    Args:
        parts: Sizes with the plans in force.
        dense: Sizes without; equal to `parts` if there are no plans.
        operations: What `count_operations` found.
        run: What `measure_run` found; None if nothing was run.
        steps: How the operations were counted, for the note.
    """
    before = {part.name: part for part in dense}
    rows: list[list[object]] = []
    whole = PartSize("all", "", sum(p.parameters for p in parts), sum(p.bytes for p in parts))
    before["all"] = PartSize("all", "", sum(p.parameters for p in dense), sum(p.bytes for p in dense))
    for part in (*parts, whole):
        old = before[part.name].bytes
        change = "" if old == part.bytes else f"{100 * (part.bytes - old) / old:+.1f} %"
        giga = f"{operations.get(part.name, 0) / 1e9:,.3f}"
        rows.append([part.name, part.model, f"{part.parameters:,}", f"{part.bytes:,}", change, giga])
    notes = [
        "bytes: storages of parameters and buffers, each counted once, packed weights as they are packed",
        f"GFLOP: matrix products, convolutions and attention, two per multiplication and addition, {steps}",
    ]
    tables = [Table("", ["part", "model", "parameters", "bytes", "change", "GFLOP"], rows, notes)]
    record: dict[str, Any] = {
        "parts": [vars(part) | {"dense_bytes": before[part.name].bytes} for part in (*parts, whole)],
        "operations": dict(operations),
    }
    if run is not None:
        record["run"] = vars(run)
        middle = statistics.median(run.seconds)
        cells = [
            ["peak memory while sampling", _megabytes(run.peak_bytes)],
            ["peak memory while loading", _megabytes(run.loading_bytes)],
            ["memory before loading", _megabytes(run.idle_bytes)],
            ["seconds per image, median", f"{middle:.4g} ({min(run.seconds):.4g} to {max(run.seconds):.4g})"],
        ]
        kind = (
            "tensors on the GPU" if run.device.startswith("cuda") else "resident memory, Python and libraries included"
        )
        times = f"times: {len(run.seconds)} calls after one that is not timed"
        note = f"in a process of its own on {run.device}; memory: {kind}; {times}"
        tables.append(Table("", ["run", ""], cells, [note]))
    values = Table(
        "",
        ["part", "model", "parameters", "bytes", "dense_bytes", "flop"],
        [
            [part.name, part.model, part.parameters, part.bytes, before[part.name].bytes, operations.get(part.name, 0)]
            for part in (*parts, whole)
        ],
    )
    return Document(tables, values, record)


def _megabytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e6:,.1f} MB"
