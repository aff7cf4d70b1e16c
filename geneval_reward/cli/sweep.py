"""`geneval-reward sweep`: a grid of generator arguments to a table and a picture."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geneval_reward.cli.shared.options import (
    Arguments,
    BatchSize,
    Device,
    GeneratorFolder,
    GeneratorPython,
    GeneratorTimeout,
    GeneratorVariables,
    SubsetSize,
    Worker,
    check_judge,
    process_arguments,
)
from geneval_reward.cli.shared.suites import call_arguments, check_suite, choose_subset, read_suite
from geneval_reward.cli.shared.tables import (
    Format,
    message_console,
    print_document,
    print_notes,
    progress_bar,
    quiet_about_cut_lines,
)
from geneval_reward.errors import ResultsError
from geneval_reward.support.counts import counted
from geneval_reward.support.prompt_shards import Shard

if TYPE_CHECKING:
    from geneval_reward.study.sweep.run import Sweep
    from geneval_reward.study.sweep.table import SweepTable


def sweep(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A model as `generate` takes it: 'pocket', a pipeline's folder or hub name, module:function."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for images, scores, table and picture.")] = Path(
        "sweep"
    ),
    grid: Annotated[
        list[str] | None,
        typer.Option(
            "--grid",
            "-g",
            help="An axis, such as steps=4,8,16 or guidance=1,3; also resolution, precision, model, lora, best_of, or any "
            "argument of the pipeline. Repeatable.",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML with grid, set, model, suite, subset and so on.")
    ] = None,
    arguments: Arguments = None,
    suite: Annotated[
        str | None, typer.Option("--suite", help="official, pocket, or a file.", show_default="official")
    ] = None,
    subset: SubsetSize = None,
    images_per_prompt: Annotated[
        int | None, typer.Option("--images-per-prompt", "-n", min=1, help="Images per prompt.", show_default="4")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", "-s", min=0, help="Seed of the whole sweep.", show_default="0")
    ] = None,
    backend: Annotated[
        str | None, typer.Option("--backend", "-b", help="The judge, as `score` takes it.", show_default="lite")
    ] = None,
    rules: Annotated[str | None, typer.Option("--rules", help="Rules as `score` takes them.")] = None,
    batch_size: BatchSize = None,
    device: Device = "auto",
    shard: Annotated[
        str | None,
        typer.Option("--shard", help="i/n: only every n-th setting; without a table. torchrun sets its own."),
    ] = None,
    format: Annotated[Format, typer.Option("--format", "-f", help="How to print the table.")] = Format.table,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="File for the picture.", show_default="OUT/sweep.png")
    ] = None,
    generator_python: GeneratorPython = None,
    generator_dir: GeneratorFolder = None,
    generator_env: GeneratorVariables = None,
    generator_timeout: GeneratorTimeout = None,
    worker: Worker = None,
) -> None:
    """Generate and score a grid of settings on the same prompts and noise.

    An interrupted sweep goes on where it stopped, image by image. The best setting is marked as selected, and beside its score
    stands what the same choice scores on prompts that had no part in it.

    Examples:
        geneval-reward sweep pocket --suite pocket --grid steps=4,8,16 --out sweep
        geneval-reward sweep owner/name --grid guidance=1,3,5 --subset 60
        geneval-reward sweep --config sweep.yaml

    Exit code 1: finished, but some images could not be scored; they are named.
    """
    from rich.markup import escape

    from geneval_reward.study.sweep.grid import make_cells, parse_axis, read_config

    messages = message_console()
    given = {} if config is None else read_config(config)

    def value(name: str, own: Any, default: Any) -> Any:
        return own if own is not None else given.get(name, default)

    model = value("model", model, None)
    if model is None:
        raise typer.BadParameter("expected a model here or in the YAML file, got none", param_hint="MODEL")
    suite = value("suite", suite, "official")
    axes = {name: list(values) for name, values in map(parse_axis, grid or ())}
    if len(axes) < len(grid or ()):
        raise typer.BadParameter("expected every axis once", param_hint="--grid")
    fixed = given.get("set", {}) | call_arguments(arguments)
    cells = make_cells(given.get("grid", {}) | axes, fixed)
    size, backend, rules = value("subset", subset, None), value("backend", backend, "lite"), value("rules", rules, None)
    part = Shard.current(shard)
    check_judge(backend, rules=rules)
    check_suite(suite, None if size is None else str(size))
    _check_folder(out)
    from geneval_reward.study.sweep.run import Sweep, SweepRunner
    from geneval_reward.study.sweep.table import sweep_table

    whole = read_suite(suite)
    chosen = choose_subset(whole, size)
    plan = Sweep(
        root=out,
        model=model,
        cells=cells,
        specs=whole if chosen is None else chosen.specs,
        numbers=tuple(range(len(whole))) if chosen is None else chosen.numbers,
        images_per_prompt=value("images_per_prompt", images_per_prompt, 4),
        seed=value("seed", seed, 0),
        fixed=tuple(fixed.items()),
        device=device,
        batch_size=batch_size,
        process=process_arguments(generator_python, generator_dir, generator_env, generator_timeout, worker),
    )
    judge = {"backend": backend, "rules": rules}
    _check_setup(out, {"model": model, "suite": suite, "seed": plan.seed, "set": fixed} | judge)
    if part.index == 0:
        _announce(messages, plan, len(whole))

    def make_scorer() -> Any:
        from geneval_reward import GenEvalScorer

        return GenEvalScorer.from_pretrained(backend, device=device, rules=rules)

    runner, failed = SweepRunner(plan, make_scorer), 0
    renderings = part.of(plan.renderings())
    with progress_bar(messages, "[progress.description]{task.description}", quiet=part.index > 0) as bar:
        for number, cell in enumerate(renderings, 1):
            count = len(plan.specs) * plan.candidates(cell)
            tasks = {
                what: bar.add_task(escape(f"{number}/{len(renderings)} {cell.name}: {what}"), total=count)
                for what in ("generate", "score")
            }
            with quiet_about_cut_lines():
                # A bad setting may well be wrong in every image.
                warnings.filterwarnings("ignore", "all .* images of a call are wrong", UserWarning)
                failures = runner.run(cell, _reporter(bar, tasks))
            failed += len(failures)
            for name, reason in list(failures.items())[:3]:
                messages.print(f"not scored: {cell.name} {name}: {reason}")
            bar.remove_task(tasks["generate"])
            bar.remove_task(tasks["score"])
    if part.count > 1:
        messages.print(f"shard {part.index}/{part.count} is done; for the table run the same command without shards")
        return
    table = sweep_table(plan, len(whole))
    _write(out, table, plot or out / "sweep.png", messages)
    document = table.document()
    print_document(replace(document, problems=()) if format is Format.table else document, format)
    if format is not Format.json:
        print_notes(table.notes)
    if failed:
        raise typer.Exit(1)


def _reporter(bar: Any, tasks: dict[str, Any]) -> Callable[[str, int], None]:
    """Make a function that moves the progress bars of one setting."""

    def report(what: str, images: int) -> None:
        bar.update(tasks[what], advance=images)

    return report


def _announce(messages: Any, plan: Sweep, whole: int) -> None:
    from geneval_reward.generate import subset_standard_error

    counts: dict[str, int] = {}
    for spec in plan.specs:
        counts[spec.tag] = counts.get(spec.tag, 0) + 1
    error = 100 * subset_standard_error(counts, plan.images_per_prompt)
    images = sum(len(plan.specs) * plan.candidates(cell) for cell in plan.renderings())
    part = "" if len(plan.specs) == whole else f"a stratified subset of {len(plan.specs)} of {whole} prompts, "
    messages.print(
        f"{counted(len(plan.cells), 'setting')}, {part}{counted(images, 'image')} in all; expect a standard error of "
        f"about {error:.1f} points for each score (less for differences: the noise is shared)"
    )


def _check_setup(out: Path, setup: dict[str, Any]) -> None:
    """Refuse a folder of another sweep. The grid, the subset and the number of images of a sweep may grow."""
    from geneval_reward.generate.write import write_json
    from geneval_reward.support.files import read_json

    path = out / "sweep.json"
    # As it is read back from the file, where tuples are lists.
    setup = json.loads(json.dumps(setup))
    if path.exists():
        before = read_json(path)
        if not isinstance(before, dict):
            raise ResultsError(
                f"{path}: expected an object with the set-up of a sweep, got {before!r:.60}; choose another folder"
            )
        name = next((name for name in setup if before.get(name) != setup[name]), None)
        if name is not None:
            raise typer.BadParameter(
                f"{out} holds another sweep: expected {name} {before.get(name)!r}, got {setup[name]!r}; choose another folder",
                param_hint="--out",
            )
        return
    _check_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, setup)


def _check_folder(out: Path) -> None:
    """Refuse a folder that holds something else."""
    # A run that is killed while it writes its set-up leaves a *.tmp behind.
    if (out / "sweep.json").exists():
        return
    if out.exists() and any(path.suffix != ".tmp" for path in out.iterdir()):
        raise typer.BadParameter(
            f"expected a new or empty folder, or one of this command, got {out}; choose another", param_hint="--out"
        )


def _write(out: Path, table: SweepTable, picture: Path, messages: Any) -> None:
    from geneval_reward.results.tables import render
    from geneval_reward.study.sweep.plot import save_plot
    from geneval_reward.support.files import write_whole

    document = table.document()
    for kind in ("json", "csv"):
        write_whole(out / f"table.{kind}", render(document, kind))
    try:
        messages.print(f"picture: {save_plot(table, picture)}; table: {out / 'table.csv'}, {out / 'table.json'}")
    except ImportError as error:
        messages.print(f"no picture: {error}")
