"""`geneval-reward annotate`: score a data set by several rewards into one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from geneval_reward.cli.shared.options import (
    Backend,
    BatchSize,
    Checkpoint,
    Device,
    Precision,
    RulesText,
    Runtime,
    check_choice,
    check_judge,
)
from geneval_reward.cli.shared.tables import Format, message_console, print_document, print_notes, progress_bar
from geneval_reward.support.counts import counted
from geneval_reward.support.imports import is_import_path, source_file


def annotate(
    data: Annotated[
        list[Path],
        typer.Argument(
            help="WebDataset .tar files, .parquet files, a folder of either, a folder of `datasets.save_to_disk`, or a folder of "
            "images: with metadata.jsonl, with .txt files beside them, or in the benchmark's layout."
        ),
    ],
    rewards: Annotated[
        str,
        typer.Option(
            "--rewards",
            "-r",
            help="Separated by commas: geneval_CREDIT (geneval for all five), clip_score, pick_score, hps_v2.1, image_reward, or "
            "[NAME=]module:function or file.py:function.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The table, a parquet file; it is gone on with if it is there.")
    ] = Path("annotations.parquet"),
    records: Annotated[
        Path | None,
        typer.Option("--records", help="JSON lines with the key of a sample and its record, for geneval_*."),
    ] = None,
    parse: Annotated[
        bool, typer.Option("--parse", help="Read captions without a record as sentences like the benchmark's.")
    ] = False,
    caption: Annotated[
        str | None,
        typer.Option(
            "--caption",
            help="Column, key of the json, or file of the sample (by its ending) that holds the caption.",
            show_default="txt, caption, text, prompt, or that of the record",
        ),
    ] = None,
    write_back: Annotated[
        Path | None,
        typer.Option("--write-back", help="Also write the data set again, with the scores in it, into this folder."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Drop what the table has of these rewards, and score them again.")
    ] = False,
    backend: Backend = "lite",
    device: Device = "auto",
    precision: Precision = "auto",
    batch_size: BatchSize = None,
    rules: RulesText = None,
    checkpoint: Checkpoint = None,
    runtime: Runtime = "torch",
    engine: Annotated[
        str, typer.Option("--engine", help="local: this machine. ray: one worker per GPU or CPU of a Ray cluster.")
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            help="Processes, or workers of the cluster.",
            show_default="one process; all that a cluster has room for",
        ),
    ] = None,
    format: Annotated[Format, typer.Option("--format", "-f", help="How to print the summary.")] = Format.table,
) -> None:
    """Score a data set by several rewards into one table, a row per sample.

    Run again, it goes on where it was stopped, adds other rewards, tries again what is empty, and scores again what has changed.
    A reward that cannot be given is empty, never 0, and the table says why.

    Examples:
        geneval-reward annotate shards --rewards geneval_partial,geneval_strict --out table.parquet
        geneval-reward annotate shards --rewards pick_score,mine.py:brightness --out table.parquet
        geneval-reward annotate photos --rewards geneval_dense --parse --workers 2 --write-back scored

    Exit code 1: annotated, but a value is empty, or a part of the data set cannot be read; it is named.
    """
    from geneval_reward.annotate import annotate as run
    from geneval_reward.annotate import parse_rewards, read_annotations
    from geneval_reward.annotate.run import ENGINES, Progress
    from geneval_reward.annotate.summary import summarize
    from geneval_reward.annotate.write_back import write_back as write

    check_choice("--engine", engine, ENGINES)
    check_judge(backend, precision=precision, rules=rules, checkpoint=checkpoint, runtime=runtime, others=("vqa",))
    options: dict[str, Any] = {
        "device": device,
        "precision": precision,
        "rules": rules,
        "batch_size": batch_size,
        "checkpoint": checkpoint,
        **({} if runtime == "torch" else {"runtime": runtime}),
    }
    if is_import_path(backend) and (file := source_file(backend)) is not None:
        # A worker of a cluster has another working folder.
        backend = f"{file}:{backend.rpartition(':')[2]}"
    messages = message_console()
    source = data[0] if len(data) == 1 else data
    asked = [spec.name for spec in parse_rewards(rewards)]
    try:
        with progress_bar(messages, "parts", note=True) as bar:
            task = bar.add_task("", total=None, note="loading")

            def show(progress: Progress) -> None:
                note = f"{progress.samples:,} samples" if progress.samples else "loading"
                bar.update(task, total=progress.parts, completed=progress.done, note=note)

            found = run(
                source,
                out,
                rewards,
                records=records,
                parse=parse,
                caption=caption,
                scorer=backend,
                engine=engine,
                workers=workers,
                overwrite=overwrite,
                progress=show,
                **options,
            )
    except KeyboardInterrupt:
        messages.print(f"stopped; {out}.parts holds what was scored, and the same command goes on with it")
        raise typer.Exit(1) from None
    if found.changed:
        messages.print(f"{counted(found.changed, 'sample', 'have')} changed since the table was written; scored again")
    problems = list(found.problems)
    if write_back is not None:
        files, copied = write(source, out, write_back)
        problems += copied
        messages.print(f"{counted(len(files), 'file')} with scores in {write_back}")
    table = read_annotations(out)
    if records is not None and "records" not in table.origins:
        problems.append(
            f"{records}: expected keys such as {table.keys[0] if len(table) else ''}, got none that is a sample"
        )
    print_document(summarize(table, parse=parse, problems=problems), format)
    print_notes(found.notes)
    messages.print(f"{counted(len(table), 'sample')} in {out}")
    if problems or any((values != values).any() for name, values in table.rewards.items() if name in asked):
        raise typer.Exit(1)
