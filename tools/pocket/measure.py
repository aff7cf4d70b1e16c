"""Measure the pocket model: its score by detector and by truth, its size and speed, and how far the detector can be trusted.

    python tools/pocket/measure.py --scenes 4 --out out/pocket_measure

Prints, and writes as JSON: the score of clean scenes of the pocket suite (the ceiling of any pocket score); the score that
a perfect learner of the training captions would have; the score of the shipped model by the detector and by its true
slots, with the relation given that both objects are there; how often single objects of each class are found, their
colours named right, and other pocket classes seen in their place; sizes, seconds to load and images per second. Also
writes sheets of unpicked samples and of clean scenes.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from textwrap import wrap
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from geneval_reward import GenEvalScorer
from geneval_reward.generate import seed_for
from geneval_reward.judge.detections import Detections
from geneval_reward.pocket import POCKET_CLASSES, PocketPipeline, load_pipeline, pocket_suite
from geneval_reward.pocket.codec import decode_scenes
from geneval_reward.pocket.load import FOLDER, provenance
from geneval_reward.pocket.render import render
from geneval_reward.pocket.scene import POCKET_COLORS, Scene, fulfils
from geneval_reward.pocket.world import Noise, sample_captioned, sample_scene
from geneval_reward.prompts import CLASS_NAMES, TAGS, PromptSpec


def scored(scorer: GenEvalScorer, images: list[Image.Image], specs: list[PromptSpec]) -> dict[str, float]:
    """Score by task and overall."""
    right: dict[str, list[bool]] = defaultdict(list)
    for spec, verdict in zip(specs, scorer.score(images, specs), strict=True):
        right[spec.tag].append(verdict.correct)
    table = {tag: round(float(np.mean(right[tag])), 3) for tag in TAGS}
    return table | {"overall": round(float(np.mean(list(table.values()))), 3)}


def by_truth(scenes: list[Scene], specs: list[PromptSpec]) -> dict[str, Any]:
    """Score by the objects that scenes really hold, by task and overall.

    Also of position prompts the share with both objects and, of those, the share in the right relation; and of counting
    prompts the share with so many objects too many (negative: too few).
    """
    right: dict[str, list[bool]] = defaultdict(list)
    related: list[bool | None] = []
    surplus: Counter[int] = Counter()
    for spec, scene in zip(specs, scenes, strict=True):
        ok = fulfils(scene, spec)
        right[spec.tag].append(ok)
        if spec.tag == "position":
            related.append(ok if set(spec.class_names) <= {item.class_name for item in scene.items} else None)
        if spec.tag == "counting":
            surplus[len(scene.items) - spec.include[0].count] += 1
    table = {tag: round(float(np.mean(right[tag])), 3) for tag in TAGS}
    both = [ok for ok in related if ok is not None]
    return table | {
        "overall": round(float(np.mean(list(table.values()))), 3),
        "position_both_shown": round(len(both) / len(related), 3),
        "relation_given_both": round(float(np.mean(both)), 3),
        "counting_surplus": {k: round(surplus[k] / surplus.total(), 3) for k in sorted(surplus)},
    }


def cost(repeat: int) -> dict[str, float | int]:
    """Sizes of the shipped model, seconds to load it, and images and latents per second."""
    start = perf_counter()
    pipe = load_pipeline()
    loaded = perf_counter() - start
    prompts = [spec.prompt for spec in pocket_suite()[:64]]
    rates = {}
    for kind in ("pil", "latent"):
        pipe(prompts[:4], output_type=kind)
        start = perf_counter()
        for _ in range(repeat):
            pipe(prompts, output_type=kind)
        rates[f"{kind}_per_second"] = round(repeat * len(prompts) / (perf_counter() - start), 1)
    weights = [path.stat().st_size for path in FOLDER.rglob("*.safetensors")]
    return {
        "transformer_parameters": sum(p.numel() for p in pipe.transformer.parameters()),
        "text_encoder_parameters": sum(p.numel() for p in pipe.text_encoder.parameters()),
        "weights_bytes": sum(weights),
        "load_seconds": round(loaded, 2),
        **rates,
    }


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
    parser.add_argument("--steps", type=int, default=8, help="Euler steps")
    parser.add_argument("--truth-only", action="store_true", help="leave out all that needs the detector")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="a diffusers folder in place of the shipped model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/pocket_measure"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(args.seed)
    suite = list(pocket_suite())
    specs = [spec for spec in suite for _ in range(args.scenes)]
    seeds = [seed_for(args.seed, spec.prompt, index % args.scenes) for index, spec in enumerate(specs)]
    pipe = load_pipeline() if args.folder == FOLDER else PocketPipeline.from_pretrained(args.folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.text_encoder.float()  # transformers loads it as stored
    scenes: list[Scene] = []
    for first in range(0, len(specs), 64):
        rows = slice(first, first + 64)
        latents = pipe(
            [spec.prompt for spec in specs[rows]],
            generator=[torch.Generator().manual_seed(seed) for seed in seeds[rows]],
            num_inference_steps=args.steps,
            output_type="latent",
        ).images
        scenes += decode_scenes(latents)
    noise = Noise.parse(provenance()["noise"])
    learned = [sample_captioned(spec, rng, noise) for spec in specs]
    result: dict[str, Any] = {
        "images": len(specs),
        "truth": by_truth(scenes, specs),
        "perfect_learner": by_truth(learned, specs),
        "cost": cost(2),
    }
    if args.truth_only:
        print(json.dumps(result, indent=1))
        return
    samples = [Image.fromarray(render(scene)) for scene in scenes]
    clean = [Image.fromarray(render(sample_scene(spec, rng))) for spec in specs]
    # All classes are kept, so that confusions show; they never change a verdict.
    scorer = GenEvalScorer.from_pretrained("lite", device="cpu", all_classes=True)
    result |= {
        "rules": str(scorer.rules),
        "clean": scored(scorer, clean, specs),
        "base": scored(scorer, samples, specs),
    }
    result["classes"] = by_class(scorer, args.each, rng)

    # Unpicked: the first image of evenly spaced prompts of the suite.
    picks = [int(n) for n in np.linspace(0, len(suite) - 1, 36)]
    for name, images in (("samples", samples), ("clean", clean)):
        shown_here = [images[n * args.scenes] for n in picks]
        sheet(shown_here, [suite[n].prompt for n in picks], 6, args.out / f"pocket_{name}.jpg")
    (args.out / "measure.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
