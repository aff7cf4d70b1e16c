"""`geneval-reward score`: judge a folder of images and print its GenEval score."""

from __future__ import annotations

import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from geneval_reward.cli.shared.options import (
    Backend,
    BatchSize,
    Checkpoint,
    Device,
    Precision,
    RulesText,
    Runtime,
    check_judge,
)
from geneval_reward.cli.shared.tables import message_console, print_summary, progress_bar
from geneval_reward.errors import UsageError
from geneval_reward.support.counts import counted
from geneval_reward.support.imports import is_import_path, source_file

if TYPE_CHECKING:
    from geneval_reward.results.layout import ImageFolder, ImageItem
    from geneval_reward.results.shards import Source


def score(
    images: Annotated[
        Path,
        typer.Argument(
            help="The benchmark's layout (<digits>/metadata.jsonl and samples/*.png), a Hugging Face image folder, or with "
            "--metadata any folder of images; with --engine ray also .tar (WebDataset) and .parquet files, or a folder of them."
        ),
    ],
    metadata: Annotated[
        Path | None,
        typer.Option(
            "--metadata",
            "-m",
            help="JSON lines, one per image: its path under file_name, and its record (or a prompt of the official suite).",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The results file, with one JSON line per image.")] = Path(
        "results.jsonl"
    ),
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the results file; images that changed since are scored again."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results file.")] = False,
    backend: Backend = "lite",
    device: Device = "auto",
    precision: Precision = "auto",
    runtime: Runtime = "torch",
    batch_size: BatchSize = None,
    rules: RulesText = None,
    checkpoint: Checkpoint = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Score only this many images, evenly many of each task.")
    ] = None,
    all_classes: Annotated[
        bool,
        typer.Option("--all-classes", help="Store the detections of all 80 classes, not only of those in the record."),
    ] = False,
    engine: Annotated[
        str, typer.Option("--engine", help="local: this process. ray: one worker per GPU or CPU of a Ray cluster.")
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            help="With --engine ray: the number of workers.",
            show_default="all there is room for",
        ),
    ] = None,
) -> None:
    """Judge a folder of images and print their score.

    Every image becomes a line of the results file, with its verdict, reasons and detections: `summary`, `compare` and `report`
    read it.

    Examples:
        geneval-reward score samples --out run.jsonl
        geneval-reward score photos --metadata photos.jsonl --limit 60
        geneval-reward score samples --backend paper --device cuda --resume

    Exit code 1: scored, but an image was skipped, or part of the official suite is missing; it is named.
    """
    if engine not in ("local", "ray"):
        raise UsageError(f"--engine: expected local or ray, got {engine!r}")
    if workers is not None and engine == "local":
        raise UsageError("--workers: expected it with --engine ray, got the local engine, which is one process")
    if backend == "vqa" and engine == "ray":
        raise UsageError("--engine: expected local with the vqa backend, got ray; it is one process")
    if resume and overwrite:
        raise UsageError("--resume, --overwrite: expected at most one of the two, got both")
    if out.exists() and not (resume or overwrite):
        raise FileExistsError(f"{out}: expected a new file, got one that is there; pass --resume or --overwrite")
    check_judge(backend, precision=precision, rules=rules, checkpoint=checkpoint, runtime=runtime, others=("vqa",))
    messages = message_console()
    # A worker of a cluster has another working folder, so paths are made absolute.
    if is_import_path(backend) and (file := source_file(backend)) is not None:
        backend = f"{file}:{backend.rpartition(':')[2]}"
    where = None if checkpoint is None else str(Path(checkpoint).resolve()) if Path(checkpoint).exists() else checkpoint
    options: dict[str, Any] = {} if where is None else {"checkpoint": where}
    options |= {} if runtime == "torch" else {"runtime": runtime}
    options |= {
        "device": device,
        "precision": precision,
        "rules": rules,
        "batch_size": batch_size,
        "all_classes": all_classes,
    }
    if engine == "ray":
        from geneval_reward.cli.shared.ray_engine import score_with_ray
        from geneval_reward.results.shards import open_source

        source = open_source(images, metadata, limit=limit)
        _print_problems(messages, source)
        scored = score_with_ray(
            source, out, backend, messages, workers=workers, resume=resume, overwrite=overwrite, options=options
        )
        _finish(out, images, messages, skipped=bool(scored.failed or source.problems), limited=limit is not None)
        return
    from geneval_reward.results.layout import read_folder
    from geneval_reward.results.spread import spread

    folder = read_folder(images, metadata)
    _print_problems(messages, folder)
    items = spread(folder.items, limit)
    try:
        failed = score_items(items, out, backend, options, messages, resume=resume, overwrite=overwrite)
    except KeyboardInterrupt:
        messages.print(f"stopped; {out} holds what was scored, go on with --resume")
        raise typer.Exit(1) from None
    _finish(out, images, messages, skipped=bool(failed or folder.problems), limited=limit is not None)


def score_items(
    items: list[ImageItem],
    out: Path,
    backend: str,
    options: dict[str, Any],
    messages: Console,
    *,
    resume: bool,
    overwrite: bool,
) -> int:
    """Score what the results file lacks; returns the number of images that could not be scored."""
    from geneval_reward.judges.load import load_scorer
    from geneval_reward.results import ResultWriter, RunIdentity
    from geneval_reward.results.scoring import score_files
    from geneval_reward.scorer import fingerprint_id

    changed = _changed_since(items, out) if resume else []
    with messages.status(Text(f"loading the {backend} backend")):
        scorer = load_scorer(backend, **options)
    identity = RunIdentity.of(scorer.rules, scorer.name, fingerprint_id(scorer))
    with ResultWriter(out, resume=resume, overwrite=overwrite, identity=identity, again=changed) as writer:
        before = len(writer.done)
        todo = [item for item in items if item.filename not in writer.done]
        if changed:
            messages.print(
                f"{counted(len(changed), 'image', 'have')} changed since {out} was written, or the record has, such as "
                f"{changed[0]}: scored again"
            )
        if len(todo) < len(items):
            messages.print(f"{len(items) - len(todo)} of {len(items)} images are in {out} already")
        failed = 0
        with progress_bar(messages, "scoring", note=True) as progress:
            task = progress.add_task("", total=len(todo), note="")
            for failures in score_files(scorer, todo, writer):
                for failure in failures:
                    progress.console.print(f"skipped: {failure.error}")
                failed += len(failures)
                scored = len(writer.done) - before
                progress.update(task, completed=scored + failed, note=f"{failed} skipped" if failed else "")
        return failed


def _changed_since(items: list[ImageItem], out: Path) -> list[str]:
    """The names of images whose rows are of other files or other records than those that are there now."""
    if not out.is_file():
        return []
    written = out.stat().st_mtime_ns
    from geneval_reward.results import read_results

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a cut line is mended when the file is taken up
        if not out.stat().st_size:
            return []
        results = read_results(out)
    specs = results.specs()
    rows = {name: specs[number] for name, number in zip(results.filenames, results.prompt_ids, strict=True)}
    known = [item for item in items if item.filename in rows]
    return [item.filename for item in known if _changed_at(item.path) > written or rows[item.filename] != item.spec]


def _changed_at(path: Path) -> int:
    """When a file was written or came to its place: `cp -p`, `mv` and `rsync` keep the time of the original as `mtime`."""
    found = path.stat()
    return max(found.st_mtime_ns, found.st_ctime_ns)


def _finish(out: Path, images: Path, messages: Console, *, skipped: bool, limited: bool) -> None:
    """Print the score of a results file, and exit with 1 if something is missing."""
    from geneval_reward.results import read_results
    from geneval_reward.results.record import failures_path
    from geneval_reward.study.summary import summarize

    found = summarize(read_results(out))
    print_summary(found)
    messages.print(f"results: {out}")
    if (failures := failures_path(out)).exists():
        messages.print(f"images that could not be scored: {failures}")
    if images.is_dir():
        command = shlex.join(["geneval-reward", "report", str(out), "--images", str(images)])
        messages.print(f"to look at the images: {command}")
    if skipped or not (found.complete or limited):
        raise typer.Exit(1)


def _print_problems(messages: Console, folder: ImageFolder | Source) -> None:
    shown = 20
    for problem in folder.problems[:shown]:
        messages.print(f"problem: {problem}")
    if len(folder.problems) > shown:
        messages.print(f"problem: and {len(folder.problems) - shown} more like these")
    for note in folder.notes:
        messages.print(f"note: {note}")
    if folder.ignored:
        messages.print(f"files and folders that are not part of the layout and were ignored: {folder.ignored}")
    if folder.subset is not None:
        messages.print(f"a stratified subset: {folder.subset}; its score is an estimate of the suite's")
