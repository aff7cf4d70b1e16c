"""What the `lite` detector makes of the pocket world: how far its scores can be trusted there.

    python tools/pocket/measure.py --scenes 4 --out out/pocket_measure

Prints, and writes as JSON: the score of clean scenes of the pocket suite (the ceiling of any pocket score), by class how
often single objects are found and their colours named right, which other pocket classes are seen where there is none of
them, and the score of the shipped model. Also writes sheets of unpicked samples and of clean scenes.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from geneval_reward import GenEvalScorer
from geneval_reward.generate import DiffusersGenerator, seed_for
from geneval_reward.judge.detections import Detections
from geneval_reward.pocket import POCKET_CLASSES, load_pipeline, pocket_suite
from geneval_reward.pocket.render import render
from geneval_reward.pocket.scene import POCKET_COLORS
from geneval_reward.pocket.world import sample_scene
from geneval_reward.prompts import CLASS_NAMES, TAGS, PromptSpec


def scored(scorer: GenEvalScorer, images: list[Image.Image], specs: list[PromptSpec]) -> dict[str, float]:
    """Score by task and overall."""
    right: dict[str, list[bool]] = defaultdict(list)
    for spec, verdict in zip(specs, scorer.score(images, specs), strict=True):
        right[spec.tag].append(verdict.correct)
    table = {tag: round(float(np.mean(right[tag])), 3) for tag in TAGS}
    return table | {"overall": round(float(np.mean(list(table.values()))), 3)}


def by_class(scorer: GenEvalScorer, each: int, rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    """Single objects of each class in each colour: found, colour right, and what else was seen."""
    table = {}
    for name in POCKET_CLASSES:
        images, colors = [], []
        for color in [color for color in POCKET_COLORS for _ in range(each)]:
            clause = {"class": name, "count": 1} | ({"color": color} if color else {})
            spec = PromptSpec.parse({"tag": "colors" if color else "single_object", "include": [clause]})
            scene = sample_scene(spec, rng)
            items = tuple(replace(item, color=color) for item in scene.items)
            images.append(Image.fromarray(render(replace(scene, items=items))))
            colors.append(color)
        # A colour is asked of every image, so that found and named can be told apart.
        asked = [
            PromptSpec.parse({"tag": "colors", "include": [{"class": name, "count": 1, "color": color or "red"}]})
            for color in colors
        ]
        verdicts = scorer.score(images, asked)
        seen: list[Detections] = [verdict.detections for verdict in verdicts]
        least = scorer.rules.confidence
        found = [name in shown(detections, least) for detections in seen]
        named = [verdict for verdict, color, hit in zip(verdicts, colors, found, strict=True) if color and hit]
        others: Counter[str] = Counter()
        for detections in seen:
            others.update(set(shown(detections, least)) & set(POCKET_CLASSES) - {name})
        missed: Counter[str] = Counter(color or "own" for color, hit in zip(colors, found, strict=True) if not hit)
        table[name] = {
            "found": round(float(np.mean(found)), 3),
            "missed": {color: f"{count} of {each}" for color, count in missed.most_common()},
            "color_named": round(float(np.mean([verdict.correct for verdict in named])), 3),
            "also_seen": {other: round(count / len(images), 2) for other, count in others.most_common(3)},
        }
    return table


def shown(detections: Detections, least: float) -> list[str]:
    """Classes above a confidence."""
    return [
        CLASS_NAMES[index]
        for index, confidence in zip(detections.class_id, detections.confidence, strict=True)
        if confidence > least
    ]


def sheet(images: list[Image.Image], captions: list[str], columns: int, path: Path, side: int = 160) -> None:
    """Images in rows with their prompts below. JPEG: a palette would change the colours that prompts ask for."""
    rows = -(-len(images) // columns)
    page = Image.new("RGB", (columns * (side + 8), rows * (side + 36)), "white")
    draw = ImageDraw.Draw(page)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = index % columns * (side + 8) + 4, index // columns * (side + 36) + 4
        page.paste(image.resize((side, side), Image.Resampling.LANCZOS), (x, y))
        words = wrap(caption.removeprefix("a photo of "), 30)
        draw.multiline_text((x, y + side + 2), "\n".join(words[:2]), fill="black", spacing=1)
    page.save(path, quality=88)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=4, help="clean scenes and samples of each prompt of the suite")
    parser.add_argument("--each", type=int, default=4, help="single objects of each class and colour")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/pocket_measure"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(args.seed)
    # All classes are kept, so that confusions show; they never change a verdict.
    scorer = GenEvalScorer.from_pretrained("lite", device="cpu", all_classes=True)
    suite = list(pocket_suite())
    specs = [spec for spec in suite for _ in range(args.scenes)]

    clean = [Image.fromarray(render(sample_scene(spec, rng))) for spec in specs]
    result: dict[str, Any] = {"rules": str(scorer.rules), "scenes": len(specs), "clean": scored(scorer, clean, specs)}
    result["classes"] = by_class(scorer, args.each, rng)
    generator = DiffusersGenerator(load_pipeline(), batch_size=64)
    seeds = [seed_for(args.seed, spec.prompt, index % args.scenes) for index, spec in enumerate(specs)]
    samples = generator.generate([spec.prompt for spec in specs], seeds)
    result["base"] = scored(scorer, samples, specs)

    # Unpicked: the first image of evenly spaced prompts of the suite.
    picks = [int(n) for n in np.linspace(0, len(suite) - 1, 36)]
    for name, images in (("samples", samples), ("clean", clean)):
        shown_here = [images[n * args.scenes] for n in picks]
        sheet(shown_here, [suite[n].prompt for n in picks], 6, args.out / f"pocket_{name}.jpg")
    (args.out / "measure.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
