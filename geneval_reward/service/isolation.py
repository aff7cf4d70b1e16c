"""Scoring in which one bad image does not affect the others."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from typing import Final

import torch

from geneval_reward.errors import ScoringError
from geneval_reward.judge.verdict import Verdict
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.scorer import Scorer, refusal

_log = logging.getLogger(__name__)

BROKEN_DEVICE: Final = 70
"""Exit status of a worker whose device failed: every later call in its process would fail, but a new process may work."""


def score_separately(
    scorer: Scorer, images: Sequence[torch.Tensor], specs: Sequence[PromptSpec]
) -> list[Verdict | Exception]:
    """Return a verdict or an error per image; for worker processes that a supervisor can replace.

    A batch that fails is scored again one image at a time, so that only the image at fault gets the error. If the error says
    that the CUDA device is broken, this process exits.

    Args:
        scorer: The scorer.
        images: `(3, h, w)` uint8 each.
        specs: One per image.

    Returns:
        One entry per image, in order.
    """
    unknown = [refusal(scorer, spec) for spec in specs]
    if any(unknown):
        rows = [row for row, problem in enumerate(unknown) if problem is None]
        known = iter(score_separately(scorer, [images[row] for row in rows], [specs[row] for row in rows]))
        return [problem or next(known) for problem in unknown]
    try:
        return list(_score(scorer, images, specs))
    except ScoringError as error:
        return [
            verdict if reason is None else reason for verdict, reason in zip(error.verdicts, error.errors, strict=True)
        ]
    except Exception as error:  # noqa: BLE001 - it becomes the answer
        _end_if_broken(error)
        if len(images) == 1:
            _log.warning("an image cannot be scored", exc_info=True)
            return [error]
    _log.warning("a batch of %d images failed; scoring them one at a time", len(images))
    return [
        answer
        for image, spec in zip(images, specs, strict=True)
        for answer in score_separately(scorer, [image], [spec])
    ]


def _score(scorer: Scorer, images: Sequence[torch.Tensor], specs: Sequence[PromptSpec]) -> list[Verdict]:
    with warnings.catch_warnings():
        # A batch mixes images from many callers, so it says nothing about one generator; each caller warns about its own.
        warnings.filterwarnings("ignore", message="all .* images of a call are wrong")
        return scorer.score(list(images), list(specs)) if images else []


def _end_if_broken(error: Exception) -> None:
    if "CUDA error" in str(error) or type(error).__name__ == "AcceleratorError":
        _log.critical("the device is broken for this process; ending it: %s", error)
        os._exit(BROKEN_DEVICE)
