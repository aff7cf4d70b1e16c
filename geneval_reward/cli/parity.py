"""`geneval-reward parity`: do two detectors see the same objects in the same images?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from geneval_reward.cli.shared.options import Checkpoint, Device
from geneval_reward.vision.formats import SUFFIXES, is_image_name


def parity(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders that are searched for them.")],
    backends: Annotated[
        str,
        typer.Option(
            help="Two of paper, mmdet, lite and nanodet, with a precision if wished: 'paper,mmdet', 'paper@fp32,paper@fp16'."
        ),
    ] = "paper,mmdet",
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    threshold: Annotated[float, typer.Option(min=0.0, max=1.0, help="Objects at or below it do not count.")] = 0.3,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many images.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Compare two detectors image by image.

    Examples:
        geneval-reward parity photos --backends paper,mmdet
        geneval-reward parity photos --backends paper@fp32,paper@fp16 --device cuda

    Exit code 1: compared, and in some image the two count a class differently.
    """
    from geneval_reward.vision.parity import compare
    from geneval_reward.vision.preprocess import read_image
    from geneval_reward.vision.protocols import Wanted

    everything = Wanted(
        None, frozenset(range(80)), threshold
    )  # with masks, which scoring does not need for every class
    names = [part.strip() for part in backends.split(",")]
    if len(names) != 2:
        raise typer.BadParameter(f"--backends: expected two, got {backends!r}")
    files = _find(images)[:limit]
    # mmdet first: that it cannot be imported should not be found out after the other backend has loaded.
    loaded = {name: _load(name, device, checkpoint) for name in sorted(names, key=lambda name: "mmdet" not in name)}
    differing = 0
    for file in files:
        image = read_image(file)
        found = [loaded[name].detect([image], [everything])[0] for name in names]
        difference = compare(found[0], found[1], threshold)
        differing += not difference.same
        row: dict[str, Any] = {"file": str(file), "same": difference.same, **difference.to_dict()}
        sys.stdout.write((json.dumps(row) if as_json else _line(row)) + "\n")
    sys.stderr.write(f"{len(files) - differing} of {len(files)} images with equal counts: {names[0]} and {names[1]}\n")
    if differing:
        raise typer.Exit(1)


def _find(paths: list[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(entry for entry in path.rglob("*") if is_image_name(entry.name))
        elif path.is_file():
            files.append(path)
        else:
            raise typer.BadParameter(f"IMAGES: expected a file or folder, got nothing at {path}")
    if not files:
        raise typer.BadParameter(f"IMAGES: expected image files ({', '.join(SUFFIXES)}), got none")
    return files


def _load(name: str, device: str, checkpoint: str | None) -> Any:
    kind, _, precision = name.partition("@")
    place = None if device == "auto" else device
    if kind == "paper":
        from geneval_reward.vision.detectors.mask2former import Mask2FormerDetector

        return Mask2FormerDetector.from_pretrained(checkpoint, device=place, precision=precision or "fp32")
    if kind == "mmdet":
        from geneval_reward.vision.detectors.mmdet import MMDetDetector

        return MMDetDetector.from_pretrained(checkpoint, device=place, precision=precision or "auto")
    if kind == "lite":
        from geneval_reward.vision.detectors.lite import LiteDetector

        return LiteDetector.from_pretrained(device=place or "cpu", precision=precision or "fp32")
    if kind == "nanodet":
        from geneval_reward.vision.detectors.nanodet import NanoDetDetector

        return NanoDetDetector.from_pretrained(device=place or "cpu", precision=precision or "fp32")
    raise typer.BadParameter(f"--backends: expected paper, mmdet, lite or nanodet, got {kind!r}")


def _line(row: dict[str, Any]) -> str:
    overlap = "-" if row["mask_iou"] is None else f"{row['mask_iou']:.4f}"
    verdict = "same" if row["same"] else "DIFFERS in " + ", ".join(row["counts_differ"])
    return (
        f"{row['file']}: {verdict}; objects {row['objects'][0]}/{row['objects'][1]}, matched {row['matched']}, "
        f"confidence {row['confidence']:.1e}, box {row['box']:g} px, mask IoU {overlap}"
    )
