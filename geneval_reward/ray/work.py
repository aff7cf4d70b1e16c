"""`score_shard`: score one shard in a worker. This module does not need Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Final

import torch

from geneval_reward.errors import GenEvalError, ImageError
from geneval_reward.judge.verdict import Verdict
from geneval_reward.results import FailedImage, ResultWriter, RunIdentity
from geneval_reward.results.scoring import make_row
from geneval_reward.results.shards import Sample, Shard
from geneval_reward.scorer import Scorer, fingerprint_id
from geneval_reward.service.isolation import score_separately
from geneval_reward.support.read_ahead import read_ahead
from geneval_reward.vision.images import load_image

_TRIES: Final = 3  # deaths at one place of a shard before the shard is blamed and not the node


@dataclass(frozen=True, slots=True)
class ShardReport:
    """Outcome of scoring a shard.

    Attributes:
        name: Name of the shard.
        images: Number of images with a row in its results file.
        scored: Number of images scored by this call, not by an earlier run or worker.
        failed: Number of images that could not be scored.
    """

    name: str
    images: int
    scored: int
    failed: int


def score_shard(scorer: Scorer, shard: Shard, path: Path) -> ShardReport:
    """Score the images of a shard that have no row yet.

    Args:
        scorer: The scorer.
        shard: The shard.
        path: The shard's results file. An existing file is continued, since the worker that wrote it may have been killed.

    Returns:
        The report of the shard, which is also stored in `<path>.done`.

    Raises:
        ResultsError: If another scorer wrote the file, or another worker has it open.
        GenEvalError: If this shard has killed three workers at the same place.
    """
    tries = path.with_suffix(".tries")
    fingerprint = fingerprint_id(scorer)
    identity = RunIdentity.of(scorer.rules, scorer.name, fingerprint)
    with ResultWriter(path, resume=True, identity=identity) as writer:
        before = len(writer.done)
        _count_try(tries, shard, before)
        for batch in read_ahead(_todo(shard, writer.done), _decode, getattr(scorer, "batch_size", 16)):
            good = [
                (sample, image)
                for sample, image in batch
                if isinstance(sample, Sample) and isinstance(image, torch.Tensor)
            ]
            failed = [image for _, image in batch if isinstance(image, FailedImage)]
            answers = score_separately(scorer, [image for _, image in good], [sample.spec for sample, _ in good])
            failed += [
                FailedImage(sample.filename, f"{sample.filename}: {type(answer).__name__}: {answer}")
                for (sample, _), answer in zip(good, answers, strict=True)
                if isinstance(answer, Exception)
            ]
            rows = [
                make_row(sample, verdict, scorer, fingerprint)
                for (sample, _), verdict in zip(good, answers, strict=True)
                if isinstance(verdict, Verdict)
            ]
            # The number within the prompt is known only when all shards are merged.
            unnumbered = {sample.filename for sample, _ in good if sample.index is None}
            kept = [replace(row, index=None) if row.filename in unnumbered else row for row in rows]
            writer.write([*failed, *kept])
        report = ShardReport(shard.name, len(writer.done), len(writer.done) - before, len(writer.failed))
    done_path(path).write_text(json.dumps({"images": report.images, "failed": report.failed}) + "\n")
    tries.unlink(missing_ok=True)
    return report


def done_path(path: Path) -> Path:
    """Return the path of the file next to a shard's results that marks it as finished."""
    return path.with_suffix(".done")


def _todo(shard: Shard, done: set[str]) -> Iterator[Sample | FailedImage]:
    # The writer adds to `done` as it goes, but a repeated name must be refused and not treated as done.
    before = frozenset(done)
    return (sample for sample in shard.samples() if sample.filename not in before)


def _count_try(file: Path, shard: Shard, done: int) -> None:
    """Record that a worker starts here, and raise if too many have started here without getting further."""
    try:
        earlier = json.loads(file.read_text())
    except (OSError, ValueError):
        earlier = {}
    tries = earlier.get("tries", 0) + 1 if earlier.get("done") == done else 1
    if tries > _TRIES:
        raise GenEvalError(
            f"{shard.path}: expected a shard that can be scored, got one at which {_TRIES} workers died after {done} images of "
            f"{shard.name}; look for a damaged image or too little memory"
        )
    file.write_text(json.dumps({"tries": tries, "done": done}))


def _decode(sample: Sample | FailedImage) -> torch.Tensor | FailedImage:
    if isinstance(sample, FailedImage):
        return sample
    try:
        if isinstance(sample.image, Path):
            return load_image(sample.image)
        return load_image(BytesIO(sample.image), sample.filename)
    except ImageError as error:
        return FailedImage(sample.filename, str(error))
