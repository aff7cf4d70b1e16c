"""A test kit: replay golden cases, and a detector and verifier that answer what they are told.

Shipped so that anyone can check this package, or a trainer built on it, from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from geneval_reward.judge import Detections, Verdict, judge
from geneval_reward.prompts import COLOR_IDS, COLORS, PromptSpec, class_id
from geneval_reward.scorer import GenEvalScorer
from geneval_reward.vision.protocols import ColorQuery, Wanted

if TYPE_CHECKING:
    from geneval_reward.vision.detectors.mask2former import Mask2FormerDetector

__all__ = ["FakeDetector", "FakeVerifier", "replay", "replay_detector", "scorer_for"]

Answers = Mapping[str, Sequence[Sequence[float]]]
"""Class name -> rows `[x1, y1, x2, y2, confidence]`."""


def replay(case: Mapping[str, Any]) -> Verdict:
    """Judge a golden case: detections and colour answers are given, the verdict is asked.

    Args:
        case: `spec`, a record; `image_size`, `[width, height]`; `detections`, class name -> rows
            `[x1, y1, x2, y2, confidence, colour]` (raw, unsorted); `options`, the official script's options.
            Other keys are not read.

    Returns:
        The verdict, with `correct, reason, kept, strict, flow_grpo, partial, dense`.

    Raises:
        SpecError: If the record or a class name is not valid.
        KeyError: If a key is missing or a colour is not one of the ten.

    Examples:
        >>> verdict = replay(
        ...     {
        ...         "spec": {"tag": "colors", "include": [{"class": "cup", "count": 1, "color": "red"}]},
        ...         "image_size": [64, 64],
        ...         "detections": {"cup": [[8, 8, 40, 40, 0.9, "blue"]]},
        ...         "options": {},
        ...     }
        ... )
        >>> verdict.reason
        'expected red cup>=1, found 0 red; and 1 blue'
    """
    rows = [(class_id(name), row) for name, found in case["detections"].items() for row in found]
    colors = np.zeros((len(rows), len(COLORS)), np.float32)
    for index, (_, row) in enumerate(rows):
        colors[index, COLOR_IDS[row[5]]] = 1.0
    width, height = case["image_size"]
    detections = Detections(
        xyxy=np.array([row[:4] for _, row in rows], np.float32).reshape(-1, 4),
        confidence=np.array([row[4] for _, row in rows], np.float32),
        class_id=np.array([number for number, _ in rows], np.int64),
        image_size=(width, height),
        color=colors,
    )
    return judge(PromptSpec.parse(case["spec"]), detections, case.get("options"))


def replay_detector(checkpoint_path: str | Path, image_path: str | Path) -> dict[str, Any]:
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
    from geneval_reward.vision.preprocess import normalise, read_image

    path = Path(checkpoint_path)
    detector = _load_detector(path, path.stat().st_mtime_ns if path.is_file() else 0)
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
def _load_detector(path: Path, changed: int) -> Mask2FormerDetector:
    # Imported here, since only this needs transformers. `changed` makes a replaced file load again.
    from geneval_reward.vision.detectors.mask2former import Mask2FormerDetector
    from geneval_reward.vision.detectors.mask2former_convert import build_model, load_converted

    weights = load_converted(path, cache=False)
    return Mask2FormerDetector(
        build_model(weights),
        weights_sha256=weights.source_sha256,
        weights_status="replayed",
        device="cpu",
        precision="fp32",
    )


class FakeDetector:
    """A detector that finds the same given objects in every image, or what a function of the image says.

    Args:
        answers: Class name -> rows `[x1, y1, x2, y2, confidence]`, or a function from a `(3, h, w)` uint8 tensor to
            such a mapping.

    Attributes:
        calls: Batch size of every call, in order.
    """

    name = "fake"

    def __init__(self, answers: Answers | Callable[[torch.Tensor], Answers]) -> None:
        self.answers = answers
        self.calls: list[int] = []

    def detect(self, images: Sequence[torch.Tensor], wanted: Sequence[Wanted]) -> list[Detections]:
        """Answer as told, restricted to what is wanted."""
        self.calls.append(len(images))
        return [self._one(image, want) for image, want in zip(images, wanted, strict=True)]

    def fingerprint(self) -> dict[str, Any]:
        """Name only."""
        return {"name": self.name}

    def to(self, device: torch.device | str) -> FakeDetector:
        """Nothing to move."""
        return self

    def _one(self, image: torch.Tensor, want: Wanted) -> Detections:
        answers = self.answers(image) if callable(self.answers) else self.answers
        rows = [
            (class_id(name), row)
            for name, found in answers.items()
            for row in found
            if row[4] > want.min_confidence and (want.class_ids is None or class_id(name) in want.class_ids)
        ]
        return Detections(
            np.array([row[:4] for _, row in rows], np.float32).reshape(-1, 4),
            np.array([row[4] for _, row in rows], np.float32),
            np.array([number for number, _ in rows], np.int64),
            (image.shape[2], image.shape[1]),
        )


class FakeVerifier:
    """A verifier that names one colour for everything, or what a function of the query says.

    Args:
        answer: A colour name, or a function from a query to one.
    """

    name = "fake"

    def __init__(self, answer: str | Callable[[ColorQuery], str] = "red") -> None:
        self.answer = answer

    def colors(self, queries: Sequence[ColorQuery]) -> npt.NDArray[np.float32]:
        """One-hot rows."""
        table = np.zeros((len(queries), len(COLORS)), np.float32)
        for index, query in enumerate(queries):
            table[index, COLOR_IDS[self.answer(query) if callable(self.answer) else self.answer]] = 1.0
        return table

    def fingerprint(self) -> dict[str, Any]:
        """Name only."""
        return {"name": self.name}

    def to(self, device: torch.device | str) -> FakeVerifier:
        """Nothing to move."""
        return self


def scorer_for(detector: FakeDetector, verifier: FakeVerifier | None = None, **kwargs: Any) -> GenEvalScorer:
    """A scorer over fakes."""
    return GenEvalScorer(detector, verifier or FakeVerifier(), name="fake", **kwargs)
