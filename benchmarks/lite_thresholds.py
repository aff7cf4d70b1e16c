"""At which confidences the lite detector judges rightly: the evidence behind the `lite` profile of Rules.

    python benchmarks/lite_thresholds.py [--seed 0]

Scenes whose truth is known, at 512 x 512: rectangles cut from the packaged photographs on grey, and drawings of
`geneval_reward.pocket.artwork` on soft grounds, one to four of a class or two classes side by side or above one another. Each
scene is judged against a true record and against false ones (another class, one object more, one fewer, the relation
reversed). Drawings are used of those classes that are seen in most of a few large single drawings: for others no
threshold helps. Their number is printed too.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from geneval_reward.judge import Detections, Rules, judge
from geneval_reward.pocket.artwork import SPRITE_CLASSES, background, compose
from geneval_reward.prompts import CLASS_NAMES, PromptSpec
from geneval_reward.vision.detectors.lite import LiteDetector
from geneval_reward.vision.photos import photo
from geneval_reward.vision.protocols import Wanted

SIZE = 512
CUTOUTS = {"chelsea": ("cat", None), "coffee": ("cup", (60, 0, 500, 400)), "astronaut": ("person", None)}
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
LEVELS = (0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class Scene(NamedTuple):
    kind: str  # "photo" or "drawing"
    image: Image.Image
    true: dict[str, Any]
    false: list[dict[str, Any]]


def record(tag: str, *include: dict[str, Any], exclude: dict[str, Any] | None = None) -> dict[str, Any]:
    body = {"tag": tag, "include": list(include)} | ({"exclude": [exclude]} if exclude else {})
    return body | {"prompt": "composed scene"}


def count_record(name: str, n: int) -> dict[str, Any]:
    return record("counting", {"class": name, "count": n}, exclude={"class": name, "count": n + 1})


def single(kind: str, image: Image.Image, name: str, rng: random.Random) -> Scene:
    absent = rng.sample([other for other in CLASS_NAMES if other != name], 8)
    wrong = [record("single_object", {"class": other, "count": 1}) for other in absent]
    return Scene(kind, image, record("single_object", {"class": name, "count": 1}), wrong)


def counted(kind: str, image: Image.Image, name: str, n: int) -> Scene:
    false = [count_record(name, other) for other in (n - 1, n + 1) if other > 0]
    return Scene(kind, image, count_record(name, n), false)


def related(kind: str, image: Image.Image, first: str, second: str, relation: str) -> Scene:
    """`first` stands in `relation` to `second`."""

    def claim(word: str) -> dict[str, Any]:
        placed = {"class": first, "count": 1, "position": [word, 0]}
        return record("position", {"class": second, "count": 1}, placed)

    return Scene(kind, image, claim(relation), [claim(OPPOSITE[relation])])


def cells(n: int, rng: random.Random) -> list[tuple[float, float, float, float]]:
    """n boxes without overlap: the quarters of the image, shrunk and moved a little."""
    boxes = []
    for cell in rng.sample(range(4), n):
        side = rng.uniform(170, 225)
        x = (cell % 2) * SIZE / 2 + rng.uniform(8, SIZE / 2 - side - 8)
        y = (cell // 2) * SIZE / 2 + rng.uniform(8, SIZE / 2 - side - 8)
        boxes.append((x, y, x + side, y + side))
    return boxes


def pair(relation: str, rng: random.Random) -> tuple[tuple[float, float, float, float], ...]:
    """Boxes of first and second, first standing in `relation` to second."""
    side, shift = rng.uniform(170, 225), rng.uniform(40, 240)
    near, far = (20, shift, 20 + side, shift + side), (SIZE - 20 - side, shift, SIZE - 20, shift + side)
    if relation in ("above", "below"):
        near, far = ((box[1], box[0], box[3], box[2]) for box in (near, far))
    return (near, far) if relation in ("left of", "above") else (far, near)


def paste(cutouts: list[str], boxes: Any) -> Image.Image:
    scene = Image.new("RGB", (SIZE, SIZE), (128, 128, 128))
    for name, box in zip(cutouts, boxes, strict=True):
        picture = photo(name).crop(CUTOUTS[name][1]) if CUTOUTS[name][1] else photo(name)
        scale = (box[2] - box[0]) / max(picture.size)
        picture = picture.resize([round(side * scale) for side in picture.size], Image.Resampling.LANCZOS)
        scene.paste(picture, (round(box[0]), round(box[1])))
    return scene


def photo_scenes(rng: random.Random) -> list[Scene]:
    scenes = []
    for _ in range(6):
        for file, (name, _crop) in CUTOUTS.items():
            scenes.append(single("photo", paste([file], [(90, 90, 420, 420)]), name, rng))
            scenes += [counted("photo", paste([file] * n, cells(n, rng)), name, n) for n in (1, 2, 3, 4)]
        for relation in OPPOSITE:
            first, second = rng.sample(list(CUTOUTS), 2)
            image = paste([first, second], pair(relation, rng))
            scenes.append(related("photo", image, CUTOUTS[first][0], CUTOUTS[second][0], relation))
    return scenes


def drawing_scenes(names: list[str], rng: random.Random) -> list[Scene]:
    scenes = []

    def ground() -> Image.Image:
        return background(SIZE, rng.randrange(10**6))

    for name in names:
        box = (90 + rng.uniform(-60, 60), 90 + rng.uniform(-60, 60), 380, 380)
        scenes.append(single("drawing", compose(ground(), [(name, None, box)]), name, rng))
        for n in (1, 2, 3, 4):
            image = compose(ground(), [(name, None, box) for box in cells(n, rng)])
            scenes.append(counted("drawing", image, name, n))
        for relation in OPPOSITE:
            other = rng.choice([other for other in names if other != name])
            first, second = pair(relation, rng)
            image = compose(ground(), [(name, None, first), (other, None, second)])
            scenes.append(related("drawing", image, name, other, relation))
    return scenes


def detect(detector: LiteDetector, images: list[Image.Image]) -> list[Detections]:
    pixels = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]
    return detector.detect(pixels, [Wanted(None, min_confidence=0.05)] * len(images))


def seen_classes(detector: LiteDetector, rng: random.Random) -> list[str]:
    """Classes whose drawing alone is found at .3 in at least four of six placements."""
    seen = []
    for name in SPRITE_CLASSES:
        boxes = [(x := rng.uniform(10, 200), y := rng.uniform(10, 200), x + 260, y + 260) for _ in range(6)]
        images = [compose(background(SIZE, rng.randrange(10**6)), [(name, None, box)]) for box in boxes]
        found = detect(detector, images)
        hits = sum(((one.class_id == CLASS_NAMES.index(name)) & (one.confidence > 0.3)).any() for one in found)
        seen += [name] * int(hits >= 4)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    detector = LiteDetector.from_pretrained()
    names = seen_classes(detector, rng)
    print(f"drawings seen: {len(names)} of {len(SPRITE_CLASSES)} classes: {', '.join(names)}\n")
    scenes = photo_scenes(rng) + drawing_scenes(names, rng)
    found = detect(detector, [scene.image for scene in scenes])
    groups: dict[tuple[str, str], list[tuple[Scene, Detections]]] = defaultdict(list)
    for scene, detections in zip(scenes, found, strict=True):
        groups[scene.kind, scene.true["tag"]].append((scene, detections))
    for overlap in (1.0, 0.4):
        print(f"max_overlap {overlap}: share of true records accepted / of false records accepted")
        print("| scenes | n | " + " | ".join(f"{level:g}" for level in LEVELS) + " |")
        print("|---|---:|" + "---|" * len(LEVELS))
        for (kind, tag), members in sorted(groups.items()):
            row = []
            for level in LEVELS:
                rules = Rules(confidence=level, counting_confidence=level, max_overlap=overlap)
                right = [judge(PromptSpec.parse(scene.true), seen, rules).correct for scene, seen in members]
                wrong = [
                    judge(PromptSpec.parse(claim), seen, rules).correct
                    for scene, seen in members
                    for claim in scene.false
                ]
                row.append(f"{np.mean(right):.2f} / {np.mean(wrong):.2f}")
            print(f"| {kind}, {tag} | {len(members)} | " + " | ".join(row) + " |")
        print()


if __name__ == "__main__":
    main()
