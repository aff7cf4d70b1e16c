"""``geneval-reward generate``: images of a prompt set in the benchmark's layout, ready for ``score``."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geneval_reward.prompts import PromptSpec, official_suite

if TYPE_CHECKING:
    from geneval_reward.sampling import DiffusersGenerator


def generate(
    model: Annotated[
        str, typer.Argument(help="'pocket' (inside the package), or a folder that a diffusers pipeline was saved in.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for images and records.")],
    suite: Annotated[
        str, typer.Option("--suite", help="official (553 prompts), pocket (200), or a file of JSON lines.")
    ] = "official",
    images_per_prompt: Annotated[int, typer.Option("--images-per-prompt", "-n", min=1)] = 4,
    seed: Annotated[int, typer.Option("--seed", "-s", min=0, help="Seed of the whole set.")] = 0,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Sampling steps; the pipeline's own.")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", help="Guidance scale; the pipeline's own.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="64 for pocket, else 8.")] = None,
    device: Annotated[str, typer.Option("--device", help="A torch device, or auto: CUDA where there is one.")] = "auto",
    precision: Annotated[str, typer.Option("--dtype", help="auto, fp32, fp16 or bf16.")] = "auto",
) -> None:
    """Make images of a prompt set, as DIR/00000/metadata.jsonl and DIR/00000/samples/0000.png; goes on where it stopped.

    Every image has its own seed, made of --seed, its prompt and its number: batch size and interruptions change none.
    """
    from rich.console import Console
    from rich.progress import track

    from geneval_reward.folder import write_prompt_folder
    from geneval_reward.sampling import seed_for

    specs = _suite(suite)
    setup = {
        "model": model,
        "suite": suite,
        "seed": seed,
        "steps": steps,
        "guidance": guidance,
        "precision": precision,
    }
    _check_setup(out, setup)
    jobs = []
    for number, spec in enumerate(specs):
        samples = write_prompt_folder(out, number, spec)
        for index in range(images_per_prompt):
            path = samples / f"{index:04d}.png"
            if not path.exists():
                jobs.append((path, spec.prompt, seed_for(seed, spec.prompt, index)))
    messages = Console(stderr=True)
    total = len(specs) * images_per_prompt
    if len(jobs) < total:
        messages.print(f"{total - len(jobs)} of {total} images are there already")
    if jobs:
        with messages.status(f"loading {model}"):
            generator = _generator(model, device, precision, batch_size, steps, guidance)
        parts = range(0, len(jobs), generator.batch_size)
        for start in track(parts, description="generating", console=messages):
            part = jobs[start : start + parts.step]
            images = generator.generate([prompt for _, prompt, _ in part], [number for _, _, number in part])
            for (path, _, _), image in zip(part, images, strict=True):
                # Written beside and renamed, so that an interruption leaves no half image behind.
                unfinished = path.with_suffix(".tmp")
                image.save(unfinished, format="png")
                unfinished.replace(path)
    sys.stdout.write(f"{total} images of {len(specs)} prompts in {out}\n")


def _suite(name: str) -> tuple[PromptSpec, ...]:
    if name == "official":
        return official_suite()
    if name == "pocket":
        from geneval_reward.pocket import pocket_suite

        return pocket_suite()
    path = Path(name)
    if not path.is_file():
        raise typer.BadParameter(f"expected official, pocket or a file of records, got {name!r}", param_hint="--suite")
    specs = tuple(PromptSpec.parse(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    if not specs:
        raise typer.BadParameter(f"expected at least one record, got an empty file {name!r}", param_hint="--suite")
    return specs


def _check_setup(out: Path, setup: dict[str, Any]) -> None:
    """One folder holds one run: images of two seeds or models must not be mixed."""
    path = out / "generate.json"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        different = [name for name in setup if before.get(name) != setup[name]]
        if different:
            name = different[0]
            raise typer.BadParameter(
                f"{out} holds images of another run: expected {name} {before.get(name)!r}, got {setup[name]!r}; "
                "choose another folder",
                param_hint="--out",
            )
        return
    if out.exists() and any(out.iterdir()):
        raise typer.BadParameter(
            f"expected a new or empty folder, or one of this command, got {out}; choose another", param_hint="--out"
        )
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(setup, indent=1) + "\n", encoding="utf-8")


def _generator(
    model: str, device: str, precision: str, batch_size: int | None, steps: int | None, guidance: float | None
) -> DiffusersGenerator:
    import torch

    from geneval_reward.sampling import DiffusersGenerator

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtypes = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    if precision != "auto" and precision not in dtypes:
        raise typer.BadParameter(f"expected auto, fp32, fp16 or bf16, got {precision!r}", param_hint="--dtype")
    small = torch.float16 if device.startswith("cuda") else torch.float32
    pipe = _load(model, dtypes.get(precision, torch.float32 if model == "pocket" else small))
    pipe.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": guidance}
    return DiffusersGenerator(
        pipe.to(device),
        batch_size=batch_size or (64 if model == "pocket" else 8),
        **{name: value for name, value in options.items() if value is not None},
    )


def _load(model: str, dtype: Any) -> Any:
    if model == "pocket":
        from geneval_reward.pocket import load_pipeline

        return load_pipeline(dtype=dtype)
    index = Path(model) / "model_index.json"
    if not index.is_file():
        raise typer.BadParameter(
            f"expected 'pocket' or the folder of a diffusers pipeline (with model_index.json), got {model!r}",
            param_hint="MODEL",
        )
    from diffusers import DiffusionPipeline

    kind: Any = DiffusionPipeline
    if json.loads(index.read_text(encoding="utf-8")).get("_class_name") == "PocketPipeline":
        # Not one of diffusers' own, which would not find it by its name.
        from geneval_reward.pocket import PocketPipeline

        kind = PocketPipeline
    with warnings.catch_warnings():
        # Newer versions of diffusers call the argument dtype; all until 1.0 take this name.
        warnings.filterwarnings("ignore", message=".*torch_dtype.*", category=FutureWarning)
        return kind.from_pretrained(model, torch_dtype=dtype, local_files_only=True)
