"""`geneval-reward audit`: what a second judge says of images that were scored, and where the two differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geneval_reward.cli.score import score_items
from geneval_reward.cli.shared.options import Checkpoint, Device, Precision, check_judge
from geneval_reward.cli.shared.tables import Format, message_console, print_document, print_notes, quiet_about_cut_lines
from geneval_reward.errors import UsageError
from geneval_reward.support.files import write_whole

if TYPE_CHECKING:
    from geneval_reward.results import Results


def audit(
    results: Annotated[Path, typer.Argument(help="A results file: what the first judge said.")],
    second: Annotated[
        str,
        typer.Option(
            "--second",
            help="lite, nanodet, paper, mmdet; vqa or ufeval (with --checkpoint); or a results file of the same images.",
        ),
    ] = "nanodet",
    images: Annotated[
        Path | None,
        typer.Option("--images", "-i", help="Folder of the images.", show_default="looked for beside the file"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The page of images on which they differ.", show_default="RESULTS.audit.html"),
    ] = None,
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    precision: Precision = "auto",
    cache: Annotated[Path | None, typer.Option("--cache", help="Folder that keeps a server's answers.")] = None,
    aspect: Annotated[
        str | None, typer.Option("--aspect", help="With ufeval: the criterion.", show_default="that of each task")
    ] = None,
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="With ufeval: at most this many pairs of a prompt.")] = 2,
    format: Annotated[Format, typer.Option("--format", "-f", help="How to print the table.")] = Format.table,
) -> None:
    """Let a second judge look at images that were scored.

    It prints how far the two agree, with kappa, and writes a page of the images on which they differ. The second judge's verdicts
    are kept in a results file of their own beside the first (RESULTS.second-JUDGE.jsonl); an interrupted run goes on where it
    stopped.

    Examples:
        geneval-reward audit run.jsonl --images samples --second nanodet
        geneval-reward audit run.jsonl --second vqa --checkpoint owner/name

    Exit code 1: printed, but some images were not found or could not be judged.
    """
    from geneval_reward.results import read_results

    if second != "ufeval" and aspect is not None:
        raise UsageError(f"--aspect: expected it with --second ufeval, got {second}")
    if not Path(second).is_file():
        check_judge(second, precision=precision, checkpoint=checkpoint, others=("vqa", "ufeval"))
    with quiet_about_cut_lines():
        first = read_results(results)
    from geneval_reward.study.report.locate import locate
    from geneval_reward.study.second import compare_judges
    from geneval_reward.study.second_page import opinion_page, pairs_page

    paths = locate(first.filenames, results, images)
    messages = message_console()
    page = out or results.with_name(f"{results.stem}.audit.html")
    title = f"{results.name} audited by {second}"
    if second == "ufeval":
        from geneval_reward.judges import PairJudge, open_model
        from geneval_reward.study.second_pairs import judge_pairs

        if checkpoint is None:
            raise UsageError(
                "--checkpoint: expected the model of ufeval (a folder, a hub name or a server's address), got none"
            )
        local = {} if checkpoint.startswith(("http://", "https://")) else {"device": device, "precision": precision}
        judge = PairJudge(open_model(checkpoint, cache=cache, **local))
        found = judge_pairs(first, paths, judge, per_prompt=pairs, aspect=aspect)
        document, html = found.document(), pairs_page(found, first, paths, title)
    else:
        other = _second_results(first, paths, second, checkpoint, device, precision, cache)
        opinion = compare_judges(first, other)
        document, html = opinion.document(), opinion_page(opinion, first, other, paths, title)
    print_document(document, format)
    if format is not Format.json:
        print_notes(document.problems)
    page.parent.mkdir(parents=True, exist_ok=True)
    write_whole(page, html.encode("utf-8", "replace"))
    messages.print(f"page: {page}")
    if document.problems:
        raise typer.Exit(1)


def _second_results(
    first: Results,
    paths: list[Path | None],
    second: str,
    checkpoint: str | None,
    device: str,
    precision: str,
    cache: Path | None,
) -> Results:
    """The second judge's file: the one that is named, or one that is written or completed now."""
    from geneval_reward.results import read_results
    from geneval_reward.results.layout import ImageItem

    if Path(second).is_file():
        return read_results(second)
    specs = first.specs()
    items = [
        ImageItem(path, name, specs[prompt], index, seed)
        for path, name, prompt, index, seed in zip(
            paths, first.filenames, first.prompt_ids.tolist(), first.index.tolist(), first.seeds, strict=True
        )
        if path is not None
    ]
    if not items:
        raise UsageError(f"--images: expected the folder of the images of {first.path}, got none of them there")
    target = first.path.with_name(f"{first.path.stem}.second-{second}.jsonl")
    options: dict[str, object] = {"device": device, "precision": precision}
    options |= {} if checkpoint is None else {"checkpoint": checkpoint}
    options |= {} if cache is None else {"cache": cache}
    score_items(items, target, second, options, message_console(), resume=target.exists(), overwrite=False)
    return read_results(target)
