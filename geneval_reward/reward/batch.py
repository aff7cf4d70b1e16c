"""A batch before it is scored, and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from geneval_reward.errors import ImageError, SpecError
from geneval_reward.judge.verdict import CREDITS, Verdict
from geneval_reward.prompts.spec import PromptSpec


@dataclass(frozen=True)
class PreparedBatch:
    """Images and what is asked of them; three columns of equal length.

    Attributes:
        images: uint8 `(3, h, w)`, or None where there is an error.
        specs: What is asked, or None where there is an error.
        errors: Why a sample can never be scored, or None.
    """

    images: list[torch.Tensor | None]
    specs: list[PromptSpec | None]
    errors: list[str | None]

    @property
    def usable(self) -> list[int]:
        """Numbers of the samples without an error."""
        return [index for index, error in enumerate(self.errors) if error is None]


def refuse_hopeless(errors: Sequence[str | None]) -> None:
    """Raise if not one sample of a batch can be scored.

    Raises:
        ImageError, SpecError: With the first reason. Where all prompts are known, the images are at fault; a batch of another
            task has no prompt that is.
    """
    if not errors or not all(errors):
        return
    reason = next((error for error in errors if error and error.startswith("images[")), None) or str(errors[0])
    raise (ImageError if reason.startswith("images[") else SpecError)(
        f"batch: expected at least one sample that can be scored, got {len(errors)} that cannot; the first: {reason}"
    )


@dataclass(frozen=True)
class RewardBatch:
    """Rewards of a batch with what they were made from.

    Attributes:
        rewards: One per image; None where an image or its prompt could not be scored.
        verdicts: The verdict of each image, or None.
        errors: Why an image could not be scored, or None.
    """

    rewards: list[float | None]
    verdicts: list[Verdict | None]
    errors: list[str | None]

    def credits(self) -> dict[str, list[float | None]]:
        """Every credit of every image by name, for logging or for normalising each apart."""
        return {
            name: [None if verdict is None else verdict.credit(name) for verdict in self.verdicts] for name in CREDITS
        }
