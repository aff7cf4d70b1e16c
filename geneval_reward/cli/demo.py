"""`geneval-reward demo`: scenes, photographs and samples judged on one page, then a model improved by the verdicts."""

from __future__ import annotations

import importlib.util
import json
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from geneval_reward.cli.shared.options import Device

if TYPE_CHECKING:
    from PIL import Image

    from geneval_reward import GenEvalScorer, PromptSpec
    from geneval_reward.study.report.page import Card

_PER_TAG = 2  # pocket samples shown of each task


class Method(StrEnum):
    """How the pocket model is fine-tuned."""

    nft = "nft"
    flow_grpo = "flow-grpo"


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for pages, images and results.")] = Path(
        "geneval-demo"
    ),
    device: Device = "auto",
    seed: Annotated[
        int, typer.Option("--seed", "-s", min=0, help="Moves the scenes' grounds and places a little.")
    ] = 0,
    method: Annotated[Method, typer.Option("--method", help="How the pocket model is fine-tuned.")] = Method.nft,
    quick: Annotated[bool, typer.Option("--quick", help="Two minutes of training instead of ten.")] = False,
    train: Annotated[bool, typer.Option("--train/--no-train", help="Whether to train, or only to judge.")] = True,
) -> None:
    """Judge pictures, then fine-tune a small model with the verdicts as rewards.

    First the packaged detector judges composed scenes, photographs and samples of the pocket model (half a minute; index.html).
    Then the pocket model is fine-tuned (ten minutes; training-METHOD.html). Runs of several methods in one folder are shown side
    by side.

    Examples:
        geneval-reward demo --no-train
        geneval-reward demo --quick --out try
    """
    from geneval_reward import GenEvalScorer

    messages, output = Console(stderr=True, highlight=False), Console(highlight=False, soft_wrap=True)
    if train:
        _require_training()
    start = time.perf_counter()
    with messages.status("loading the lite backend"):
        scorer = GenEvalScorer.from_pretrained("lite", device=device)
    messages.print(f"loaded in {time.perf_counter() - start:.1f} s")
    page = _judge(out, seed, scorer, messages, output)
    output.print(f"the same by hand: geneval-reward score {out / 'images'} --backend lite")
    output.print(f"page: {page.resolve()}")
    if train:
        from geneval_reward.cli.shared.demo_train import train_and_report

        page = train_and_report(out, method.value, quick, seed, scorer, messages, output)
        output.print(f"training: {page.resolve()}")


def _require_training() -> None:
    missing = [name for name in ("lightning", "diffusers", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise typer.BadParameter(
            f"expected {', '.join(missing)} to be installed, which training needs; "
            'pip install "geneval-reward[lightning,diffusers,report]", or use --no-train to judge only',
            param_hint="--train",
        )


def _judge(out: Path, seed: int, scorer: GenEvalScorer, messages: Console, output: Console) -> Path:
    from geneval_reward import PromptSpec
    from geneval_reward.demo.scenes import demo_scenes
    from geneval_reward.results.layout import write_prompt_folder
    from geneval_reward.study.report.page import Card, Section, judged_page
    from geneval_reward.support.files import write_whole
    from geneval_reward.vision.photos import PHOTOS, photo

    scenes = demo_scenes(seed)
    shots = [
        (name, photo(name), PromptSpec.parse(record), truth)
        for name, shot in PHOTOS.items()
        for record, truth in ((shot.record, True), (shot.false_record, False))
    ]
    with messages.status("sampling the pocket model"):
        samples = _pocket_samples(seed)
    images = [scene.image for scene in scenes] + [image for _, image, _, _ in shots] + [image for image, _ in samples]
    specs = [scene.spec for scene in scenes] + [spec for _, _, spec, _ in shots] + [spec for _, spec in samples]
    begun = time.perf_counter()
    with messages.status(f"judging {len(images)} images"):
        verdicts = scorer.score(images, specs)
    seconds = time.perf_counter() - begun
    for number, (image, spec) in enumerate(zip(images, specs, strict=True)):
        image.save(write_prompt_folder(out / "images", number, spec) / "0000.png")

    truths = [scene.should_pass for scene in scenes] + [truth for _, _, _, truth in shots]
    notes = [scene.why for scene in scenes] + [f"photograph '{name}'" for name, _, _, _ in shots]
    cards = [_card(*row) for row in zip(images, verdicts, truths, notes, strict=False)]
    agreed = [not card.flagged for card in cards]
    n, m = len(scenes), len(truths)
    solved = sum(verdict.correct for verdict in verdicts[m:])
    facts = [
        ("composed scenes judged as they are", f"{sum(agreed[:n])} of {n}"),
        ("photographs judged as they are", f"{sum(agreed[n:])} of {m - n}"),
        ("pocket samples that are right", f"{solved} of {len(samples)}"),
        ("images per second", f"{len(images) / seconds:.1f}"),
        ("backend", f"{scorer.name} {scorer.fingerprint_id}"),
    ]
    page = out / "index.html"
    write_whole(
        page,
        judged_page(
            "GenEval, judged on this machine",
            "Each image is judged against its prompt by a COCO detector that comes with the package. Bold boxes are objects "
            "that count. A card marked 'misjudged' has a verdict that is not true of its image.",
            facts,
            [
                Section(
                    "Composed scenes", "Put together so that the truth is known; some are meant to fail.", cards[:n]
                ),
                Section("Photographs", "Each with a prompt that is true of it and one that is not.", cards[n:]),
                Section(
                    "Samples of the pocket model",
                    "Not picked: the first prompts of each task and the first noise. The model is small and often wrong, as "
                    "it should be before any reward.",
                    [Card(image, verdict) for (image, _), verdict in zip(samples, verdicts[m:], strict=True)],
                ),
            ],
        ),
    )
    write_whole(out / "fingerprint.json", json.dumps(scorer.fingerprint(), indent=2) + "\n")
    table = Table("verdict", "prompt", "reason", title="composed scenes and photographs", title_justify="left")
    for verdict, agrees, note in zip(verdicts, agreed, notes, strict=False):
        mark = "[green]correct[/]" if verdict.correct else "[red]wrong[/]"
        mark += "" if agrees else " [yellow](misjudged)[/]"
        table.add_row(mark, f"{verdict.spec.prompt}\n[dim]{note}[/]", verdict.reason)
    output.print(table)
    for name, value in facts:
        output.print(f"{name}: {value}")
    return page


def _pocket_samples(seed: int) -> list[tuple[Image.Image, PromptSpec]]:
    """Sample one image for the first prompts of each task of the pocket suite; none if diffusers is not installed."""
    try:
        from geneval_reward.generate import DiffusersGenerator, seed_for
        from geneval_reward.pocket import load_pipeline, pocket_suite

        pipeline = load_pipeline()
    except ImportError:
        return []
    taken: dict[str, list[PromptSpec]] = {}
    for spec in pocket_suite():
        taken.setdefault(spec.tag, []).append(spec)
    specs = [spec for group in taken.values() for spec in group[:_PER_TAG]]
    texts = [spec.prompt for spec in specs]
    generator = DiffusersGenerator(pipeline, batch_size=len(specs))
    images: list[Any] = list(generator.generate(texts, [seed_for(seed, text, 0) for text in texts]))
    return list(zip(images, specs, strict=True))


def _card(image: Image.Image, verdict: Any, truth: bool, note: str) -> Card:
    from geneval_reward.study.report.page import Card

    misjudged = verdict.correct != truth
    return Card(
        image, verdict, f"{note} (should be {'correct' if truth else 'wrong'})" if misjudged else note, misjudged
    )
