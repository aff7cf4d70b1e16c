"""`geneval-reward surgery`: what the parts of a model cost, and what a change of its structure does to its score."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from geneval_reward.cli.shared.help import Command, Group
from geneval_reward.cli.shared.options import (
    Arguments,
    Backend,
    Device,
    GeneratorBatchSize,
    GeneratorPrecision,
    Guidance,
    Model,
    RulesText,
    Seed,
    Steps,
    SubsetSize,
    SuiteName,
    check_judge,
)
from geneval_reward.cli.shared.suites import call_arguments, check_suite, choose_subset, read_suite
from geneval_reward.cli.shared.tables import (
    Format,
    message_console,
    print_document,
    progress_bar,
    quiet_about_cut_lines,
)

app = typer.Typer(
    no_args_is_help=True,
    help="Change a model's structure: what its parts cost, and what a change does to its score.",
    cls=Group,
)


@app.command(cls=Command)
def sizes(
    model: Model,
    plan: Annotated[
        list[Path] | None, typer.Option("--plan", help="A plan to apply first. Repeatable, in order.")
    ] = None,
    run: Annotated[
        bool, typer.Option("--run/--no-run", help="Also measure memory and time in a process of its own.")
    ] = True,
    images: Annotated[int, typer.Option("--images", min=1, help="Images per call of that run.")] = 4,
    steps: Steps = None,
    guidance: Guidance = None,
    arguments: Arguments = None,
    device: Device = "auto",
    precision: GeneratorPrecision = "auto",
    format: Annotated[Format, typer.Option("--format", "-f", help="How to print the tables.")] = Format.table,
) -> None:
    """Print parameters, stored bytes and operations of a pipeline's parts, and the memory and time that sampling takes.

    A plan that does not fit the model is refused, so this also checks plans.

    Examples:
        geneval-reward surgery sizes pocket
        geneval-reward surgery sizes owner/name --plan cut.json --plan int4.json --no-run
    """
    from geneval_reward.surgery import load_plan
    from geneval_reward.surgery.sizes import measure_run, sizes_document

    plans = [load_plan(path) for path in plan or ()]
    messages = message_console()
    settings = call_arguments(arguments, num_inference_steps=steps, guidance_scale=guidance)
    with messages.status("loading the model"):
        dense, found, operations = _measure_here(model, plans, device, precision, settings)
    measured = None
    if run:
        with messages.status("measuring in a process of its own"):
            measured = measure_run(model, plans, images=images, device=device, precision=precision, arguments=settings)
    print_document(sizes_document(found, dense, operations, measured, "for one image"), format)


def _measure_here(model: str, plans: list[Any], device: str, precision: str, settings: dict[str, Any]) -> Any:
    """Sizes of the parts without and with the plans, and operations; the model is freed on return."""
    from geneval_reward.generate import DiffusersGenerator, load_generator
    from geneval_reward.surgery.quantize import QuantizePlan
    from geneval_reward.surgery.sizes import count_operations, part_sizes

    generator = load_generator(model, device=device, precision=precision, batch_size=1, **settings)
    if not isinstance(generator, DiffusersGenerator):
        raise typer.BadParameter(f"expected a diffusers pipeline, got {model!r}, which is none", param_hint="MODEL")
    dense = part_sizes(generator.pipe)
    packing = [plan for plan in plans if isinstance(plan, QuantizePlan)]
    for plan in plans:
        if plan not in packing:
            plan.apply(generator.pipe)
    operations = count_operations(generator.pipe, lambda: generator.generate(["a photo of a red clock"], [0]))
    for plan in packing:
        plan.apply(generator.pipe)
    return dense, part_sizes(generator.pipe), operations


@app.command(cls=Command)
def quantize(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="File for the plan.")],
    how: Annotated[
        str,
        typer.Option(
            "--how", help="nf4 (bitsandbytes), qint4 or qint8 (quanto), int8 or, on CUDA only, int4 (torchao)."
        ),
    ] = "nf4",
    part: Annotated[str, typer.Option("--part", help="Component of the pipeline.")] = "transformer",
    skip: Annotated[
        list[str] | None, typer.Option("--skip", help="Leave layers alone whose names hold this text. Repeatable.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Write a plan that stores the weights of a part in fewer bits, once it has been tried on the model.

    Examples:
        geneval-reward surgery quantize pocket --part text_encoder --how qint4 --out int4.json
    """
    from geneval_reward.generate.load import choose_device, load_pipeline
    from geneval_reward.surgery import quantize as make_plan
    from geneval_reward.surgery import save_plan

    messages = message_console()
    with messages.status("loading the model"):
        pipeline = load_pipeline(model)
        pipeline = pipeline.to(choose_device(device))
    plan = make_plan(pipeline, part, how, skip=tuple(skip or ()))
    removed = plan.apply(pipeline).removed_bytes
    save_plan(plan, out)
    typer.echo(f"{out}: {part} as {how}, {removed:,} bytes less")


@app.command(cls=Command)
def table(
    model: Model,
    row: Annotated[
        list[str],
        typer.Option(
            "--row", help="A changed model: NAME=PLAN.json, or NAME=PLAN.json+PLAN.json in order. Repeatable."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for images, scores and tables.")] = Path("surgery"),
    suite: SuiteName = "official",
    subset: SubsetSize = None,
    images_per_prompt: Annotated[int, typer.Option("--images-per-prompt", "-n", min=1, help="Images per prompt.")] = 4,
    seed: Seed = 0,
    steps: Steps = None,
    guidance: Guidance = None,
    arguments: Arguments = None,
    backend: Backend = "lite",
    rules: RulesText = None,
    batch_size: GeneratorBatchSize = None,
    device: Device = "auto",
    precision: GeneratorPrecision = "auto",
    format: Annotated[Format, typer.Option("--format", "-f", help="How to print the tables.")] = Format.table,
) -> None:
    """Generate and score a model dense and with plans, on the same prompts and noise, and print what changed.

    An interrupted table goes on where it stopped. Every row's folder is in the benchmark's layout, so `score`, `compare` and
    `report` read it too.

    Examples:
        geneval-reward surgery table pocket --suite pocket --row cut.json --row both=cut.json+int4.json --out runs/table

    Exit code 1: finished, but something weakens the comparison or an image could not be scored; it is named.
    """
    from geneval_reward.results.tables import render
    from geneval_reward.support.files import write_whole
    from geneval_reward.surgery.table import Settings, TableRun, parse_rows, table_document

    messages = message_console()
    check_judge(backend, rules=rules)
    check_suite(suite, subset)
    rows = parse_rows(row)
    whole = read_suite(suite)
    chosen = choose_subset(whole, subset)
    settings = Settings(
        model=model,
        specs=tuple(whole if chosen is None else chosen.specs),
        numbers=tuple(range(len(whole))) if chosen is None else tuple(chosen.numbers),
        images_per_prompt=images_per_prompt,
        seed=seed,
        arguments=call_arguments(arguments, num_inference_steps=steps, guidance_scale=guidance),
        device=device,
        precision=precision,
        batch_size=batch_size,
    )
    _check_folder(out, {"model": model, "suite": suite, "backend": backend, "rules": rules})

    def make_scorer() -> Any:
        from geneval_reward import GenEvalScorer

        return GenEvalScorer.from_pretrained(backend, device=device, rules=rules)

    run, failed = TableRun(out, rows, settings, make_scorer), 0
    with messages.status("trying the plans"):
        run.check()
    count = len(settings.specs) * images_per_prompt
    with progress_bar(messages, "[progress.description]{task.description}") as bar, quiet_about_cut_lines():
        for number, one in enumerate(run.rows, 1):
            tasks = {
                what: bar.add_task(f"{number}/{len(run.rows)} {one.name}: {what}".replace("[", r"\["), total=count)
                for what in ("generate", "score")
            }
            failures = run.run(one, _reporter(bar, tasks))
            failed += len(failures)
            for name, reason in list(failures.items())[:3]:
                messages.print(f"not scored: {one.name} {name}: {reason}")
            for task in tasks.values():
                bar.remove_task(task)
    document = table_document(run)
    for kind, ending in (("markdown", "md"), ("latex", "tex"), ("csv", "csv"), ("json", "json")):
        write_whole(out / f"table.{ending}", render(document, kind))
    print_document(document, format)
    messages.print(f"tables: {out / 'table.md'}, .tex, .csv, .json")
    if failed or document.problems:
        raise typer.Exit(1)


def _reporter(bar: Any, tasks: dict[str, Any]) -> Callable[[str, str, int], None]:
    """Make a function that moves the progress bars of one row."""

    def report(row: str, what: str, images: int) -> None:
        bar.update(tasks[what], advance=images)

    return report


def _check_folder(out: Path, setup: dict[str, Any]) -> None:
    """Refuse a folder of another table. Rows, prompts and images may be added."""
    from geneval_reward.errors import ResultsError
    from geneval_reward.generate.write import write_json
    from geneval_reward.support.files import read_json

    path = out / "surgery.json"
    if path.exists():
        before = read_json(path)
        name = next((name for name in setup if not isinstance(before, dict) or before.get(name) != setup[name]), None)
        if name is not None:
            got = before.get(name) if isinstance(before, dict) else before
            raise ResultsError(
                f"{out}: expected a table with {name} {setup[name]!r}, got {got!r}; choose another folder"
            )
        return
    if out.exists() and any(file.suffix != ".tmp" for file in out.iterdir()):
        raise typer.BadParameter(
            f"expected a new or empty folder, or one of this command, got {out}; choose another", param_hint="--out"
        )
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, json.loads(json.dumps(setup)))
