"""`geneval-reward search`: images of a prompt set, each the best that a search finds with a reward at sampling time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geneval_reward.cli.shared.image_folder import ImageFolderPlan, print_images_made
from geneval_reward.cli.shared.options import (
    Arguments,
    Device,
    GeneratorBatchSize,
    GeneratorPrecision,
    Guidance,
    Lora,
    LoraScale,
    Model,
    Rewrites,
    Seed,
    ShardOf,
    SubsetSize,
    SuiteName,
    check_choice,
)
from geneval_reward.cli.shared.suites import call_arguments
from geneval_reward.cli.shared.tables import message_console, progress_bar
from geneval_reward.errors import UsageError
from geneval_reward.support.prompt_shards import Shard

if TYPE_CHECKING:
    from geneval_reward.search import SearchGenerator

METHODS = ("tts-var", "cluster", "resample", "random", "fk", "best-of-n", "importance")
SAMPLERS = ("cps", "sde", "ode", "ddim")


def search(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for images and records.")],
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="tts-var; cluster, resample or random (its parts and its control, on the same schedule); fk (Feynman-Kac "
            "steering); best-of-n; importance.",
        ),
    ] = "tts-var",
    n: Annotated[
        int, typer.Option("--n", min=1, help="Candidates or particles; finalists of tts-var, which begins with 8 n.")
    ] = 8,
    reward: Annotated[
        str,
        typer.Option(
            "--reward",
            help="What selects: lite, nanodet, paper, mmdet; pick_score, image_reward, ...; module:function.",
        ),
    ] = "lite",
    credit: Annotated[
        str, typer.Option("--credit", help="Credits of a backend's verdict to add, with + between them.")
    ] = "official+dense",
    sharpness: Annotated[
        float | None, typer.Option("--lambda", help="Sharpness of draws.", show_default="10, as published")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            "--features",
            help="Features for clustering: a DINOv2 folder or hub name, or module:function.",
            show_default="the model's own",
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            "--sampler", help="cps, sde or ode for flow models; ddim for others.", show_default="cps for flow models"
        ),
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option("--noise", help="Noise of the sampler.", show_default="cps 0.8, sde 0.7, ddim 1"),
    ] = None,
    suite: SuiteName = "official",
    images_per_prompt: Annotated[int, typer.Option("--images-per-prompt", min=1, help="Searches per prompt.")] = 4,
    seed: Seed = 0,
    steps: Annotated[int | None, typer.Option("--steps", min=2, help="Sampling steps; the pipeline's own.")] = None,
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
) -> None:
    """Search for better images of a prompt set, without training.

    They are written in the layout of `generate`, and an interrupted run goes on where it stopped. Beside each image its lineage
    and cost are kept, and `score` records what selected it. A score by the judge that selected is no measure of the generator:
    report with another one.

    Examples:
        geneval-reward search pocket-tokens --suite pocket --out found --n 2
        geneval-reward search owner/name --out found --method fk --n 4 --reward lite

    Exit code 1: made, but some candidates got no reward; they are named.
    """
    messages = message_console()
    check_choice("method", method, METHODS)
    if sampler is not None:
        check_choice("sampler", sampler, SAMPLERS)
    part = Shard.current(shard)
    settings = call_arguments(arguments)
    resolution = settings.pop("resolution", None)
    if settings:
        raise UsageError(
            f"--set: expected resolution, the only argument that a search takes, got {next(iter(settings))}"
        )

    def load() -> SearchGenerator:
        from geneval_reward.search import load_search

        return load_search(
            model,
            method=method,
            n=n,
            reward=reward,
            credit=credit,
            features=features,
            lam=sharpness,
            device=device,
            steps=steps,
            guidance=guidance,
            sampler=sampler,
            noise=noise,
            resolution=resolution,
            precision=precision,
            batch_size=batch_size,
            lora=lora,
            lora_scale=lora_scale,
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
        settings=call_arguments(arguments, num_inference_steps=steps, guidance_scale=guidance),
        lora=lora,
        lora_scale=lora_scale,
        search={
            "method": method,
            "n": n,
            "reward": reward,
            "credit": credit,
            "lambda": sharpness,
            "features": features,
            "sampler": sampler,
            "noise": noise,
        },
    )
    folder.check()
    from geneval_reward.generate import write_images

    jobs, generator = folder.open(part, load, messages)
    todo = sum(not job.path.exists() for job in jobs)
    unscored = 0
    if todo:
        generator = generator or load()
        generator.add_prompts({job.text: job.spec for job in jobs})
        if part.index == 0:
            passes = generator.plan.passes(generator.steps)
            messages.print(
                f"{method}, n {n}: {generator.plan.n} candidates at first, the steps of {passes:.2f} plain images for each "
                f"image; selected by {generator.selected_by or 'nothing'}"
            )
        with progress_bar(messages, "searching", quiet=part.index > 0) as bar:
            task = bar.add_task("", total=len(jobs), completed=len(jobs) - todo)
            for batch in write_images(generator, jobs):
                for job, found in zip(batch.jobs, generator.found, strict=True):
                    unscored += bool(found.errors)
                    for error in found.errors:
                        messages.print(f"no reward: {job.path.parent.parent.name}/{job.path.name}: {error}")
                bar.update(task, advance=len(batch.jobs))
    print_images_made(out, jobs, part)
    if unscored:
        raise typer.Exit(1)
