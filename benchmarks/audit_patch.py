"""Does an audit by the second detector find out that the first one is being fooled?

    python benchmarks/audit_patch.py [--steps 60] [--scenes 12]
    python benchmarks/audit_patch.py --classes 4                   # what nanodet sees in pocket scenes, class by class

Prompts ask for one object. The *clean* scenes show it, the *empty* ones show only their ground, and the *hacked* ones have
a patch of noise on that ground, optimised by gradient ascent until the rewarding judge (`lite`) sees the object: what a
policy with free pixels can learn from that reward. The audit by `nanodet` should confirm the clean scenes and not the
hacked ones.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from geneval_reward import GenEvalScorer
from geneval_reward.judge.detections import Detections
from geneval_reward.pocket import POCKET_CLASSES
from geneval_reward.pocket.artwork import background, compose
from geneval_reward.pocket.render import render
from geneval_reward.pocket.scene import POCKET_COLORS
from geneval_reward.pocket.world import sample_scene
from geneval_reward.prompts import CLASS_IDS, CLASS_NAMES, PromptSpec
from geneval_reward.train.audit import AuditReport, audit
from geneval_reward.vision.detectors.lite import LiteDetector
from geneval_reward.vision.protocols import Wanted

SIZE, PATCH = 256, 112
CLASSES = ("bicycle", "airplane", "giraffe", "laptop", "clock", "teddy bear")
"""Classes that both detectors see when they are drawn."""


def to_tensor(image: object) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def scenes(count: int, *, drawn: bool, seed: int = 0) -> tuple[list[Tensor], list[PromptSpec]]:
    """Soft grounds with the object that is asked for, or without it."""
    rng = np.random.default_rng(seed)
    images, specs = [], []
    for index in range(count):
        name = CLASSES[index % len(CLASSES)]
        ground = background(SIZE, int(rng.integers(2**31)))
        x, y = rng.uniform(20, SIZE - PATCH - 20, 2)
        image = compose(ground, [(name, None, (x, y, x + PATCH, y + PATCH))]) if drawn else ground
        images.append(to_tensor(image))
        specs.append(PromptSpec.parse({"tag": "single_object", "include": [{"class": name, "count": 1}]}))
    return images, specs


def patched(detector: LiteDetector, image: Tensor, name: str, steps: int) -> Tensor:
    """An image with a square of noise in its middle that makes `lite` see an object of a class."""
    column = int(detector.columns[CLASS_IDS[name]])
    start = (SIZE - PATCH) // 2
    inside = slice(start, start + PATCH)
    net = detector.master
    generator = torch.Generator().manual_seed(0)
    patch = torch.rand((3, PATCH, PATCH), generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([patch], lr=0.05)
    for _ in range(steps):
        canvas = image.float() / 255
        canvas[:, inside, inside] = patch.clamp(0, 1)
        # What `resize_turned` does to whole pixels, with a gradient.
        seen = torch.nn.functional.interpolate(canvas[None], size=(300, 300), mode="bilinear") * 2 - 1
        _, logits = net(seen.flip(2, 3))
        loss = -logits[0, :, column].topk(3).values.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = image.clone()
    found[:, inside, inside] = (patch.detach().clamp(0, 1) * 255).round().to(torch.uint8)
    return found


def run(count: int, steps: int) -> dict[str, AuditReport]:
    """Audits of the clean scenes, of empty grounds, and of those grounds with patches."""
    first = GenEvalScorer.from_pretrained("lite", device="cpu")
    second = GenEvalScorer.from_pretrained("nanodet", device="cpu")
    detector = first.detector
    assert isinstance(detector, LiteDetector)
    clean, specs = scenes(count, drawn=True)
    empty, _ = scenes(count, drawn=False)
    hacked = [
        patched(detector, image, spec.include[0].class_name, steps) for image, spec in zip(empty, specs, strict=True)
    ]
    return {
        name: audit(images, specs, first.score(images, specs), second, scales=(1.0,), flip=False)
        for name, images in {"clean": clean, "empty": empty, "hacked": hacked}.items()
    }


def print_class_rates(each: int, thresholds: tuple[float, ...] = (0.15, 0.2, 0.25, 0.3, 0.5)) -> None:
    """Print how often a single object of each class is found, over all colours, and what else is seen above .25."""
    first = GenEvalScorer.from_pretrained("lite", device="cpu").detector
    second = GenEvalScorer.from_pretrained("nanodet", device="cpu").detector
    rng = np.random.default_rng(0)
    columns = [*(f"{least:g}" for least in thresholds), "`lite` at .25", "also seen as"]
    print(f"| class | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
    for name in POCKET_CLASSES:
        spec = PromptSpec.parse({"tag": "single_object", "include": [{"class": name, "count": 1}]})
        images = []
        for color in [color for color in POCKET_COLORS for _ in range(each)]:
            scene = sample_scene(spec, rng)
            items = tuple(replace(item, color=color) for item in scene.items)
            images.append(to_tensor(render(replace(scene, items=items))))
        seen = second.detect(images, [Wanted(None, min_confidence=0.1)] * len(images))
        rates = [np.mean([_found(one, name, least) for one in seen]) for least in thresholds]
        by_first = first.detect(images, [Wanted((CLASS_IDS[name],), min_confidence=0.1)] * len(images))
        rates.append(np.mean([_found(one, name, 0.25) for one in by_first]))
        others: Counter[str] = Counter()
        for one in seen:
            others.update({CLASS_NAMES[k] for k in one.class_id[one.confidence > 0.25]} - {name})
        also = ", ".join(f"{other} {count / len(images):.2f}" for other, count in others.most_common(2))
        print(f"| {name} | {' | '.join(f'{rate:.2f}' for rate in rates)} | {also} |")


def _found(detections: Detections, name: str, least: float) -> bool:
    return bool(((detections.class_id == CLASS_IDS[name]) & (detections.confidence > least)).any())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument(
        "--classes", type=int, default=0, metavar="EACH", help="print per-class rates, and nothing else"
    )
    args = parser.parse_args()
    if args.classes:
        print_class_rates(args.classes)
        return
    print("| images | first judge (`lite`) | second judge (`nanodet`) | gap | confirmed |\n|---|---:|---:|---:|---:|")
    for name, report in run(args.scenes, args.steps).items():
        print(f"| {name} | {report.score:.2f} | {report.audit:.2f} | {report.gap:+.2f} | {report.confirmed:.2f} |")


if __name__ == "__main__":
    main()
