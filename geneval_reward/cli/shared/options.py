"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from geneval_reward.errors import UsageError
from geneval_reward.support.imports import is_import_path
from geneval_reward.vision.names import BACKEND_NAMES, PRECISIONS, RUNTIMES

Backend = Annotated[
    str,
    typer.Option(
        "--backend",
        "-b",
        help="The judge: lite or nanodet (inside the package), paper (the benchmark's weights), mmdet, module:attribute or "
        "file.py:attribute (a scorer of your own); for `score` also vqa (an image-text model, named by --checkpoint).",
    ),
]
Device = Annotated[str, typer.Option("--device", help="A torch device, or auto: CUDA if there is one.")]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        help="What the judge computes in: auto (fp16 on CUDA, fp32 on the CPU), fp32, tf32, fp16 or bf16.",
    ),
]
Runtime = Annotated[
    str,
    typer.Option(
        "--runtime",
        help="What runs the networks of lite, nanodet and paper: torch, or openvino (faster on a CPU; the extra openvino).",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, help="Images per forward pass.", show_default="what suits the backend"),
]
RulesText = Annotated[
    str | None,
    typer.Option(
        "--rules",
        help="field=value pairs, such as confidence=0.5, that change the backend's own rules; or a profile (geneval, lite, "
        "nanodet), optionally with pairs after it.",
        show_default="the backend's own",
    ),
]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        help="The judge's weights: of paper and mmdet a file or folder; of an image-text model a folder, a hub name or a "
        "server's address (URL or URL#MODEL).",
    ),
]
Model = Annotated[
    str,
    typer.Argument(
        help="'pocket' or 'pocket-tokens' (inside the package), a folder or hub name of a diffusers pipeline, or "
        "module:function or file.py:function that gives a pipeline or a generator."
    ),
]
SuiteName = Annotated[
    str,
    typer.Option(
        "--suite",
        help="official (553 prompts), pocket (200), a number of official prompts (60, or 10/task), or a file of JSON lines.",
    ),
]
SubsetSize = Annotated[
    str | None,
    typer.Option(
        "--subset",
        help="Use only this many prompts, equally many of each task (60), or this many of each task (10/task).",
    ),
]
Credit = Annotated[
    str,
    typer.Option("--credit", help="What is averaged: official, strict, partial, dense, flow_grpo, or module:function."),
]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Sampling steps.", show_default="the pipeline's own")]
Guidance = Annotated[
    float | None, typer.Option("--guidance", help="Guidance scale.", show_default="the pipeline's own")
]
Seed = Annotated[int, typer.Option("--seed", "-s", min=0, help="Seed of the whole set.")]
Rewrites = Annotated[
    Path | None,
    typer.Option(
        "--rewrites",
        help="JSON lines with another text for every prompt. The records stay as they are, and the score is marked as that of "
        "rewritten prompts.",
    ),
]
ShardOf = Annotated[
    str | None,
    typer.Option("--shard", help="i/n: only every n-th prompt, from the i-th (from 0). torchrun sets its own."),
]
GeneratorBatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, help="Images per call.", show_default="64 for the pocket models, else 8"),
]
Arguments = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="name=value: a further argument of the pipeline's call, such as height=512. Repeatable."
    ),
]
Lora = Annotated[str | None, typer.Option("--lora", help="File, folder or hub name of LoRA weights.")]
LoraScale = Annotated[float, typer.Option("--lora-scale", help="Strength of the LoRA.")]
GeneratorPrecision = Annotated[
    str,
    typer.Option("--precision", help="What the generator computes in: auto (as it was saved), fp32, fp16 or bf16."),
]
GeneratorPython = Annotated[
    str | None,
    typer.Option(
        "--generator-python",
        help="Run MODEL in a process of this Python: file.py:NAME, module:NAME or a name of `recipes list`; --set gives "
        "arguments of NAME.",
    ),
]
GeneratorFolder = Annotated[
    Path | None, typer.Option("--generator-dir", help="Where that process runs and imports from.")
]
GeneratorVariables = Annotated[
    list[str] | None,
    typer.Option("--generator-env", help="NAME=VALUE: an environment variable of that process. Repeatable."),
]
GeneratorTimeout = Annotated[
    float | None,
    typer.Option("--generator-timeout", help="Seconds to wait for each of its answers.", show_default="3600"),
]
Worker = Annotated[
    Path | None,
    typer.Option("--worker", help="Another copy of the worker; see `generate --print-worker`."),
]


def check_judge(
    backend: str,
    *,
    precision: str = "auto",
    rules: str | None = None,
    checkpoint: str | None = None,
    runtime: str = "torch",
    others: Sequence[str] = (),
) -> None:
    """Refuse what no judge can be loaded with, before torch is imported.

    Args:
        backend: Value of `--backend`.
        precision: Value of `--precision`.
        rules: Value of `--rules`.
        checkpoint: Value of `--checkpoint`.
        runtime: Value of `--runtime`.
        others: Names that the command takes besides those of `GenEvalScorer`.
    """
    check_choice("backend", backend if not is_import_path(backend) else BACKEND_NAMES[0], (*BACKEND_NAMES, *others))
    check_choice("precision", precision, PRECISIONS)
    check_choice("runtime", runtime, RUNTIMES)
    if runtime != "torch" and backend not in (known := ("lite", "nanodet", "paper")):
        raise UsageError(f"--runtime: expected {runtime} with {', '.join(known)}, got it with {backend}; leave it out")
    if rules is not None:
        from geneval_reward.judge.rules import Rules

        Rules.parse(rules)
    if checkpoint is not None and backend in ("lite", "nanodet"):
        raise UsageError(
            f"--checkpoint: expected none with {backend}, whose weights are inside the package; leave it out"
        )


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a word that is not one of a few."""
    if value not in choices:
        raise UsageError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")


def process_arguments(
    python: str | None, cwd: Path | None, env: Sequence[str] | None, timeout: float | None, worker: Path | None
) -> dict[str, Any] | None:
    """Collect what `ForeignGenerator` takes from the options above; None without `--generator-python`."""
    others = {"cwd": cwd, "env": env or None, "timeout": timeout, "worker": worker}
    given: dict[str, Any] = {name: value for name, value in others.items() if value is not None}
    if python is None:
        if given:
            raise UsageError(
                "--generator-dir, --generator-env, --generator-timeout, --worker: expected them with --generator-python, "
                "got them without; name the Python that the model runs in"
            )
        return None
    if env:
        pairs = [text.partition("=") for text in env]
        wrong = [name + equals for name, equals, _ in pairs if not (name and equals)]
        if wrong:
            raise UsageError(f"--generator-env: expected NAME=VALUE, got {wrong[0]!r}")
        given["env"] = {name: value for name, _, value in pairs}
    return {"python": python} | given
