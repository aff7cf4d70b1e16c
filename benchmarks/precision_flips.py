"""Share of mask signs, object counts and verdicts that flip between precisions of the `paper` detector.

    python benchmarks/precision_flips.py
    python benchmarks/precision_flips.py --checkpoint PUBLISHED.pth --device cuda IMAGES
    python benchmarks/precision_flips.py --others openvino

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
from geneval_reward.results.tables import markdown_table
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


def compare_detectors(
    truth: Mask2FormerDetector, others: dict[str, Mask2FormerDetector], images: list[Any]
) -> list[dict[str, Any]]:
    """Count what changes where another detector with the same weights takes the place of `truth`, over all images."""
    wanted = Wanted(None, frozenset(), 0.02)
    rng = np.random.default_rng(0)
    rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in others}
    for image in images:
        (batch,) = truth.prepare([image])
        output = truth.forward(batch)
        found = truth.postprocess(*output, batch, [wanted])[0]
        signs, logits = output[1].cpu() > 0, output[0].float().cpu()
        specs = records(found, rng)
        right = [judge(spec, found).correct for spec in specs]
        classes = {name for spec in specs for name in spec.class_names}
        for name, detector in others.items():
            other = detector.forward(batch)
            flips = (signs != (other[1].cpu() > 0)).float().mean().item()
            seen = detector.postprocess(*other, batch, [wanted])[0]
            difference = compare(found, seen)
            verdicts = sum(judge(spec, seen).correct != is_right for spec, is_right in zip(specs, right, strict=True))
            counts = len(classes & set(difference.counts_differ))
            largest = (logits - other[0].float().cpu()).abs().max().item()
            rows[name].append((largest, flips, difference.confidence, counts, len(classes), verdicts, len(specs)))
    result = []
    for name, values in rows.items():
        table = np.array(values)
        counts, classes, verdicts, total = table[:, 3:].sum(0).astype(int)
        result.append(
            {
                "precision": name,
                "largest class logit difference": float(table[:, 0].max()),
                "mask signs": f"{table[:, 1].mean():.4%}",
                "largest confidence difference, median image": float(np.median(table[:, 2])),
                "classes counted differently": f"{counts} of {classes}",
                "verdicts": f"{verdicts} of {total} ({verdicts / max(total, 1):.2%})",
            }
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="*")
    parser.add_argument("--checkpoint", default=str(DATA / "checkpoint_2x.pth"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--others",
        help="What is compared with fp32: precisions with commas between them, and openvino (in fp32). "
        "By default all precisions of the device.",
    )
    args = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    images = [read_image(path) for path in args.images or sorted(DATA.glob("*.png"))]
    images += [] if args.images else [as_image(photo(name)) for name in PHOTOS]
    others = args.others or ("fp16,bf16,tf32" if args.device.startswith("cuda") else "fp16,bf16")
    options = {"openvino": {"precision": "fp32", "runtime": "openvino"}}
    detectors = {
        name: Mask2FormerDetector.from_pretrained(
            args.checkpoint, device=args.device, **options.get(name, {"precision": name})
        )
        for name in ("fp32", *others.split(","))
    }
    truth = detectors.pop("fp32")
    rows = compare_detectors(truth, detectors, images)
    print(f"{len(images)} images, {args.device}, against fp32\n")
    print(markdown_table(list(rows[0]), [[_cell(value) for value in row.values()] for row in rows]))


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else value


if __name__ == "__main__":
    main()
