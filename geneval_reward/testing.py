"""A test kit: replay golden cases, and a detector and verifier that answer what they are told.

Shipped so that anyone can check this package, or a trainer built on it, from outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from geneval_reward.judge import Detections, Verdict, judge
from geneval_reward.prompts import COLOR_IDS, COLORS, PromptSpec, class_id

__all__ = ["replay"]


def replay(case: Mapping[str, Any]) -> Verdict:
    """Judge a golden case: detections and colour answers are given, the verdict is asked.

    Args:
        case: ``spec``, a record; ``image_size``, ``[width, height]``; ``detections``, class name -> rows
            ``[x1, y1, x2, y2, confidence, colour]`` (raw, unsorted); ``options``, the official script's options.
            Other keys are not read.

    Returns:
        The verdict, with ``correct, reason, kept, strict, flow_grpo, partial, dense``.

    Raises:
        SpecError: If the record or a class name is not valid.
        KeyError: If a key is missing or a colour is not one of the ten.

    Example:
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
