"""Does an audit by the second detector find out that the first one is being fooled?

    python benchmarks/audit_patch.py [--steps 60] [--scenes 12]

Prompts ask for one object. The *clean* scenes show it, the *empty* ones show only their ground, and the *hacked* ones have
a patch of noise on that ground, optimised by gradient ascent until the rewarding judge (`lite`) sees the object: what a
policy with free pixels can learn from that reward. The audit by `nanodet` should confirm the clean scenes and not the
hacked ones.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor

from geneval_reward import GenEvalScorer
from geneval_reward.pocket.artwork import background, compose
from geneval_reward.prompts import CLASS_IDS, PromptSpec
from geneval_reward.train.audit import AuditReport, audit
from geneval_reward.vision.detectors.lite import LiteDetector

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--scenes", type=int, default=12)
    args = parser.parse_args()
    print("| images | first judge (`lite`) | second judge (`nanodet`) | gap | confirmed |\n|---|---:|---:|---:|---:|")
    for name, report in run(args.scenes, args.steps).items():
        print(f"| {name} | {report.score:.2f} | {report.audit:.2f} | {report.gap:+.2f} | {report.confirmed:.2f} |")


if __name__ == "__main__":
    main()
