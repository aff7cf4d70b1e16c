"""The record of a demo run in `training-<method>.json`, enough to compare several methods."""

from __future__ import annotations

import json
import math
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from geneval_reward.demo.training.run import TrainingDemo
from geneval_reward.errors import ResultsError
from geneval_reward.support.files import write_whole


@dataclass(frozen=True)
class Point:
    """One epoch of a curve; numbers that were not measured are None.

    Attributes:
        epoch: From 1.
        images: Images sampled for training so far.
        seconds: Seconds since the start of the demo.
        reward: Share of correct images in the epoch's rollout.
        held_out: Score on held-out prompts.
        audit_gap: The first judge's score minus the second's.
        velocity_drift: Relative increase in the length of velocities since the first epoch.
    """

    epoch: int
    images: int
    seconds: float
    reward: float | None
    held_out: float | None
    audit_gap: float | None
    velocity_drift: float | None


@dataclass(frozen=True)
class RunRecord:
    """The numbers of a run.

    Attributes:
        method: `nft` or `flow-grpo`.
        seed: Seed of the prompts and the noise in training.
        minutes: Minutes that it was given.
        before: Overall held-out score with its 95 % interval: value, low, high.
        after: The same after training.
        difference: After minus before, paired by prompt and noise: value, low, high.
        tags: By task: before and after, each value, low, high.
        images: Images sampled for training.
        train_seconds: Wall time of training.
        total_seconds: Wall time of the whole demo.
        audit_before: Audit of the untrained model, by the names that are logged.
        audit_after: Audit of the trained model.
        curve: One point per epoch.
        versions: Versions of the packages that it ran on.
    """

    method: str
    seed: int
    minutes: float
    before: tuple[float, float, float]
    after: tuple[float, float, float]
    difference: tuple[float, float, float]
    tags: dict[str, dict[str, tuple[float, float, float]]]
    images: int
    train_seconds: float
    total_seconds: float
    audit_before: dict[str, float | None]
    audit_after: dict[str, float | None]
    curve: list[Point]
    versions: dict[str, str]

    @classmethod
    def of(cls, result: TrainingDemo) -> RunRecord:
        """Collect the numbers of a run."""
        import diffusers
        import lightning
        import torch

        from geneval_reward.version import __version__

        return cls(
            method=result.method,
            seed=result.seed,
            minutes=result.settings.minutes,
            before=_span(result.before.overall),
            after=_span(result.after.overall),
            difference=_span(result.difference.overall),
            tags={
                tag: {"before": _span(estimate), "after": _span(result.after.tags[tag])}
                for tag, estimate in result.before.tags.items()
            },
            images=result.images_trained,
            train_seconds=result.train_seconds,
            total_seconds=result.total_seconds,
            audit_before={name: _known(value) for name, value in result.audit_before.log_dict().items()},
            audit_after={name: _known(value) for name, value in result.audit_after.log_dict().items()},
            curve=[
                Point(
                    point.epoch,
                    point.images,
                    round(point.seconds, 2),
                    _known(point.reward),
                    _known(point.held_out),
                    _known(point.audit_gap),
                    _known(point.metrics.get("velocity_norm_drift", math.nan)),
                )
                for point in result.curve
            ],
            versions={
                "geneval_reward": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "diffusers": diffusers.__version__,
                "lightning": lightning.__version__,
                "machine": platform.machine(),
            },
        )

    def save(self, folder: Path) -> Path:
        """Write `training-<method>.json`, replacing an earlier run of the method."""
        path = folder / f"training-{self.method}.json"
        write_whole(path, json.dumps(asdict(self), indent=1) + "\n")
        return path

    @classmethod
    def load(cls, path: Path) -> RunRecord:
        """Read a record.

        Raises:
            ResultsError: If the file is not such a record.
        """
        try:
            data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            data["curve"] = [Point(**point) for point in data["curve"]]
            for name in ("before", "after", "difference"):
                data[name] = tuple(data[name])
            data["tags"] = {tag: {when: tuple(span) for when, span in row.items()} for tag, row in data["tags"].items()}
            return cls(**data)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ResultsError(f"{path}: expected the record of a demo's training, got {error}; delete it") from error


def records_in(folder: Path) -> list[RunRecord]:
    """Read all records in a folder, in order of method name."""
    return [RunRecord.load(path) for path in sorted(folder.glob("training-*.json"))]


def _span(estimate: Any) -> tuple[float, float, float]:
    return float(estimate.value), float(estimate.interval.low), float(estimate.interval.high)


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
