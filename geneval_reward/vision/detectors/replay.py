"""Replay the detector on one checkpoint and one image, for comparison with what mmdet answered."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geneval_reward.vision.detectors.mask2former import Mask2FormerDetector
from geneval_reward.vision.detectors.mask2former_convert import build_model, load_converted
from geneval_reward.vision.preprocess import normalise, read_image
from geneval_reward.vision.protocols import Wanted


def replay_detector(checkpoint_path: str | os.PathLike[str], image_path: str | os.PathLike[str]) -> dict[str, Any]:
    """Run a checkpoint on an image file as the benchmark does: float32, on the CPU, all detections, no shortcut.

    Args:
        checkpoint_path: An mmdet Mask2Former-Swin checkpoint of any size, of mmdet 2.x or 3.x.
        image_path: A picture file.

    Returns:
        A dict of NumPy arrays:

        - `input_shape` `(2,)` int64: height and width of the network input; `input_corner` `(3, 8, 8)` float32,
          its first pixels; `input_checksum` float64, the sum of all its values
        - `class_logits` `(Q, 81)` float32 and `mask_logits` `(Q, h, w)` float32, raw outputs
        - `labels` `(n,)` int16, `boxes` `(n, 5)` float32 (x1, y1, x2, y2, confidence) and `masks`
          `(n, H, W)` bool of the `n = min(100, 80 Q)` detections, by falling confidence

    Raises:
        WeightsError: If the checkpoint cannot be used.
        ImageError: If the image cannot be read.
    """
    path = Path(checkpoint_path)
    detector = _load(path, path.stat().st_mtime_ns if path.is_file() else 0)
    image = read_image(image_path)
    (batch,) = detector.prepare([image])
    class_logits, mask_logits = detector.forward(batch)
    everything = Wanted(class_ids=None, masked_class_ids=frozenset(range(80)))
    (found,) = detector.postprocess(class_logits, mask_logits, batch, [everything])
    pixels: npt.NDArray[np.float32] = normalise(batch.pixels[0][None])[0].numpy()
    return {
        "input_shape": np.array(pixels.shape[1:], np.int64),
        "input_corner": pixels[:, :8, :8],
        "input_checksum": pixels.sum(dtype=np.float64),
        "class_logits": class_logits[0].float().numpy(),
        "mask_logits": mask_logits[0].float().numpy(),
        "labels": found.class_id.astype(np.int16),
        "boxes": np.concatenate([found.xyxy, found.confidence[:, None]], axis=1),
        "masks": found.mask,
    }


@lru_cache(maxsize=2)
def _load(path: Path, changed: int) -> Mask2FormerDetector:
    weights = load_converted(path, cache=False)
    return Mask2FormerDetector(
        build_model(weights),
        weights_sha256=weights.source_sha256,
        weights_status="replayed",
        device="cpu",
        precision="fp32",
    )
