"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Backend = Annotated[
    str, typer.Option("--backend", "-b", help="lite (inside the package), paper (the benchmark's weights) or mmdet.")
]
Device = Annotated[str, typer.Option("--device", help="A torch device, or auto: CUDA where there is one.")]
Precision = Annotated[
    str,
    typer.Option("--dtype", "--precision", help="auto (fp16 on CUDA, fp32 on the CPU), fp32, tf32, fp16 or bf16."),
]
BatchSize = Annotated[int | None, typer.Option("--batch-size", min=1, help="Images a forward; what suits the backend.")]
RulesText = Annotated[
    str | None,
    typer.Option(
        "--rules", help="A profile (geneval, lite) and/or field=value pairs, such as 'geneval,confidence=0.5'."
    ),
]
Checkpoint = Annotated[
    str | None,
    typer.Option("--checkpoint", help="Detector checkpoint of the paper or mmdet backend: a file or folder."),
]
