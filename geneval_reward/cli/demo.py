"""``geneval-reward demo``: composed scenes and photographs, judged, on one page."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from geneval_reward.cli.options import Device


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the page, images and results.")] = Path(
        "geneval-demo"
    ),
    device: Device = "auto",
    seed: Annotated[
        int, typer.Option("--seed", "-s", min=0, help="Moves the scenes' grounds and places a little.")
    ] = 0,
) -> None:
    """Judge composed scenes and real photographs with the packaged detector, and show how on one page."""
    from geneval_reward import GenEvalScorer, PromptSpec
    from geneval_reward.demo_scenes import demo_scenes
    from geneval_reward.folder import write_prompt_folder
    from geneval_reward.report.page import Card, Section, judged_page
    from geneval_reward.vision.photos import PHOTOS, photo

    messages = Console(stderr=True)
    start = time.perf_counter()
    with messages.status("loading the lite backend"):
        scorer = GenEvalScorer.from_pretrained("lite", device=device)
    loaded = time.perf_counter()
    scenes = demo_scenes(seed)
    photos = [
        (name, record, truth)
        for name, shot in PHOTOS.items()
        for record, truth in ((shot.record, True), (shot.false_record, False))
    ]
    images = [scene.image for scene in scenes] + [photo(name) for name, _, _ in photos]
    specs = [scene.spec for scene in scenes] + [PromptSpec.parse(record) for _, record, _ in photos]
    truths = [scene.should_pass for scene in scenes] + [truth for _, _, truth in photos]
    notes = [scene.why for scene in scenes] + [f"photograph '{name}'" for name, _, _ in photos]
    composed = time.perf_counter()
    with messages.status(f"judging {len(images)} images"):
        verdicts = scorer.score(images, specs)
    judged = time.perf_counter()

    out.mkdir(parents=True, exist_ok=True)
    for number, (image, spec) in enumerate(zip(images, specs, strict=True)):
        image.save(write_prompt_folder(out / "images", number, spec) / "0000.png")
    cards = [
        Card(
            image,
            verdict,
            note if verdict.correct == truth else f"{note} (should be {'right' if truth else 'wrong'})",
            verdict.correct != truth,
        )
        for image, verdict, note, truth in zip(images, verdicts, notes, truths, strict=True)
    ]
    agreed = [verdict.correct == truth for verdict, truth in zip(verdicts, truths, strict=True)]
    n = len(scenes)
    facts = [
        ("composed scenes judged as they are", f"{sum(agreed[:n])} of {n}"),
        ("photographs judged as they are", f"{sum(agreed[n:])} of {len(photos)}"),
        ("images a second", f"{len(images) / (judged - composed):.1f}"),
        ("backend", f"{scorer.name} {scorer.fingerprint_id}"),
    ]
    lead = (
        "Each image is judged against its prompt by a COCO detector that comes with the package. Bold boxes are objects "
        "that count, grey ones were not confident enough. Cards with an amber edge were judged wrongly."
    )
    sections = [
        Section(
            "Composed scenes",
            "Drawings and photographs put together, so that the truth is known; some are meant to fail.",
            cards[:n],
        ),
        Section("Photographs", "Each with a prompt that is true of it and one that is not.", cards[n:]),
    ]
    page = out / "index.html"
    page.write_text(judged_page("GenEval, judged on this machine", lead, facts, sections), encoding="utf-8")
    (out / "fingerprint.json").write_text(json.dumps(scorer.fingerprint(), indent=2) + "\n")

    table = Table("verdict", "prompt", "reason", title="composed scenes and photographs", title_justify="left")
    for verdict, agrees, note in zip(verdicts, agreed, notes, strict=True):
        mark = "[green]correct[/]" if verdict.correct else "[red]wrong[/]"
        table.add_row(
            mark + ("" if agrees else " [yellow](misjudged)[/]"),
            f"{verdict.spec.prompt}\n[dim]{note}[/]",
            verdict.reason,
        )
    output = Console()
    output.print(table)
    for name, value in facts:
        output.print(f"{name}: {value}", highlight=False)
    output.print(f"loaded in {loaded - start:.1f} s, judged in {judged - composed:.1f} s", highlight=False)
    output.print(f"page: {page.resolve()}", highlight=False, soft_wrap=True)
    output.print(
        f"the same by hand: geneval-reward score {out / 'images'} --backend lite", highlight=False, soft_wrap=True
    )
