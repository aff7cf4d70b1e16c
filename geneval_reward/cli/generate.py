"""`geneval-reward generate`: images of a prompt set in the benchmark's layout, ready for `score`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geneval_reward.cli.shared.image_folder import ImageFolderPlan, print_images_made
from geneval_reward.cli.shared.options import (
    Arguments,
    Device,
    GeneratorBatchSize,
    GeneratorFolder,
    GeneratorPrecision,
    GeneratorPython,
    GeneratorTimeout,
    GeneratorVariables,
    Guidance,
    Lora,
    LoraScale,
    Model,
    Rewrites,
    Seed,
    ShardOf,
    Steps,
    SubsetSize,
    SuiteName,
    Worker,
    process_arguments,
)
from geneval_reward.cli.shared.suites import call_arguments
from geneval_reward.cli.shared.tables import message_console, progress_bar
from geneval_reward.support.prompt_shards import Shard

if TYPE_CHECKING:
    from geneval_reward.generate import Generator


def _print_worker(value: bool) -> None:
    if value:
        from geneval_reward.generate.foreign import WORKER

        sys.stdout.write(WORKER.read_text(encoding="utf-8"))
        raise typer.Exit


def generate(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for images and records.")],
    suite: SuiteName = "official",
    images_per_prompt: Annotated[int, typer.Option("--images-per-prompt", "-n", min=1, help="Images per prompt.")] = 4,
    seed: Seed = 0,
    steps: Steps = None,
    guidance: Guidance = None,
    arguments: Arguments = None,
    lora: Lora = None,
    lora_scale: LoraScale = 1.0,
    rewrites: Rewrites = None,
    subset: SubsetSize = None,
    shard: ShardOf = None,
    batch_size: GeneratorBatchSize = None,
    device: Device = "auto",
    precision: GeneratorPrecision = "auto",
    trained_on_template: Annotated[
        bool,
        typer.Option(
            "--trained-on-template", help="Record that the training data held prompts in GenEval's own wording."
        ),
    ] = False,
    generator_python: GeneratorPython = None,
    generator_dir: GeneratorFolder = None,
    generator_env: GeneratorVariables = None,
    generator_timeout: GeneratorTimeout = None,
    worker: Worker = None,
    print_worker: Annotated[
        bool,
        typer.Option("--print-worker", is_eager=True, callback=_print_worker, help="Print the worker's file and exit."),
    ] = False,
) -> None:
    """Make the images of a prompt set.

    They are written as OUT/00000/metadata.jsonl and OUT/00000/samples/0000.png, which `score` reads. An interrupted run goes on
    where it stopped. Every image has its own seed, made of --seed, its prompt and its number: neither batch size nor
    interruptions nor the number of processes change one. The batch is halved when memory runs out.

    Examples:
        geneval-reward generate pocket --suite pocket --out samples
        geneval-reward generate owner/name --out samples --precision bf16 --subset 60
        geneval-reward generate models.py:load --out samples --steps 28 --guidance 4.5
    """
    messages = message_console()
    part = Shard.current(shard)
    process = process_arguments(generator_python, generator_dir, generator_env, generator_timeout, worker)
    if process is None:
        settings = call_arguments(arguments, num_inference_steps=steps, guidance_scale=guidance)
    else:
        settings = call_arguments(arguments, steps=steps, guidance=guidance)

    def load() -> Generator:
        from geneval_reward.generate import load_generator

        return load_generator(
            model,
            device=device,
            precision=precision,
            batch_size=batch_size,
            lora=lora,
            lora_scale=lora_scale,
            process=process,
            **settings,
        )

    folder = ImageFolderPlan(
        out,
        model=model,
        suite=suite,
        subset=subset,
        rewrites=rewrites,
        images_per_prompt=images_per_prompt,
        seed=seed,
        precision=precision,
        settings=settings,
        lora=lora,
        lora_scale=lora_scale,
        trained_on_template=trained_on_template,
    )
    folder.check()
    from geneval_reward.generate import write_images

    jobs, generator = folder.open(part, load, messages)
    todo = sum(not job.path.exists() for job in jobs)
    if todo and generator is not None:
        with progress_bar(messages, "generating", quiet=part.index > 0) as bar:
            task = bar.add_task("", total=len(jobs), completed=len(jobs) - todo)
            for batch in write_images(generator, jobs):
                bar.update(task, advance=len(batch.jobs))
    print_images_made(out, jobs, part)
