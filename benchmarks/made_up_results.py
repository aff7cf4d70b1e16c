"""Made-up results with given verdicts, with which tests and benchmarks check what reads results files.

Boxes, colours and confidences are made up so that the judge reaches the given verdict. Everything else of a row follows from
them as it does for real images.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from simulated_runs import SimulatedRuns

from geneval_reward.errors import UsageError
from geneval_reward.judge import Detections, Rules, judge
from geneval_reward.prompts.spec import Include, PromptSpec
from geneval_reward.prompts.suite import official_suite
from geneval_reward.prompts.vocabulary import CLASS_IDS, COLOR_IDS, COLORS
from geneval_reward.results.row import ResultRow
from geneval_reward.results.writer import ResultWriter

_SIZE: Final = 512
_BOX: Final = 96.0
_SHIFT: Final = {"left of": (-1.0, 0.0), "right of": (1.0, 0.0), "above": (0.0, -1.0), "below": (0.0, 1.0)}


def synthetic_rows(
    runs: SimulatedRuns,
    run: int = 0,
    *,
    rules: Rules | None = None,
    backend: str = "synthetic",
    fingerprint: str = "synthetic",
    first_seed: int = 1000,
) -> Iterator[ResultRow]:
    """Rows with the verdicts of a simulated run, on records of the official suite.

    Args:
        runs: Verdicts by prompt number; within its tag, prompt i gets the suite's record i.
        run: Which of the runs.
        rules: The rules recorded; the benchmark's if None.
        backend: The name recorded.
        fingerprint: The id recorded.
        first_seed: The seed recorded is this plus the image's number in the run.

    Raises:
        ValueError: If a tag has more prompts than the suite.
    """
    by_tag: dict[str, list[PromptSpec]] = {}
    for spec in official_suite():
        by_tag.setdefault(spec.tag, []).append(spec)
    rules = Rules() if rules is None else rules
    rng = np.random.default_rng([run, 7])
    number: dict[int, int] = {}
    used = dict.fromkeys(by_tag, 0)
    for i, prompt in enumerate(runs.prompt.tolist()):
        tag = str(runs.tag[i])
        if prompt not in number:
            number[prompt] = used[tag]
            used[tag] += 1
            if used[tag] > len(by_tag[tag]):
                raise UsageError(
                    f"runs: expected at most {len(by_tag[tag])} prompts of {tag}, as the suite has, got more"
                )
        spec = by_tag[tag][number[prompt]]
        verdict = judge(spec, _scene(spec, bool(runs.correct[run, i]), rng), rules)
        yield ResultRow.from_verdict(
            verdict,
            f"{prompt:05d}/samples/{runs.index[i]:04d}.png",
            index=int(runs.index[i]),
            seed=first_seed + i,
            backend=backend,
            fingerprint=fingerprint,
        )


def write_synthetic(path: str | Path, runs: SimulatedRuns, run: int = 0, **options: object) -> Path:
    """Write `synthetic_rows` to a new file; returns its path."""
    with ResultWriter(path) as writer:
        writer.write(synthetic_rows(runs, run, **options))  # type: ignore[arg-type]
    return Path(path)


def _scene(spec: PromptSpec, correct: bool, rng: np.random.Generator) -> Detections:
    """Objects as asked, or with the last clause broken: an object missing, in the wrong place or of the wrong colour."""
    last = spec.include[-1]
    ways = ["missing"] + ["place"] * bool(last.positions) + ["color"] * (last.color is not None)
    flaw = "" if correct else str(rng.choice(ways))
    boxes: list[tuple[float, float]] = []
    classes: list[str] = []
    colors: list[str | None] = []
    centres: list[tuple[float, float]] = []
    for i, item in enumerate(spec.include):
        broken = flaw if item is last else ""
        centre = _centre(item, i, centres, opposite=broken == "place")
        centres.append(centre)
        for k in range(item.count - (broken == "missing")):
            boxes.append((centre[0] + (k % 2) * 1.2 * _BOX, centre[1] + (k // 2) * 1.2 * _BOX))
            classes.append(item.class_name)
            colors.append(COLORS[(COLOR_IDS[item.color] + 3) % 10] if broken == "color" and item.color else item.color)
    sure = len(boxes)
    for _ in range(int(rng.integers(0, 4))):
        boxes.append((float(rng.uniform(60, 450)), float(rng.uniform(60, 450))))
        item = spec.include[int(rng.integers(len(spec.include)))]
        classes.append(item.class_name)
        # Graded credits look at unsure objects too, so their colour is known as well.
        colors.append(item.color and str(rng.choice(COLORS)))
    centre_of = np.array(boxes, np.float64).reshape(-1, 2)
    half = _BOX / 2 * rng.uniform(0.9, 1.1, size=(len(boxes), 1))
    confidence = np.concatenate([rng.uniform(0.92, 0.999, sure), rng.uniform(0.05, 0.28, len(boxes) - sure)])
    return Detections(
        xyxy=np.hstack([centre_of - half, centre_of + half]).astype(np.float32),
        confidence=confidence.astype(np.float32),
        class_id=np.array([CLASS_IDS[name] for name in classes], np.int64),
        image_size=(_SIZE, _SIZE),
        color=_probabilities(colors, rng) if any(item.color for item in spec.include) else None,
    )


def _centre(item: Include, i: int, centres: list[tuple[float, float]], *, opposite: bool) -> tuple[float, float]:
    if not item.positions:
        return (256.0, 256.0) if i == 0 else (256.0, 100.0)
    target = centres[item.positions[0].target]
    dx, dy = _SHIFT[item.positions[0].relation]
    reach = -150.0 if opposite else 150.0
    return target[0] + reach * dx, target[1] + reach * dy


def _probabilities(colors: list[str | None], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    table = np.full((len(colors), len(COLORS)), np.nan, np.float32)
    for row, color in enumerate(colors):
        if color is not None:
            sure = rng.uniform(0.6, 0.98)
            table[row] = (1 - sure) / len(COLORS)
            table[row, COLOR_IDS[color]] = sure
    return table
