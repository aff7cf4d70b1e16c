"""`geneval-reward score --engine ray`: what differs from scoring in one process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from geneval_reward.cli.shared.tables import progress_bar
from geneval_reward.support.counts import counted

if TYPE_CHECKING:
    from geneval_reward.ray import DatasetScores
    from geneval_reward.ray.work import ShardReport
    from geneval_reward.results.shards import Source


def score_with_ray(
    source: Source,
    out: Path,
    backend: str,
    messages: Console,
    *,
    workers: int | None,
    resume: bool,
    overwrite: bool,
    options: dict[str, Any],
) -> DatasetScores:
    """Score shards on a Ray cluster, as `geneval_reward.ray.score_dataset` does, and show the progress."""
    from geneval_reward.ray import score_dataset

    images = failed = 0
    try:
        with progress_bar(messages, "shards", note=True) as bar:
            task = bar.add_task("", total=len(source.shards), note="")

            def progress(report: ShardReport) -> None:
                nonlocal images, failed
                images, failed = images + report.scored, failed + report.failed
                bar.update(task, advance=1, note=counted(images, "image") + (f", {failed} skipped" if failed else ""))

            found = score_dataset(
                source,
                out,
                backend,
                workers=workers,
                resume=resume,
                overwrite=overwrite,
                progress=progress,
                **options,
            )
            bar.update(task, completed=found.shards)
    except KeyboardInterrupt:
        messages.print(f"stopped; {out}.shards holds what was scored, continue with --resume")
        raise typer.Exit(1) from None
    if found.taken:
        messages.print(f"{found.taken} of {found.shards} shards were finished already")
    return found
