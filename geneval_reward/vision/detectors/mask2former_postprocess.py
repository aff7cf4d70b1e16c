"""mmdet's instance post-processing of Mask2Former, on the device of a batch and only for the classes that are asked for.

The steps are those of mmdet 2.x `MaskFormerFusionHead.instance_postprocess` and `mask2bbox`:

1. Take the softmax over classes, drop the no-object class, and choose the 100 best of all query-class pairs.
2. Resize mask logits bilinearly to the padded input, crop them to the resized image, and resize them to the original size.
3. The confidence is the class probability times the mean mask probability inside the mask; the box is the mask's tight box.

Three shortcuts do not change the answers. Since the mean probability is at most 1, a pair whose class probability is not above
`min_confidence` is dropped before step 2. Pairs of classes that are not asked for are dropped there too. Masks at full size are
returned only for the classes that need one. The best 100 pairs are always chosen first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch.nn import functional

from geneval_reward.judge.detections import Detections
from geneval_reward.vision.preprocess import Geometry
from geneval_reward.vision.protocols import Wanted

MAX_DETECTIONS: Final = 100


@dataclass(frozen=True, slots=True)
class Pairs:
    """Query-class pairs of a batch, as parallel tensors `(n,)`."""

    image: torch.Tensor
    query: torch.Tensor
    label: torch.Tensor
    probability: torch.Tensor


def best_pairs(class_logits: torch.Tensor, wanted: Sequence[Wanted]) -> Pairs:
    """Choose the pairs that can become detections that are asked for.

    Args:
        class_logits: `(B, Q, C + 1)`; the last column is no-object.
        wanted: `B` requests.

    Returns:
        Those of each image's 100 most probable pairs that are asked for and probable enough.
    """
    probabilities = class_logits.float().softmax(-1)[..., :-1]
    classes = probabilities.shape[-1]
    flat = probabilities.flatten(1)
    best, index = flat.topk(min(MAX_DETECTIONS, flat.shape[1]), dim=1, sorted=False)
    label = index % classes
    asked = np.ones((len(wanted), classes), np.bool_)
    for row, request in enumerate(wanted):
        if request.class_ids is not None:
            asked[row] = False
            asked[row, list(request.class_ids)] = True
    floor = torch.tensor([request.min_confidence for request in wanted], dtype=best.dtype).to(best.device)
    keep = torch.from_numpy(asked).to(best.device).gather(1, label) & (best > floor[:, None])
    # A request for everything must not lose a pair, not even one of probability 0.
    keep |= torch.tensor([_wants_all(request) for request in wanted]).to(best.device)[:, None]
    image, column = keep.nonzero(as_tuple=True)
    return Pairs(image, index[image, column] // classes, label[image, column], best[image, column])


def postprocess(
    class_logits: torch.Tensor,
    mask_logits: torch.Tensor,
    geometries: Sequence[Geometry],
    wanted: Sequence[Wanted],
    *,
    chunk_bytes: int = 256 << 20,
) -> list[Detections]:
    """Turn the logits of a batch into detections.

    Args:
        class_logits: `(B, Q, 81)`.
        mask_logits: `(B, Q, h, w)`, at a quarter of the network input.
        geometries: Sizes of each image; `padded` is the same for all.
        wanted: What is asked for in each image.
        chunk_bytes: Approximate memory in bytes that masks at full size may take at once.

    Returns:
        Detections of each image, sorted by falling confidence and then by class; float32 boxes in pixels of the original
        image.
    """
    pairs = best_pairs(class_logits, wanted)
    queries = mask_logits.shape[1]
    # One query may carry several classes; its mask is measured once.
    unique, which = torch.unique(pairs.image * queries + pairs.query, return_inverse=True)
    owner = (unique // queries).cpu().numpy()
    needs_mask = _masked_rows(pairs, wanted, class_logits.shape[-1] - 1)
    show = torch.zeros(len(unique), dtype=torch.bool, device=unique.device)
    show[which[needs_mask]] = True
    mask_score = torch.zeros(len(unique), device=unique.device)
    boxes = torch.zeros(len(unique), 4, device=unique.device)
    shown: dict[int, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]] = {}
    for sizes, images in _by_geometry(geometries).items():
        rows = np.flatnonzero(np.isin(owner, images))
        step = max(1, chunk_bytes // (4 * (_area(sizes.padded) + 4 * _area(sizes.original))))
        for start in range(0, len(rows), step):
            part = torch.from_numpy(rows[start : start + step]).to(unique.device)
            logits = mask_logits.flatten(0, 1)[unique[part]]
            mask_score[part], boxes[part], binary = measure(logits, sizes)
            kept = show[part]
            masks = binary[kept].cpu().numpy()
            shown.update(zip(part[kept].tolist(), masks, strict=True))
    confidence = pairs.probability * mask_score[which]
    columns = (pairs.image, pairs.label, confidence, boxes[which], which, needs_mask)
    image, label, score, box, row, masked = (column.cpu().numpy() for column in columns)
    results = []
    for number, (sizes, request) in enumerate(zip(geometries, wanted, strict=True)):
        keep = np.flatnonzero((image == number) & ((score > request.min_confidence) | _wants_all(request)))
        keep = keep[np.lexsort((label[keep], -score[keep]))]
        mask = None
        if request.masked_class_ids:
            mask = np.zeros((len(keep), *sizes.original), np.bool_)
            for target, source in enumerate(keep):
                if masked[source]:
                    mask[target] = shown[int(row[source])]
        size = (sizes.original[1], sizes.original[0])
        results.append(Detections(box[keep], score[keep], label[keep].astype(np.int64), size, mask))
    return results


def measure(logits: torch.Tensor, sizes: Geometry) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute masks at the original size, with their scores and boxes.

    Args:
        logits: `(n, h, w)` mask logits.
        sizes: The image's sizes.

    Returns:
        Mask scores `(n,)` in [0, 1], boxes `(n, 4)` float32 (zeros for an empty mask), masks `(n, H, W)` bool.
    """
    height, width = sizes.resized
    # Two resizes as in mmdet; a single one to the final size would give other pixels.
    full = functional.interpolate(logits[None].float(), size=sizes.padded, mode="bilinear", align_corners=False)
    full = functional.interpolate(
        full[..., :height, :width], size=sizes.original, mode="bilinear", align_corners=False
    )[0]
    binary = full > 0
    inside = binary.float()
    # Summed in float64, so that the number of masks per call changes the last bit at most. MPS has no float64.
    exact = torch.float32 if logits.device.type == "mps" else torch.float64
    total = (full.sigmoid_() * inside).flatten(1).sum(1, dtype=exact)
    # Dropping pairs early relies on this bound, whatever the rounding.
    score = (total / (inside.flatten(1).sum(1) + 1e-6)).float().clamp_(max=1.0)
    return score, _tight_boxes(binary), binary


def _tight_boxes(binary: torch.Tensor) -> torch.Tensor:
    columns = binary.any(1).to(torch.uint8)
    rows = binary.any(2).to(torch.uint8)
    left, top = columns.argmax(1), rows.argmax(1)
    right = binary.shape[2] - columns.flip(1).argmax(1)
    bottom = binary.shape[1] - rows.flip(1).argmax(1)
    boxes = torch.stack([left, top, right, bottom], 1).float()
    return boxes * columns.any(1)[:, None]


def _masked_rows(pairs: Pairs, wanted: Sequence[Wanted], classes: int) -> torch.Tensor:
    table = np.zeros((len(wanted), classes), np.bool_)
    for row, request in enumerate(wanted):
        table[row, list(request.masked_class_ids)] = True
    return torch.from_numpy(table).to(pairs.label.device)[pairs.image, pairs.label]


def _by_geometry(geometries: Sequence[Geometry]) -> dict[Geometry, list[int]]:
    groups: dict[Geometry, list[int]] = {}
    for index, sizes in enumerate(geometries):
        groups.setdefault(sizes, []).append(index)
    return groups


def _wants_all(request: Wanted) -> bool:
    return request.class_ids is None and request.min_confidence <= 0.0


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]
