"""Share of mask signs, object counts and verdicts that flip between precisions of the `paper` detector.

    python benchmarks/precision_flips.py
    python benchmarks/precision_flips.py --checkpoint PUBLISHED.pth --device cuda IMAGES

Verdicts are those of records about the classes seen in each image: each class alone, each pair, each pair in a relation.
Without a checkpoint: the small random one of the tests, on its images and the packaged photographs.
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from geneval_reward.judge import Detections, judge
from geneval_reward.prompts import CLASS_NAMES, RELATIONS, PromptSpec
from geneval_reward.vision.detectors.mask2former import Mask2FormerDetector
from geneval_reward.vision.images import as_image
from geneval_reward.vision.parity import compare
from geneval_reward.vision.photos import PHOTOS, photo
from geneval_reward.vision.preprocess import read_image
from geneval_reward.vision.protocols import Wanted

DATA = Path(__file__).parents[1] / "tests" / "data" / "mask2former"


def records(found: Detections, rng: np.random.Generator) -> list[PromptSpec]:
    names = [CLASS_NAMES[c] for c in sorted(set(found.class_id[found.confidence > 0.1].tolist()))]
    made: list[dict[str, Any]] = [{"tag": "single_object", "include": [{"class": n, "count": 1}]} for n in names]
    for a, b in itertools.combinations(names, 2):
        first, second = {"class": a, "count": 1}, {"class": b, "count": 1}
        made.append({"tag": "two_object", "include": [first, second]})
        relation = RELATIONS[int(rng.integers(len(RELATIONS)))]
        made.append({"tag": "position", "include": [first, {**second, "position": [relation, 0]}]})
    return [PromptSpec.parse(record) for record in made]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="*")
    parser.add_argument("--checkpoint", default=str(DATA / "checkpoint_2x.pth"))
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    images = [read_image(path) for path in args.images or sorted(DATA.glob("*.png"))]
    images += [] if args.images else [as_image(photo(name)) for name in PHOTOS]
    names = ["fp32", "fp16", "bf16"] + (["tf32"] if args.device.startswith("cuda") else [])
    detectors = {
        name: Mask2FormerDetector.from_pretrained(args.checkpoint, device=args.device, precision=name) for name in names
    }
    wanted = Wanted(None, frozenset(), 0.02)
    rng = np.random.default_rng(0)
    rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in names[1:]}
    for image in images:
        (batch,) = detectors["fp32"].prepare([image])
        outputs = {name: detector.forward(batch) for name, detector in detectors.items()}
        found = {name: detectors[name].postprocess(*outputs[name], batch, [wanted])[0] for name in names}
        specs = records(found["fp32"], rng)
        truth = [judge(spec, found["fp32"]).correct for spec in specs]
        classes = {name for spec in specs for name in spec.class_names}
        for name in rows:
            flips = ((outputs["fp32"][1] > 0) != (outputs[name][1] > 0)).float().mean().item()
            difference = compare(found["fp32"], found[name])
            verdicts = sum(
                judge(spec, found[name]).correct != is_right for spec, is_right in zip(specs, truth, strict=True)
            )
            counts = len(classes & set(difference.counts_differ))
            rows[name].append((flips, difference.confidence, counts, len(classes), verdicts, len(specs)))
    print(f"{len(images)} images, {args.device}")
    print(
        "| precision | mask signs | largest confidence difference, median image | classes counted differently | verdicts |"
    )
    print("|---|---|---|---|---|")
    for name, values in rows.items():
        table = np.array(values)
        counts, classes, verdicts, specs = table[:, 2:].sum(0).astype(int)
        print(
            f"| {name} | {table[:, 0].mean():.2%} | {np.median(table[:, 1]):.3f} | {counts} of {classes} | "
            f"{verdicts} of {specs} ({verdicts / specs:.2%}) |"
        )


if __name__ == "__main__":
    main()
