"""Records of rounds as trackers get them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from geneval_reward.callback.tracking import Sample, ScoreRecord
from geneval_reward.judge import Detections, judge
from geneval_reward.prompts import CLASS_IDS, COLORS, PromptSpec


def make_sample(number: int, record: object, rows: list[tuple[str, list[float], float]], shown: bool = True) -> Sample:
    spec = PromptSpec.parse(record)  # type: ignore[arg-type]
    colors = np.zeros((len(rows), len(COLORS)), np.float32)
    colors[:, 0] = 1.0
    detections = Detections(
        np.array([box for _, box, _ in rows], np.float32).reshape(-1, 4),
        np.array([confidence for _, _, confidence in rows], np.float32),
        np.array([CLASS_IDS[name] for name, _, _ in rows], np.int64),
        (40, 20),
        color=colors if spec.colored_class_names else None,
    )
    image = Image.new("RGB", (40, 20), (10 * number, 0, 0)) if shown else None
    return Sample(judge(spec, detections), f"{number:05d}/samples/0000.png", 0, 2**62 + number, image)


@pytest.fixture
def record() -> ScoreRecord:
    """Three images, two of them shown: a right red dog, a cat that is not there with a dim one, and one without picture."""
    samples = (
        make_sample(
            0,
            {"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}]},
            [("dog", [10, 5, 30, 25], 0.9)],
        ),
        make_sample(
            1,
            {"tag": "single_object", "include": [{"class": "cat", "count": 1}]},
            [("cat", [0, 0, 20, 10], 0.2), ("cat", [0, 0, 4, 4], 0.1), ("dog", [0, 0, 9, 9], 0.95)],
        ),
        make_sample(2, {"tag": "counting", "include": [{"class": "dog", "count": 2}]}, [], shown=False),
    )
    metrics = {"geneval/overall": 0.5, "geneval/colors": 1.0, "geneval/n": 3.0, "geneval/seconds": 1.5}
    return ScoreRecord(
        "geneval", 7, metrics, samples, "fake", {"backend": "fake", "detector": {"sha256": "00"}}, "abc123"
    )
