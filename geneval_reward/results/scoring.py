"""Score images into a results file: decode them ahead, judge them in batches, and write every batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from geneval_reward.errors import ImageError, ScoringError, SpecError
from geneval_reward.judge.verdict import Verdict
from geneval_reward.results.generation import selection_marks
from geneval_reward.results.layout import ImageItem
from geneval_reward.results.row import FailedImage, ResultRow
from geneval_reward.results.writer import ResultWriter
from geneval_reward.scorer import Scorer, fingerprint_id, refusal
from geneval_reward.support.read_ahead import read_ahead
from geneval_reward.vision.images import load_image


def score_files(scorer: Scorer, items: Sequence[ImageItem], writer: ResultWriter) -> Iterator[list[FailedImage]]:
    """Score image files, and write their rows and failures.

    Args:
        scorer: What judges.
        items: The images.
        writer: The results file.

    Yields:
        For every batch that is written, the images that could not be decoded or scored.
    """
    fingerprint = fingerprint_id(scorer)
    # Two threads decode faster than a detector judges.
    for batch in read_ahead(items, _load, getattr(scorer, "batch_size", 16), threads=2):
        errors: list[tuple[ImageItem, Exception]] = []
        good: list[tuple[ImageItem, torch.Tensor]] = []
        for item, image in batch:
            unknown = refusal(scorer, item.spec)
            if unknown is not None:
                errors.append((item, SpecError(f"{item.filename}: {unknown}")))
            elif isinstance(image, Exception):
                errors.append((item, image))
            else:
                good.append((item, image))
        verdicts: Sequence[Verdict | None]
        try:
            verdicts = scorer.score([image for _, image in good], [item.spec for item, _ in good])
        except ScoringError as error:
            errors += [(item, one) for (item, _), one in zip(good, error.errors, strict=True) if one is not None]
            verdicts = error.verdicts
        failed = [FailedImage(item.filename, str(error)) for item, error in errors]
        judged = [(item, found) for (item, _), found in zip(good, verdicts, strict=True) if found is not None]
        writer.write([*failed, *(make_row(item, found, scorer, fingerprint) for item, found in judged)])
        yield failed


def make_row(item: Any, verdict: Verdict, scorer: Scorer, fingerprint: str) -> ResultRow:
    """Make the row of an image, an `ImageItem` or something with the same attributes."""
    return ResultRow.from_verdict(
        verdict,
        item.filename,
        index=item.index,
        seed=item.seed,
        rewritten=item.rewritten,
        **selection_marks(item.selected, scorer.name),
        generator=item.generator,
        backend=scorer.name,
        fingerprint=fingerprint,
        min_confidence=getattr(scorer, "min_confidence", None),
    )


def _load(item: ImageItem) -> torch.Tensor | ImageError:
    try:
        return load_image(item.path)
    except ImageError as error:
        return error
