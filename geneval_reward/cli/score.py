"""`geneval-reward score`: a folder of images to verdicts and the GenEval score."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from geneval_reward.cli.shared.options import Backend, BatchSize, Checkpoint, Device, Precision, RulesText
from geneval_reward.cli.shared.tables import print_summary
from geneval_reward.errors import UsageError

if TYPE_CHECKING:
    import torch

    from geneval_reward import GenEvalScorer
    from geneval_reward.ray.shards import Source
    from geneval_reward.results import ResultWriter
    from geneval_reward.results.layout import ImageFolder, ImageItem

_READERS = 2  # decoding threads; the detector is the slower side
_AHEAD = 2  # batches that are decoded before they are needed


def score(
    images: Annotated[
        Path,
        typer.Argument(
            help="The benchmark's layout (<digits>/metadata.jsonl, samples/*.png), or a flat folder; with --engine ray also "
            ".tar (WebDataset) and .parquet files, or a folder of them."
        ),
    ],
    metadata: Annotated[
        Path | None, typer.Option("--metadata", "-m", help="For a flat folder: JSON lines with records and file names.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Results, a JSON line an image.")] = Path("results.jsonl"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the results file; score nothing twice.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results file.")] = False,
    backend: Backend = "lite",
    device: Device = "auto",
    precision: Precision = "auto",
    batch_size: BatchSize = None,
    rules: RulesText = None,
    checkpoint: Checkpoint = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many images.")] = None,
    all_classes: Annotated[
        bool, typer.Option("--all-classes", help="Store detections of all 80 classes, not only those asked about.")
    ] = False,
    engine: Annotated[
        str, typer.Option("--engine", help="local: this process; ray: a worker for each GPU or CPU of a Ray cluster.")
    ] = "local",
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="With --engine ray: so many, and not all there is room for.")
    ] = None,
) -> None:
    """Judge a folder of images, write a line an image, and print the score."""
    from geneval_reward import GenEvalScorer
    from geneval_reward.results import ResultWriter, RunIdentity
    from geneval_reward.results.layout import read_folder

    if engine not in ("local", "ray"):
        raise UsageError(f"--engine: expected local or ray, got {engine!r}")
    if workers is not None and engine == "local":
        raise UsageError("--workers: expected --engine ray with it, got the local engine, which is one process")
    messages = Console(stderr=True, highlight=False, soft_wrap=True)
    # Absolute where it is a path: a worker of a cluster has another working folder.
    where = None if checkpoint is None else str(Path(checkpoint).resolve()) if Path(checkpoint).exists() else checkpoint
    options: dict[str, Any] = {} if where is None else {"checkpoint": where}
    options |= {
        "device": device,
        "precision": precision,
        "rules": rules,
        "batch_size": batch_size,
        "all_classes": all_classes,
    }
    if engine == "ray":
        from geneval_reward.cli.shared.ray_engine import score_with_ray
        from geneval_reward.ray.shards import open_source

        if out.exists() and not (resume or overwrite):
            raise FileExistsError(f"{out}: expected a new file, got one that is there; pass --resume or --overwrite")
        source = open_source(images, metadata, limit=limit)
        _print_problems(messages, source)
        scored = score_with_ray(
            source, out, backend, messages, workers=workers, resume=resume, overwrite=overwrite, options=options
        )
        _finish(out, messages, skipped=bool(scored.failed or source.problems), limited=limit is not None)
        return
    folder = read_folder(images, metadata)
    _print_problems(messages, folder)
    if out.exists() and not (resume or overwrite):
        raise FileExistsError(f"{out}: expected a new file, got one that is there; pass --resume or --overwrite")
    items = folder.items[:limit]
    with messages.status(f"loading the {backend} backend"):
        scorer = GenEvalScorer.from_pretrained(backend, **options)
    identity = RunIdentity.of(scorer.rules, scorer.name, scorer.fingerprint_id)
    with ResultWriter(out, resume=resume, overwrite=overwrite, identity=identity) as writer:
        todo = [item for item in items if item.filename not in writer.done]
        if len(todo) < len(items):
            messages.print(f"{len(items) - len(todo)} of {len(items)} images are in {out} already")
        try:
            failed = _score_all(scorer, todo, writer, messages)
        except KeyboardInterrupt:
            messages.print(f"stopped; {out} holds what was scored, go on with --resume")
            raise typer.Exit(1) from None
    _finish(out, messages, skipped=bool(failed or folder.problems), limited=limit is not None)


def _finish(out: Path, messages: Console, *, skipped: bool, limited: bool) -> None:
    """Print the score of a results file; exit code 1 if something is missing."""
    from geneval_reward.results import read_results
    from geneval_reward.study.summary import summarize

    found = summarize(read_results(out))
    print_summary(found)
    messages.print(f"results: {out}")
    if skipped or not (found.complete or limited):
        raise typer.Exit(1)


def _score_all(scorer: GenEvalScorer, items: list[ImageItem], writer: ResultWriter, messages: Console) -> int:
    """Score items in batches while the next ones are decoded; returns how many could not be."""
    from geneval_reward.results import FailedImage, ResultRow

    failed = 0
    fingerprint = scorer.fingerprint_id
    columns = (
        TextColumn("scoring"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=messages) as progress:
        task = progress.add_task("", total=len(items), note="")
        for batch in _decoded(items, scorer.batch_size):
            good = [(item, image) for item, image in batch if not isinstance(image, Exception)]
            for item, image in batch:
                if isinstance(image, Exception):
                    failed += 1
                    progress.console.print(f"skipped: {image}")
                    writer.write([FailedImage(item.filename, str(image))])
            verdicts = scorer.score([image for _, image in good], [item.spec for item, _ in good])
            writer.write(
                ResultRow.from_verdict(
                    verdict,
                    item.filename,
                    index=item.index,
                    seed=item.seed,
                    rewritten=item.rewritten,
                    backend=scorer.name,
                    fingerprint=fingerprint,
                    min_confidence=scorer.min_confidence,
                )
                for (item, _), verdict in zip(good, verdicts, strict=True)
            )
            progress.update(task, advance=len(batch), note=f"{failed} skipped" if failed else "")
    return failed


def _decoded(items: list[ImageItem], size: int) -> Iterator[list[tuple[ImageItem, torch.Tensor | Exception]]]:
    """Batches of decoded images, read ahead by threads; an unreadable file comes as its error."""
    with ThreadPoolExecutor(_READERS) as pool:
        source = iter(items)
        queue: list[list[tuple[ImageItem, Future[Any]]]] = []
        while True:
            while len(queue) < _AHEAD and (chunk := list(islice(source, size))):
                queue.append([(item, pool.submit(_load, item)) for item in chunk])
            if not queue:
                return
            yield [(item, future.result()) for item, future in queue.pop(0)]


def _load(item: ImageItem) -> torch.Tensor | Exception:
    from geneval_reward.errors import ImageError
    from geneval_reward.vision.images import load_image

    try:
        return load_image(item.path)
    except ImageError as error:
        return error


def _print_problems(messages: Console, folder: ImageFolder | Source) -> None:
    shown = 20
    for problem in folder.problems[:shown]:
        messages.print(f"problem: {problem}")
    if len(folder.problems) > shown:
        messages.print(f"problem: and {len(folder.problems) - shown} more of the kind")
    if folder.ignored:
        messages.print(f"{folder.ignored} files or folders are not of the layout and were left alone")
    if folder.subset is not None:
        messages.print(f"a stratified subset: {folder.subset}; its score is an estimate, not the suite's")
