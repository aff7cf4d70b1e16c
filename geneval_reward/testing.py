"""A test kit: golden cases to replay, and a fake detector and verifier with given answers.

It is part of the package, so that anyone can test this package, or a trainer built on it, from outside.
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
from geneval_reward.prompts import CLASS_NAMES, COLOR_IDS, COLORS, PromptSpec, class_id
from geneval_reward.scorer import GenEvalScorer
from geneval_reward.vision.protocols import ColorQuery, Wanted

if TYPE_CHECKING:
    from geneval_reward.vision.detectors.mask2former import Mask2FormerDetector

__all__ = ["FakeDetector", "FakeVerifier", "replay", "replay_detector", "scorer_for"]

Answers = Mapping[str, Sequence[Sequence[float]]]
"""Rows `[x1, y1, x2, y2, confidence]` by class name."""


def replay(case: Mapping[str, Any]) -> Verdict:
    """Judge a golden case, which gives the detections and the colour of each.

    Args:
        case: A mapping with `spec`, a record; `image_size`, `[width, height]`; `detections`, unsorted rows
            `[x1, y1, x2, y2, confidence, colour]` by class name; and optionally `options`, the official script's options. Other
            keys are ignored.

    Returns:
        The verdict.

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
    """Run a checkpoint on an image file as the benchmark does: in float32 on the CPU, keeping all detections.

    Args:
        checkpoint_path: An mmdet Mask2Former-Swin checkpoint of any size, in the format of mmdet 2.x or 3.x.
        image_path: An image file.

    Returns:
        A dict of NumPy arrays:

        - `input_shape` `(2,)` int64, height and width of the network input; `input_corner` `(3, 8, 8)` float32, its top left
            pixels; `input_checksum` float64, the sum of all its values
        - `class_logits` `(Q, 81)` float32 and `mask_logits` `(Q, h, w)` float32, the raw outputs for `Q` queries
        - `labels` `(n,)` int16, `boxes` `(n, 5)` float32 (x1, y1, x2, y2, confidence) and `masks` `(n, H, W)` bool of the
            `n = min(100, 80 Q)` most confident detections, in falling order

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
    # Only this function needs transformers. `changed` is part of the cache key, so that a replaced file is loaded again.
    from geneval_reward.vision.detectors.mask2former import Mask2FormerDetector
    from geneval_reward.vision.detectors.mask2former_convert import build_model, load_converted

    weights = load_converted(path)
    return Mask2FormerDetector(
        build_model(weights),
        weights_sha256=weights.source_sha256,
        weights_status="replayed",
        device="cpu",
        precision="fp32",
    )


class FakeDetector:
    """A detector that finds given objects, the same in every image or depending on the image.

    Args:
        answers: Rows `[x1, y1, x2, y2, confidence]` by class name, or a function that returns such a mapping for a
            `(3, h, w)` uint8 tensor.
        class_names: The classes that it knows.

    Attributes:
        calls: The batch size of every call, in order.
    """

    name = "fake"

    def __init__(
        self, answers: Answers | Callable[[torch.Tensor], Answers], class_names: tuple[str, ...] = CLASS_NAMES
    ) -> None:
        self.answers = answers
        self.class_names = class_names
        self.calls: list[int] = []

    def detect(self, images: Sequence[torch.Tensor], wanted: Sequence[Wanted]) -> list[Detections]:
        """Return the given objects, restricted to what each image wants."""
        self.calls.append(len(images))
        return [self._detect_one(image, want) for image, want in zip(images, wanted, strict=True)]

    def fingerprint(self) -> dict[str, Any]:
        """Return the name."""
        return {"name": self.name}

    def to(self, device: torch.device | str) -> FakeDetector:
        """Return the object itself; there are no weights to move."""
        return self

    def _detect_one(self, image: torch.Tensor, want: Wanted) -> Detections:
        answers = self.answers(image) if callable(self.answers) else self.answers
        known = self.class_names
        # `class_id` words the error.
        ids = {name: known.index(name) if name in known else class_id(name, "answers") for name in answers}
        rows = [
            (ids[name], row)
            for name, found in answers.items()
            for row in found
            if row[4] > want.min_confidence and (want.class_ids is None or ids[name] in want.class_ids)
        ]
        return Detections(
            np.array([row[:4] for _, row in rows], np.float32).reshape(-1, 4),
            np.array([row[4] for _, row in rows], np.float32),
            np.array([number for number, _ in rows], np.int64),
            (image.shape[2], image.shape[1]),
            names=known,
        )


class FakeVerifier:
    """A verifier that names given colours.

    Args:
        answer: The name of a colour for every object, or a function that returns one for a query.
        color_names: The colours that it knows.
    """

    name = "fake"

    def __init__(
        self, answer: str | Callable[[ColorQuery], str] = "red", color_names: tuple[str, ...] = COLORS
    ) -> None:
        self.answer = answer
        self.color_names = color_names

    def colors(self, queries: Sequence[ColorQuery]) -> npt.NDArray[np.float32]:
        """Return a row per query, with 1 for its colour and 0 for the others."""
        columns = {name: column for column, name in enumerate(self.color_names)}
        table = np.zeros((len(queries), len(columns)), np.float32)
        for index, query in enumerate(queries):
            answer = self.answer(query) if callable(self.answer) else self.answer
            table[index, columns[answer]] = 1.0
        return table

    def fingerprint(self) -> dict[str, Any]:
        """Return the name."""
        return {"name": self.name}

    def to(self, device: torch.device | str) -> FakeVerifier:
        """Return the object itself; there are no weights to move."""
        return self


def scorer_for(detector: FakeDetector, verifier: FakeVerifier | None = None, **kwargs: Any) -> GenEvalScorer:
    """Make a scorer of a fake detector and verifier; `kwargs` are passed on to `GenEvalScorer`."""
    return GenEvalScorer(detector, verifier or FakeVerifier(), name="fake", **kwargs)
